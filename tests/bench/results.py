"""What the simulation found, as rows, as tables to read, and as a verdict on each target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.bench.deployments import SCRAPE, STABLE_ERROR, STAGES

OURS = "airflow-deploy"
STEADY, LATE, FRESH = "steady", "late onset", "fresh start at 50 %"
MOST_FALSE_STOPS, OF = 34, 2000
"""Three standard deviations above 1 % of the runs."""
MOST_LET_THROUGH = 0.05
MOST_LOOK_MS = 1.0


@dataclass(frozen=True)
class Row:
    """What one rule did in one cell."""

    rps: int
    candidate_error: float
    scenario: str
    rule: str
    runs: int
    stopped: int
    harmed_mean: float
    harmed_median: float
    seconds_median: float | None
    wald: float | None
    harmed_mean_if_stopped: float | None

    def __str__(self) -> str:
        return f"{self.rps} rps, {self.candidate_error:.1%}, {self.scenario}"


@dataclass(frozen=True)
class Through:
    """How many candidates were given a share with which they alone use up the limit.

    :param given: by the gates alone; ``unharmed``: by the gates, before the test for harm stopped them.
    """

    rps: int
    candidate_error: float
    scenario: str
    runs: int
    given: int
    unharmed: int

    def __str__(self) -> str:
        return f"{self.rps} rps, {self.candidate_error:.1%}, {self.scenario}"


@dataclass(frozen=True)
class Results:
    """All that `.bench/judgement.json` holds."""

    gates: int
    look_arithmetic_ms: float
    rows: list[Row]
    let_through: list[Through]

    def row(self, rps: int, candidate_error: float, scenario: str, rule: str = OURS) -> Row:
        """Return one row."""
        key = rps, candidate_error, scenario, rule
        return next(r for r in self.rows if (r.rps, r.candidate_error, r.scenario, r.rule) == key)

    def ours(self, scenario: str | None = None, *, healthy: bool = False) -> list[Row]:
        """Return our rows of healthy or of bad candidates, in one scenario or all."""
        mine = [r for r in self.rows if r.rule == OURS and (r.candidate_error == STABLE_ERROR) == healthy]
        return [r for r in mine if scenario in (None, r.scenario)]


@dataclass(frozen=True)
class Verdict:
    """Whether a target is met, with the figure nearest to its edge, and what missed it."""

    target: str
    said: str
    missed: list[str]

    def __str__(self) -> str:
        lines = [f"{'MISSED' if self.missed else 'met   '}  {self.target}: {self.said}"]
        return "\n".join([*lines, *(f"          {line}" for line in self.missed)])


def verdicts(results: Results) -> Iterator[Verdict]:
    """Judge each target of the issue."""
    yield _false_stops(results)
    yield _near_the_best_possible(results)
    yield _far_below_the_peers(results)
    yield _late_as_soon_as_fresh(results)
    yield _health(results)
    look = results.look_arithmetic_ms
    yield Verdict("one look's arithmetic", f"{look:.2f} ms", [] if look < MOST_LOOK_MS else ["1 ms is the most"])


def _false_stops(results: Results) -> Verdict:
    # One gate is simulated; a deployment has several, whose false stops at most add up.
    found = {row: row.stopped * results.gates for row in results.ours(healthy=True)}
    worst = max(found, key=lambda row: found[row])
    return Verdict(
        f"false stops of a healthy candidate, at most {MOST_FALSE_STOPS} of {OF:,} in every cell",
        f"{worst.stopped} of {worst.runs:,} by one gate ({worst}), so at most {found[worst]} by {results.gates}",
        [f"{row}: {row.stopped} by one gate" for row, all_gates in found.items() if all_gates > MOST_FALSE_STOPS],
    )


def _near_the_best_possible(results: Results) -> Verdict:
    permitted = {
        row: 2 * (row.wald or 0) + row.rps * SCRAPE * STAGES[0] / 100 * row.candidate_error + 2
        for row in results.ours(STEADY)
    }
    worst = max(permitted, key=lambda row: row.harmed_mean / permitted[row])
    return Verdict(
        "steady: harmed at most 2x the best possible, one scrape's worth and two",
        f"worst {worst.harmed_mean:.1f} of {permitted[worst]:.1f} ({worst})",
        [
            f"{row}: {row.harmed_mean:.1f} of {most:.1f}; {row.stopped} of {row.runs} were stopped,"
            f" after {row.harmed_mean_if_stopped or 0:.1f}"
            for row, most in permitted.items()
            if row.harmed_mean > most
        ],
    )


def _far_below_the_peers(results: Results) -> Verdict:
    rivals = {row: rival for row in results.ours(STEADY) if (rival := _best_peer(results, row))}
    missed = [row for row, rival in rivals.items() if 5 * row.harmed_mean > rival.harmed_mean]
    return Verdict(
        "steady: harmed at most 1/5 of the best peer that stops falsely no more often",
        f"in {len(rivals) - len(missed)} of {len(rivals)} cells where there is such a peer",
        [
            f"{row}: {row.harmed_mean:.1f} against {rivals[row].harmed_mean:.1f} ({rivals[row].rule}, stopped"
            f" {rivals[row].stopped} of {rivals[row].runs}); the best possible is {row.wald:.1f}"
            + (": no test of this level can" if 5 * (row.wald or 0) > rivals[row].harmed_mean else "")
            for row in missed
        ],
    )


def _best_peer(results: Results, row: Row) -> Row | None:
    false_stops = results.row(row.rps, STABLE_ERROR, row.scenario).stopped
    peers = [
        peer
        for peer in results.rows
        if (peer.rps, peer.candidate_error, peer.scenario) == (row.rps, row.candidate_error, row.scenario)
        and peer.rule != OURS
        and peer.stopped
        and results.row(row.rps, STABLE_ERROR, row.scenario, peer.rule).stopped <= false_stops
    ]
    return min(peers, key=lambda peer: peer.harmed_mean, default=None)


def _late_as_soon_as_fresh(results: Results) -> Verdict:
    late = [row for row in results.ours() if row.scenario.startswith(LATE)]
    ratios = {row: row.harmed_mean / results.row(row.rps, row.candidate_error, FRESH).harmed_mean for row in late}
    worst = max(ratios, key=lambda row: ratios[row])
    return Verdict(
        "late onset: harmed at most 2x of a fresh start at that stage",
        f"worst {ratios[worst]:.2f}x ({worst})",
        [f"{row}: {ratio:.2f}x" for row, ratio in ratios.items() if ratio > 2],
    )


def _health(results: Results) -> Verdict:
    # A gate bounds the mean rate so far: what turned bad since is the test for harm's.
    shares = {cell: cell.given / cell.runs for cell in results.let_through if not cell.scenario.startswith(LATE)}
    worst = max(shares, key=lambda cell: shares[cell])
    return Verdict(
        f"true blended breaches let through, at most {MOST_LET_THROUGH:.0%} in every cell",
        f"worst {shares[worst]:.1%} ({worst})",
        [f"{cell}: {share:.1%}" for cell, share in shares.items() if share > MOST_LET_THROUGH],
    )


def tables(results: Results) -> Iterator[str]:
    """Return two Markdown tables: ours in all scenarios, and all rules with steady traffic."""
    errors = list(dict.fromkeys(row.candidate_error for row in results.rows))
    columns = ["scenario", "requests/s", *(f"{error:.1%}" for error in errors)]
    yield from _table(columns, _grid(results, lambda row: (row.scenario, row.rps) if row.rule == OURS else None))
    yield ""
    columns = ["rule", "requests/s", *(f"{error:.1%}" for error in errors)]
    yield from _table(columns, _grid(results, lambda row: (row.rule, row.rps) if row.scenario == STEADY else None))


def _grid(results: Results, key: Callable[[Row], tuple[str, int] | None]) -> Iterator[list[str]]:
    errors = list(dict.fromkeys(row.candidate_error for row in results.rows))
    for name, rps in dict.fromkeys(found for row in results.rows if (found := key(row))):
        cells = {row.candidate_error: row for row in results.rows if key(row) == (name, rps)}
        yield [name, f"{rps}", *(_cell(cells[error]) if error in cells else "" for error in errors)]


def _table(columns: list[str], lines: Iterable[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield "|---" + "|--:" * (len(columns) - 1) + "|"
    yield from (f"| {' | '.join(line)} |" for line in lines)


def _cell(row: Row) -> str:
    """False stops of the healthy; else how many were stopped, after how long, and how many requests were harmed."""
    if row.candidate_error == STABLE_ERROR:
        return f"{row.stopped}"
    after = "" if row.seconds_median is None else f" in {row.seconds_median:.0f} s"
    return f"{row.stopped / row.runs:.0%}{after}, {row.harmed_mean:.1f}"
