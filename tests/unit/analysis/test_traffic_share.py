"""A loss of traffic with a shift is harm; traffic that comes and goes by itself raises no alarm."""

from __future__ import annotations

import random

import pytest

from airflow_deploy.domain.analysis.baseline import QUIET_BIN_SECONDS
from airflow_deploy.domain.analysis.traffic_share import TRAFFIC_LOSS_SECONDS, TrafficShareMonitor
from airflow_deploy.domain.analysis.verdict import Finding
from tests.support.judgement import SCRAPE, START
from tests.support.statistics import binomial


def first_loss(before: float, rates: list[tuple[int, float, float]], seed: int = 1) -> Finding | None:
    """Feed ``(share, seconds, requests per second)``; return the first finding of lost traffic."""
    rng, monitor, at = random.Random(seed), TrafficShareMonitor(2.0, before), START
    for share, seconds, rate in rates:
        for _ in range(int(seconds / SCRAPE)):
            at += SCRAPE
            total = binomial(rng, int(rate * SCRAPE * 2), 0.5)
            to_candidate = binomial(rng, total, share / 100)
            monitor.observe(at, to_candidate, total - to_candidate, share)
            if found := monitor.traffic_lost():
                return found
    return None


class TestTrafficLost:
    def test_loss_of_half_the_traffic_with_the_first_shift_is_harm(self) -> None:
        finding = first_loss(50, [(5, 120, 15)])
        assert finding is not None
        assert (finding.gate, finding.verdict) == ("request_rate", "BREACHED")
        assert "since the shift to 5 % (at least 50 before)" in finding.reason

    def test_loss_with_a_later_shift_is_harm(self) -> None:
        assert first_loss(50, [(5, 300, 50), (50, 120, 15)]) is not None

    @pytest.mark.parametrize("rate", [50, 40, 30, 200])
    def test_steady_traffic_is_no_harm(self, rate: float) -> None:
        for seed in range(20):
            assert first_loss(50, [(5, 120, rate), (25, 120, rate), (100, 300, rate)], seed) is None

    def test_minute_without_scrapes_before_a_shift_raises_no_alarm(self) -> None:
        """Prometheus was down, and the next shift comes soon after."""
        monitor, at = TrafficShareMonitor(2.0, 0.0), START
        scrapes = [(5, 60.0, 3000.0), *[(5, 5.0, 250.0)] * 7, *[(50, 5.0, 250.0)] * 20]
        for share, seconds, requests in scrapes:
            at += seconds
            monitor.observe(at, requests * share / 100, requests * (1 - share / 100), share)
            assert monitor.traffic_lost() is None

    def test_loss_long_after_the_shift_is_not_attributed_to_it(self) -> None:
        assert first_loss(50, [(5, TRAFFIC_LOSS_SECONDS + 30, 50), (5, 300, 5)]) is None

    def test_first_scrape_after_a_long_gap_is_no_rate(self) -> None:
        """After a minute without Prometheus, the first scrape has that minute's requests."""
        monitor = TrafficShareMonitor(2.0, 0.0)
        monitor.observe(1000.0, 1700.0, 1700.0, 50)
        for at in range(1002, 1042, 2):
            monitor.observe(at, 50.0, 50.0, 50)
        for at in range(1042, 1142, 2):
            monitor.observe(at, 100.0, 0.0, 100)
            assert monitor.traffic_lost() is None

    def test_unknown_past_raises_no_alarm(self) -> None:
        assert first_loss(0, [(5, 120, 0)]) is None

    def test_few_requests_raise_no_alarm(self) -> None:
        for seed in range(20):
            assert first_loss(0.1, [(5, 300, 0.1), (25, 300, 0.1)], seed) is None

    def test_bursty_traffic_raises_no_alarm(self) -> None:
        """No requests arrive in half of each minute."""
        burst = [(5, QUIET_BIN_SECONDS, 40.0), (5, QUIET_BIN_SECONDS, 0.0)]
        later = [(25, QUIET_BIN_SECONDS, 40.0), (25, QUIET_BIN_SECONDS, 0.0)]
        assert first_loss(0, [*burst * 4, *later * 4]) is None
