"""The judge: harm beside the stable and at full traffic, health for the next share, and blindness."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import log
from typing import Any

import pytest

from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.analysis.evidence import EvidenceLog
from airflow_deploy.domain.analysis.gauges import SUSTAINED_SECONDS
from airflow_deploy.domain.analysis.judge import ALPHA, Judge, Terms, evaluate
from airflow_deploy.domain.analysis.verdict import Verdict
from airflow_deploy.domain.config.gates import GATES
from airflow_deploy.domain.metrics.counters import Counts, Tick
from tests.support.judgement import (
    CANDIDATE,
    GOOD_BASELINE,
    SCRAPE,
    STABLE,
    START,
    Traffic,
    answered,
    gauges_are_fine,
    limits,
    make_judge,
)
from tests.support.statistics import binomial

LIMITS = limits()


def first_breach(judge: Judge, ticks: Iterator[Tick], share: int) -> float | None:
    """Feed ticks until a look is BREACHED; return its delay after the first tick in seconds, None without one."""
    begun = None
    for tick in ticks:
        begun = begun or tick.at
        judge.observe(tick, share)
        if evaluate(judge, None, None)[0] == "BREACHED":
            return tick.at - begun
    return None


def verdict(judge: Judge, next_share: int | None = 100) -> Verdict:
    return evaluate(judge, None, next_share)[0]


class TestHarm:
    def test_candidate_no_worse_than_the_stable_is_breached_at_rate_alpha_at_most(self) -> None:
        breached = 0
        for seed in range(40):
            judge, traffic = make_judge(), Traffic(seed)
            for share in (5, 25, 50):
                breached += first_breach(judge, traffic.ticks(40, share, 0.002, 0.002), share) is not None
        assert breached <= 2  # alpha is 1 % per deployment

    @pytest.mark.parametrize("rate", [0.2, 0.9, 1.0])
    def test_shared_outage_is_never_a_breach(self, rate: float) -> None:
        for seed in range(12):
            judge, traffic = make_judge(), Traffic(seed)
            for error_rate, scrapes in ((0.002, 10), (rate, 30), (0.002, 10)):
                assert first_breach(judge, traffic.ticks(scrapes, 25, error_rate, error_rate), 25) is None

    def test_shared_outage_of_one_stage_is_no_breach_over_all_stages(self) -> None:
        judge, traffic = make_judge(), Traffic(1)
        assert first_breach(judge, traffic.ticks(60, 5, 0.001, 0.001), 5) is None
        assert first_breach(judge, traffic.ticks(60, 50, 0.3, 0.3), 50) is None

    @pytest.mark.parametrize("share", [5, 25, 50])
    def test_5_percent_errors_are_breached_at_every_stage(self, share: int) -> None:
        for seed in range(12):
            found = first_breach(make_judge(), Traffic(seed).ticks(120, share, 0.05, 0.002), share)
            assert found is not None
            assert found <= (300 if share == 5 else 120)

    def test_candidate_that_fails_every_request_is_breached_within_two_scrapes(self) -> None:
        found = first_breach(make_judge(), Traffic(1).ticks(10, 5, 1.0, 0.002), 5)
        assert found is not None
        assert found <= 2 * SCRAPE

    def test_candidate_that_turns_bad_late_is_breached_about_as_soon(self) -> None:
        early, late = [], []
        for seed in range(9):
            found = first_breach(make_judge(), Traffic(seed).ticks(120, 25, 0.05, 0.002), 25)
            early.append(found if found is not None else 1e9)
            judge, traffic = make_judge(), Traffic(seed)
            assert first_breach(judge, traffic.ticks(360, 25, 0.002, 0.002), 25) is None  # thirty minutes
            found = first_breach(judge, traffic.ticks(120, 25, 0.05, 0.002), 25)
            late.append(found if found is not None else 1e9)
        assert sorted(late)[4] <= 3 * sorted(early)[4] + SCRAPE

    def test_slow_requests_are_harm(self) -> None:
        judge = make_judge()
        assert first_breach(judge, Traffic(2).ticks(60, 25, 0.0, 0.0, slow=0.2), 25) is not None
        finding = judge.harm()[0]
        assert finding.gate in ("latency_p95", "latency_p99")
        assert "requests took longer than" in finding.reason

    def test_breach_reason_holds_the_counts_of_both_versions(self) -> None:
        judge = make_judge()
        first_breach(judge, Traffic(3).ticks(60, 25, 0.3, 0.0), 25)
        verdict, findings = evaluate(judge, None, 50)
        assert verdict == "BREACHED"
        assert findings[0].gate == "error_rate"
        bad, total = judge.candidate_counts.errors, judge.candidate_counts.requests
        stable_bad, stable_total = judge.stable_counts.errors, judge.stable_counts.requests
        assert findings[0].reason == (
            f"error_rate: {bad:.0f} of {total:.0f} requests failed (stable {stable_bad:.0f} of {stable_total:.0f})"
        )
        assert findings[0].numbers["bad"] == judge.candidate_counts.errors
        assert findings[0].numbers["trials"] == judge.candidate_counts.requests


class TestFullTraffic:
    def test_rate_within_the_limit_is_no_harm_even_far_beyond_the_baseline(self) -> None:
        for seed in range(12):
            assert first_breach(make_judge(), Traffic(seed).ticks(100, 100, 0.008, 0), 100) is None

    def test_rate_beyond_limit_and_baseline_is_harm(self) -> None:
        for seed in range(12):
            assert first_breach(make_judge(), Traffic(seed).ticks(60, 100, 0.05, 0), 100) is not None

    def test_rate_beyond_the_limit_but_within_three_baselines_is_no_harm(self) -> None:
        usual = Baseline(Counts(10_000, 90, 10_000, {0.5: 10_000, 1.0: 10_000}))  # 0.9 %, the limit is 1 %
        for seed in range(12):
            assert first_breach(make_judge(usual), Traffic(seed).ticks(100, 100, 0.022, 0), 100) is None
        assert first_breach(make_judge(usual), Traffic(1).ticks(100, 100, 0.08, 0), 100) is not None

    def test_baseline_beyond_the_limit_excuses_nothing(self) -> None:
        incident = Baseline(Counts(10_000, 2_000, 10_000, {0.5: 10_000, 1.0: 10_000}))
        for seed in range(12):
            assert first_breach(make_judge(incident), Traffic(seed).ticks(60, 100, 0.05, 0), 100) is not None

    def test_smaller_alpha_needs_more_evidence(self) -> None:
        seen: dict[float, float] = {}
        for alpha in (ALPHA, 1e-6, 1e-9):
            judge = make_judge(alpha=alpha)
            found = first_breach(judge, Traffic(1, per_scrape=20).ticks(400, 100, 0.06, 0.0), 100)
            assert found is not None
            assert max(finding.numbers["log_e"] for finding in judge.harm()) >= log(3 / alpha)
            seen[alpha] = found
        assert seen[ALPHA] < seen[1e-6] < seen[1e-9]

    def test_no_rate_is_harm_if_three_baselines_exceed_all_requests(self) -> None:
        """Three times the baseline are more than all requests."""
        usual = Baseline(Counts(10_000, 4_000, 10_000, {0.5: 10_000, 1.0: 10_000}))
        judge = make_judge(usual, {"error_rate": 0.5})
        assert first_breach(judge, Traffic(1).ticks(60, 100, 0.4, 0), 100) is None

    def test_without_a_baseline_the_limit_alone_decides(self) -> None:
        assert first_breach(make_judge(Baseline()), Traffic(1).ticks(60, 100, 0.05, 0), 100) is not None
        assert first_breach(make_judge(Baseline()), Traffic(1).ticks(60, 100, 0.002, 0), 100) is None

    def test_rate_beyond_the_limit_is_no_harm_beside_an_equal_stable(self) -> None:
        judge = make_judge(Baseline())
        assert first_breach(judge, Traffic(4).ticks(100, 50, 0.1, 0.1), 50) is None
        assert judge.candidate_counts.errors / judge.candidate_counts.requests > LIMITS["error_rate"]


class TestGauges:
    @pytest.mark.parametrize("name", ["cpu_saturation", "memory"])
    def test_gauge_is_harm_only_after_the_whole_time_beyond_its_limit(self, name: str) -> None:
        judge = make_judge()
        judge.observe_gauge(name, START, 0.95)
        judge.observe_gauge(name, START + SUSTAINED_SECONDS - 1, 0.95)
        assert judge.harm() == []
        judge.observe_gauge(name, START + SUSTAINED_SECONDS, 0.95)
        assert [(f.gate, f.verdict) for f in judge.harm()] == [(name, "BREACHED")]

    def test_gauge_within_its_limit_restarts_the_time(self) -> None:
        judge = make_judge()
        judge.observe_gauge("memory", START, 0.95)
        judge.observe_gauge("memory", START + 20, 0.90)
        judge.observe_gauge("memory", START + 21, 0.95)
        assert judge.harm() == []

    @pytest.mark.parametrize("unknown", [None, float("nan")])
    def test_unknown_gauge_is_neither_harm_nor_health(self, unknown: float | None) -> None:
        judge = make_judge()
        for second in range(0, 60, 5):
            judge.observe_gauge("memory", START + second, unknown)
        assert judge.harm() == []
        outcome = {finding.gate: finding.verdict for finding in judge.health(100)}
        assert outcome["memory"] == "UNDECIDED"

    def test_gauge_beyond_its_limit_is_undecided_before_it_is_harm(self) -> None:
        judge = make_judge()
        judge.observe_gauge("memory", START, 0.95)
        assert {f.gate: f.verdict for f in judge.health(100)}["memory"] == "UNDECIDED"


class TestHealth:
    def observe(self, judge: Judge, requests: int, share: int = 5, errors: int = 0, slow: int = 0) -> None:
        """Spread requests over ten scrapes, beside a stable that is exactly as good."""
        ratio = (100 - share) / share
        for number in range(10):
            candidate = answered(requests / 10, errors / 10, slow / 10)
            stable = answered(ratio * requests / 10, ratio * errors / 10, ratio * slow / 10)
            judge.observe(Tick(START + SCRAPE * number, {CANDIDATE: candidate, STABLE: stable}), share)

    def test_too_little_traffic_is_undecided(self) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        assert verdict(judge) == "UNDECIDED"
        self.observe(judge, 20)
        assert verdict(judge) == "UNDECIDED"

    def test_larger_next_share_needs_more_evidence(self) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        self.observe(judge, 120)
        assert verdict(judge, 25) == "HEALTHY"
        assert verdict(judge, 100) == "UNDECIDED"
        self.observe(judge, 400, share=25)
        assert verdict(judge, 100) == "HEALTHY"

    def test_upper_bound_decides_health_not_the_observed_rate(self) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        self.observe(judge, 1000, errors=10)  # exactly 1 %: the true rate may be higher
        assert verdict(judge, 100) == "UNDECIDED"
        assert verdict(judge, 25) == "HEALTHY"

    def test_suspected_harm_keeps_the_gate_undecided_until_it_fades(self) -> None:
        """Within the limit, and not worse enough to be stopped: it waits until the evidence has faded."""
        judge = make_judge()
        gauges_are_fine(judge)
        for number, errors in enumerate([4, 4, 4, *[0] * 60]):
            counts = {CANDIDATE: answered(1000, errors), STABLE: answered(3000, 3)}
            judge.observe(Tick(START + SCRAPE * number, counts), 25)
            outcome = verdict(judge, 50)
            assert outcome != "BREACHED"
            if number == 2:
                assert outcome == "UNDECIDED"
                assert "may be worse than the stable" in judge.health(50)[0].reason
        assert outcome == "HEALTHY"

    @pytest.mark.parametrize("bad", ["errors", "slow"])
    def test_one_undecided_gate_makes_the_verdict_undecided(self, bad: str) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        self.observe(judge, 1000, **{bad: 40})
        assert verdict(judge) == "UNDECIDED"

    @pytest.mark.parametrize("missing", ["cpu_saturation", "memory"])
    def test_gauge_without_a_value_makes_the_verdict_undecided(self, missing: str) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        judge.observe_gauge(missing, START, None)
        self.observe(judge, 1000)
        outcome, findings = evaluate(judge, None, 100)
        assert outcome == "UNDECIDED"
        assert [f.gate for f in findings if f.verdict != "HEALTHY"] == [missing]

    def test_every_gate_has_a_finding(self) -> None:
        judge = make_judge()
        assert [finding.gate for finding in judge.health(25)] == list(GATES)

    def test_harm_outweighs_health(self) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        self.observe(judge, 10_000)
        judge.observe_gauge("memory", START, 0.95)
        judge.observe_gauge("memory", START + SUSTAINED_SECONDS, 0.95)
        assert evaluate(judge, None, 25)[0] == "BREACHED"


class TestSharedOutage:
    """An outage of both versions shows nothing about the candidate's health, unless the stable was always that bad."""

    def observed(self, baseline: Baseline, *parts: tuple[int, int, float, float]) -> Judge:
        judge, traffic = make_judge(baseline), Traffic(1)
        gauges_are_fine(judge)
        for scrapes, share, candidate, stable in parts:
            for tick in traffic.ticks(scrapes, share, candidate, stable):
                judge.observe(tick, share)
        return judge

    def test_shared_outage_of_a_minute_does_not_delay_health(self) -> None:
        outage = (12, 25, 0.3, 0.3)
        assert verdict(self.observed(GOOD_BASELINE, (12, 25, 0.0, 0.002), outage), 50) == "HEALTHY"
        assert (
            verdict(self.observed(GOOD_BASELINE, (12, 25, 0.0, 0.002), outage, (12, 50, 0.0, 0.002)), 100) == "HEALTHY"
        )

    def test_healthy_stable_excuses_nothing(self) -> None:
        assert verdict(self.observed(GOOD_BASELINE, (12, 25, 0.0, 0.002), (12, 25, 0.02, 0.0)), 50) != "HEALTHY"

    def test_candidate_that_does_not_end_the_incident_is_not_healthy(self) -> None:
        """The stable has failed before as it fails now: it is what the fix should end."""
        incident = Baseline(Counts(10_000, 2_000, 10_000, {0.5: 10_000, 1.0: 10_000}))
        assert verdict(self.observed(incident, (40, 25, 0.2, 0.2)), 50) == "UNDECIDED"
        assert verdict(self.observed(incident, (40, 25, 0.0, 0.2)), 50) == "HEALTHY"

    def test_outage_at_full_traffic_is_not_excused(self) -> None:
        assert verdict(self.observed(GOOD_BASELINE, (12, 100, 0.0, 0.0), (2, 100, 0.04, 0.0)), 100) == "UNDECIDED"


class TestSight:
    def shares(self, declared: int, candidate: int, stable: int, scrapes: int = 12) -> Judge:
        judge = make_judge()
        gauges_are_fine(judge)
        for number in range(scrapes):
            counts = {CANDIDATE: answered(candidate), STABLE: answered(stable)}
            judge.observe(Tick(START + SCRAPE * number, counts), declared)
        return judge

    @pytest.mark.parametrize(
        ("declared", "candidate", "stable"),
        [(5, 0, 200), (25, 10, 190), (25, 150, 50), (50, 10, 190), (100, 10, 190), (5, 60, 140)],
    )
    def test_undelivered_share_is_blind(self, declared: int, candidate: int, stable: int) -> None:
        judge = self.shares(declared, candidate, stable)
        assert verdict(judge, None) == "BLIND"
        assert verdict(judge, 100) == "BLIND"

    @pytest.mark.parametrize(
        ("declared", "candidate", "stable"), [(5, 10, 190), (25, 40, 160), (25, 70, 130), (50, 100, 100), (100, 200, 0)]
    )
    def test_share_about_as_declared_is_not_blind(self, declared: int, candidate: int, stable: int) -> None:
        assert verdict(self.shares(declared, candidate, stable), None) == "HEALTHY"

    def test_too_few_requests_are_not_blind(self) -> None:
        assert verdict(self.shares(5, 0, 1), None) == "HEALTHY"
        assert verdict(self.shares(5, 0, 1), 25) == "UNDECIDED"

    def test_scrapes_right_after_a_shift_do_not_count_towards_the_share(self) -> None:
        judge = self.shares(5, 10, 190)
        for number in range(2):  # the route has not moved yet
            counts = {CANDIDATE: answered(10), STABLE: answered(190)}
            judge.observe(Tick(START + 100 + SCRAPE * number, counts), 50)
        assert verdict(judge, None) == "HEALTHY"
        for number in range(6):
            counts = {CANDIDATE: answered(10), STABLE: answered(190)}
            judge.observe(Tick(START + 120 + SCRAPE * number, counts), 50)
        assert verdict(judge, None) == "BLIND"

    def test_route_that_delivers_its_share_is_rarely_blind(self) -> None:
        blind = 0
        for seed in range(40):
            judge, traffic = make_judge(), Traffic(seed, per_scrape=60)
            for tick in traffic.ticks(60, 5, 0, 0):
                judge.observe(tick, 5)
                if verdict(judge, None) == "BLIND":
                    blind += 1
                    break
        assert blind <= 3

    def test_untrusted_metrics_are_blind_even_after_health(self) -> None:
        judge = self.shares(5, 10, 190)
        outcome, findings = evaluate(judge, "Prometheus does not answer", 25)
        assert (outcome, [f.reason for f in findings]) == ("BLIND", ["Prometheus does not answer"])
        judge.observe_gauge("memory", START, 1.0)
        assert evaluate(judge, "Prometheus does not answer", 25)[0] == "BLIND"

    @pytest.mark.parametrize("next_share", [None, 25])
    def test_observed_harm_stays_harm_when_blind(self, next_share: int | None) -> None:
        judge = make_judge()
        assert first_breach(judge, Traffic(3).ticks(60, 25, 0.3, 0.0), 25) is not None
        seen = judge.harm()
        assert evaluate(judge, "Prometheus does not answer", next_share) == ("BREACHED", seen)

    def test_observed_gauge_harm_stays_harm_when_blind(self) -> None:
        judge = make_judge()
        judge.observe_gauge("memory", START, 0.95)
        judge.observe_gauge("memory", START + SUSTAINED_SECONDS, 0.95)
        assert evaluate(judge, "Prometheus does not answer", None)[0] == "BREACHED"

    def test_gauge_time_does_not_grow_while_blind(self) -> None:
        """However late the question comes, the last sample's time counts."""
        judge = make_judge()
        judge.observe_gauge("memory", START, 0.95)
        judge.observe_gauge("memory", START + SUSTAINED_SECONDS - 1, 0.95)
        for _ in range(100):
            assert evaluate(judge, "Prometheus does not answer", None)[0] == "BLIND"

    @pytest.mark.parametrize("unknown", [None, float("nan")])
    def test_unknown_gauge_does_not_disable_the_counters(self, unknown: float | None) -> None:
        judge = make_judge()
        for tick in Traffic(3).ticks(60, 25, 0.3, 0.0):
            judge.observe(tick, 25)
            for name in ("cpu_saturation", "memory"):
                judge.observe_gauge(name, tick.at, unknown)
        outcome, findings = evaluate(judge, None, 50)
        assert (outcome, findings[0].gate) == ("BREACHED", "error_rate")


def test_evidence_log_and_judge_agree_on_the_same_observations() -> None:
    log, judge = EvidenceLog(Terms(LIMITS, CANDIDATE, STABLE, GOOD_BASELINE), {}), make_judge()
    for tick in Traffic(9).ticks(40, 25, 0.03, 0.002):
        log.observe(tick, 25)
        judge.observe(tick, 25)
        assert evaluate(log.judge, None, 50) == evaluate(judge, None, 50)


class TestWarmUp:
    WARM = 30.0

    def judge(self) -> Judge:
        return make_judge(warm_up=self.WARM)

    def test_slow_requests_during_warm_up_are_ignored(self) -> None:
        for seed in range(8):
            judge, traffic = self.judge(), Traffic(seed)
            assert first_breach(judge, traffic.ticks(5, 25, 0.0, 0.0, slow=0.5), 25) is None
            assert first_breach(judge, traffic.ticks(40, 25, 0.0, 0.0), 25) is None
            gauges_are_fine(judge)
            assert verdict(judge, 50) == "HEALTHY"

    def test_slow_requests_after_warm_up_are_harm(self) -> None:
        judge, traffic = self.judge(), Traffic(1)
        first_breach(judge, traffic.ticks(7, 25, 0.0, 0.0), 25)
        assert first_breach(judge, traffic.ticks(20, 25, 0.0, 0.0, slow=0.5), 25) is not None

    def test_errors_during_warm_up_are_harm(self) -> None:
        found = first_breach(self.judge(), Traffic(1).ticks(5, 25, 0.5, 0.0), 25)
        assert found is not None
        assert found <= 2 * SCRAPE

    def test_warm_up_begins_with_the_first_request(self) -> None:
        judge, traffic = self.judge(), Traffic(1)
        for tick in traffic.ticks(20, 0, 0.0, 0.0):  # the route has not moved yet
            judge.observe(tick, 25)
        assert first_breach(judge, traffic.ticks(5, 25, 0.0, 0.0, slow=0.5), 25) is None

    def test_warm_up_ignores_cpu_but_not_memory(self) -> None:
        for name, breached in (("cpu_saturation", False), ("memory", True)):
            judge = make_judge(warm_up=2 * SUSTAINED_SECONDS)
            for tick in Traffic(1).ticks(int(1.5 * SUSTAINED_SECONDS / SCRAPE), 25, 0.0, 0.0):
                judge.observe(Tick(tick.at, tick.counts, {name: 0.99}), 25)
            assert bool(judge.harm()) is breached


class TestDispersion:
    """Errors come four at a time, in both versions alike."""

    def alarms(self, dispersion: float, deployments: int = 60) -> int:
        baseline = Baseline(GOOD_BASELINE.counts, dispersion={"error_rate": dispersion})
        alarms = 0
        for seed in range(deployments):
            judge, rng = make_judge(baseline), random.Random(seed)
            for number in range(240):
                candidate, stable = 4 * binomial(rng, 50, 0.001), 4 * binomial(rng, 150, 0.001)
                counts = {CANDIDATE: answered(50, candidate), STABLE: answered(150, stable)}
                judge.observe(Tick(START + SCRAPE * number, counts), 25)
                if judge.harm():
                    alarms += 1
                    break
        return alarms

    def test_known_bursts_raise_no_more_alarms_than_alpha(self) -> None:
        assert self.alarms(4.0) <= 2

    def test_unknown_bursts_raise_more_alarms_than_alpha(self) -> None:
        assert self.alarms(1.0) >= 4

    def test_bursts_need_more_evidence_of_health(self) -> None:
        asked = []
        for dispersion in (1.0, 4.0):
            baseline = Baseline(GOOD_BASELINE.counts, dispersion=dict.fromkeys(GATES, dispersion))
            judge, traffic = make_judge(baseline), Traffic(1)
            gauges_are_fine(judge)
            while verdict(judge, 50) != "HEALTHY":
                judge.observe(next(traffic.ticks(1, 25, 0.0, 0.0)), 25)
            asked.append(judge.candidate_counts.requests)
        assert asked[1] > 3 * asked[0]


class TestContradictions:
    def observed(self, requests: float, timed: float, own: float | None = None) -> Judge:
        kinds: dict[str, Any] = {"kinds": {"cards": "pair"}} if own is not None else {}
        terms = Terms({**LIMITS, "cards": 0.02}, CANDIDATE, STABLE, GOOD_BASELINE, **kinds)
        judge = Judge(terms)
        gauges_are_fine(judge)
        pairs = {} if own is None else {"cards": (0.0, own)}
        candidate = Counts(requests, 0, timed, {0.5: timed, 1.0: timed}, pairs)
        for number in range(4):
            counts = {CANDIDATE: candidate, STABLE: answered(3 * requests)}
            judge.observe(Tick(START + SCRAPE * number, counts), 25)
        return judge

    @pytest.mark.parametrize("next_share", [None, 50])
    def test_histogram_that_lacks_most_requests_is_blind(self, next_share: int | None) -> None:
        outcome, findings = evaluate(self.observed(100, 10), None, next_share)
        assert (outcome, {f.gate for f in findings}) == ("BLIND", {"latency_p95", "latency_p99"})
        assert findings[0].reason == "latency_p95: its counters have 40 of the candidate's 400 requests"

    def test_own_counter_without_events_is_blind(self) -> None:
        outcome, findings = evaluate(self.observed(100, 100, own=0), None, 50)
        assert (outcome, [f.gate for f in findings]) == ("BLIND", ["cards"])

    def test_own_counter_may_count_fewer_events_than_requests(self) -> None:
        assert evaluate(self.observed(100, 100, own=3), None, None)[0] == "HEALTHY"

    def test_few_missing_requests_are_no_contradiction(self) -> None:
        assert evaluate(self.observed(4, 0, own=0), None, None)[0] == "HEALTHY"


def test_own_gate_breaches_like_a_built_in_gate() -> None:
    judge = Judge(Terms({**LIMITS, "cards": 0.02}, CANDIDATE, STABLE, GOOD_BASELINE, {"cards": "pair"}))
    for number in range(60):
        candidate, stable = Counts(50, 0, 50, {0.5: 50, 1.0: 50}, {"cards": (5, 50)}), answered(150)
        stable = Counts(150, 0, 150, {0.5: 150, 1.0: 150}, {"cards": (1, 150)})
        judge.observe(Tick(START + SCRAPE * number, {CANDIDATE: candidate, STABLE: stable}), 25)
        if found := judge.harm():
            break
    assert found[0].gate == "cards"
    assert "events were bad" in found[0].reason


def test_traffic_lost_with_the_shift_is_harm() -> None:
    judge = make_judge(Baseline(GOOD_BASELINE.counts, quietest=40.0))
    found = first_breach(judge, Traffic(1, per_scrape=50).ticks(20, 25, 0.0, 0.0), 25)
    assert found is not None
    assert judge.harm()[0].gate == "request_rate"
