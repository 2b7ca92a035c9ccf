"""One deployment under analysis: its versions, its traffic, and a judge of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.analysis.judge import Judge, Terms
from airflow_deploy.domain.config.gates import merge_limits
from airflow_deploy.domain.metrics.counters import Counts, Tick
from tests.support.statistics import binomial


def limits(**given: float) -> dict[str, float]:
    """Return the limit of every gate: the given ones, and the defaults of the rest."""
    return {name: float(str(limit)) for name, limit in merge_limits(given).items()}


STABLE, CANDIDATE = "payments", "payments-0123456-1795417200"
START = 1_795_417_200.0
SCRAPE = 5.0
GOOD_BASELINE = Baseline(Counts(10_000, 10, 10_000, {0.5: 9_990, 1.0: 9_995}))


def answered(requests: float, errors: float = 0, slow: float = 0) -> Counts:
    return Counts(requests, errors, requests, {0.5: requests - slow, 1.0: requests - slow})


@dataclass
class Traffic:
    """Requests at a constant rate, divided by share; both versions fail at given rates."""

    seed: int
    per_scrape: int = 200

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.at = START

    def ticks(self, scrapes: int, share: int, candidate: float, stable: float, *, slow: float = 0.0) -> Iterator[Tick]:
        for _ in range(scrapes):
            self.at += SCRAPE
            to_candidate = self.per_scrape if share == 100 else binomial(self.rng, self.per_scrape, share / 100)
            to_stable = self.per_scrape - to_candidate
            yield Tick(
                self.at,
                {
                    CANDIDATE: answered(
                        to_candidate,
                        binomial(self.rng, to_candidate, candidate),
                        binomial(self.rng, to_candidate, slow),
                    ),
                    STABLE: answered(to_stable, binomial(self.rng, to_stable, stable)),
                },
            )


def make_judge(baseline: Baseline = GOOD_BASELINE, own: dict[str, float] | None = None, **terms: Any) -> Judge:
    return Judge(Terms(limits(**(own or {})), CANDIDATE, STABLE, baseline, **terms))


def gauges_are_fine(judge: Judge) -> None:
    for name in ("cpu_saturation", "memory"):
        judge.observe_gauge(name, START, 0.3)
