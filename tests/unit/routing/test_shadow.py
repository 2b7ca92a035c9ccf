"""A shadow stage: copies for the candidate, answers by the stable, and the counts of both."""

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
    def test_shadow_without_safe_to_mirror_is_refused(self, said: dict[str, Any]) -> None:
        with pytest.raises(RefusedError, match=r"safe_to_mirror is not valid: shadow copies .* or remove shadow"):
            make_spec(shadow=said, route=SEEN)

    @pytest.mark.parametrize("share", [0, 51, 100])
    def test_shadow_share_outside_1_to_50_is_refused(self, share: int) -> None:
        with pytest.raises(RefusedError, match=r"shadow\.share"):
            make_spec(shadow={**SHADOW, "share": share}, route=SEEN)

    def test_shadow_without_a_route_url_is_refused(self) -> None:
        with pytest.raises(RefusedError, match=r"shadow is not valid: a probe must first verify .* set route\.url"):
            make_spec(shadow=SHADOW)

    @pytest.mark.parametrize(("length", "accepted"), [(37, True), (38, False)])
    def test_service_name_too_long_for_a_mirror_is_refused(self, length: int, accepted: bool) -> None:
        assert length + len(mirror_name("")) - SERVICE_MAX in (0, 1)
        if accepted:
            plan = make_plan(make_spec(**SHADOWED, service="s" * length))
            assert len(mirror_name(plan.candidate)) == 63
        else:
            with pytest.raises(RefusedError, match="shadow is not valid: service has more than 37 characters"):
                make_spec(**SHADOWED, service="s" * length)

    def test_shadow_stage_comes_first_and_only_if_declared(self) -> None:
        with_it, without = build_dag(make_spec(**SHADOWED)), build_dag(make_spec())
        assert {"shadow.shift", "shadow.gate", "shadow.ask"} == with_it.task_dict.keys() - without.task_dict.keys()
        shift: Any = with_it.get_task("shadow.shift")
        gate: Any = with_it.get_task("shadow.gate")
        assert shift.upstream_task_ids == {"claim_route"}
        assert with_it.get_task("canary_5.shift").upstream_task_ids == {"shadow.gate", "shadow.ask"}
        assert (shift.share, shift.mirrored, gate.next_share) == (25, True, 5)
        assert {"shadow.shift", "shadow.gate", "shadow.ask"} <= with_it.get_task("rollback").upstream_task_ids


class TestMirror:
    def test_mirror_answers_by_the_stable_and_copies_every_request(self) -> None:
        plan = make_plan(make_spec(**SHADOWED))
        service, shadow = mirror.mirror_objects(plan, copied=True)
        assert {item["metadata"]["name"] for item in (service, shadow)} == {mirror_name(plan.candidate)}
        copies = {"kind": "Service", "name": mirror_name(plan.candidate), "port": 80, "percent": 100}
        assert shadow["spec"] == {
            "mirroring": {"kind": "Service", "name": plan.stable, "port": 80, "mirrors": [copies]}
        }
        assert service["spec"]["selector"].items() <= plan.pod_labels.items()

    def test_mirror_selects_no_pods_before_it_is_verified(self) -> None:
        plan = make_plan(make_spec(**SHADOWED))
        service, _ = mirror.mirror_objects(plan, copied=False)
        assert not service["spec"]["selector"].items() <= plan.pod_labels.items()

    def test_mirror_objects_have_a_finalizer(self) -> None:
        for item in mirror.mirror_objects(make_plan(make_spec(**SHADOWED)), copied=True):
            assert item["metadata"]["finalizers"] == ["airflow-deploy/mirror"]


class TestRoute:
    def test_claimed_route_does_not_name_the_mirror(self) -> None:
        assert not claimed(2).mentions(MIRROR)

    def test_shadow_shift_gives_the_mirror_its_share_and_the_candidate_none(self) -> None:
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
    def test_first_share_removes_the_mirror(self, share: int) -> None:
        route = first(mirrored(2), share)
        assert weights(route) == [{STABLE: 100 - share, CANDIDATE: share}] * 2
        assert not route.mentions(MIRROR)
        assert [shift.mirrored for shift in route.shifts] == [True, False]

    @pytest.mark.parametrize(
        "lower",
        [
            lambda route: routes.rollback(route, CLAIM, BRAKED, "why"),
            lambda route: routes.rollback(route, CLAIM, SETTLED),
            lambda route: guard_patch(route, "Lease expired"),
        ],
    )
    @pytest.mark.parametrize("others", [0, 1])
    def test_rollback_and_guard_remove_the_mirror(self, lower: Callable[[HttpRoute], Patch], others: int) -> None:
        """Also if the team has added a backend after it."""
        route = mirrored(2)
        for rule in route.body["spec"]["rules"]:
            rule["backendRefs"] += [backend("theirs", 0)] * others
        route = write(route, lower(route))
        left = {STABLE: 100, CANDIDATE: 0, **dict.fromkeys(["theirs"] * others, 0)}
        assert weights(route) == [left] * 2
        assert not route.mentions(MIRROR)

    def test_rollback_removes_the_mirror_from_a_rule_without_the_candidate(self) -> None:
        """The candidate was removed from one rule by hand."""
        route = mirrored(2)
        del route.body["spec"]["rules"][0]["backendRefs"][1]
        route = write(route, routes.rollback(route, CLAIM, BRAKED))
        assert not route.mentions(MIRROR)

    def test_rollback_removes_a_mirror_of_weight_0(self) -> None:
        route = write(mirrored(), routes.rollback(mirrored(), CLAIM, SETTLED))
        route.body["spec"]["rules"][0]["backendRefs"].append(mirror_ref(CANDIDATE, 0))
        again = routes.rollback(route, CLAIM, SETTLED)
        assert not write(route, again).mentions(MIRROR)

    def test_rollback_patch_is_refused_if_the_mirror_was_removed(self) -> None:
        route = mirrored()
        patch = routes.rollback(route, CLAIM, BRAKED)
        del route.body["spec"]["rules"][0]["backendRefs"][2]
        with pytest.raises(PatchRefused):
            write(route, patch)

    def test_shift_is_refused_if_the_mirrors_weight_was_changed_by_hand(self) -> None:
        route = mirrored()
        route.body["spec"]["rules"][0]["backendRefs"][2]["weight"] = 30
        with pytest.raises(FencedError, match="they were changed by hand"):
            first(route, 5)

    def test_mirroring_needs_a_stable_and_no_share_before(self) -> None:
        route = first(claimed(), 5)
        with pytest.raises(FencedError, match="requests are mirrored only beside a stable"):
            routes.shift(route, CLAIM, 25, 200.0, mirrored=True)
        empty = HttpRoute(body([]))
        route = write(empty, routes.claim(empty, FIRST)[1])
        with pytest.raises(FencedError, match="requests are mirrored only beside a stable"):
            routes.shift(route, FIRST, 25, 200.0, mirrored=True)

    def test_route_with_an_active_mirror_cannot_be_claimed(self) -> None:
        with pytest.raises(RefusedError, match=f"{STABLE} and {MIRROR} serves it; the deployment {OURS} is not over"):
            mirrored().stable()

    def test_route_is_promoted_after_a_shadow_stage(self) -> None:
        route = first(mirrored(), 100)
        route = write(route, routes.promote(route, CLAIM))
        assert weights(write(route, routes.confirm(route, CLAIM))) == [{STABLE: 0, CANDIDATE: 100}]

    def test_rollback_keeps_the_record_of_the_mirrored_shift(self) -> None:
        route = write(mirrored(), routes.rollback(mirrored(), CLAIM, BRAKED, "why"))
        assert (route.shifts, route.annotations[FINAL_VERDICT]) == ([Shift(25, 100.0, mirrored=True)], "why")

    def test_shifts_recorded_before_mirroring_existed_are_read(self) -> None:
        route = mirrored()
        route.body["metadata"]["annotations"][SHIFTS] = json.dumps([{"share": 5, "at": 1.0}])
        assert route.shifts == [Shift(5, 1.0)]
        route.body["metadata"]["annotations"][SHIFTS] = json.dumps([5])
        with pytest.raises(FencedError, match=r"the annotation .* was changed by hand"):
            assert route.shifts

    def test_mirrored_route_is_in_the_canary_phase(self) -> None:
        assert mirrored().phase == CANARY


class TestCounts:
    @pytest.mark.parametrize("share", [1, 10, 25, 50])
    def test_mirror_that_delivers_its_share_is_healthy(self, share: int) -> None:
        delivery = TrafficShareMonitor(1.05, 10.0)
        for scrape in range(60):
            # Each copy is one more request that is counted; users' come as before.
            counted = Shift(share, 0.0, mirrored=True).counted
            delivery.observe(float(scrape), 20.0 * share, 2000.0, counted, mirrored=True)
        assert delivery.share().verdict == "HEALTHY"
        assert delivery.traffic_lost() is None

    def test_mirror_without_copies_is_blind(self) -> None:
        delivery = TrafficShareMonitor(2.0, 10.0)
        for scrape in range(60):
            delivery.observe(float(scrape), 0.0, 200.0, 20.0, mirrored=True)
        assert delivery.share().verdict == "BLIND"

    def test_copies_do_not_hide_lost_traffic(self) -> None:
        """Of 200 requests per second 70 remain, and half of them are copied."""

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

    def test_mirrored_counters_are_attributed_to_both_versions(self) -> None:
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

    def test_application_metrics_count_copies_as_requests(self) -> None:
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
    def test_copies_are_evidence_of_health_for_the_first_share_only(self, apart: bool) -> None:
        judge = Judge(terms(apart=apart))
        scrapes(judge, 0, 50, 20.0, 0, mirrored=True)
        assert {finding.verdict for finding in judge.health(5) if finding.gate == "error_rate"} == {"HEALTHY"}
        assert trials(judge) == 20 * (49 if apart else 50)
        scrapes(judge, 50, 3, 5, 0, mirrored=False)
        assert trials(judge) == 20 * (2 if apart else 3)
        (late,) = (finding for finding in judge.health(100) if finding.gate == "error_rate")
        assert late.verdict == "UNDECIDED"

    def test_failing_copies_are_harm(self, apart: bool) -> None:
        judge = Judge(terms(apart=apart))
        scrapes(judge, 0, 10, 20.0, 10, mirrored=True)
        assert "error_rate" in {finding.gate for finding in judge.harm()}

    def test_harm_by_copies_stays_harm_after_the_shadow_stage(self, apart: bool) -> None:
        judge = Judge(terms(apart=apart))
        scrapes(judge, 0, 10, 20.0, 10, mirrored=True)
        scrapes(judge, 10, 50, 5, 0, mirrored=False)
        assert "error_rate" in {finding.gate for finding in judge.harm()}

    def test_evidence_of_copies_is_recomputed_from_its_record(self, apart: bool) -> None:
        log = EvidenceLog(terms(apart=apart), {})
        scrapes(log, 0, 10, 20.0, 0, mirrored=True)
        log.look(START + 60, None, 5)
        scrapes(log, 10, 3, 5, 0, mirrored=False)
        log.look(START + 80, None, 25, final=True)
        assert [item.difference for item in replay(log.lines().splitlines(keepends=True))] == [None] * 3
        assert '"mirrored":true' in log.lines()
