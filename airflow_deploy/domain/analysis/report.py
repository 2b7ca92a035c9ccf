"""What a loop of looks says in its log: a table when something has changed, and else one line now and then."""

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
"""Seconds for which nothing is said that is not new."""
RATE_SECONDS = 60.0
"""Seconds over which the present rate of requests is measured."""
MIN_RATE_SECONDS = 20.0
"""Seconds that are needed to measure it: within them there is a scrape."""


@dataclass(frozen=True)
class LookSummary:
    """One look to be told of.

    :param share: the candidate's share of the traffic in %.
    :param candidate: everything that the candidate answered so far; ``stable``: what the stable did meanwhile.
    :param mirrored: whether that share is of copies.
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
        """What the candidate gets."""
        return f"{'copies of ' if self.mirrored else ''}{self.share} %"


class AnalysisReport:
    """The log of one loop of looks.

    :param gates: all gates by name; ``limits``: their limits.
    """

    def __init__(self, gates: Mapping[str, Gate], limits: Mapping[str, float]) -> None:
        self._gates, self._limits = gates, limits
        self._last: LookSummary | None = None
        self._said_at = 0.0
        self._recent: deque[tuple[float, float]] = deque()

    def lines(self, look: LookSummary, *, final: bool = False) -> list[str]:
        """Return what to log of ``look``.

        A ``final`` one, and one with another verdict or share than the last, is told with a table, in a group that
        Airflow's page folds.
        """
        last, self._last = self._last, look
        new_stage = last is None or last.share_text != look.share_text
        self._count(look, anew=new_stage)
        if final or new_stage or (last and last.verdict != look.verdict):
            return self._folded(look)
        if look.at - self._said_at < SUMMARY_INTERVAL:
            return []
        self._said_at = look.at
        return [summary(look, more_needed(look.findings), self._rate)]

    def again(self) -> list[str]:
        """Return the table of the last look, for a loop that ends without one of its own."""
        return self._folded(self._last) if self._last else []

    def _folded(self, look: LookSummary) -> list[str]:
        self._said_at = look.at
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
            if finding and "control_trials" in finding.numbers:  # what it counted: without the warm-up, say
                seen = [finding.numbers[name] for name in COUNT_FIELDS]
            bad, trials, control_bad, control_trials = seen
            row = row._replace(
                candidate=f"{bad:.0f} of {trials:.0f}", stable=f"{control_bad:.0f} of {control_trials:.0f}"
            )
        return row._replace(says=f"needs {more[name]} more good ones") if name in more else row

    def _count(self, look: LookSummary, *, anew: bool) -> None:
        if anew:
            self._recent.clear()
        self._recent.append((look.at, look.candidate.requests))
        while look.at - self._recent[0][0] > RATE_SECONDS:
            self._recent.popleft()

    @property
    def _rate(self) -> float | None:
        """The candidate's requests a second at present; None where too little time has passed to tell."""
        (since, before), (at, now) = self._recent[0], self._recent[-1]
        return (now - before) / (at - since) if at - since >= MIN_RATE_SECONDS else None


def more_needed(findings: Sequence[Finding]) -> dict[str, int]:
    """Return by gate how many more requests, all of them good, would show what is UNDECIDED by counts to be HEALTHY."""
    found = {}
    for finding in findings:
        if finding.verdict == "UNDECIDED" and "bound" in finding.numbers:
            bad, trials, allowed, share, dispersion, bound = (finding.numbers[name] for name in BOUND_FIELDS)
            if bound * share / 100 <= allowed:  # what it waits for is not more requests
                continue
            found[finding.gate] = max(1, round(_in_all(bad, allowed / (share / 100), dispersion) - trials))
    return found


COUNT_FIELDS = ("bad", "trials", "control_bad", "control_trials")
BOUND_FIELDS = ("bad", "trials", "allowed", "next_share", "dispersion", "bound")


@lru_cache(4096)
def _in_all(bad: float, permitted: float, dispersion: float) -> int:
    # It takes milliseconds, and is the same until something bad happens, and for all gates with the same limit.
    return int(trials_needed(bad, permitted, BETA, dispersion))


def summary(look: LookSummary, more: Mapping[str, int], rate: float | None) -> str:
    """Return a look in one line: the counts, and what the verdict rests on or is missing for a better one.

    :param more: what ``more_needed`` returned.
    :param rate: the candidate's requests a second at present; None where that is not known.
    """
    mine, control = look.candidate, look.stable
    counted = (
        f"candidate {mine.requests:.0f} requests {mine.errors:.0f} errors,"
        f" stable {control.requests:.0f} requests {control.errors:.0f} errors"
    )
    decisive = [finding for finding in look.findings if finding.verdict == look.verdict != "HEALTHY"]
    said = [finding.reason for finding in decisive if finding.gate not in more]
    missing = [_in_time(max(more.values()), rate)] if more else []
    return " | ".join([f"look: {look.share_text} {look.verdict}, {counted}", *missing, *said])


def _in_time(more: int, rate: float | None) -> str:
    needed = f"needs at least {more} more good requests"
    if rate is None:
        return needed
    return f"{needed}, about {_duration(more / rate)} at {rate:.2g} a second" if rate else f"{needed}, and none come"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"


class Row(NamedTuple):
    """One line of the table, and its header's texts."""

    gate: str = "gate"
    verdict: str = "verdict"
    candidate: str = ""
    stable: str = ""
    at_most: str = ""
    may_cost: str = ""
    limit: str = ""
    says: str = ""


TABLE_HEADER = Row(candidate="candidate", stable="stable", at_most="at most", may_cost="may cost", limit="limit")


def _plain_row(finding: Finding) -> Row:
    """Return what a finding itself says."""
    row, numbers = Row(finding.gate, finding.verdict), finding.numbers
    if "bound" in numbers:
        cost = numbers["bound"] * numbers["next_share"] / 100
        return row._replace(at_most=f"{numbers['bound']:.2%}", may_cost=f"{cost:.2%} of {numbers['allowed']:.2%}")
    if finding.verdict == "HEALTHY" and "value" in numbers:
        return row._replace(candidate=f"{numbers['value']:.3g}")
    return row._replace(says=finding.reason.removeprefix(f"{finding.gate}: "))


def aligned(rows: Sequence[Row]) -> list[str]:
    """Return the table's lines, without the columns that are empty."""
    columns = [(name, *cells) for name, *cells in zip(TABLE_HEADER, *rows, strict=True) if any(cells)]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in zip(*columns, strict=True)
    ]
