"""A promoted version is taken back for harm that it does, however late it begins, and hardly ever for none."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import replace
from math import inf, nan
from typing import Any, cast

import pytest

from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.analysis.evidence import replay
from airflow_deploy.domain.analysis.judge import ALPHA
from airflow_deploy.domain.config.request import parse_request
from airflow_deploy.domain.errors import DeployError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.counters import Counts, Series
from airflow_deploy.rollout.analysis.observer import CHUNK_SECONDS, LOOKBACK, Observer
from airflow_deploy.rollout.analysis.recheck import ALPHA_INTERVAL, INCIDENT_SAMPLES, RECHECK_WINDOW, Recheck, recheck
from airflow_deploy.rollout.history import PromotedDeployment
from tests.support.builders import CONF, MISSING, changed, make_plan
from tests.support.gateway_counters import Gateway, Load
from tests.support.judgement import GOOD_BASELINE, SCRAPE, START
from tests.support.statistics import margin
from tests.support.world import PER_SCRAPE, records, ticks

MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
WITHOUT_CONDITION = parse_request(changed(CONF, ("incident", "resolved_when"), MISSING))


AT_THE_LIMIT = Load(-inf, errors=0.01, over_p95=0.05, over_p99=0.01)
"""Every gate's limit is kept, and no more than that."""


def planned(condition: dict[str, Any] | None = None) -> DeploymentPlan:
    """A plan whose incident has this condition, or none."""
    if condition is None:
        return make_plan(request=WITHOUT_CONDITION)
    return make_plan(request=parse_request(changed(CONF, ("incident", "resolved_when"), condition)))


def look(gateway: Gateway, at: float, *, age: float = 0.0, baseline: Baseline = GOOD_BASELINE) -> Recheck:
    """Look at ``at`` seconds after START, when the version was verified ``age`` seconds before START."""
    item = PromotedDeployment(gateway.plan, baseline, START - age)
    gateway.clock.now = START + at
    return recheck(item, cast("Observer", gateway), START + at)


def verdict(gateway: Gateway, at: float, **more: Any) -> str:
    return look(gateway, at, **more).verdict


def head(said: Recheck) -> dict[str, Any]:
    found: dict[str, Any] = records(said.evidence, "judge")[0]["terms"]
    return found


def seen(said: Recheck) -> Counts:
    """All that the judge was told of the version."""
    candidate = head(said)["candidate"]
    counted = [tick["counts"][candidate] for tick in ticks(said.evidence)]
    return Counts(sum(item["requests"] for item in counted), sum(item["errors"] for item in counted))


class TestFalseAlarms:
    def test_all_passes_of_a_version_together_have_no_more_than_alpha(self) -> None:
        gateway = Gateway(planned(), until=0, since=0)
        gateway.series = []
        passes = int(DAY / ALPHA_INTERVAL)
        shares = [head(look(gateway, number * ALPHA_INTERVAL))["alpha"] for number in range(passes)]
        assert sum(shares) <= ALPHA
        assert sum(shares) >= 0.99 * ALPHA  # none of it is given away
        assert shares == sorted(shares, reverse=True)

    def test_a_version_that_keeps_every_limit_barely_is_never_taken_back_in_a_day(self) -> None:
        load = replace(AT_THE_LIMIT, requests=600)
        gateway = Gateway(planned(), load, until=DAY, scrape=60, rng=random.Random(1))
        for minute in range(1, int(DAY / MINUTE)):
            assert verdict(gateway, minute * MINUTE + 1) == "HEALTHY"

    def test_of_many_that_keep_every_limit_barely_hardly_any_is_taken_back(self) -> None:
        """Within the first half hour, in which most of the bound is spent."""
        versions = 60
        alarms = 0
        for seed in range(versions):
            gateway = Gateway(planned(), AT_THE_LIMIT, since=-30, until=1800, scrape=15, rng=random.Random(seed))
            alarms += any(verdict(gateway, minute * MINUTE) == "BREACHED" for minute in (2, 4, 8, 12, 18, 24, 29))
        assert alarms <= margin(versions, ALPHA) * versions

    def test_ones_that_are_twice_as_bad_are_all_taken_back(self) -> None:
        """The same way of looking has the power to see."""
        for seed in range(5):
            gateway = Gateway(planned(), Load(-inf, errors=0.02), until=1800, scrape=15, rng=random.Random(seed))
            assert verdict(gateway, 1740) == "BREACHED"

    def test_few_requests_and_a_single_error_are_no_harm(self) -> None:
        gateway = Gateway(planned(), Load(-inf, requests=1), Load(600, requests=1, errors=1), Load(605, requests=1))
        assert all(verdict(gateway, 610 + minute * MINUTE) == "HEALTHY" for minute in range(20))


LATE = [MINUTE, HOUR, 23 * HOUR]


@pytest.mark.parametrize("age", LATE, ids=["a minute", "an hour", "23 hours"])
class TestLateHarm:
    """It begins at START, when the version has been good for ``age`` seconds."""

    def harmed(self, age: float, bad: Load) -> float:
        """Look as often as it is scraped; return how many requests it takes until it is seen."""
        gateway = Gateway(planned(), Load(-inf), bad, rng=random.Random(int(age)))
        for scrape in range(1, 400):
            if verdict(gateway, scrape * SCRAPE, age=age) == "BREACHED":
                return scrape * PER_SCRAPE
        raise AssertionError("it was not seen")

    @pytest.mark.parametrize(
        ("bad", "most"),
        [
            (Load(0, errors=1.0), 200),
            (Load(0, errors=0.2), 400),
            (Load(0, errors=0.05), 2_000),
            (Load(0, errors=0.03), 6_000),
            (Load(0, over_p99=0.05), 2_000),
            (Load(0, over_p95=0.2), 1_000),
        ],
        ids=["all", "20 % errors", "5 % errors", "3 % errors", "5 % over p99", "20 % over p95"],
    )
    def test_is_seen_within_a_bounded_number_of_requests(self, age: float, bad: Load, most: int) -> None:
        assert self.harmed(age, bad) <= most

    def test_is_still_seen_by_a_pass_that_comes_late(self, age: float) -> None:
        """The scheduler was away: what happened meanwhile is in Prometheus."""
        gateway = Gateway(planned(), Load(-inf), Load(0, errors=0.2), Load(120))
        assert verdict(gateway, 1500, age=age) == "BREACHED"

    def test_of_a_version_with_few_requests_is_seen_too(self, age: float) -> None:
        gateway = Gateway(planned(), Load(-inf, requests=1), Load(0, requests=1, errors=1.0))
        found = next(scrape for scrape in range(1, 100) if verdict(gateway, scrape * SCRAPE, age=age) == "BREACHED")
        assert found <= 12

    def test_that_the_window_has_left_behind_is_not_held_against_it(self, age: float) -> None:
        gateway = Gateway(planned(), Load(-inf), Load(-2300, errors=0.5), Load(-2100))
        assert verdict(gateway, 0, age=age) == "HEALTHY"


class TestBaseline:
    @pytest.mark.parametrize(
        ("before", "now", "said"),
        [
            (0.009, 0.025, "HEALTHY"),  # beyond the limit, within three baselines
            (0.009, 0.06, "BREACHED"),
            (0.001, 0.008, "HEALTHY"),  # far beyond the baseline, within the limit
            (0.001, 0.025, "BREACHED"),
            (0.05, 0.025, "BREACHED"),  # the baseline was the incident, which excuses nothing
            (0.05, 0.008, "HEALTHY"),
        ],
    )
    def test_harm_lies_beyond_the_limit_and_three_baselines(self, before: float, now: float, said: str) -> None:
        baseline = Baseline(Counts(10_000, 10_000 * before, 10_000, {0.5: 10_000, 1.0: 10_000}))
        gateway = Gateway(planned(), Load(-inf, errors=now))
        assert verdict(gateway, 1700, age=HOUR, baseline=baseline) == said

    @pytest.mark.parametrize(("now", "said"), [(0.008, "HEALTHY"), (0.025, "BREACHED")])
    def test_without_one_the_limit_remains(self, now: float, said: str) -> None:
        gateway = Gateway(planned(), Load(-inf, errors=now))
        assert verdict(gateway, 1700, age=HOUR, baseline=Baseline()) == said


class TestCounting:
    def test_takes_in_what_was_answered_since_the_verification(self) -> None:
        """What came before was judged by the run, and may have been bad."""
        gateway = Gateway(planned(), Load(-inf, errors=0.5), Load(0))
        said = look(gateway, 600)
        assert (said.verdict, seen(said)) == ("HEALTHY", Counts(120 * PER_SCRAPE, 0))
        assert said.reason.startswith("request_rate: ")

    def test_takes_in_half_an_hour_each_scrape_once(self) -> None:
        gateway = Gateway(planned())
        said = look(gateway, 59, age=10 * HOUR)
        seen_at = [tick["at"] - START for tick in ticks(said.evidence)]
        assert seen_at == [number * SCRAPE for number in range(int(-RECHECK_WINDOW / SCRAPE) + 1, 12)]
        assert all(until - since <= CHUNK_SECONDS + LOOKBACK for since, until in gateway.asked)

    @pytest.mark.parametrize("since", [-2400.0, -RECHECK_WINDOW, -RECHECK_WINDOW + 20, -600.0])
    def test_the_total_of_an_old_series_is_no_increase(self, since: float) -> None:
        """A million errors were counted before Prometheus was told to scrape, or before it lost its data."""
        gateway = Gateway(planned(), Load(-inf, errors=0.001), since=since)
        gateway.series = [
            Series(item.labels, [(at, value + 1_000_000) for at, value in item.samples]) for item in gateway.series
        ]
        said = look(gateway, 0, age=HOUR)
        assert said.verdict == "HEALTHY"
        assert seen(said).requests <= (RECHECK_WINDOW / SCRAPE + 1) * PER_SCRAPE

    def test_the_first_errors_of_a_good_version_are_all_counted(self) -> None:
        """Until then it had no series of errors."""
        gateway = Gateway(planned(), Load(-inf), Load(0, errors=0.02))
        assert seen(look(gateway, 60, age=HOUR)).errors == 12 * 4

    @pytest.mark.parametrize("instance", ["gateway-0", "gateway-1"], ids=["the same name", "another name"])
    def test_a_gateway_that_starts_anew_neither_hides_nor_invents_anything(self, instance: str) -> None:
        gateway = Gateway(planned(), Load(-inf, errors=0.005))
        gateway.series = [part for item in gateway.series for part in restarted(item, START - 602, instance)]
        said = look(gateway, 0, age=HOUR)
        assert said.verdict == "HEALTHY"
        assert seen(said).errors == pytest.approx(361, abs=2)

    def test_one_after_whose_start_all_fails_is_seen(self) -> None:
        gateway = Gateway(planned(), Load(-inf), Load(-600, errors=0.5))
        gateway.series = [part for item in gateway.series for part in restarted(item, START - 602, "gateway-0")]
        assert verdict(gateway, -570, age=HOUR) == "BREACHED"


def restarted(item: Series, at: float, instance: str) -> list[Series]:
    """Let a counter begin at 0 again at ``at``."""
    before = [sample for sample in item.samples if sample[0] < at]
    base = before[-1][1] if before else 0.0
    after = [(when, value - base) for when, value in item.samples if when >= at]
    if instance == item.labels["instance"]:
        return [Series(item.labels, [*before, *after])]
    return [Series(item.labels, before), Series({**item.labels, "instance": instance}, after)]


class TestSight:
    def test_nobody_asks_for_anything_and_it_holds(self) -> None:
        gateway = Gateway(planned(), Load(-inf), Load(-2300, requests=0))
        said = look(gateway, 0, age=HOUR)
        assert (said.verdict, seen(said)) == ("HEALTHY", Counts(0, 0))

    def test_without_any_counters_it_cannot_be_told(self) -> None:
        gateway = Gateway(planned())
        gateway.series = []
        said = look(gateway, 0, age=HOUR)
        assert said.verdict == "BLIND"
        assert re.search(f"no counters of {gateway.plan.candidate} or .* newer than 12 s", said.reason)

    @pytest.mark.parametrize(("late", "said"), [(10, "HEALTHY"), (13, "BLIND")])
    def test_counters_that_have_stopped_cannot_be_trusted(self, late: float, said: str) -> None:
        gateway = Gateway(planned())
        gateway.frozen_at = -late
        assert verdict(gateway, 0, age=HOUR) == said

    def test_the_first_scrape_after_the_verification_may_be_a_moment_away(self) -> None:
        gateway = Gateway(planned())
        gateway.frozen_at = -20
        assert verdict(gateway, 10) == "HEALTHY"
        assert verdict(gateway, 13) == "BLIND"

    @pytest.mark.parametrize("error", [TemporaryError("away"), RefusedError("401")])
    def test_a_prometheus_that_does_not_answer_changes_nothing(self, error: DeployError) -> None:
        gateway = Gateway(planned(), Load(-inf, errors=0.5))
        gateway.away, gateway.error = [(-inf, inf)], error
        said = look(gateway, 0, age=HOUR)
        assert (said.verdict, said.reason) == ("BLIND", str(error))

    @pytest.mark.parametrize("error", [TemporaryError("away"), RefusedError("several results")])
    def test_nor_does_one_that_has_no_answer_to_the_incidents_query(self, error: DeployError) -> None:
        gateway = Gateway(planned({"query": "up", "op": "<", "value": 1, "for": 0}))
        gateway.answer = error
        said = look(gateway, 0, age=HOUR)
        assert (said.verdict, said.reason) == ("BLIND", str(error))

    def test_but_harm_that_was_seen_stays_true(self) -> None:
        gateway = Gateway(planned({"query": "up", "op": "<", "value": 1, "for": 0}), Load(-inf, errors=0.5))
        gateway.answer = TemporaryError("away")
        assert verdict(gateway, 0, age=HOUR) == "BREACHED"

    def test_traffic_that_goes_elsewhere_is_no_sight_of_this_version(self) -> None:
        """A person has set weights by hand, or the gateway does not serve what the route declares."""
        said = look(Gateway(planned(), Load(-inf, gone=80)), 0, age=HOUR)
        assert said.verdict == "BLIND"
        assert said.reason.startswith("request_rate: ")

    def test_a_version_without_a_single_request_of_many_is_no_sight_either(self) -> None:
        assert verdict(Gateway(planned(), Load(-inf, gone=100)), 0, age=HOUR) == "BLIND"


class TestGauges:
    """Of the two, the CPU does what a test says."""

    def said(self, gauge_at: Callable[[float], float | None]) -> Recheck:
        gateway = Gateway(planned())
        gateway.gauge_at = gauge_at
        return look(gateway, 0, age=HOUR)

    def test_beyond_the_limit_for_all_of_the_last_five_minutes_is_harm(self) -> None:
        said = self.said(lambda at: 0.97 if at >= -300 else 0.3)
        assert said.verdict == "BREACHED"
        assert "cpu_saturation: above its limit 0.9 for 300 s" in said.reason

    @pytest.mark.parametrize(
        "gauge_at",
        [
            lambda at: 0.97 if at > -295 else 0.3,
            lambda at: 0.97 if at < 0 else 0.3,
            lambda at: 0.97 if at == 0 else 0.3,
            lambda at: 0.3 if -160 <= at <= -130 else 0.97,
            lambda at: None if -160 <= at <= -130 else 0.97,
            lambda at: nan if -160 <= at <= -130 else 0.97,
            lambda _: 0.9,
            lambda _: None,
            lambda _: nan,
        ],
        ids=["since then", "until now", "just now", "a dip", "a gap", "no number", "at it", "not seen", "nan"],
    )
    def test_anything_less_is_none(self, gauge_at: Callable[[float], float | None]) -> None:
        assert self.said(gauge_at).verdict == "HEALTHY"


CONDITION = {"query": "sum(rate(errors[1m]))", "op": "<", "value": 0.01, "for": "5m"}
FIVE = 300.0


class TestIncident:
    """A version that does no harm of its own, whose incident has a condition."""

    def said(
        self,
        answer_at: Callable[[float], float | None],
        at: float = 0.0,
        age: float = HOUR,
        span: str | int = "5m",
        **condition: Any,
    ) -> Recheck:
        gateway = Gateway(planned({**CONDITION, "for": span, **condition}))
        gateway.answer_at = answer_at
        return look(gateway, at, age=age)

    def test_back_for_the_whole_span_it_is_not_resolved(self) -> None:
        said = self.said(lambda at: 0.25 if at >= -FIVE else 0.0)
        assert said.verdict == "BREACHED"
        assert (
            said.reason == "resolved_when: its query returns 0.25 (resolved if < 0.01) for 300 s: the incident is back"
        )

    @pytest.mark.parametrize(
        "answer_at",
        [
            lambda at: 0.25 if at > -FIVE else 0.0,
            lambda at: 0.25 if at < 0 else 0.0,
            lambda at: 0.0 if at == -FIVE / 2 else 0.25,
            lambda at: None if at == -FIVE / 2 else 0.25,
            lambda at: nan if at == -FIVE / 2 else 0.25,
            lambda at: nan if at == 0 else 0.25,
            lambda _: None,
            lambda _: nan,
            lambda _: 0.0,
            lambda _: -inf,
        ],
        ids=["since", "until now", "once resolved", "a gap", "nan", "nan now", "none", "never", "resolved", "-inf"],
    )
    def test_anything_less_changes_nothing(self, answer_at: Callable[[float], float | None]) -> None:
        assert self.said(answer_at).verdict == "HEALTHY"

    @pytest.mark.parametrize(
        ("op", "value", "yields", "said"),
        [
            ("<", 1, 1, "BREACHED"),
            ("<=", 1, 1, "HEALTHY"),
            (">", 1, 1, "BREACHED"),
            (">=", 1, 1, "HEALTHY"),
            (">", 1, 0, "BREACHED"),
            ("<", 1, inf, "BREACHED"),
            (">", 1, inf, "HEALTHY"),
            (">", 1, -inf, "BREACHED"),
        ],
    )
    def test_the_comparison_is_the_confs(self, op: str, value: float, yields: float, said: str) -> None:
        assert self.said(lambda _: float(yields), op=op, value=value).verdict == said

    @pytest.mark.parametrize(("after", "said"), [(0, "HEALTHY"), (299, "HEALTHY"), (300, "BREACHED")])
    def test_the_first_span_after_the_verification_is_the_runs_own(self, after: float, said: str) -> None:
        assert self.said(lambda _: 0.25, at=after, age=0).verdict == said

    @pytest.mark.parametrize(("after", "said"), [(0, "HEALTHY"), (299, "HEALTHY"), (300, "BREACHED")])
    def test_nor_is_the_time_of_a_later_deployment_that_came_to_nothing_its_own(self, after: float, said: str) -> None:
        gateway = Gateway(planned(CONDITION))
        gateway.answer_at = lambda _: 0.25
        gateway.clock.now = START + after
        item = PromotedDeployment(gateway.plan, GOOD_BASELINE, START - HOUR, disturbed_until=START)
        assert recheck(item, cast("Observer", gateway), START + after).verdict == said

    @pytest.mark.parametrize("short", [0, "10s", "60s"])
    def test_a_short_span_is_a_minute(self, short: str | int) -> None:
        assert self.said(lambda at: 0.25 if at >= -ALPHA_INTERVAL else 0.0, span=short).verdict == "BREACHED"
        assert self.said(lambda at: 0.25 if at > -ALPHA_INTERVAL else 0.0, span=short).verdict == "HEALTHY"

    def test_is_not_asked_of_a_version_that_cannot_be_seen(self) -> None:
        gateway = Gateway(planned(CONDITION))
        gateway.answer_at, gateway.frozen_at = lambda _: 0.25, -60
        assert verdict(gateway, 0, age=HOUR) == "BLIND"

    def test_harm_of_the_versions_own_is_the_reason_where_both_are_seen(self) -> None:
        gateway = Gateway(planned(CONDITION), Load(-inf, errors=0.5))
        gateway.answer_at = lambda _: 0.25
        assert look(gateway, 0, age=HOUR).reason.startswith("error_rate: ")

    def test_where_the_conf_has_no_condition_nothing_is_asked(self) -> None:
        gateway = Gateway(planned())
        gateway.answer = RefusedError("forbidden")
        assert verdict(gateway, 0, age=HOUR) == "HEALTHY"


def told(**more: Any) -> Gateway:
    gateway = Gateway(planned(CONDITION), **more)
    gateway.answer_at = lambda _: 0.0
    return gateway


def incident_back(value: float = 0.25) -> Gateway:
    gateway = told()
    gateway.answer_at = lambda _: value
    return gateway


def saturated() -> Gateway:
    gateway = told()
    gateway.gauge_at = lambda _: 0.97
    return gateway


def stopped() -> Gateway:
    gateway = told()
    gateway.frozen_at = -60
    return gateway


STORIES: dict[str, tuple[str, Callable[[], Gateway]]] = {
    "good": ("HEALTHY", told),
    "bad": ("BREACHED", lambda: Gateway(planned(CONDITION), Load(-inf), Load(-300, errors=0.08))),
    "slow": ("BREACHED", lambda: Gateway(planned(), Load(-inf), Load(-300, over_p99=0.1))),
    "saturated": ("BREACHED", saturated),
    "not cured": ("BREACHED", incident_back),
    "infinitely bad": ("BREACHED", lambda: incident_back(inf)),
    "unseen": ("BLIND", stopped),
    "elsewhere": ("BLIND", lambda: Gateway(planned(), Load(-inf, gone=90))),
}


@pytest.mark.parametrize(("expected", "make"), list(STORIES.values()), ids=list(STORIES))
class TestEvidence:
    def test_is_enough_to_recompute_the_verdict(self, expected: str, make: Callable[[], Gateway]) -> None:
        said = look(make(), 0, age=HOUR)
        assert said.verdict == expected
        head, look_again = replay(said.evidence.splitlines(keepends=True))
        assert (head.difference, look_again.difference, look_again.verdict) == (None, None, said.verdict)

    def test_is_plain_json(self, expected: str, make: Callable[[], Gateway]) -> None:
        lines = look(make(), 0, age=HOUR).evidence.splitlines()
        kinds = [json.loads(line, parse_constant=pytest.fail)["kind"] for line in lines]
        assert kinds == ["judge", "look"]

    def test_is_the_same_when_it_is_looked_at_again(self, expected: str, make: Callable[[], Gateway]) -> None:
        assert look(make(), 0, age=HOUR) == look(make(), 0, age=HOUR)

    def test_within_a_minute_only_grows(self, expected: str, make: Callable[[], Gateway]) -> None:
        """So looking twice costs nothing of the bound: it is one test, looked at twice."""
        gateway = make()
        first, second, third = (look(gateway, at, age=HOUR) for at in (0, 31, 59))
        assert head(first) == head(second) == head(third)
        told = [ticks(said.evidence) for said in (first, second, third)]
        assert told[1][: len(told[0])] == told[0]
        assert told[2][: len(told[1])] == told[1]

    def test_of_the_next_minute_has_a_share_and_a_span_of_its_own(
        self, expected: str, make: Callable[[], Gateway]
    ) -> None:
        gateway = make()
        before, after = look(gateway, 59.9, age=HOUR), look(gateway, 60, age=HOUR)
        assert head(after)["alpha"] < head(before)["alpha"]
        first, second = (ticks(said.evidence)[0]["at"] for said in (before, after))
        assert second - first == ALPHA_INTERVAL


class TestCost:
    """Three hundred services are looked at each minute."""

    def test_a_version_that_holds_is_asked_few_questions(self) -> None:
        gateway = told()
        look(gateway, 0, age=HOUR)
        assert len(gateway.asked) <= RECHECK_WINDOW / CHUNK_SECONDS + 1
        assert len(gateway.questions) == 1  # the incident's query

    def test_one_that_does_not_is_asked_all_of_them_in_their_order(self) -> None:
        gateway = incident_back()
        look(gateway, 0, age=HOUR)
        assert len(gateway.questions) == INCIDENT_SAMPLES
        assert gateway.questions == [-FIVE, -0.75 * FIVE, -0.5 * FIVE, -0.25 * FIVE, 0]
