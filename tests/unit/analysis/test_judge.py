"""The judge compares over the same minutes, asks as much evidence as is at stake, and says so where it cannot see."""

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
    """Feed ticks until a look says BREACHED; return how many seconds after the first."""
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
    def test_a_candidate_no_worse_than_the_stable_is_hardly_ever_breached(self) -> None:
        breached = 0
        for seed in range(40):
            judge, traffic = make_judge(), Traffic(seed)
            for share in (5, 25, 50):
                breached += first_breach(judge, traffic.ticks(40, share, 0.002, 0.002), share) is not None
        assert breached <= 2  # alpha is 1 % per deployment

    @pytest.mark.parametrize("rate", [0.2, 0.9, 1.0])
    def test_an_outage_that_both_share_is_never_a_breach(self, rate: float) -> None:
        for seed in range(12):
            judge, traffic = make_judge(), Traffic(seed)
            for mine, scrapes in ((0.002, 10), (rate, 30), (0.002, 10)):
                assert first_breach(judge, traffic.ticks(scrapes, 25, mine, mine), 25) is None

    def test_an_outage_that_both_share_in_one_stage_only_is_no_breach_over_all_stages(self) -> None:
        judge, traffic = make_judge(), Traffic(1)
        assert first_breach(judge, traffic.ticks(60, 5, 0.001, 0.001), 5) is None
        assert first_breach(judge, traffic.ticks(60, 50, 0.3, 0.3), 50) is None

    @pytest.mark.parametrize("share", [5, 25, 50])
    def test_5_percent_errors_are_caught_at_every_stage(self, share: int) -> None:
        for seed in range(12):
            found = first_breach(make_judge(), Traffic(seed).ticks(120, share, 0.05, 0.002), share)
            assert found is not None
            assert found <= (300 if share == 5 else 120)

    def test_a_candidate_that_answers_nothing_right_is_caught_within_two_scrapes(self) -> None:
        found = first_breach(make_judge(), Traffic(1).ticks(10, 5, 1.0, 0.002), 5)
        assert found is not None
        assert found <= 2 * SCRAPE

    def test_one_that_turns_bad_late_is_caught_about_as_soon(self) -> None:
        early, late = [], []
        for seed in range(9):
            found = first_breach(make_judge(), Traffic(seed).ticks(120, 25, 0.05, 0.002), 25)
            early.append(found if found is not None else 1e9)
            judge, traffic = make_judge(), Traffic(seed)
            assert first_breach(judge, traffic.ticks(360, 25, 0.002, 0.002), 25) is None  # thirty minutes
            found = first_breach(judge, traffic.ticks(120, 25, 0.05, 0.002), 25)
            late.append(found if found is not None else 1e9)
        assert sorted(late)[4] <= 3 * sorted(early)[4] + SCRAPE

    def test_slow_requests_are_harm_as_errors_are(self) -> None:
        judge = make_judge()
        assert first_breach(judge, Traffic(2).ticks(60, 25, 0.0, 0.0, slow=0.2), 25) is not None
        finding = judge.harm()[0]
        assert finding.gate in ("latency_p95", "latency_p99")
        assert "requests took longer than" in finding.reason

    def test_a_breach_says_its_numbers(self) -> None:
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


class TestWithoutControl:
    def test_within_the_limit_is_no_harm_even_far_beyond_the_baseline(self) -> None:
        for seed in range(12):
            assert first_breach(make_judge(), Traffic(seed).ticks(100, 100, 0.008, 0), 100) is None

    def test_beyond_the_limit_and_the_baseline_is_harm(self) -> None:
        for seed in range(12):
            assert first_breach(make_judge(), Traffic(seed).ticks(60, 100, 0.05, 0), 100) is not None

    def test_beyond_the_limit_but_within_three_baselines_is_no_harm(self) -> None:
        usual = Baseline(Counts(10_000, 90, 10_000, {0.5: 10_000, 1.0: 10_000}))  # 0.9 %, the limit is 1 %
        for seed in range(12):
            assert first_breach(make_judge(usual), Traffic(seed).ticks(100, 100, 0.022, 0), 100) is None
        assert first_breach(make_judge(usual), Traffic(1).ticks(100, 100, 0.08, 0), 100) is not None

    def test_a_baseline_beyond_the_limit_is_the_incident_and_excuses_nothing(self) -> None:
        incident = Baseline(Counts(10_000, 2_000, 10_000, {0.5: 10_000, 1.0: 10_000}))
        for seed in range(12):
            assert first_breach(make_judge(incident), Traffic(seed).ticks(60, 100, 0.05, 0), 100) is not None

    def test_a_smaller_bound_on_false_alarms_asks_for_more_evidence(self) -> None:
        seen: dict[float, float] = {}
        for alpha in (ALPHA, 1e-6, 1e-9):
            judge = make_judge(alpha=alpha)
            found = first_breach(judge, Traffic(1, per_scrape=20).ticks(400, 100, 0.06, 0.0), 100)
            assert found is not None
            assert max(finding.numbers["log_e"] for finding in judge.harm()) >= log(3 / alpha)
            seen[alpha] = found
        assert seen[ALPHA] < seen[1e-6] < seen[1e-9]

    def test_where_any_rate_is_usual_none_is_harm(self) -> None:
        """Three times the baseline are more than all requests."""
        usual = Baseline(Counts(10_000, 4_000, 10_000, {0.5: 10_000, 1.0: 10_000}))
        judge = make_judge(usual, {"error_rate": 0.5})
        assert first_breach(judge, Traffic(1).ticks(60, 100, 0.4, 0), 100) is None

    def test_no_baseline_leaves_the_limit(self) -> None:
        assert first_breach(make_judge(Baseline()), Traffic(1).ticks(60, 100, 0.05, 0), 100) is not None
        assert first_breach(make_judge(Baseline()), Traffic(1).ticks(60, 100, 0.002, 0), 100) is None

    def test_the_limit_alone_is_no_harm_where_there_is_a_control(self) -> None:
        judge = make_judge(Baseline())
        assert first_breach(judge, Traffic(4).ticks(100, 50, 0.1, 0.1), 50) is None
        assert judge.candidate_counts.errors / judge.candidate_counts.requests > LIMITS["error_rate"]


class TestGauges:
    @pytest.mark.parametrize("name", ["cpu_saturation", "memory"])
    def test_harm_needs_a_value_beyond_its_limit_for_the_whole_time(self, name: str) -> None:
        judge = make_judge()
        judge.observe_gauge(name, START, 0.95)
        judge.observe_gauge(name, START + SUSTAINED_SECONDS - 1, 0.95)
        assert judge.harm() == []
        judge.observe_gauge(name, START + SUSTAINED_SECONDS, 0.95)
        assert [(f.gate, f.verdict) for f in judge.harm()] == [(name, "BREACHED")]

    def test_a_moment_within_the_limit_begins_anew(self) -> None:
        judge = make_judge()
        judge.observe_gauge("memory", START, 0.95)
        judge.observe_gauge("memory", START + 20, 0.90)
        judge.observe_gauge("memory", START + 21, 0.95)
        assert judge.harm() == []

    @pytest.mark.parametrize("unknown", [None, float("nan")])
    def test_an_unknown_value_is_neither_harm_nor_health(self, unknown: float | None) -> None:
        judge = make_judge()
        for second in range(0, 60, 5):
            judge.observe_gauge("memory", START + second, unknown)
        assert judge.harm() == []
        said = {finding.gate: finding.verdict for finding in judge.health(100)}
        assert said["memory"] == "UNDECIDED"

    def test_a_full_pod_is_not_healthy_before_it_is_harm(self) -> None:
        judge = make_judge()
        judge.observe_gauge("memory", START, 0.95)
        assert {f.gate: f.verdict for f in judge.health(100)}["memory"] == "UNDECIDED"


class TestHealth:
    def observe(self, judge: Judge, requests: int, share: int = 5, errors: int = 0, slow: int = 0) -> None:
        """Spread requests over ten scrapes, beside a stable that is exactly as good."""
        ratio = (100 - share) / share
        for number in range(10):
            mine = answered(requests / 10, errors / 10, slow / 10)
            control = answered(ratio * requests / 10, ratio * errors / 10, ratio * slow / 10)
            judge.observe(Tick(START + SCRAPE * number, {CANDIDATE: mine, STABLE: control}), share)

    def test_too_little_traffic_is_undecided(self) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        assert verdict(judge) == "UNDECIDED"
        self.observe(judge, 20)
        assert verdict(judge) == "UNDECIDED"

    def test_the_evidence_asked_grows_with_the_share_that_is_given(self) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        self.observe(judge, 120)
        assert verdict(judge, 25) == "HEALTHY"
        assert verdict(judge, 100) == "UNDECIDED"
        self.observe(judge, 400, share=25)
        assert verdict(judge, 100) == "HEALTHY"

    def test_what_it_may_still_cost_decides_not_what_was_seen(self) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        self.observe(judge, 1000, errors=10)  # exactly 1 %: nobody knows whether it is more
        assert verdict(judge, 100) == "UNDECIDED"
        assert verdict(judge, 25) == "HEALTHY"

    def test_no_further_share_while_it_may_be_worse_than_the_stable(self) -> None:
        """Within the limit, and not worse enough to be stopped: it waits until the evidence has faded."""
        judge = make_judge()
        gauges_are_fine(judge)
        for number, errors in enumerate([4, 4, 4, *[0] * 60]):
            counts = {CANDIDATE: answered(1000, errors), STABLE: answered(3000, 3)}
            judge.observe(Tick(START + SCRAPE * number, counts), 25)
            said = verdict(judge, 50)
            assert said != "BREACHED"
            if number == 2:
                assert said == "UNDECIDED"
                assert "may be worse than the stable" in judge.health(50)[0].reason
        assert said == "HEALTHY"

    @pytest.mark.parametrize("bad", ["errors", "slow"])
    def test_one_gate_that_does_not_pass_is_enough(self, bad: str) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        self.observe(judge, 1000, **{bad: 40})
        assert verdict(judge) == "UNDECIDED"

    @pytest.mark.parametrize("missing", ["cpu_saturation", "memory"])
    def test_a_gauge_that_was_never_seen_is_no_health(self, missing: str) -> None:
        judge = make_judge()
        gauges_are_fine(judge)
        judge.observe_gauge(missing, START, None)
        self.observe(judge, 1000)
        said, findings = evaluate(judge, None, 100)
        assert said == "UNDECIDED"
        assert [f.gate for f in findings if f.verdict != "HEALTHY"] == [missing]

    def test_every_gate_says_something(self) -> None:
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
    """What the stable suffers too says nothing of the candidate's health, unless it always did."""

    def told(self, baseline: Baseline, *parts: tuple[int, int, float, float]) -> Judge:
        judge, traffic = make_judge(baseline), Traffic(1)
        gauges_are_fine(judge)
        for scrapes, share, mine, control in parts:
            for tick in traffic.ticks(scrapes, share, mine, control):
                judge.observe(tick, share)
        return judge

    def test_of_a_minute_is_soon_forgotten(self) -> None:
        outage = (12, 25, 0.3, 0.3)
        assert verdict(self.told(GOOD_BASELINE, (12, 25, 0.0, 0.002), outage), 50) == "HEALTHY"
        assert verdict(self.told(GOOD_BASELINE, (12, 25, 0.0, 0.002), outage, (12, 50, 0.0, 0.002)), 100) == "HEALTHY"

    def test_a_stable_that_is_well_excuses_nothing(self) -> None:
        assert verdict(self.told(GOOD_BASELINE, (12, 25, 0.0, 0.002), (12, 25, 0.02, 0.0)), 50) != "HEALTHY"

    def test_an_incident_that_the_candidate_does_not_end_is_no_outage(self) -> None:
        """The stable has failed before as it fails now: it is what the fix should end."""
        incident = Baseline(Counts(10_000, 2_000, 10_000, {0.5: 10_000, 1.0: 10_000}))
        assert verdict(self.told(incident, (40, 25, 0.2, 0.2)), 50) == "UNDECIDED"
        assert verdict(self.told(incident, (40, 25, 0.0, 0.2)), 50) == "HEALTHY"

    def test_at_full_traffic_nobody_shares_it(self) -> None:
        assert verdict(self.told(GOOD_BASELINE, (12, 100, 0.0, 0.0), (2, 100, 0.04, 0.0)), 100) == "UNDECIDED"


class TestSight:
    def shares(self, declared: int, mine: int, others: int, scrapes: int = 12) -> Judge:
        judge = make_judge()
        gauges_are_fine(judge)
        for number in range(scrapes):
            counts = {CANDIDATE: answered(mine), STABLE: answered(others)}
            judge.observe(Tick(START + SCRAPE * number, counts), declared)
        return judge

    @pytest.mark.parametrize(
        ("declared", "mine", "others"),
        [(5, 0, 200), (25, 10, 190), (25, 150, 50), (50, 10, 190), (100, 10, 190), (5, 60, 140)],
    )
    def test_a_share_that_the_route_does_not_deliver_is_blind(self, declared: int, mine: int, others: int) -> None:
        judge = self.shares(declared, mine, others)
        assert verdict(judge, None) == "BLIND"
        assert verdict(judge, 100) == "BLIND"

    @pytest.mark.parametrize(
        ("declared", "mine", "others"), [(5, 10, 190), (25, 40, 160), (25, 70, 130), (50, 100, 100), (100, 200, 0)]
    )
    def test_a_share_about_as_declared_is_seen(self, declared: int, mine: int, others: int) -> None:
        assert verdict(self.shares(declared, mine, others), None) == "HEALTHY"

    def test_too_few_requests_accuse_no_route(self) -> None:
        assert verdict(self.shares(5, 0, 1), None) == "HEALTHY"
        assert verdict(self.shares(5, 0, 1), 25) == "UNDECIDED"

    def test_the_scrapes_right_after_a_shift_do_not_count(self) -> None:
        judge = self.shares(5, 10, 190)
        for number in range(2):  # the route has not moved yet
            counts = {CANDIDATE: answered(10), STABLE: answered(190)}
            judge.observe(Tick(START + 100 + SCRAPE * number, counts), 50)
        assert verdict(judge, None) == "HEALTHY"
        for number in range(6):
            counts = {CANDIDATE: answered(10), STABLE: answered(190)}
            judge.observe(Tick(START + 120 + SCRAPE * number, counts), 50)
        assert verdict(judge, None) == "BLIND"

    def test_a_fair_route_is_hardly_ever_called_blind(self) -> None:
        blind = 0
        for seed in range(40):
            judge, traffic = make_judge(), Traffic(seed, per_scrape=60)
            for tick in traffic.ticks(60, 5, 0, 0):
                judge.observe(tick, 5)
                if verdict(judge, None) == "BLIND":
                    blind += 1
                    break
        assert blind <= 3

    def test_metrics_that_cannot_be_trusted_are_blind_however_healthy_it_looked_before(self) -> None:
        judge = self.shares(5, 10, 190)
        said, findings = evaluate(judge, "Prometheus does not answer", 25)
        assert (said, [f.reason for f in findings]) == ("BLIND", ["Prometheus does not answer"])
        judge.observe_gauge("memory", START, 1.0)
        assert evaluate(judge, "Prometheus does not answer", 25)[0] == "BLIND"

    @pytest.mark.parametrize("next_share", [None, 25])
    def test_harm_that_was_seen_stays_harm_when_sight_is_lost(self, next_share: int | None) -> None:
        judge = make_judge()
        assert first_breach(judge, Traffic(3).ticks(60, 25, 0.3, 0.0), 25) is not None
        seen = judge.harm()
        assert evaluate(judge, "Prometheus does not answer", next_share) == ("BREACHED", seen)

    def test_a_gauge_that_was_beyond_its_limit_for_long_stays_harm_when_sight_is_lost(self) -> None:
        judge = make_judge()
        judge.observe_gauge("memory", START, 0.95)
        judge.observe_gauge("memory", START + SUSTAINED_SECONDS, 0.95)
        assert evaluate(judge, "Prometheus does not answer", None)[0] == "BREACHED"

    def test_a_gauge_is_not_beyond_its_limit_for_longer_than_it_was_seen_there(self) -> None:
        """However late the question comes, the last sample's time counts."""
        judge = make_judge()
        judge.observe_gauge("memory", START, 0.95)
        judge.observe_gauge("memory", START + SUSTAINED_SECONDS - 1, 0.95)
        for _ in range(100):
            assert evaluate(judge, "Prometheus does not answer", None)[0] == "BLIND"

    @pytest.mark.parametrize("unknown", [None, float("nan")])
    def test_a_gauge_that_cannot_be_asked_does_not_disarm_the_counters(self, unknown: float | None) -> None:
        judge = make_judge()
        for tick in Traffic(3).ticks(60, 25, 0.3, 0.0):
            judge.observe(tick, 25)
            for name in ("cpu_saturation", "memory"):
                judge.observe_gauge(name, tick.at, unknown)
        said, findings = evaluate(judge, None, 50)
        assert (said, findings[0].gate) == ("BREACHED", "error_rate")


def test_two_judges_told_the_same_say_the_same() -> None:
    log, judge = EvidenceLog(Terms(LIMITS, CANDIDATE, STABLE, GOOD_BASELINE), {}), make_judge()
    for tick in Traffic(9).ticks(40, 25, 0.03, 0.002):
        log.observe(tick, 25)
        judge.observe(tick, 25)
        assert evaluate(log.judge, None, 50) == evaluate(judge, None, 50)


class TestWarmUp:
    WARM = 30.0

    def judge(self) -> Judge:
        return make_judge(warm_up=self.WARM)

    def test_slow_first_requests_are_forgiven(self) -> None:
        for seed in range(8):
            judge, traffic = self.judge(), Traffic(seed)
            assert first_breach(judge, traffic.ticks(5, 25, 0.0, 0.0, slow=0.5), 25) is None
            assert first_breach(judge, traffic.ticks(40, 25, 0.0, 0.0), 25) is None
            gauges_are_fine(judge)
            assert verdict(judge, 50) == "HEALTHY"

    def test_slow_ones_after_it_are_not(self) -> None:
        judge, traffic = self.judge(), Traffic(1)
        first_breach(judge, traffic.ticks(7, 25, 0.0, 0.0), 25)
        assert first_breach(judge, traffic.ticks(20, 25, 0.0, 0.0, slow=0.5), 25) is not None

    def test_errors_are_never_forgiven(self) -> None:
        found = first_breach(self.judge(), Traffic(1).ticks(5, 25, 0.5, 0.0), 25)
        assert found is not None
        assert found <= 2 * SCRAPE

    def test_it_begins_with_the_first_request_and_not_with_the_shift(self) -> None:
        judge, traffic = self.judge(), Traffic(1)
        for tick in traffic.ticks(20, 0, 0.0, 0.0):  # the route has not moved yet
            judge.observe(tick, 25)
        assert first_breach(judge, traffic.ticks(5, 25, 0.0, 0.0, slow=0.5), 25) is None

    def test_a_busy_processor_is_forgiven_and_full_memory_is_not(self) -> None:
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
                mine, others = 4 * binomial(rng, 50, 0.001), 4 * binomial(rng, 150, 0.001)
                counts = {CANDIDATE: answered(50, mine), STABLE: answered(150, others)}
                judge.observe(Tick(START + SCRAPE * number, counts), 25)
                if judge.harm():
                    alarms += 1
                    break
        return alarms

    def test_bursts_that_are_known_raise_no_more_alarms_than_alpha(self) -> None:
        assert self.alarms(4.0) <= 2

    def test_and_would_where_they_are_not(self) -> None:
        assert self.alarms(1.0) >= 4

    def test_more_evidence_of_health_is_asked_for(self) -> None:
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
    def told(self, requests: float, timed: float, own: float | None = None) -> Judge:
        kinds: dict[str, Any] = {"kinds": {"cards": "pair"}} if own is not None else {}
        terms = Terms({**LIMITS, "cards": 0.02}, CANDIDATE, STABLE, GOOD_BASELINE, **kinds)
        judge = Judge(terms)
        gauges_are_fine(judge)
        pairs = {} if own is None else {"cards": (0.0, own)}
        mine = Counts(requests, 0, timed, {0.5: timed, 1.0: timed}, pairs)
        for number in range(4):
            counts = {CANDIDATE: mine, STABLE: answered(3 * requests)}
            judge.observe(Tick(START + SCRAPE * number, counts), 25)
        return judge

    @pytest.mark.parametrize("next_share", [None, 50])
    def test_a_histogram_that_misses_most_requests_is_blindness(self, next_share: int | None) -> None:
        said, findings = evaluate(self.told(100, 10), None, next_share)
        assert (said, {f.gate for f in findings}) == ("BLIND", {"latency_p95", "latency_p99"})
        assert findings[0].reason == "latency_p95: its counters have 40 of the candidate's 400 requests"

    def test_an_own_counter_that_has_nothing_is_blindness(self) -> None:
        said, findings = evaluate(self.told(100, 100, own=0), None, 50)
        assert (said, [f.gate for f in findings]) == ("BLIND", ["cards"])

    def test_an_own_counter_may_count_other_things_than_requests(self) -> None:
        assert evaluate(self.told(100, 100, own=3), None, None)[0] == "HEALTHY"

    def test_a_few_requests_between_two_counters_contradict_nothing(self) -> None:
        assert evaluate(self.told(4, 0, own=0), None, None)[0] == "HEALTHY"


def test_an_own_gate_stops_a_version_as_ours_do() -> None:
    judge = Judge(Terms({**LIMITS, "cards": 0.02}, CANDIDATE, STABLE, GOOD_BASELINE, {"cards": "pair"}))
    for number in range(60):
        mine, others = Counts(50, 0, 50, {0.5: 50, 1.0: 50}, {"cards": (5, 50)}), answered(150)
        others = Counts(150, 0, 150, {0.5: 150, 1.0: 150}, {"cards": (1, 150)})
        judge.observe(Tick(START + SCRAPE * number, {CANDIDATE: mine, STABLE: others}), 25)
        if found := judge.harm():
            break
    assert found[0].gate == "cards"
    assert "events were bad" in found[0].reason


def test_users_who_left_with_the_shift_are_harm() -> None:
    judge = make_judge(Baseline(GOOD_BASELINE.counts, quietest=40.0))
    found = first_breach(judge, Traffic(1, per_scrape=50).ticks(20, 25, 0.0, 0.0), 25)
    assert found is not None
    assert judge.harm()[0].gate == "request_rate"
