"""Sequential tests with a look at every scrape: false alarms and coverage, by simulation with fixed seeds."""

from __future__ import annotations

from math import comb, exp, log

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.analysis.sequential import (
    FIRST,
    MAX_DISPERSION,
    MINUTES,
    RATIOS,
    STAGES,
    Array,
    EProcess,
    Starts,
    dispersion,
    informative,
    log_threshold,
    lower_bound,
    trials_needed,
    upper_bound,
)
from tests.support.statistics import margin

ALPHA = 0.05


def chance(trials: int, rate: float, bad: npt.NDArray[np.int64]) -> Array:
    """The binomial distribution's probability of each number."""
    ways = np.array([comb(trials, number) for number in range(trials + 1)])
    return np.asarray(ways[bad] * rate**bad * (1 - rate) ** (trials - bad))


def windows_until_alarm(
    rng: np.random.Generator,
    rates: list[float],
    control: float,
    *,
    runs: int,
    trials: int = 20,
    burst: int = 1,
    phi: float = 1.0,
    minutes: bool = True,
) -> Array:
    """Compare window after window of 5 s; return for each run how many stood until the first alarm, inf without one."""
    process, starts, found = EProcess((runs,)), Starts((runs,)), np.full(runs, np.inf)
    for number, rate in enumerate(rates, 1):
        process.start(starts.at(5.0 * number if minutes else 0.0, 5))
        bad, control_bad = (burst * rng.poisson(mean / burst, runs) for mean in (rate * trials, 3 * control * trials))
        process.compare(bad, np.maximum(trials, bad), control_bad, np.maximum(3 * trials, control_bad), phi)
        found = np.where(process.log_e >= log_threshold(ALPHA), np.minimum(found, number), found)
    return found


class TestComparison:
    @pytest.mark.parametrize("rate", [0.005, 0.01], ids=["better", "at the null's edge"])
    def test_false_alarms_stay_below_alpha_with_a_look_at_every_window(self, rate: float) -> None:
        found = windows_until_alarm(np.random.default_rng(1), [rate] * 120, 0.01, runs=2000)
        assert np.mean(np.isfinite(found)) <= margin(2000, ALPHA)

    @pytest.mark.parametrize("rate", [0.01, 0.02], ids=["better", "at the null's edge"])
    def test_evidence_has_mean_1_at_most_under_the_null(self, rate: float) -> None:
        """Over all that can happen in two windows with a control, of five and three errors, and one without."""
        with_control, alone = rate * 5 / (rate * 5 + 0.02 * 50), rate
        first, second, third = (axis.ravel() for axis in np.indices((6, 4, 5)))
        chances = (
            chance(total, share, bad)
            for total, share, bad in ((5, with_control, first), (3, with_control, second), (4, alone, third))
        )
        process, starts = EProcess(first.shape), Starts()
        process.start(starts.at(0, 5))
        process.compare(first, 5, 5 - first, 50)
        process.start(starts.at(60, 5))
        process.compare(second, 5, 3 - second, 50)
        process.start(starts.at(65, 100))
        process.against(third, 4, 0.02)
        mean = np.sum(np.prod(list(chances), axis=0) * np.exp(process.log_e))
        assert mean == pytest.approx(1) if rate == 0.02 else mean < 0.9

    def test_shared_outage_raises_no_alarm(self) -> None:
        rates = [0.002] * 20 + [0.6] * 20 + [0.002] * 20
        rng, process = np.random.default_rng(3), EProcess((1000,))
        process.start(1)
        for rate in rates:
            process.compare(rng.binomial(20, rate, 1000), 20, rng.binomial(60, rate, 1000), 60)
            assert np.mean(process.log_e >= log_threshold(ALPHA)) <= margin(1000, ALPHA)

    def test_clustered_errors_raise_no_alarm_with_known_dispersion(self) -> None:
        rng = np.random.default_rng(4)
        known, unknown = (
            np.mean(np.isfinite(windows_until_alarm(rng, [0.01] * 120, 0.01, runs=1000, burst=4, phi=phi)))
            for phi in (4.0, 1.0)
        )
        assert known <= margin(1000, ALPHA)
        assert unknown > 4 * ALPHA

    def test_candidate_with_5_percent_errors_against_0_2_is_detected(self) -> None:
        found = windows_until_alarm(np.random.default_rng(5), [0.05] * 60, 0.002, runs=500)
        assert np.mean(np.isfinite(found)) >= 0.99
        assert np.median(found) <= 10  # 200 requests of the candidate

    def test_late_harm_is_detected_about_as_soon(self) -> None:
        healthy = 240  # twenty minutes' worth of good evidence
        found = windows_until_alarm(np.random.default_rng(6), [0.002] * healthy + [0.05] * 60, 0.002, runs=500)
        delays = found[found > healthy] - healthy
        assert np.mean(np.isfinite(delays)) >= 0.95
        assert np.median(delays) <= 20

    def test_late_harm_is_detected_much_later_with_a_single_start(self) -> None:
        rng, rates = np.random.default_rng(7), [0.002] * 240 + [0.05] * 60
        often, once = (
            np.minimum(windows_until_alarm(rng, rates, 0.002, runs=200, trials=100, minutes=minutes), 301)
            for minutes in (True, False)
        )
        assert np.mean(once) - 240 > 1.5 * (np.mean(often) - 240)

    @pytest.mark.parametrize(
        "window",
        [(0, 100, 0, 100), (5, 0, 5, 100), (5, 100, 5, 0), (0, 0, 0, 0)],
        ids=["as good", "idle", "no control", "empty"],
    )
    def test_uninformative_window_changes_nothing(self, window: tuple[float, float, float, float]) -> None:
        process = EProcess()
        process.start(0.5)
        process.compare(*window)
        assert process.log_e == pytest.approx(0)


class TestAgainstLimit:
    def test_false_alarms_against_a_limit_stay_below_alpha(self) -> None:
        rng, process, starts, alarmed = np.random.default_rng(8), EProcess((1000,)), Starts(), np.zeros(1000, bool)
        for number in range(120):
            process.start(starts.at(5.0 * number, 100))
            process.against(rng.binomial(30, 0.02, 1000), 30, 0.02)
            alarmed |= process.log_e >= log_threshold(ALPHA)
        assert np.mean(alarmed) <= margin(1000, ALPHA)

    def test_five_times_the_limit_is_detected(self) -> None:
        rng, process = np.random.default_rng(9), EProcess((100,))
        process.start(0.5)
        for _ in range(20):
            process.against(rng.binomial(50, 0.10, 100), 50, 0.02)
        assert np.all(process.log_e >= log_threshold(0.001))

    def test_total_failure_is_detected_at_once_without_overflow(self) -> None:
        process = EProcess()
        process.start(0.5)
        process.against(1e7, 1e7, 1e-6)
        process.compare(1e7, 1e7, 0, 1e-3)
        assert log_threshold(1e-9) <= process.log_e < float("inf")

    def test_evidence_beside_a_control_is_kept_without_one(self) -> None:
        process, fresh = EProcess(), EProcess()
        for each in (process, fresh):
            each.start(0.5)
        process.compare(3, 100, 0, 300)
        for each in (process, fresh):
            each.against(4, 100, 0.01)
        assert process.log_e > fresh.log_e + 1


windows = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 500), st.integers(0, 50), st.integers(0, 500)), max_size=30
)


class TestEvidence:
    def test_no_windows_are_no_evidence(self) -> None:
        process, starts = EProcess(), Starts()
        for minute in range(100):
            process.start(starts.at(60.0 * minute, minute // 30))
            assert process.log_e == pytest.approx(0)  # the weights of all starts, and of those to come, sum to 1

    @given(windows, st.sets(st.integers(0, 30)), st.sampled_from([1.0, 4.0]))
    def test_evidence_is_the_average_over_all_starts_and_ratios(
        self, seen: list[tuple[int, int, int, int]], begun: set[int], phi: float
    ) -> None:
        process, weights, ends = EProcess(), [], []
        for number, (bad, good, control_bad, control_good) in enumerate(seen):
            trials, control_trials = bad + good, control_bad + control_good
            if number in begun:
                weights.append(0.5 / len(begun))
                ends.append([1.0] * len(RATIOS))
                process.start(weights[-1])
            process.compare(bad, trials, control_bad, control_trials, phi)
            if trials and control_trials:
                for end in ends:
                    for index, ratio in enumerate(map(float, RATIOS)):
                        shares = trials / (trials + control_trials), ratio * trials / (ratio * trials + control_trials)
                        gain = bad * log(shares[1] / shares[0]) + control_bad * log((1 - shares[1]) / (1 - shares[0]))
                        end[index] *= exp(gain / phi)
        brute = 1 - sum(weights) + sum(w * sum(end) / len(end) for w, end in zip(weights, ends, strict=True))
        if process.log_e < 20:
            assert process.log_e == pytest.approx(log(brute), abs=1e-6)

    @given(windows)
    def test_array_of_processes_equals_each_process_alone(self, seen: list[tuple[int, int, int, int]]) -> None:
        together, phi = EProcess((3,)), np.array([1.0, 2.0, 4.0])
        alone = [EProcess() for _ in range(3)]
        together.start(np.array([0.5, 0.0, 0.25]))
        for process, weight in zip(alone, (0.5, 0.0, 0.25), strict=True):
            process.start(weight)
        for bad, good, control_bad, control_good in seen:
            window = bad, bad + good, control_bad, control_bad + control_good
            together.compare(np.array([bad, 0, 1]), window[1], *window[2:], phi)
            together.against(np.array([bad, 0, 1]), window[1], 0.01, phi)
            for process, alone_bad, own in zip(alone, (bad, 0, 1), phi, strict=True):
                process.compare(alone_bad, *window[1:], own)
                process.against(alone_bad, window[1], 0.01, own)
        assert together.log_e == pytest.approx([process.log_e for process in alone])

    @given(windows, st.integers(0, 1000))
    def test_more_bad_events_are_never_less_evidence(self, seen: list[tuple[int, int, int, int]], more: int) -> None:
        process, worse = EProcess(), EProcess()
        process.start(0.5)
        worse.start(0.5)
        for bad, good, control_bad, control_good in [*seen, (1, 1000, 1, 1000)]:
            process.compare(bad, bad + good, control_bad, control_bad + control_good)
            worse.compare(min(bad + more, bad + good), bad + good, control_bad, control_bad + control_good)
        assert worse.log_e >= process.log_e - 1e-9

    def test_threshold_is_that_of_villes_inequality(self) -> None:
        assert exp(-log_threshold(0.01)) == pytest.approx(0.01)
        assert log_threshold(0) == float("inf")


class TestStarts:
    def test_process_starts_at_each_stage_and_each_minute(self) -> None:
        starts = Starts()
        shares = {0: 5, 5: 5, 60: 5, 65: 25, 115: 25, 120: 50}
        weights = [float(starts.at(at, share)) for at, share in shares.items()]
        expected = [FIRST, 0, MINUTES / 3, STAGES / 3, 0, STAGES / 6 + MINUTES / 6]
        assert weights == pytest.approx(expected)

    def test_weights_of_all_starts_sum_to_1(self) -> None:
        starts = Starts()
        spent = sum(float(starts.at(60.0 * minute, min(minute, 20))) for minute in range(5000))
        assert 1 - STAGES / 10 <= spent <= 1 + 1e-9

    def test_gap_of_many_minutes_is_one_start(self) -> None:
        starts = Starts()
        assert [float(starts.at(at, 5)) for at in (0, 3600, 3605)] == pytest.approx([FIRST, MINUTES / 3, 0])

    def test_starts_of_several_deployments_are_independent(self) -> None:
        starts = Starts((2,))
        starts.at(0, np.array([5, 5]))
        assert starts.at(5, np.array([5, 25])) == pytest.approx([0, STAGES / 3])


def errors_of_an_hour(rng: np.random.Generator, mean: float, *, burst: int, runs: int = 400) -> Array:
    """An hour's errors by window of 5 s, ``mean`` a window, coming ``burst`` at a time."""
    return burst * rng.poisson(mean / burst, (runs, 720)).astype(float)


class TestDispersion:
    @pytest.mark.parametrize("rps", [2, 20, 200])
    @pytest.mark.parametrize("burst", [1, 4])
    def test_dispersion_is_the_size_of_the_bursts(self, rps: int, burst: int) -> None:
        found = dispersion(
            errors_of_an_hour(np.random.default_rng(1), rps * 5 * 0.002, burst=burst), np.full(720, rps * 5.0)
        )
        assert np.mean(found) == pytest.approx(burst, rel=0.2)
        assert np.mean(found > 1.5 * burst) < 0.05

    @pytest.mark.parametrize("rps", [2, 20, 200])
    def test_outage_of_a_minute_barely_raises_the_dispersion(self, rps: int) -> None:
        rng = np.random.default_rng(2)
        bad = errors_of_an_hour(rng, rps * 5 * 0.002, burst=1)
        bad[:, 300:312] = rng.binomial(rps * 5, 0.6, (400, 12))
        assert np.median(dispersion(bad, np.full(720, rps * 5.0))) < 3

    def test_slow_swings_of_traffic_do_not_raise_the_dispersion(self) -> None:
        trials = 500 * (1.5 + np.sin(np.arange(720) / 720 * 6.28))
        bad = np.random.default_rng(3).poisson(0.01 * trials, (400, 720)).astype(float)
        assert np.mean(dispersion(bad, trials)) == pytest.approx(1, abs=0.1)

    def test_dispersion_lies_between_1_and_its_maximum(self) -> None:
        alternating = np.tile([0.0, 500.0], 360)
        assert dispersion(alternating, np.full(720, 1000.0)) == MAX_DISPERSION
        assert dispersion(np.full(720, 5.0), np.full(720, 1000.0)) == 1
        assert dispersion(np.zeros(720), np.zeros(720)) == 1
        assert dispersion(np.zeros(1), np.zeros(1)) == 1

    def test_few_errors_are_not_informative(self) -> None:
        assert not informative(np.zeros(720))
        assert informative(np.ones(720))


counts = st.tuples(st.integers(0, 3000), st.integers(0, 3000)).map(lambda pair: (min(pair), max(pair)))
betas = st.sampled_from([0.001, 0.01, 0.05, 0.2])


class TestBounds:
    @pytest.mark.parametrize("rate", [0.002, 0.01, 0.1, 0.5])
    @pytest.mark.parametrize("burst", [1, 4])
    def test_bounds_hold_at_all_looks_at_once(self, rate: float, burst: int) -> None:
        rng, runs = np.random.default_rng(8), 1000
        bad = burst * np.cumsum(rng.binomial(25, rate, (runs, 40)), axis=1)
        trials = burst * 25.0 * np.arange(1, 41)
        over = np.any(upper_bound(bad, trials, ALPHA, burst) < rate, axis=1)
        under = np.any(lower_bound(bad, trials, ALPHA, burst) > rate, axis=1)
        assert np.mean(over) <= margin(runs, ALPHA)
        assert np.mean(under) <= margin(runs, ALPHA)

    def test_share_far_from_the_declared_one_is_excluded_soon(self) -> None:
        assert upper_bound(0, 200, 0.05) < 0.025
        assert lower_bound(60, 200, 0.05) > 0.1

    @given(counts, betas, st.floats(1, 10))
    def test_clustered_events_count_for_less(self, pair: tuple[int, int], beta: float, phi: float) -> None:
        bad, trials = pair
        assert upper_bound(bad, trials, beta, phi) == pytest.approx(upper_bound(bad / phi, trials / phi, beta))
        assert lower_bound(bad, trials, beta, phi) == pytest.approx(lower_bound(bad / phi, trials / phi, beta))

    @given(st.lists(counts, min_size=1, max_size=9), betas)
    def test_array_of_bounds_equals_each_bound_alone(self, pairs: list[tuple[int, int]], beta: float) -> None:
        bad, trials = np.array(pairs, float).T
        assert upper_bound(bad, trials, beta) == pytest.approx([upper_bound(*pair, beta) for pair in pairs])
        assert lower_bound(bad, trials, beta) == pytest.approx([lower_bound(*pair, beta) for pair in pairs])
        needed = trials_needed(bad, 0.3, beta)
        assert list(needed) == [trials_needed(pair[0], 0.3, beta) for pair in pairs]

    def test_no_bad_request_in_about_400_bounds_the_rate_by_one_percent(self) -> None:
        assert upper_bound(0, 400, 0.05) < 0.0105
        assert upper_bound(0, 299, 0.05) > 0.01  # a single look would do with these; many looks must not
        assert upper_bound(0, 500, 0.05) < 0.01

    @given(counts, betas)
    def test_bounds_enclose_the_observed_rate(self, pair: tuple[int, int], beta: float) -> None:
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
    def test_trials_needed_are_just_enough(self, bad: int, rate: float, beta: float) -> None:
        needed = trials_needed(bad, rate, beta)
        assert upper_bound(bad, needed, beta) <= rate < upper_bound(bad, needed - 1, beta)

    def test_no_trials_are_needed_if_every_rate_is_permitted(self) -> None:
        assert trials_needed(3, 1.0, 0.05) == 0

    @given(counts)
    def test_smaller_beta_widens_the_bound(self, pair: tuple[int, int]) -> None:
        assert upper_bound(*pair, 0.01) >= upper_bound(*pair, 0.05) - 1e-9

    @pytest.mark.parametrize(("bad", "trials"), [(0, 0), (1, 1), (5, 5)])
    def test_upper_bound_without_good_events_is_1(self, bad: int, trials: int) -> None:
        assert upper_bound(bad, trials, 0.05) == pytest.approx(1.0)

    def test_bounds_reach_the_extremes(self) -> None:
        assert 0 < upper_bound(0, 1e9, 0.05) < 1e-7
        assert upper_bound(1e9, 1e9, 0.05) <= 1
        assert lower_bound(0, 1000, 0.05) == pytest.approx(0, abs=1e-6)
