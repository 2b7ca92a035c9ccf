"""A shadow stage: copies for the candidate, answers by the stable, and counts that say so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_deploy.domain.analysis.baseline import QUIET_BIN_SECONDS
from airflow_deploy.domain.analysis.evidence import EvidenceLog, replay
from airflow_deploy.domain.analysis.judge import Judge, Terms
from airflow_deploy.domain.analysis.traffic_share import TrafficShareMonitor
from airflow_deploy.domain.analysis.verdict import Finding
from airflow_deploy.domain.errors import FencedError, RefusedError
from airflow_deploy.domain.metrics.counters import Counts, Tick
from airflow_deploy.domain.metrics.sources import SOURCES
from airflow_deploy.domain.names import SERVICE_MAX, mirror_name
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.http_route import HttpRoute, mirror_ref
from airflow_deploy.domain.routing.record import BRAKED, CANARY, FINAL_VERDICT, SETTLED, SHIFTS, Patch, Shift
from airflow_deploy.domain.workloads import mirror
from airflow_deploy.factory.deployment import build_dag
from tests.support.builders import make_plan, make_spec
from tests.support.claims import guard_patch
from tests.support.json_patch import PatchRefused
from tests.support.judgement import GOOD_BASELINE, SCRAPE, START
from tests.unit.routing.test_transitions import (
    CANDIDATE,
    CLAIM,
    FIRST,
    OURS,
    STABLE,
    backend,
    body,
    claimed,
    weights,
    write,
)

SHADOW = {"share": 25, "safe_to_mirror": True}
SEEN = {"name": "payments-route", "url": "http://gateway.example.com"}
MIRROR = mirror_name(CANDIDATE)
LIMITS = make_spec().limits
SHADOWED: dict[str, Any] = {"shadow": SHADOW, "route": SEEN}


def mirrored(rules: int = 1, share: int = 25) -> HttpRoute:
    route = claimed(rules)
    return write(route, routes.shift(route, CLAIM, share, 100.0, mirrored=True))


def first(route: HttpRoute, share: int) -> HttpRoute:
    return write(route, routes.shift(route, CLAIM, share, 200.0))


class TestSpec:
    @pytest.mark.parametrize("said", [{"share": 25}, {"share": 25, "safe_to_mirror": False}])
    def test_is_refused_where_nobody_says_that_copies_do_no_harm(self, said: dict[str, Any]) -> None:
        with pytest.raises(RefusedError, match=r"safe_to_mirror is not valid: shadow copies .* or remove shadow"):
            make_spec(shadow=said, route=SEEN)

    @pytest.mark.parametrize("share", [0, 51, 100])
    def test_copies_some_requests_and_not_most(self, share: int) -> None:
        with pytest.raises(RefusedError, match=r"shadow\.share"):
            make_spec(shadow={**SHADOW, "share": share}, route=SEEN)

    def test_is_refused_where_nobody_could_see_the_gateway_mirror(self) -> None:
        with pytest.raises(RefusedError, match=r"shadow is not valid: a probe must first verify .* set route\.url"):
            make_spec(shadow=SHADOW)

    @pytest.mark.parametrize(("length", "accepted"), [(37, True), (38, False)])
    def test_a_mirrors_name_is_one_that_a_service_may_have(self, length: int, accepted: bool) -> None:
        assert length + len(mirror_name("")) - SERVICE_MAX in (0, 1)
        if accepted:
            plan = make_plan(make_spec(**SHADOWED, service="s" * length))
            assert len(mirror_name(plan.candidate)) == 63
        else:
            with pytest.raises(RefusedError, match="shadow is not valid: service has more than 37 characters"):
                make_spec(**SHADOWED, service="s" * length)

    def test_the_stage_comes_first_and_only_where_it_is_asked_for(self) -> None:
        with_it, without = build_dag(make_spec(**SHADOWED)), build_dag(make_spec())
        assert {"shadow.shift", "shadow.gate", "shadow.ask"} == with_it.task_dict.keys() - without.task_dict.keys()
        shift: Any = with_it.get_task("shadow.shift")
        gate: Any = with_it.get_task("shadow.gate")
        assert shift.upstream_task_ids == {"claim_route"}
        assert with_it.get_task("canary_5.shift").upstream_task_ids == {"shadow.gate", "shadow.ask"}
        assert (shift.share, shift.mirrored, gate.next_share) == (25, True, 5)
        assert {"shadow.shift", "shadow.gate", "shadow.ask"} <= with_it.get_task("rollback").upstream_task_ids


class TestMirror:
    def test_answers_by_the_stable_and_copies_all_that_it_gets(self) -> None:
        plan = make_plan(make_spec(**SHADOWED))
        service, shadow = mirror.mirror_objects(plan, copied=True)
        assert {item["metadata"]["name"] for item in (service, shadow)} == {mirror_name(plan.candidate)}
        copies = {"kind": "Service", "name": mirror_name(plan.candidate), "port": 80, "percent": 100}
        assert shadow["spec"] == {
            "mirroring": {"kind": "Service", "name": plan.stable, "port": 80, "mirrors": [copies]}
        }
        assert service["spec"]["selector"].items() <= plan.pod_labels.items()

    def test_copies_to_nobody_before_it_is_seen_to_answer(self) -> None:
        plan = make_plan(make_spec(**SHADOWED))
        service, _ = mirror.mirror_objects(plan, copied=False)
        assert not service["spec"]["selector"].items() <= plan.pod_labels.items()

    def test_is_kept_whoever_deletes_it(self) -> None:
        for item in mirror.mirror_objects(make_plan(make_spec(**SHADOWED)), copied=True):
            assert item["metadata"]["finalizers"] == ["airflow-deploy/mirror"]


class TestRoute:
    def test_does_not_name_the_mirror_before_copies_are_asked_for(self) -> None:
        assert not claimed(2).mentions(MIRROR)

    def test_gives_the_mirror_its_share_and_the_candidate_none(self) -> None:
        route = mirrored(2)
        assert weights(route) == [{STABLE: 75, CANDIDATE: 0, MIRROR: 25}] * 2
        assert route.body["spec"]["rules"][1]["backendRefs"][2] == {
            "group": "traefik.io",
            "kind": "TraefikService",
            "name": MIRROR,
            "weight": 25,
        }
        assert route.shifts == [Shift(25, 100.0, mirrored=True)]
        assert (route.serves(CANDIDATE), route.mirrors_to(CANDIDATE)) == (False, True)
        assert routes.shift(route, CLAIM, 25, 200.0, mirrored=True) == []

    @pytest.mark.parametrize("share", [5, 25, 100])
    def test_the_first_share_takes_the_mirror_out(self, share: int) -> None:
        route = first(mirrored(2), share)
        assert weights(route) == [{STABLE: 100 - share, CANDIDATE: share}] * 2
        assert not route.mentions(MIRROR)
        assert [shift.mirrored for shift in route.shifts] == [True, False]

    @pytest.mark.parametrize(
        "lower",
        [
            lambda route: routes.rollback(route, CLAIM, BRAKED, "why"),
            lambda route: routes.rollback(route, CLAIM, SETTLED),
            lambda route: guard_patch(route, "nobody looks"),
        ],
    )
    @pytest.mark.parametrize("others", [0, 1])
    def test_whoever_takes_it_back_takes_the_mirror_out(self, lower: Callable[[HttpRoute], Patch], others: int) -> None:
        """Also where somebody has added a backend behind it."""
        route = mirrored(2)
        for rule in route.body["spec"]["rules"]:
            rule["backendRefs"] += [backend("theirs", 0)] * others
        route = write(route, lower(route))
        left = {STABLE: 100, CANDIDATE: 0, **dict.fromkeys(["theirs"] * others, 0)}
        assert weights(route) == [left] * 2
        assert not route.mentions(MIRROR)

    def test_a_mirror_that_stands_alone_beside_the_stable_goes_too(self) -> None:
        """Somebody has removed the candidate from one rule."""
        route = mirrored(2)
        del route.body["spec"]["rules"][0]["backendRefs"][1]
        route = write(route, routes.rollback(route, CLAIM, BRAKED))
        assert not route.mentions(MIRROR)

    def test_a_mirror_without_a_weight_is_not_left_there(self) -> None:
        route = write(mirrored(), routes.rollback(mirrored(), CLAIM, SETTLED))
        route.body["spec"]["rules"][0]["backendRefs"].append(mirror_ref(CANDIDATE, 0))
        again = routes.rollback(route, CLAIM, SETTLED)
        assert not write(route, again).mentions(MIRROR)

    def test_one_that_is_gone_meanwhile_refuses_the_patch_whole(self) -> None:
        route = mirrored()
        patch = routes.rollback(route, CLAIM, BRAKED)
        del route.body["spec"]["rules"][0]["backendRefs"][2]
        with pytest.raises(PatchRefused):
            write(route, patch)

    def test_weights_of_the_mirror_that_nobody_of_us_set_are_fenced(self) -> None:
        route = mirrored()
        route.body["spec"]["rules"][0]["backendRefs"][2]["weight"] = 30
        with pytest.raises(FencedError, match="they were changed by hand"):
            first(route, 5)

    def test_comes_before_every_share_and_beside_a_stable(self) -> None:
        route = first(claimed(), 5)
        with pytest.raises(FencedError, match="requests are mirrored only beside a stable"):
            routes.shift(route, CLAIM, 25, 200.0, mirrored=True)
        empty = HttpRoute(body([]))
        route = write(empty, routes.claim(empty, FIRST)[1])
        with pytest.raises(FencedError, match="requests are mirrored only beside a stable"):
            routes.shift(route, FIRST, 25, 200.0, mirrored=True)

    def test_with_a_mirror_at_work_is_nobody_elses_to_claim(self) -> None:
        with pytest.raises(RefusedError, match=f"{STABLE} and {MIRROR} serves it; the deployment {OURS} is not over"):
            mirrored().stable()

    def test_is_promoted_as_any_other(self) -> None:
        route = first(mirrored(), 100)
        route = write(route, routes.promote(route, CLAIM))
        assert weights(write(route, routes.confirm(route, CLAIM))) == [{STABLE: 0, CANDIDATE: 100}]

    def test_keeps_the_record_of_the_copies_after_a_brake(self) -> None:
        route = write(mirrored(), routes.rollback(mirrored(), CLAIM, BRAKED, "why"))
        assert (route.shifts, route.annotations[FINAL_VERDICT]) == ([Shift(25, 100.0, mirrored=True)], "why")

    def test_reads_shifts_of_before(self) -> None:
        route = mirrored()
        route.body["metadata"]["annotations"][SHIFTS] = json.dumps([{"share": 5, "at": 1.0}])
        assert route.shifts == [Shift(5, 1.0)]
        route.body["metadata"]["annotations"][SHIFTS] = json.dumps([5])
        with pytest.raises(FencedError, match=r"the annotation .* was changed by hand"):
            assert route.shifts

    def test_is_still_in_the_canary(self) -> None:
        assert mirrored().phase == CANARY


class TestCounts:
    @pytest.mark.parametrize("share", [1, 10, 25, 50])
    def test_a_mirror_that_delivers_is_not_called_one_that_does_not(self, share: int) -> None:
        delivery = TrafficShareMonitor(1.05, 10.0)
        for scrape in range(60):
            # Each copy is one more request that is counted; users' come as before.
            counted = Shift(share, 0.0, mirrored=True).counted
            delivery.observe(float(scrape), 20.0 * share, 2000.0, counted, mirrored=True)
        assert delivery.share().verdict == "HEALTHY"
        assert delivery.traffic_lost() is None

    def test_copies_that_do_not_arrive_are_no_sight(self) -> None:
        delivery = TrafficShareMonitor(2.0, 10.0)
        for scrape in range(60):
            delivery.observe(float(scrape), 0.0, 200.0, 20.0, mirrored=True)
        assert delivery.share().verdict == "BLIND"

    def test_users_who_go_are_not_made_up_for_by_copies(self) -> None:
        """Of 200 a second 70 are left, and half of them are copied."""

        def gone(*, mirrored: bool) -> Finding | None:
            delivery = TrafficShareMonitor(2.0, 200.0)
            for second in range(int(QUIET_BIN_SECONDS) + 60):
                delivery.observe(float(second), 35.0, 70.0, 33.33, mirrored=mirrored)
            return delivery.traffic_lost()

        found = gone(mirrored=True)
        assert found is not None
        assert found.reason.startswith(
            "request_rate: the service gets 70 requests per second since the shift to 33.33 %"
        )
        assert gone(mirrored=False) is None

    def test_of_a_mirror_are_those_of_both_versions(self) -> None:
        preset, services = SOURCES["traefik"].with_mirrors(), (CANDIDATE, STABLE)

        def version(backend: str) -> str | None:
            return preset.service_of({"service": backend}, "shop", "payments", services)

        assert version(f"shop-{STABLE}-80@kubernetescrd") == STABLE
        assert version(f"shop-{MIRROR}-80@kubernetescrd") == CANDIDATE
        assert version(f"httproute-shop-payments-gw-svc-shop-{STABLE}-0@kubernetesgateway") == STABLE
        assert version(f"other-{STABLE}-80@kubernetescrd") is None
        assert version(f"shop-{MIRROR}@kubernetescrd") is None
        plain = SOURCES["traefik"].service_of({"service": f"shop-{STABLE}-80@kubernetescrd"}, "shop", "x", services)
        assert plain is None

    def test_where_applications_count_copies_are_requests_like_others(self) -> None:
        assert SOURCES["application"].with_mirrors() == SOURCES["application"]


def counts(requests: float, errors: float = 0.0) -> Counts:
    return Counts(requests, errors, requests, dict.fromkeys((0.5, 1.0), requests))


def scrapes(
    judge: Judge | EvidenceLog, since: int, number: int, share: float, errors: float, *, mirrored: bool
) -> None:
    for at in range(since, since + number):
        mine, control = counts(20, errors), counts(80)
        judge.observe(Tick(START + SCRAPE * at, {CANDIDATE: mine, STABLE: control}), share, mirrored=mirrored)


def terms(*, apart: bool = False) -> Terms:
    return Terms(limits=LIMITS, candidate=CANDIDATE, stable=STABLE, baseline=GOOD_BASELINE, apart=apart)


def trials(judge: Judge) -> float:
    (finding,) = (finding for finding in judge.health(5) if finding.gate == "error_rate")
    return float(finding.numbers["trials"])


@pytest.mark.parametrize("apart", [False, True])
class TestEvidence:
    def test_of_copies_is_health_enough_for_the_first_share_and_for_no_later_one(self, apart: bool) -> None:
        judge = Judge(terms(apart=apart))
        scrapes(judge, 0, 50, 20.0, 0, mirrored=True)
        assert {finding.verdict for finding in judge.health(5) if finding.gate == "error_rate"} == {"HEALTHY"}
        assert trials(judge) == 20 * (49 if apart else 50)
        scrapes(judge, 50, 3, 5, 0, mirrored=False)
        assert trials(judge) == 20 * (2 if apart else 3)
        (late,) = (finding for finding in judge.health(100) if finding.gate == "error_rate")
        assert late.verdict == "UNDECIDED"

    def test_of_copies_that_fail_is_harm(self, apart: bool) -> None:
        judge = Judge(terms(apart=apart))
        scrapes(judge, 0, 10, 20.0, 10, mirrored=True)
        assert "error_rate" in {finding.gate for finding in judge.harm()}

    def test_of_harm_by_copies_is_not_forgotten(self, apart: bool) -> None:
        judge = Judge(terms(apart=apart))
        scrapes(judge, 0, 10, 20.0, 10, mirrored=True)
        scrapes(judge, 10, 50, 5, 0, mirrored=False)
        assert "error_rate" in {finding.gate for finding in judge.harm()}

    def test_is_recomputed_from_its_record(self, apart: bool) -> None:
        log = EvidenceLog(terms(apart=apart), {})
        scrapes(log, 0, 10, 20.0, 0, mirrored=True)
        log.look(START + 60, None, 5)
        scrapes(log, 10, 3, 5, 0, mirrored=False)
        log.look(START + 80, None, 25, final=True)
        assert [item.difference for item in replay(log.lines().splitlines(keepends=True))] == [None] * 3
        assert '"mirrored":true' in log.lines()
