"""The log of an analysis: a table if something has changed, otherwise one line every ten seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from airflow_deploy.domain.analysis.count_tests import BETA
from airflow_deploy.domain.analysis.sequential import trials_needed
from airflow_deploy.domain.analysis.verdict import Finding, Verdict
from airflow_deploy.domain.config.gates import Gate
from airflow_deploy.domain.metrics.counters import Counts

SUMMARY_INTERVAL = 10.0
"""Seconds between two lines of the log while nothing changes."""
RATE_SECONDS = 60.0
"""Seconds over which the candidate's present request rate is measured."""
MIN_RATE_SECONDS = 20.0
"""Seconds without which the rate is unknown: at least one scrape lies within them."""


@dataclass(frozen=True)
class LookSummary:
    """One look to log.

    :param at: unix seconds.
    :param share: the candidate's share of traffic in %.
    :param candidate: what the candidate has answered so far.
    :param stable: what the stable has answered meanwhile.
    :param mirrored: whether the candidate gets copies of that share.
    """

    at: float
    share: int
    verdict: Verdict
    findings: Sequence[Finding]
    candidate: Counts
    stable: Counts
    mirrored: bool = False

    @property
    def share_text(self) -> str:
        """The candidate's share as the log shows it: ``25 %`` or ``copies of 25 %``."""
        return f"{'copies of ' if self.mirrored else ''}{self.share} %"


class AnalysisReport:
    """The log of one analysis.

    :param gates: all gates, by name.
    :param limits: their limits, by name.
    """

    def __init__(self, gates: Mapping[str, Gate], limits: Mapping[str, float]) -> None:
        self._gates, self._limits = gates, limits
        self._last: LookSummary | None = None
        self._logged_at = 0.0
        self._recent: deque[tuple[float, float]] = deque()

    def lines(self, look: LookSummary, *, final: bool = False) -> list[str]:
        """Return the lines to log for ``look``; none if the last line is recent and nothing has changed.

        A ``final`` look, and one with another verdict or share than the last, is logged as a table, in a group that
        Airflow's log page folds.
        """
        last, self._last = self._last, look
        new_stage = last is None or last.share_text != look.share_text
        self._measure_rate(look, restart=new_stage)
        if final or new_stage or (last and last.verdict != look.verdict):
            return self._folded(look)
        if look.at - self._logged_at < SUMMARY_INTERVAL:
            return []
        self._logged_at = look.at
        return [summary(look, more_needed(look.findings), self._rate)]

    def last_table(self) -> list[str]:
        """Return the table of the last look, for an analysis that ends without a final look; empty before the first."""
        return self._folded(self._last) if self._last else []

    def _folded(self, look: LookSummary) -> list[str]:
        self._logged_at = look.at
        more = more_needed(look.findings)
        rows = [self._row(name, look, more) for name in self._gates]
        rows += [_plain_row(finding) for finding in look.findings if finding.gate not in self._gates]
        return [f"::group::{summary(look, more, self._rate)}", *aligned(rows), "::endgroup::"]

    def _row(self, name: str, look: LookSummary, more: Mapping[str, int]) -> Row:
        gate, limit = self._gates[name], self._limits[name]
        finding = next((finding for finding in look.findings if finding.gate == name), None)
        row = _plain_row(finding) if finding else Row(name, "-")
        row = row._replace(limit=f"{limit:g} {gate.unit}".strip())
        if gate.counted:
            seen = [*gate.bad_and_trials(look.candidate, limit), *gate.bad_and_trials(look.stable, limit)]
            if finding and "control_trials" in finding.numbers:  # the counts of the verdict, without the warm-up
                seen = [finding.numbers[name] for name in COUNT_FIELDS]
            bad, trials, stable_bad, stable_trials = seen
            row = row._replace(
                candidate=f"{bad:,.0f} of {trials:,.0f}", stable=f"{stable_bad:,.0f} of {stable_trials:,.0f}"
            )
        return row._replace(note=f"needs {more[name]:,} more good requests") if name in more else row

    def _measure_rate(self, look: LookSummary, *, restart: bool) -> None:
        if restart:
            self._recent.clear()
        self._recent.append((look.at, look.candidate.requests))
        while look.at - self._recent[0][0] > RATE_SECONDS:
            self._recent.popleft()

    @property
    def _rate(self) -> float | None:
        """The candidate's present requests per second; None before ``MIN_RATE_SECONDS`` have passed."""
        (since, before), (at, now) = self._recent[0], self._recent[-1]
        return (now - before) / (at - since) if at - since >= MIN_RATE_SECONDS else None


def more_needed(findings: Sequence[Finding]) -> dict[str, int]:
    """Return how many more requests, all of them good, each gate needs that is UNDECIDED by its counts, by name."""
    found = {}
    for finding in findings:
        if finding.verdict == "UNDECIDED" and "bound" in finding.numbers:
            bad, trials, allowed, share, dispersion, bound = (finding.numbers[name] for name in BOUND_FIELDS)
            if bound * share / 100 <= allowed:  # it waits for evidence of harm to fade, not for requests
                continue
            found[finding.gate] = max(1, round(_requests_needed(bad, allowed / (share / 100), dispersion) - trials))
    return found


COUNT_FIELDS = ("bad", "trials", "control_bad", "control_trials")
BOUND_FIELDS = ("bad", "trials", "allowed", "next_share", "dispersion", "bound")


@lru_cache(4096)
def _requests_needed(bad: float, permitted: float, dispersion: float) -> int:
    # Cached, since it takes milliseconds, and the same arguments come at every look and for all gates with one limit.
    return int(trials_needed(bad, permitted, BETA, dispersion))


def summary(look: LookSummary, more: Mapping[str, int], rate: float | None) -> str:
    """Return a look in one line: its counts, the findings behind its verdict, and how many requests it still needs.

    :param more: the result of ``more_needed``.
    :param rate: the candidate's present requests per second; None if unknown.
    """
    candidate, stable = look.candidate, look.stable
    counts = (
        f"candidate {candidate.errors:,.0f} errors of {candidate.requests:,.0f} requests,"
        f" stable {stable.errors:,.0f} of {stable.requests:,.0f}"
    )
    decisive = [finding for finding in look.findings if finding.verdict == look.verdict != "HEALTHY"]
    reasons = [finding.reason for finding in decisive if finding.gate not in more]
    missing = [_shortfall(max(more.values()), rate)] if more else []
    return " | ".join([f"look: {look.share_text} {look.verdict}, {counts}", *missing, *reasons])


def _shortfall(more: int, rate: float | None) -> str:
    needed = f"needs at least {more:,} more good requests"
    if rate is None:
        return needed
    if not rate:
        return f"{needed}, but none arrive"
    return f"{needed}, about {_duration(more / rate)} at {rate:.2g} per second"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


class Row(NamedTuple):
    """One line of the table. The defaults are the header's cells."""

    gate: str = "gate"
    verdict: str = "verdict"
    candidate: str = ""
    stable: str = ""
    at_most: str = ""
    may_cost: str = ""
    limit: str = ""
    note: str = ""


TABLE_HEADER = Row(candidate="candidate", stable="stable", at_most="at most", may_cost="may cost", limit="limit")


def _plain_row(finding: Finding) -> Row:
    """Return the cells that follow from a finding alone."""
    row, numbers = Row(finding.gate, finding.verdict), finding.numbers
    if "bound" in numbers:
        cost = numbers["bound"] * numbers["next_share"] / 100
        return row._replace(at_most=f"{numbers['bound']:.2%}", may_cost=f"{cost:.2%} of {numbers['allowed']:.2%}")
    if finding.verdict == "HEALTHY" and "value" in numbers:
        return row._replace(candidate=f"{numbers['value']:.3g}")
    return row._replace(note=finding.reason.removeprefix(f"{finding.gate}: "))


def aligned(rows: Sequence[Row]) -> list[str]:
    """Return the table's lines, header first, without empty columns."""
    columns = [(name, *cells) for name, *cells in zip(TABLE_HEADER, *rows, strict=True) if any(cells)]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]
