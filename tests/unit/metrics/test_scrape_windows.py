"""Versions whose pods are scraped apart, each at its own time, are judged over the same minutes all the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.analysis.judge import Judge, Terms, evaluate
from airflow_deploy.domain.metrics.counters import CounterReader, Counts, Series, Tick
from airflow_deploy.domain.metrics.scrape_windows import ScrapeWindows
from airflow_deploy.domain.metrics.sources import SOURCES
from tests.support.judgement import CANDIDATE, GOOD_BASELINE, STABLE, gauges_are_fine, limits
from tests.support.series import poll, total

PRESET = SOURCES["application"]
SCRAPE = 5.0
START = 1_795_417_200.0


def outage(begun: float, after: float) -> float:
    """The share of requests that fail, for 20 s from ``begun`` on; both in seconds of the story."""
    return 0.5 if begun <= after < begun + 20 else 0.001


def reader() -> CounterReader:
    return CounterReader(PRESET, "shop", "pay", (CANDIDATE, STABLE), newborn=CANDIDATE)


def series(service: str, pod: str, code: str, samples: list[tuple[float, float]]) -> Series:
    labels = {"__name__": PRESET.requests, "namespace": "shop", "service": service, "instance": pod, "code": code}
    return Series(labels, samples)


@st.composite
def histories(draw: st.DrawFn) -> list[Series]:
    """Pods that come and go, start again at 0, and are missed now and then, each scraped at its own times."""
    found = []
    for pod in range(draw(st.integers(1, 5))):
        service = draw(st.sampled_from([STABLE, CANDIDATE]))
        offset = draw(st.integers(0, 40)) / 8
        scrapes = range(born := draw(st.integers(0, 6)), born + draw(st.integers(1, 12)))
        times = [100 + offset + SCRAPE * scrape for scrape in scrapes if draw(st.integers(0, 7))]
        for code in ("200", "503"):
            value = float(draw(st.integers(0, 1000)))
            samples = []
            for at in times[draw(st.integers(0, 3)) if code == "503" else 0 :]:
                samples.append((at, value))
                value = 0.0 if draw(st.integers(0, 9)) == 0 else value
                value += draw(st.integers(0, 50))
            if samples:
                found.append(series(service, f"pod-{pod}", code, samples))
    return found


def increases(history: list[Series], service: str) -> float:
    """Return the increase of a service's counters; those that appear after their pod's first scrape begin at 0."""
    first: dict[str, float] = {}
    for item in history:
        pod, at = item.labels["instance"], item.samples[0][0]
        first[pod] = min(at, first.get(pod, at))
    grown = 0.0
    for item in (item for item in history if item.labels["service"] == service):
        values = [value for _, value in item.samples]
        grown += sum(after - before if after >= before else after for before, after in pairwise(values))
        if service == CANDIDATE or item.samples[0][0] > first[item.labels["instance"]]:
            grown += values[0]
    return grown


LATER = [series(STABLE, "pod-9", "200", [(1000 + SCRAPE * scrape, 0.0) for scrape in range(4)])]
"""After it nothing else is waited for."""


class TestTicks:
    @given(histories(), st.lists(st.floats(100, 200), max_size=8), st.integers(0, 40))
    def test_any_split_into_overlapping_polls_yields_the_same_ticks(
        self, history: list[Series], moments: list[float], overlap: int
    ) -> None:
        whole = reader().feed(history)
        piecewise, found, since = reader(), [], 0.0
        for until in [*sorted(moments), 1000.0]:
            found += piecewise.feed(poll(history, since - overlap, until))
            since = until
        assert found == whole

    @given(histories())
    def test_every_increase_is_counted_exactly_once(self, history: list[Series]) -> None:
        ticks = reader().feed(history + LATER)
        assert all(before.at < after.at for before, after in pairwise(ticks))
        for service in (STABLE, CANDIDATE):
            assert total(ticks, service).requests == increases(history, service)

    @given(histories())
    def test_same_history_again_yields_no_ticks(self, history: list[Series]) -> None:
        again = reader()
        again.feed(history)
        assert again.feed(history) == []

    def test_tick_holds_one_scrape_of_every_pod(self) -> None:
        def scraped(until: float) -> list[Series]:
            scrapes = {("a", STABLE): 100.5, ("b", CANDIDATE): 102.0, ("c", STABLE): 104.5}
            found = []
            for (pod, service), first in scrapes.items():
                samples = [(first + 5 * n, 10.0 * n) for n in range(9) if first + 5 * n <= until]
                found.append(series(service, pod, "200", samples))
            return found

        whole = reader()
        assert [tick.at for tick in whole.feed(scraped(114.4))] == [105]
        ticks = whole.feed(scraped(114.5))
        assert [(tick.at, tick.counts[STABLE].requests, tick.counts[CANDIDATE].requests) for tick in ticks] == [
            (110, 20, 10)
        ]

    def test_silent_pod_delays_a_tick_for_two_intervals_at_most(self) -> None:
        alive = [(100.0 + 5 * n, 10.0 * n) for n in range(8)]
        gone = [(101.0 + 5 * n, 10.0 * n) for n in range(3)]  # for the last time at 111
        history = [series(STABLE, "alive", "200", alive), series(CANDIDATE, "gone", "200", gone)]
        assert [tick.at for tick in reader().feed(poll(history, 0, 120))] == [100, 105, 110]
        assert [tick.at for tick in reader().feed(poll(history, 0, 125))] == [100, 105, 110, 115, 120, 125]

    def test_slowest_target_sets_the_length_of_a_tick(self) -> None:
        bins = ScrapeWindows[str]()
        for n in range(90):
            bins.put(100.0 + 2 * n, "fast", "fast")
        for n in range(6):
            bins.put(101.0 + 30 * n, "slow", "slow")
        found = [(end, items.count("fast"), items.count("slow")) for end, items in bins.complete()]
        assert found[-2:] == [(210, 15, 1), (240, 15, 1)]

    def test_no_tick_before_a_target_was_scraped_twice(self) -> None:
        bins = ScrapeWindows[str]()
        bins.put(100.0, "a", "x")
        bins.put(130.0, "b", "y")
        assert list(bins.complete()) == []

    def test_seen_until_waits_for_a_version_without_scrapes(self) -> None:
        seen = reader()
        seen.feed([series(STABLE, "a", "200", [(100.0, 1), (105.0, 2)])])
        assert seen.seen_until == 105
        seen.feed([series(CANDIDATE, "b", "200", [(107.0, 1)])])
        seen.feed([series(STABLE, "a", "200", [(150.0, 9)])])
        assert seen.seen_until == 107


@dataclass
class Pods:
    """Two pods of each version under an open load, each scraped at a time of its own, every five seconds."""

    seed: int
    per_second: float = 60.0
    share: int = 50
    stable_late: float = 0.0
    """Seconds by which the stable's pods are scraped later than the candidate's; 0: at random times."""

    def ticks(self, seconds: int, candidate: Callable[[float], float], stable: Callable[[float], float]) -> list[Tick]:
        """Return the ticks of a reader that is fed every second; the arguments are error rates by time."""
        rng = np.random.default_rng(self.seed)
        step = 0.1
        history = []
        for service, share, rate in ((CANDIDATE, self.share, candidate), (STABLE, 100 - self.share, stable)):
            for pod in range(2):
                requests = rng.poisson(self.per_second * share / 200 * step, int(seconds / step))
                errors = rng.binomial(requests, [rate(number * step) for number in range(len(requests))])
                offset = rng.uniform(0, SCRAPE) if not self.stable_late else 1 + self.stable_late * (service == STABLE)
                for code, counted in (("200", requests - errors), ("503", errors)):
                    grown = np.cumsum(counted)
                    times = np.arange(offset, seconds, SCRAPE)
                    values = [(START + at, float(grown[int(at / step) - 1])) for at in times if at >= step]
                    history.append(series(service, f"{service}-{pod}", code, values))
        feeding = reader()
        return [tick for at in range(seconds) for tick in feeding.feed(poll(history, START + at - 7, START + at))]


def harm_at(ticks: list[Tick], share: int = 50) -> float | None:
    """Return the seconds until the candidate is breached; None if it never is."""
    judge = Judge(Terms(limits(), CANDIDATE, STABLE, GOOD_BASELINE, apart=True))
    for tick in ticks:
        judge.observe(tick, share)
        if evaluate(judge, None, None)[0] == "BREACHED":
            return tick.at - START
    return None


def always(rate: float) -> Callable[[float], float]:
    return lambda _: rate


class TestVerdict:
    @pytest.mark.parametrize("seed", range(10))
    def test_candidate_with_five_percent_errors_is_breached(self, seed: int) -> None:
        found = harm_at(Pods(seed).ticks(120, always(0.05), always(0.001)))
        assert found is not None
        assert found <= 60

    @pytest.mark.parametrize("seed", range(10))
    def test_candidate_that_turns_bad_late_is_breached(self, seed: int) -> None:
        found = harm_at(Pods(seed).ticks(180, lambda after: 0.05 if after > 90 else 0.001, always(0.001)))
        assert found is not None
        assert found > 90

    def test_good_candidate_is_healthy_for_the_next_share(self) -> None:
        for seed in range(20):
            ticks = Pods(seed, per_second=100).ticks(180, always(0.002), always(0.002))
            assert harm_at(ticks) is None, seed
        judge = Judge(Terms(limits(), CANDIDATE, STABLE, GOOD_BASELINE, apart=True))
        gauges_are_fine(judge)
        for number in range(60):
            counts = Counts(200, 0, 200, {0.5: 200, 1.0: 200})
            judge.observe(Tick(START + SCRAPE * number, {CANDIDATE: counts, STABLE: counts}), 50)
        assert {finding.verdict for finding in judge.health(100) if finding.gate == "error_rate"} == {"HEALTHY"}

    @pytest.mark.parametrize("late", [0.5, 2.5, 4.5, -0.9])
    def test_shared_outage_is_no_breach_in_any_order_of_scrapes(self, late: float) -> None:
        for seed in range(10):
            begun = 60 + random.Random(seed).uniform(0, SCRAPE)
            suffered = partial(outage, begun)
            assert harm_at(Pods(seed, per_second=200, stable_late=late).ticks(120, suffered, suffered)) is None, seed
