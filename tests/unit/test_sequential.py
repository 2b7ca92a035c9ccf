"""The tests may be looked at after every scrape: false alarms and coverage, by simulation with fixed seeds."""

from __future__ import annotations

import random
from math import exp, log, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.sequential import EProcess, log_threshold, lower_bound, trials_needed, upper_bound

ALPHA = 0.05


def binomial(rng: random.Random, trials: int, rate: float) -> int:
    """Draw how many of ``trials`` succeed, by skipping from success to success: Python 3.11 has no binomial."""
    if rate <= 0 or rate >= 1:
        return trials if rate >= 1 else 0
    done, successes = 0, 0
    while True:
        done += int(log(1 - rng.random()) / log(1 - rate)) + 1
        if done > trials:
            return successes
        successes += 1


def margin(runs: int, rate: float) -> float:
    """Three standard deviations of a binomial share."""
    return rate + 3 * sqrt(rate * (1 - rate) / runs)


def windows_until_alarm(
    rng: random.Random,
    rates: list[float],
    control: float,
    *,
    trials: int = 20,
    restart: int = 12,
    tolerance: float = 1.5,
) -> int | None:
    """Compare window after window; return the number of the first at which an alarm stands, None where none does."""
    process = EProcess()
    for number, rate in enumerate(rates, 1):
        if number > 1 and number % restart == 1:
            process.restart()
        shared = binomial(rng, 3 * trials, control)
        process.compare(binomial(rng, trials, rate), trials, shared, 3 * trials, tolerance)
        if process.log_e >= log_threshold(ALPHA):
            return number
    return None


class TestComparison:
    @pytest.mark.parametrize("rate", [0.01, 0.015], ids=["no worse", "at the null's edge"])
    def test_false_alarms_stay_below_alpha_although_every_window_is_looked_at(self, rate: float) -> None:
        rng = random.Random(1)
        runs = 200
        alarms = sum(windows_until_alarm(rng, [rate] * 120, 0.01) is not None for _ in range(runs))
        assert alarms / runs <= margin(runs, ALPHA)

    def test_an_outage_that_both_versions_share_raises_no_alarm(self) -> None:
        rng = random.Random(2)
        runs, alarms = 200, 0
        for _ in range(runs):
            process = EProcess()
            for number in range(60):
                rate = 0.6 if 20 <= number < 40 else 0.002
                process.compare(binomial(rng, 20, rate), 20, binomial(rng, 60, rate), 60, 1.5)
                alarms += process.log_e >= log_threshold(ALPHA)
        assert alarms == 0

    def test_a_candidate_that_fails_5_percent_against_0_2_is_caught(self) -> None:
        rng = random.Random(3)
        found = [windows_until_alarm(rng, [0.05] * 60, 0.002) for _ in range(100)]
        caught = sorted(number for number in found if number is not None)
        assert len(caught) >= 99
        assert caught[50] <= 10  # 200 requests of the candidate

    def test_one_that_turns_bad_late_is_caught_about_as_soon(self) -> None:
        rng = random.Random(4)
        healthy = 240  # twenty restarts' worth of good evidence
        late = [windows_until_alarm(rng, [0.002] * healthy + [0.05] * 60, 0.002) for _ in range(60)]
        delays = sorted(number - healthy for number in late if number is not None and number > healthy)
        assert len(delays) >= 57
        assert delays[len(delays) // 2] <= 20

    def test_without_restarts_it_would_be_caught_much_later(self) -> None:
        rng, same = random.Random(5), random.Random(5)
        rates = [0.002] * 240 + [0.05] * 60
        restarted = [windows_until_alarm(rng, rates, 0.002, trials=100) or 300 for _ in range(30)]
        single = [windows_until_alarm(same, rates, 0.002, trials=100, restart=10_000) or 300 for _ in range(30)]
        assert sum(single) - 240 * 30 > 1.5 * (sum(restarted) - 240 * 30)

    @pytest.mark.parametrize(
        "window",
        [(0, 100, 0, 100), (5, 0, 5, 100), (5, 100, 5, 0), (0, 0, 0, 0)],
        ids=["no bad", "idle", "no control", "empty"],
    )
    def test_a_window_that_tells_nothing_changes_nothing(self, window: tuple[float, float, float, float]) -> None:
        process = EProcess()
        process.compare(*window, 1.5)
        assert process.log_e == pytest.approx(0)


class TestAgainstALimit:
    def test_false_alarms_stay_below_alpha(self) -> None:
        rng = random.Random(6)
        runs, alarms = 200, 0
        for _ in range(runs):
            process = EProcess()
            for number in range(1, 121):
                if number % 12 == 1:
                    process.restart()
                process.against(binomial(rng, 30, 0.02), 30, 0.02)
                if process.log_e >= log_threshold(ALPHA):
                    alarms += 1
                    break
        assert alarms / runs <= margin(runs, ALPHA)

    def test_five_times_the_limit_is_caught(self) -> None:
        rng = random.Random(7)
        process = EProcess()
        for _ in range(20):
            process.against(binomial(rng, 50, 0.10), 50, 0.02)
        assert process.log_e >= log_threshold(0.001)

    def test_everything_failing_is_caught_at_once_and_overflows_nothing(self) -> None:
        process = EProcess()
        process.against(1e7, 1e7, 1e-6)
        process.compare(1e7, 1e7, 0, 1e-3, 1.5)
        assert process.log_e >= log_threshold(1e-9)


windows = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 500), st.integers(0, 50), st.integers(0, 500)), max_size=30
)


class TestEvidence:
    def test_nothing_seen_is_no_evidence(self) -> None:
        process = EProcess()
        assert process.log_e == pytest.approx(0)
        for _ in range(100):
            process.restart()
        assert process.log_e == pytest.approx(0)  # the weights of all starts, and of those to come, sum to 1

    @given(windows, st.sets(st.integers(0, 30)))
    def test_a_restart_costs_no_evidence_at_that_moment(
        self, seen: list[tuple[int, int, int, int]], restarts: set[int]
    ) -> None:
        process = EProcess()
        for number, (bad, good, control_bad, control_good) in enumerate(seen):
            if number in restarts:
                before = process.log_e
                process.restart()
                assert process.log_e == pytest.approx(before, abs=1e-9)
            process.compare(bad, bad + good, control_bad, control_bad + control_good, 1.5)

    @given(windows, st.integers(0, 1000))
    def test_one_more_bad_event_is_never_less_evidence(self, seen: list[tuple[int, int, int, int]], more: int) -> None:
        process, worse = EProcess(), EProcess()
        for bad, good, control_bad, control_good in [*seen, (1, 1000, 1, 1000)]:
            process.compare(bad, bad + good, control_bad, control_bad + control_good, 1.5)
            worse.compare(min(bad + more, bad + good), bad + good, control_bad, control_bad + control_good, 1.5)
        assert worse.log_e >= process.log_e - 1e-9

    def test_the_threshold_is_ville_s(self) -> None:
        assert exp(-log_threshold(0.01)) == pytest.approx(0.01)
        assert log_threshold(0) == float("inf")


counts = st.tuples(st.integers(0, 3000), st.integers(0, 3000)).map(lambda pair: (min(pair), max(pair)))
betas = st.sampled_from([0.001, 0.01, 0.05, 0.2])


class TestBounds:
    @pytest.mark.parametrize("rate", [0.002, 0.01, 0.1, 0.5])
    def test_hold_at_all_times_at_once(self, rate: float) -> None:
        rng = random.Random(8)
        runs, over, under = 150, 0, 0
        for _ in range(runs):
            looks, bad = [], 0
            for number in range(1, 41):
                bad += binomial(rng, 25, rate)
                looks.append((bad, 25 * number))
            over += any(upper_bound(b, n, ALPHA) < rate for b, n in looks)
            under += any(lower_bound(b, n, ALPHA) > rate for b, n in looks)
        assert over / runs <= margin(runs, ALPHA)
        assert under / runs <= margin(runs, ALPHA)

    def test_no_bad_request_in_about_400_bounds_the_rate_by_one_percent(self) -> None:
        assert upper_bound(0, 400, 0.05) < 0.0105
        assert upper_bound(0, 299, 0.05) > 0.01  # a single look would do with these; many looks must not
        assert upper_bound(0, 500, 0.05) < 0.01

    @given(counts, betas)
    def test_enclose_the_observed_rate(self, pair: tuple[int, int], beta: float) -> None:
        bad, trials = pair
        assert 0 <= lower_bound(bad, trials, beta) <= upper_bound(bad, trials, beta) <= 1
        if trials:
            assert lower_bound(bad, trials, beta) <= bad / trials + 1e-9
            assert upper_bound(bad, trials, beta) >= bad / trials - 1e-9

    @given(counts, betas, st.integers(1, 100))
    def test_more_bad_requests_never_lower_the_bound(self, pair: tuple[int, int], beta: float, more: int) -> None:
        bad, trials = pair
        assert upper_bound(min(bad + more, trials), trials, beta) >= upper_bound(bad, trials, beta) - 1e-9

    @given(counts, betas, st.integers(1, 1000))
    def test_more_good_requests_never_raise_the_bound(self, pair: tuple[int, int], beta: float, more: int) -> None:
        bad, trials = pair
        assert upper_bound(bad, trials + more, beta) <= upper_bound(bad, trials, beta) + 1e-9

    @given(st.integers(0, 50), st.sampled_from([1e-5, 0.01, 0.2, 0.99]), betas)
    def test_the_trials_needed_are_just_enough(self, bad: int, rate: float, beta: float) -> None:
        needed = trials_needed(bad, rate, beta)
        assert upper_bound(bad, needed, beta) <= rate < upper_bound(bad, needed - 1, beta)

    def test_none_are_needed_where_everything_is_permitted(self) -> None:
        assert trials_needed(3, 1.0, 0.05) == 0

    @given(counts)
    def test_more_certainty_costs_width(self, pair: tuple[int, int]) -> None:
        assert upper_bound(*pair, 0.01) >= upper_bound(*pair, 0.05) - 1e-9

    @pytest.mark.parametrize(("bad", "trials"), [(0, 0), (1, 1), (5, 5)])
    def test_where_nothing_good_was_seen_everything_is_possible(self, bad: int, trials: int) -> None:
        assert upper_bound(bad, trials, 0.05) == pytest.approx(1.0)

    def test_reach_the_far_ends(self) -> None:
        assert 0 < upper_bound(0, 1e9, 0.05) < 1e-7
        assert upper_bound(1e9, 1e9, 0.05) <= 1
        assert lower_bound(0, 1000, 0.05) == pytest.approx(0, abs=1e-6)
