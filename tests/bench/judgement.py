"""`make bench-judgement`: how soon the engine and its peers stop a bad candidate, and how often a good one.

Every rule watches the same simulated deployments (see ``deployments``). ``stopped`` is in how many of ``runs`` a rule
stopped the candidate. ``harmed`` are the candidate's bad requests from when it is bad until the rule stops it or, if
it does not, until the deployment ends: over **all** runs, or a rule that stops late and seldom would look harmless.
``seconds_median`` is from when the candidate is bad to the stop, over the runs that were stopped. ``wald`` is the
least that any test of this level could harm at the 5 % stage: p_c log(1 / alpha_gate) / KL(p_c, p_s).
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from airflow_deploy.domain.analysis.judge import Judge, Terms, evaluate
from airflow_deploy.domain.analysis.sequential import Array
from airflow_deploy.domain.config.gates import GATES
from airflow_deploy.domain.metrics.counters import Counts, Tick
from tests.bench import deployments, peers, results
from tests.bench.deployments import FRESH, SCENARIOS, SCRAPE, STABLE_ERROR, STAGES, Deployments, Scenario
from tests.bench.engine import ALPHA_GATE, GATES_COUNTED, LIMIT
from tests.bench.results import OURS, Results, Row, Through

RPS = (2, 20, 200)
ERRORS = (0.002, 0.006, 0.02, 0.05, 0.2)
HEALTHY_RUNS, OTHER_RUNS, CHUNK = 2000, 300, 500
DEFAULTS = {name: gate.default for name, gate in GATES.items()}
RESULTS = Path(".bench/judgement.json")


def ours(seen: Deployments) -> Array:
    """Return the number of the scrape at which the shipped test for harm stops each deployment, inf if it does not."""
    return peers.first(seen.harmful)


RULES: dict[str, Callable[[Deployments], Array]] = {
    OURS: ours,
    "99 % over 1 min, 1 strike": partial(peers.fixed_limit, limit=0.01, window=60, strikes=1),
    "99 % over 1 min, 10 strikes": partial(peers.fixed_limit, limit=0.01, window=60, strikes=10),
    "95 % over 5 min, 4 strikes": partial(peers.fixed_limit, limit=0.05, window=300, strikes=4),
    "Mann-Whitney, 50 points": peers.mann_whitney,
}


@dataclass(frozen=True)
class Cell:
    """One kind of deployment."""

    rps: int
    candidate_error: float
    scenario: Scenario

    @property
    def healthy(self) -> bool:
        return self.candidate_error == STABLE_ERROR

    @property
    def runs(self) -> int:
        return HEALTHY_RUNS if self.healthy else OTHER_RUNS


@dataclass(frozen=True)
class Outcome:
    """What became of some deployments of a cell: by rule harmed requests, and seconds until the stop (inf without)."""

    cell: Cell
    harmed: dict[str, Array]
    seconds: dict[str, Array]
    given: int
    unharmed: int


def simulate(task: tuple[int, Cell, int]) -> Outcome:
    """Run a chunk of a cell."""
    seed, cell, runs = task
    seen = deployments.deploy(cell.scenario, cell.rps, cell.candidate_error, runs, np.random.default_rng(seed))
    harm = np.cumsum(seen.harmed, axis=0)
    began = np.argmax(seen.share >= STAGES[cell.scenario.onset], axis=0)
    reached = seen.given >= STAGES[cell.scenario.onset]
    harmed, seconds, stops = {}, {}, {}
    for name, rule in RULES.items():
        stop = stops[name] = rule(seen)
        last = np.minimum(stop, seen.scrapes).astype(int) - 1
        # What is stopped before the candidate turns bad is no catch; with a healthy candidate all of it is false.
        counts = np.ones(runs, bool) if cell.healthy else reached & (stop > began)
        harmed[name] = harm[last, np.arange(runs)][counts]
        seconds[name] = ((stop - (0 if cell.healthy else began)) * SCRAPE)[counts]
    by_a_gate = seen.share > STAGES[cell.scenario.onset]
    breach = by_a_gate & deployments.breaches(cell.candidate_error, seen.share)
    through = breach.any(axis=0)
    unharmed = through & (breach.argmax(axis=0) < stops[OURS])
    return Outcome(cell, harmed, seconds, int(through.sum()), int(unharmed.sum()))


def tasks() -> list[tuple[int, Cell, int]]:
    """All chunks of all cells, the longest first."""
    cells = [Cell(rps, error, scenario) for scenario in SCENARIOS for rps in RPS for error in ERRORS]
    cells += [Cell(rps, error, FRESH) for rps in RPS for error in ERRORS[1:]]
    chunks = [(cell, min(CHUNK, cell.runs - at)) for cell in cells for at in range(0, cell.runs, CHUNK)]
    numbered = [(seed, *chunk) for seed, chunk in enumerate(chunks)]
    return sorted(numbered, key=lambda task: (-task[2], task[1].rps))


def wald(candidate_error: float) -> float | None:
    """Return the least mean number of harmed requests at the 5 % stage; None for a healthy candidate."""
    p, q = candidate_error, STABLE_ERROR
    if p <= q:
        return None
    divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return round(p * math.log(1 / ALPHA_GATE) / divergence, 2)


def rows(outcomes: list[Outcome]) -> Iterator[Row]:
    """Return a row for each cell and rule."""
    for cell in dict.fromkeys(outcome.cell for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.cell == cell]
        for rule in RULES if cell.scenario != FRESH else [OURS]:
            harmed = np.concatenate([outcome.harmed[rule] for outcome in mine])
            seconds = np.concatenate([outcome.seconds[rule] for outcome in mine])
            stopped = np.isfinite(seconds)
            yield Row(
                cell.rps,
                cell.candidate_error,
                cell.scenario.name,
                rule,
                len(harmed),
                int(stopped.sum()),
                round(float(np.mean(harmed)), 2),
                float(np.median(harmed)),
                float(np.median(seconds[stopped])) if stopped.any() else None,
                wald(cell.candidate_error),
                round(float(np.mean(harmed[stopped])), 2) if stopped.any() else None,
            )


def let_through(outcomes: list[Outcome]) -> Iterator[Through]:
    """Return for each cell whose candidate can use up the limit how many were let through."""
    for cell in dict.fromkeys(outcome.cell for outcome in outcomes):
        if cell.candidate_error > LIMIT and cell.scenario != FRESH:
            mine = [outcome for outcome in outcomes if outcome.cell == cell]
            given, unharmed = sum(each.given for each in mine), sum(each.unharmed for each in mine)
            yield Through(cell.rps, cell.candidate_error, cell.scenario.name, cell.runs, given, unharmed)


def look_arithmetic_ms() -> float:
    """Return the milliseconds that the shipped judge takes for one look: a scrape taken in, and all its verdicts."""
    edges = {0.5: 0.0, 1.0: 0.0}
    judge = Judge(Terms(limits=DEFAULTS, candidate="new", stable="old"))
    ticks = [
        Tick(
            5.0 * number,
            {name: Counts(n, 1, n, dict.fromkeys(edges, n - 1)) for name, n in (("new", 50), ("old", 950))},
        )
        for number in range(500)
    ]
    took = []
    for tick in ticks:
        began = time.perf_counter()
        judge.observe(tick, 5)
        evaluate(judge, None, 25)
        took.append(time.perf_counter() - began)
    return 1000 * float(np.median(took))


def main() -> int:
    """Simulate, write the results, print them and the verdict on each target; return 1 if one is missed."""
    began = time.monotonic()
    look = look_arithmetic_ms()
    with get_context("fork").Pool(os.cpu_count()) as pool:
        outcomes = pool.map(simulate, tasks(), chunksize=1)
    found = Results(GATES_COUNTED, round(look, 3), list(rows(outcomes)), list(let_through(outcomes)))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(asdict(found), indent=1) + "\n")
    verdicts = list(results.verdicts(found))
    print("\n".join([*results.tables(found), "", *map(str, verdicts)]))
    print(f"\n{len(found.rows)} rows in {RESULTS}, {time.monotonic() - began:.0f} s")
    return 1 if any(verdict.missed for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
