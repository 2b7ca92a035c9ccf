"""A gauge is harm if it stays beyond its limit or grows steadily towards it, and only then."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import exp, inf, nan, sin

import pytest

from airflow_deploy.domain.analysis.gauges import (
    LEAK_HORIZON,
    LEAK_SPAN,
    SUSTAINED_SECONDS,
    GaugeWatch,
    seconds_to_limit,
)
from tests.support.judgement import START

Shape = Callable[[float], float]


def watch(shape: Shape, seconds: float, *, limit: float = 0.9, every: float = 5.0, projects: bool = True) -> GaugeWatch:
    gauge = GaugeWatch("memory", limit, projects=projects)
    for number in range(int(seconds / every) + 1):
        gauge.observe(START + number * every, shape(number * every))
    return gauge


def breached_at(shape: Shape, seconds: float = 1800, noise: float = 0.0) -> float | None:
    """Return after how many seconds the gauge is harm; None if it never is."""
    rng, gauge = random.Random(1), GaugeWatch("memory", 0.9, projects=True)
    for number in range(int(seconds / 5)):
        gauge.observe(START + number * 5.0, shape(number * 5.0) + rng.uniform(-noise, noise))
        if gauge.harm():
            return number * 5.0
    return None


class TestLeak:
    @pytest.mark.parametrize("noise", [0.0, 0.004])
    def test_steady_growth_towards_the_limit_is_harm_after_five_minutes(self, noise: float) -> None:
        found = breached_at(lambda at: 0.3 + 0.02 * at / 60, noise=noise)
        assert found is not None
        assert LEAK_SPAN * 0.9 <= found <= LEAK_SPAN + 2 * SUSTAINED_SECONDS

    def test_leak_reports_the_time_to_the_limit(self) -> None:
        finding = watch(lambda at: 0.3 + 0.02 * at / 60, 400).harm()
        assert finding is not None
        assert finding.verdict == "BREACHED"
        assert finding.reason.startswith("memory: grows steadily and reaches its limit 0.9 in 2")
        assert finding.numbers["seconds_left"] <= LEAK_HORIZON

    @pytest.mark.parametrize(
        "shape",
        [
            lambda _: 0.5,
            lambda at: 0.3 + 0.4 * (1 - exp(-at / 90)),
            lambda at: 0.3 + 0.001 * at / 60,
            lambda at: 0.7 - 0.02 * at / 60,
            lambda at: 0.5 + 0.1 * sin(at / 40),
            lambda at: 0.3 + 0.002 * (at % 120),
            lambda at: 0.3 if at < 150 else 0.6,
        ],
        ids=["level", "a cache that fills", "too slow to matter", "falling", "a wave", "a saw", "a step"],
    )
    def test_other_shapes_are_no_leak(self, shape: Shape) -> None:
        assert breached_at(shape, noise=0.002) is None

    def test_growth_of_less_than_five_minutes_is_no_leak(self) -> None:
        assert watch(lambda at: 0.1 + 0.002 * at, 260).harm() is None

    def test_gauge_without_projection_may_grow(self) -> None:
        assert watch(lambda at: 0.1 + 0.001 * at, 400, projects=False).harm() is None

    def test_gap_in_the_samples_is_no_growth(self) -> None:
        samples = [(START, 0.1), (START + 290, 0.7), (START + 300, 0.8)]
        assert seconds_to_limit(samples, 0.9) is None

    def test_time_to_the_limit_is_zero_beyond_it(self) -> None:
        samples = [(START + 5 * number, 0.85 + 0.002 * number) for number in range(61)]
        assert seconds_to_limit(samples, 0.9) == 0


class TestLimit:
    def test_value_beyond_the_limit_for_the_whole_time_is_harm(self) -> None:
        assert watch(lambda _: 0.95, SUSTAINED_SECONDS - 5).harm() is None
        finding = watch(lambda _: 0.95, SUSTAINED_SECONDS).harm()
        assert finding is not None
        assert finding.reason == f"memory: above its limit 0.9 for {SUSTAINED_SECONDS:.0f} s (now 0.95)"

    @pytest.mark.parametrize("missing", [None, nan])
    def test_missing_value_restarts_the_time(self, missing: float | None) -> None:
        gauge = watch(lambda _: 0.95, SUSTAINED_SECONDS - 5)
        gauge.observe(START + SUSTAINED_SECONDS, missing)
        gauge.observe(START + SUSTAINED_SECONDS + 5, 0.95)
        assert gauge.harm() is None
        assert gauge.health().verdict == "UNDECIDED"

    def test_infinity_is_beyond_the_limit(self) -> None:
        assert watch(lambda _: inf, SUSTAINED_SECONDS).harm()
