"""The past of a service: its counts, its quietest half minute, and how its errors cluster."""

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


def test_the_last_five_minutes_are_what_the_stable_answers() -> None:
    ticks = hour(100, 0.0)
    assert captured(ticks).counts.requests == 100 * BASELINE_SECONDS / SCRAPE
    assert captured([]) == Baseline(dispersion=dict.fromkeys(COUNTED, 1.0), uncertain=tuple(COUNTED))


@pytest.mark.parametrize(("burst", "least", "most"), [(1, 1.0, 1.3), (4, 3.0, 5.0)])
def test_errors_that_come_in_bursts_are_known_to(burst: int, least: float, most: float) -> None:
    assert least <= captured(hour(200, 0.01, burst)).dispersion["error_rate"] <= most


def test_too_few_errors_are_said_to_be_too_few() -> None:
    assert "error_rate" in captured(hour(10, 0.0005)).uncertain
    assert "error_rate" not in captured(hour(200, 0.01)).uncertain


class TestQuietest:
    def test_is_the_half_minute_with_the_fewest_requests(self) -> None:
        ticks = [(START + 5.0 * number, 50.0) for number in range(60)]
        ticks[20:26] = [(at, 10.0) for at, _ in ticks[20:26]]
        assert 2 <= quietest_rate(ticks, START, START + 300) < 10

    def test_counts_a_half_minute_without_any(self) -> None:
        ticks = [(START + 5.0 * number, 0.0 if 100 <= 5 * number < 200 else 50.0) for number in range(61)]
        assert quietest_rate(ticks, START, START + 300) == 0

    def test_what_one_scrape_brings_after_a_gap_came_in_all_of_it(self) -> None:
        ticks = [(START, 7.0), (START + 5, 50.0), (START + 95, 900.0), (START + 100, 50.0)]
        assert quietest_rate(ticks, START, START + 100) == pytest.approx(10)

    def test_the_first_scrape_tells_of_what_was_before(self) -> None:
        ticks = [(START, 1e6), *((START + 5.0 * number, 50.0) for number in range(1, 13))]
        assert quietest_rate(ticks, START, START + 60) == pytest.approx(10)

    def test_is_unknown_where_the_beginning_was_not_seen(self) -> None:
        ticks = [(START + 200 + 5.0 * number, 50.0) for number in range(20)]
        assert quietest_rate(ticks, START, START + 300) == 0
        assert quietest_rate([], START, START + 300) == 0


def test_survives_json() -> None:
    made = Baseline(Counts(10, 1, 10, {0.5: 9}), 2.5, {"error_rate": 4.25}, ("latency_p95",))
    assert Baseline.load(made.dump()) == made
