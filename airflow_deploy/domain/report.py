"""What a loop of looks says in its log: a table when something has changed, and else one line now and then."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from airflow_deploy.domain.gates import GATES, Gate
from airflow_deploy.domain.judge import BETA, Finding, Verdict
from airflow_deploy.domain.sequential import trials_needed
from airflow_deploy.domain.telemetry import Counts

QUIET = 10.0
"""Seconds for which nothing is said that is not new."""
PRESENT = 60.0
"""Seconds over which the present rate of requests is measured."""
LEAST = 20.0
"""Seconds that tell a rate: scrapes lie that far apart at most."""


@dataclass(frozen=True)
class Look:
    """One look to be told of.

    :param share: the candidate's share of the traffic in %.
    :param candidate: everything that the candidate answered so far; ``stable``: what the stable did meanwhile.
    """

    at: float
    share: int
    verdict: Verdict
    findings: Sequence[Finding]
    candidate: Counts
    stable: Counts


class Report:
    """The log of one loop of looks.

    :param limits: every gate's limit, by name.
    """

    def __init__(self, limits: Mapping[str, float]) -> None:
        self._limits = limits
        self._last: Look | None = None
        self._said_at = 0.0
        self._recent: deque[tuple[float, float]] = deque()

    def lines(self, look: Look, *, final: bool = False) -> list[str]:
        """Return what to log of ``look``.

        A ``final`` look, and one with another verdict or share than the last, is told with a table, which Airflow's
        page folds.
        """
        before, self._last = self._last, look
        changed = before is None or (before.share, before.verdict) != (look.share, look.verdict)
        self._count(look, anew=before is None or before.share != look.share)
        if final or changed:
            return self._folded(look)
        if look.at - self._said_at < QUIET:
            return []
        self._said_at = look.at
        return [summary(look, self._rate)]

    def again(self) -> list[str]:
        """Return the table of the last look, for a loop that ends without one of its own."""
        return self._folded(self._last) if self._last else []

    def _folded(self, look: Look) -> list[str]:
        self._said_at = look.at
        return [f"::group::{summary(look, self._rate)}", *table(look, self._limits), "::endgroup::"]

    def _count(self, look: Look, *, anew: bool) -> None:
        if anew:
            self._recent.clear()
        self._recent.append((look.at, look.candidate.requests))
        while look.at - self._recent[0][0] > PRESENT:
            self._recent.popleft()

    @property
    def _rate(self) -> float | None:
        """The candidate's requests a second at present; None where too little time has passed to tell."""
        (since, before), (at, now) = self._recent[0], self._recent[-1]
        return (now - before) / (at - since) if at - since >= LEAST else None


def summary(look: Look, rate: float | None) -> str:
    """Return a look in one line.

    :param rate: the candidate's requests a second at present; None where that is not known.
    """
    counted = (
        f"{name} {counts.requests:.0f} requests {counts.errors:.0f} errors"
        for name, counts in (("candidate", look.candidate), ("stable", look.stable))
    )
    return " | ".join([f"look: {look.share} % {look.verdict}, {', '.join(counted)}", *_why(look, rate)])


def _why(look: Look, rate: float | None) -> list[str]:
    """Say what the verdict rests on, or what is missing for a better one."""
    decisive = [finding for finding in look.findings if finding.verdict == look.verdict != "HEALTHY"]
    missing = [more for finding in decisive if (more := more_needed(finding)) is not None]
    said = [finding.reason for finding in decisive if more_needed(finding) is None]
    return [*([_in_time(max(missing), rate)] if missing else []), *said]


def more_needed(finding: Finding) -> int | None:
    """Return how many more requests, all of them good, would make a counted gate HEALTHY; None for anything else."""
    numbers = finding.numbers
    if finding.verdict != "UNDECIDED" or "bound" not in numbers:
        return None
    permitted = numbers["allowed"] / (numbers["next_share"] / 100)
    return max(1, int(trials_needed(numbers["bad"], permitted, BETA)) - int(numbers["trials"]))


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
    """One line of the table."""

    gate: str
    verdict: str
    candidate: str = ""
    stable: str = ""
    at_most: str = ""
    may_cost: str = ""
    limit: str = ""
    says: str = ""


def table(look: Look, limits: Mapping[str, float]) -> list[str]:
    """Return a look as aligned lines, one for each gate, without the columns that are empty."""
    found = {finding.gate: finding for finding in look.findings}
    rows = [_row(GATES[name], limit, look, found.pop(name, None)) for name, limit in limits.items()]
    rows += [Row(finding.gate, finding.verdict, says=finding.reason) for finding in found.values()]
    header = Row("gate", "verdict", "candidate", "stable", "at most", "may cost", "limit")
    columns = [column for column in zip(header, *rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    lines = zip(*columns, strict=True)
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _row(gate: Gate, limit: float, look: Look, finding: Finding | None) -> Row:
    numbers = finding.numbers if finding else {}
    row = Row(gate.name, finding.verdict if finding else "-", limit=f"{limit:g} {gate.unit}")
    if gate.counted:
        counted = (gate.bad_and_trials(counts, limit) for counts in (look.candidate, look.stable))
        mine, control = (f"{bad:.0f} of {trials:.0f}" for bad, trials in counted)
        row = row._replace(candidate=mine, stable=control)
    if "bound" in numbers:
        cost = numbers["bound"] * numbers["next_share"] / 100
        row = row._replace(at_most=f"{numbers['bound']:.2%}", may_cost=f"{cost:.2%} of {numbers['allowed']:.2%}")
    if "value" in numbers:
        row = row._replace(candidate=f"{numbers['value']:.2f}")
    return row._replace(says=_says(finding) if finding else "")


def _says(finding: Finding) -> str:
    if (more := more_needed(finding)) is not None:
        return f"needs {more} more good requests"
    if finding.verdict == "HEALTHY" and finding.gate != "request_rate":
        return ""
    return finding.reason.removeprefix(f"{finding.gate}: ")
