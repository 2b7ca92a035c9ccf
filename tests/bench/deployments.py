"""Simulated deployments: what a Prometheus would have counted, scrape by scrape, and which way our gates led them.

Requests come as an open load, Poisson at ``rps``, and are divided by the candidate's share. Prometheus scrapes every
5 s. Each version's bad requests are Poisson too, ``together`` at a time. The stable's rate is 0.2 %, the limit 1 %.
Stages are 5, 25, 50 and 100 %, ``bake`` is 60 s, and at ``max_bake``, 30 minutes, a person is asked: there the
deployment ends, undecided.

The shipped rule of health alone raises the share, so all rules of harm watch the same counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from airflow_deploy.domain.analysis.sequential import Array
from airflow_deploy.domain.config.gates import GATES, Gate
from airflow_deploy.domain.config.stages import CanarySpec
from tests.bench.engine import LIMIT, begin

SCRAPE = 5
STABLE_ERROR = 0.002
CANARY = CanarySpec()
STAGES = CANARY.stages
HISTORY = 3600
BASELINE = 300
OUTAGE, OUTAGE_BEGINS, OUTAGE_RATE = 60, 180, 0.6
"""The shared outage: its seconds, the seconds within which it begins, and the share of requests that fail."""
COLD, COLD_RATE = 10, 0.5
"""The cold start: for how many seconds the candidate is slow, and for which share of its requests."""
RESET_EVERY = 120
"""Mean seconds between two restarts of the gateway."""


@dataclass(frozen=True)
class Scenario:
    """What goes on meanwhile.

    :param gate: the gate whose bad requests these are.
    :param together: how many bad requests come at a time.
    :param onset: the stage (0 to 3) from which on the candidate is bad; ``healthy_for``: seconds at each one before.
    :param first: the stage at which the deployment begins.
    """

    name: str
    gate: Gate = field(default=GATES["error_rate"])
    together: int = 1
    outage: bool = False
    cold: bool = False
    resets: bool = False
    onset: int = 0
    healthy_for: int = CANARY.bake
    first: int = 0

    def bake(self, stage: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return for how many seconds a stage lasts at least."""
        return np.where(stage < self.onset, self.healthy_for, CANARY.bake)


LATENCY = GATES["latency_p99"]
SCENARIOS = (
    Scenario("steady"),
    Scenario("bursts of 4", together=4),
    Scenario("shared outage", outage=True),
    Scenario("cold start", gate=LATENCY, cold=True),
    Scenario("counter reset", resets=True),
    Scenario("latency shift", gate=LATENCY),
    Scenario("late onset, 5 min", onset=2, healthy_for=300),
    Scenario("late onset, 30 min", onset=2, healthy_for=1800),
)
FRESH = Scenario("fresh start at 50 %", first=2)
"""What a late onset is compared with."""


@dataclass
class Deployments:
    """The counts of many deployments: by scrape, and in each scrape by deployment.

    :param harmed: the candidate's bad requests since it is bad, as they happened.
    :param bad: the candidate's, as they were scraped; and so on.
    :param share: the candidate's share in %; 0 once the deployment is over.
    :param harmful: whether the shipped test for harm would stop the candidate.
    """

    harmed: Array
    bad: Array
    trials: Array
    control_bad: Array
    control_trials: Array
    share: Array
    harmful: NDArray[np.bool_]

    @property
    def scrapes(self) -> NDArray[np.int64]:
        """How many scrapes each lasted."""
        return np.asarray(np.count_nonzero(self.share, axis=0))

    @property
    def given(self) -> Array:
        """The largest share that each was given."""
        return np.asarray(self.share.max(axis=0))


class Counters:
    """Four counters that every restart of the gateway sets to 0, read as ``CounterReader`` reads them."""

    def __init__(self, runs: int) -> None:
        self.values = np.zeros((4, runs))

    def increases(self, grown: Array, rng: np.random.Generator) -> Array:
        """Return what is seen of ``grown``. A restart was at any time since the last scrape."""
        runs = grown.shape[1]
        restarted = rng.random(runs) < SCRAPE / RESET_EVERY
        since = rng.binomial(grown.astype(int), rng.random(runs))
        values = np.where(restarted, since, self.values + grown)
        seen = np.where(values >= self.values, values - self.values, values)
        self.values = values
        return seen


class Load:
    """Draws what the versions answer in one scrape: good and bad of the candidate, good and bad of the stable."""

    def __init__(self, scenario: Scenario, rps: float, candidate_error: float, rng: np.random.Generator) -> None:
        self._scenario, self._rps, self._error, self._rng = scenario, rps, candidate_error, rng

    def answers(self, at: float, stage: NDArray[np.int64], outage: NDArray[np.bool_]) -> Array:
        """Return the four numbers for each deployment at its stage, ``at`` seconds after the first traffic."""
        share = np.array(STAGES)[stage] / 100
        candidate = np.where(stage >= self._scenario.onset, self._error, STABLE_ERROR)
        if self._scenario.cold and at <= COLD:
            candidate = np.maximum(candidate, COLD_RATE)
        stable = np.full(len(stage), STABLE_ERROR)
        candidate, stable = (np.where(outage, np.maximum(rate, OUTAGE_RATE), rate) for rate in (candidate, stable))
        mine, others = self._rps * SCRAPE * share, self._rps * SCRAPE * (1 - share)
        return np.array([*self._split(mine, candidate), *self._split(others, stable)], float)

    def history(self, runs: int) -> tuple[Array, Array]:
        """Return the stable's bad requests and requests by deployment and scrape of the hour before."""
        mean = np.full((runs, HISTORY // SCRAPE), float(self._rps * SCRAPE))
        good, bad = self._split(mean, np.full_like(mean, STABLE_ERROR))
        return bad, good + bad

    def _split(self, requests: Array, rate: Array) -> tuple[Array, Array]:
        together = self._scenario.together
        good = self._rng.poisson(requests * (1 - rate))
        return good.astype(float), together * self._rng.poisson(requests * rate / together).astype(float)


def deploy(scenario: Scenario, rps: float, candidate_error: float, runs: int, rng: np.random.Generator) -> Deployments:
    """Simulate ``runs`` deployments to their end."""
    load, counters = Load(scenario, rps, candidate_error, rng), Counters(runs)
    engine = begin(*load.history(runs), recent=BASELINE // SCRAPE)
    stage, since, over = np.full(runs, scenario.first), np.zeros(runs), np.zeros(runs, bool)
    outage_at, at = rng.uniform(0, OUTAGE_BEGINS, runs), 0
    rows: list[tuple[Array, ...]] = []
    harmful: list[NDArray[np.bool_]] = []
    while not over.all():
        at, since = at + SCRAPE, since + SCRAPE
        share = np.where(over, 0.0, np.array(STAGES, float)[stage])
        outage = scenario.outage & (outage_at <= at) & (at < outage_at + OUTAGE) & (share < 100)
        answers = np.where(over, 0, load.answers(at, stage, outage))
        good, bad, control_good, control_bad = counters.increases(answers, rng) if scenario.resets else answers
        warm = not scenario.gate.warms_up or at > CANARY.warm_up
        mine, control = np.array([bad, bad + good]), np.array([control_bad, control_bad + control_good])
        engine.observe(at, share, mine * warm, control * warm)
        harmed = np.where(stage >= scenario.onset, answers[1], 0)
        rows.append((harmed, mine[0], mine[1], control[0], control[1], share))
        harmful.append(engine.harmful() & ~over)
        bake = scenario.bake(stage)
        asked = ~over & (since >= bake)
        ready = asked & engine.healthy(np.array([*STAGES[1:], 100])[stage]) if asked.any() else asked
        over = over | (ready & (stage == len(STAGES) - 1)) | (~ready & (since >= bake - CANARY.bake + CANARY.max_bake))
        stage, since = np.where(ready & ~over, stage + 1, stage), np.where(ready, 0, since)
    harmed_by, bad_by, trials, control_bad_by, control_trials, shares = map(np.array, zip(*rows, strict=True))
    return Deployments(harmed_by, bad_by, trials, control_bad_by, control_trials, shares, np.array(harmful))


def breaches(candidate_error: float, share: Sequence[float] | Array) -> NDArray[np.bool_]:
    """Whether a candidate alone uses up the limit at this share."""
    return np.asarray(candidate_error * np.asarray(share) / 100 > LIMIT)
