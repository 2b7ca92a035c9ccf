"""The baseline: counts, the quietest half minute, and the dispersion of errors."""

from __future__ import annotations

import random

import pytest

from airflow_deploy.domain.analysis.baseline import (
    BASELINE_SECONDS,
    HISTORY_SECONDS,
    Baseline,
    capture_baseline,
    quietest_rate,
)
from airflow_deploy.domain.config.gates import GATES
from airflow_deploy.domain.metrics.counters import Counts, Tick
from tests.support.judgement import SCRAPE, STABLE, START, answered
from tests.support.statistics import binomial

COUNTED = {name: (gate, gate.default) for name, gate in GATES.items() if gate.counted}


def hour(requests: int, rate: float, burst: int = 1, seconds: float = HISTORY_SECONDS, seed: int = 1) -> list[Tick]:
    """An hour of the stable's past; ``burst`` errors come at a time."""
    rng = random.Random(seed)
    found = []
    for number in range(int(seconds / SCRAPE)):
        errors = burst * binomial(rng, requests, rate / burst)
        found.append(Tick(START - seconds + (number + 1) * SCRAPE, {STABLE: answered(requests, errors)}))
    return found


def captured(ticks: list[Tick]) -> Baseline:
    return capture_baseline(ticks, STABLE, COUNTED, START)


def test_baseline_counts_the_last_five_minutes() -> None:
    ticks = hour(100, 0.0)
    assert captured(ticks).counts.requests == 100 * BASELINE_SECONDS / SCRAPE
    assert captured([]) == Baseline(dispersion=dict.fromkeys(COUNTED, 1.0), uncertain=tuple(COUNTED))


@pytest.mark.parametrize(("burst", "least", "most"), [(1, 1.0, 1.3), (4, 3.0, 5.0)])
def test_dispersion_reflects_bursts_of_errors(burst: int, least: float, most: float) -> None:
    assert least <= captured(hour(200, 0.01, burst)).dispersion["error_rate"] <= most


def test_gate_with_too_few_errors_is_uncertain() -> None:
    assert "error_rate" in captured(hour(10, 0.0005)).uncertain
    assert "error_rate" not in captured(hour(200, 0.01)).uncertain


class TestQuietestRate:
    def test_quietest_rate_is_that_of_the_quietest_half_minute(self) -> None:
        ticks = [(START + 5.0 * number, 50.0) for number in range(60)]
        ticks[20:26] = [(at, 10.0) for at, _ in ticks[20:26]]
        assert 2 <= quietest_rate(ticks, START, START + 300) < 10

    def test_half_minute_without_requests_has_rate_zero(self) -> None:
        ticks = [(START + 5.0 * number, 0.0 if 100 <= 5 * number < 200 else 50.0) for number in range(61)]
        assert quietest_rate(ticks, START, START + 300) == 0

    def test_requests_after_a_gap_are_spread_over_the_gap(self) -> None:
        ticks = [(START, 7.0), (START + 5, 50.0), (START + 95, 900.0), (START + 100, 50.0)]
        assert quietest_rate(ticks, START, START + 100) == pytest.approx(10)

    def test_first_scrape_does_not_count(self) -> None:
        ticks = [(START, 1e6), *((START + 5.0 * number, 50.0) for number in range(1, 13))]
        assert quietest_rate(ticks, START, START + 60) == pytest.approx(10)

    def test_quietest_rate_is_zero_if_the_beginning_is_missing(self) -> None:
        ticks = [(START + 200 + 5.0 * number, 50.0) for number in range(20)]
        assert quietest_rate(ticks, START, START + 300) == 0
        assert quietest_rate([], START, START + 300) == 0


def test_baseline_survives_json() -> None:
    made = Baseline(Counts(10, 1, 10, {0.5: 9}), 2.5, {"error_rate": 4.25}, ("latency_p95",))
    assert Baseline.load(made.dump()) == made
