"""A Service in the place of a route: whose pods it selects at each step, and which writes are refused."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.errors import FencedError, RefusedError
from airflow_deploy.domain.labels import VERSION
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.sources import SOURCES
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.lease import LEASE_SUFFIXES, Lease, lease_name, new_lease
from airflow_deploy.domain.routing.pod_shares import pods_for_stage, share_of
from airflow_deploy.domain.routing.record import OWNER, Patch, Shift
from airflow_deploy.domain.routing.service_route import ADOPTED, ServiceRoute
from airflow_deploy.domain.routing.team_route import absent_route
from tests.support.builders import make_plan, make_spec
from tests.support.claims import guard_patch, undo_patch
from tests.support.json_patch import PatchRefused, apply_patch

TEAM = "payments"
LABELS = {"app.kubernetes.io/name": "payments", "tier": "web"}
SHARES = [33, 50, 100]


def spec(**changes: Any) -> DeploymentSpec:
    return make_spec(**{"router": "replicas", "metrics": "pods", "replicas": 2, "route": {"name": TEAM}, **changes})


def plan(number: int = 0, stable: str = TEAM) -> DeploymentPlan:
    when = 1_795_417_200 + number
    return make_plan(
        spec(), stable=stable, adopted={TEAM: LABELS}, stable_ready=2, created=when, run_id=f"manual__{number}"
    )


class Service:
    """The team's Service, and the pods of the namespace by their Deployment: all of them are up all the time."""

    def __init__(self) -> None:
        self.body: dict[str, Any] = {
            "metadata": {"name": TEAM, "namespace": "shop", "resourceVersion": "1"},
            "spec": {"selector": dict(LABELS), "ports": [{"port": 80}]},
        }
        self.pods: dict[str, dict[str, str]] = {TEAM: {**LABELS, "since": "2024"}}

    @property
    def route(self) -> ServiceRoute:
        return ServiceRoute(self.body)

    def write(self, patch: Patch) -> None:
        self.body = apply_patch(self.body, patch)

    def claimed(self, planned: DeploymentPlan) -> Claim:
        self.pods[planned.candidate] = planned.pod_labels
        self.write(self.route.adopt(planned.stable))
        claim, patch = routes.claim(self.route, planned.claim())
        self.write(patch)
        return claim

    def shifted(self, planned: DeploymentPlan, share: int) -> Service:
        self.write(routes.shift(self.route, planned.claim(self.route.owner), share, 100.0))
        return self

    def verified(self, planned: DeploymentPlan) -> Service:
        claim = self.claimed(planned)
        self.shifted(planned, 100)
        self.write(routes.promote(self.route, claim))
        self.write(routes.confirm(self.route, claim))
        return self

    def behind(self) -> set[str]:
        """Return the versions whose pods are selected."""
        return {name for name, labels in self.pods.items() if self.route.selector.items() <= labels.items()}


def at_share(share: int) -> tuple[Service, DeploymentPlan, Claim]:
    service, planned = Service(), plan()
    claim = service.claimed(planned)
    if share:
        service.shifted(planned, share)
    return service, planned, claim


class TestBesideWhatTheTeamHasBrought:
    def test_claim_does_not_change_the_selector(self) -> None:
        service, planned, _ = at_share(0)
        assert service.route.selector == LABELS
        assert service.route.serving() == TEAM
        assert not service.route.serves(planned.candidate)

    @pytest.mark.parametrize("share", [33, 50])
    def test_partial_share_selects_both_versions(self, share: int) -> None:
        service, planned, _ = at_share(share)
        assert service.behind() == {TEAM, planned.candidate}
        assert service.route.serves(planned.candidate)
        assert service.route.serving() == TEAM

    def test_full_share_selects_the_candidate_alone(self) -> None:
        service, planned, _ = at_share(100)
        assert service.behind() == {planned.candidate}
        assert (service.route.serving(), service.route.serves(TEAM)) == (planned.candidate, False)

    @pytest.mark.parametrize("share", SHARES)
    def test_rollback_selects_the_stable(self, share: int) -> None:
        service, planned, claim = at_share(share)
        service.write(routes.rollback(service.route, claim, routes.BRAKED, "worse"))
        assert service.route.selector == LABELS
        assert not service.route.serves(planned.candidate)
        assert routes.rollback(service.route, claim, routes.BRAKED) == []


class TestBesideAVersionOfOurs:
    def second(self) -> tuple[Service, DeploymentPlan]:
        first = plan()
        service = Service().verified(first)
        return service, plan(1, first.candidate)

    def test_version_before_the_stable_is_never_selected(self) -> None:
        service, planned = self.second()
        service.claimed(planned)
        assert service.behind() == {planned.stable}
        service.shifted(planned, 50)
        assert service.behind() == {planned.stable, planned.candidate}
        service.shifted(planned, 100)
        assert service.behind() == {planned.candidate}

    def test_rollback_deselects_the_candidate_in_one_write(self) -> None:
        service, planned = self.second()
        claim = service.claimed(planned)
        service.shifted(planned, 50)
        service.write(routes.rollback(service.route, claim, routes.BRAKED))
        assert service.behind() == {planned.stable}

    def test_first_version_stays_deselected_after_two_promotions(self) -> None:
        service, planned = self.second()
        service.verified(planned)
        third = plan(2, planned.candidate)
        service.claimed(third)
        for share in (33, 50):
            assert service.shifted(third, share).behind() == {third.stable, third.candidate}
        assert service.shifted(third, 100).behind() == {third.candidate}

    def test_undo_of_a_promotion_selects_the_version_before(self) -> None:
        service, planned = self.second()
        service.verified(planned)
        patch = undo_patch(service.route, planned.claim())
        service.write(patch)
        assert service.behind() == {planned.stable}
        assert service.route.phase == routes.SETTLED


class TestTakingBack:
    def test_undo_of_the_first_promotion_restores_the_teams_selector(self) -> None:
        service, planned = Service(), plan()
        service.verified(planned)
        service.write(undo_patch(service.route, planned.claim()))
        assert service.route.selector == LABELS

    def test_undo_is_possible_after_a_later_deployment_was_rolled_back(self) -> None:
        first = plan()
        service, later = Service().verified(first), plan(1, first.candidate)
        claim = service.claimed(later)
        service.shifted(later, 50)
        service.write(routes.rollback(service.route, claim, routes.SETTLED))
        service.write(undo_patch(service.route, first.claim()))
        assert service.route.selector == LABELS
        assert service.route.versions == (TEAM, first.candidate)  # whose pods are still to go

    def test_undo_is_refused_while_another_deployment_runs(self) -> None:
        first = plan()
        service = Service().verified(first)
        service.claimed(plan(1, first.candidate))
        with pytest.raises(FencedError, match="it is not rolled back"):
            undo_patch(service.route, first.claim())


class TestOvertaken:
    @pytest.mark.parametrize(("share", "following"), [(0, 33), (33, 50), (50, 100), (33, 100)])
    def test_shift_is_refused_if_the_selector_was_changed_by_hand(self, share: int, following: int) -> None:
        service, _planned, claim = at_share(share)
        service.body["spec"]["selector"] = {"app": "mine"}
        with pytest.raises(FencedError, match=r"selects app=mine, and the last shift set .*; it was changed by hand"):
            routes.shift(service.route, claim, following, 0.0)

    @pytest.mark.parametrize("share", SHARES)
    def test_rollback_restores_a_selector_changed_by_hand(self, share: int) -> None:
        service, _planned, claim = at_share(share)
        service.body["spec"]["selector"] = {"app": "mine"}
        service.write(routes.rollback(service.route, claim, routes.BRAKED))
        assert service.route.selector == LABELS

    @pytest.mark.parametrize("change", ["selector", OWNER])
    def test_prepared_shift_is_refused_after_a_concurrent_change(self, change: str) -> None:
        service, planned, claim = at_share(33)
        patch = routes.shift(service.route, claim, 100, 0.0)
        if change == "selector":
            service.body["spec"]["selector"] = {"app": "mine"}
        else:
            service.body["metadata"]["annotations"][OWNER] = f"{planned.deployment_id}/2"
        with pytest.raises(PatchRefused):
            service.write(patch)

    def test_guard_rollback_selects_the_stable_and_fences_the_run(self) -> None:
        service, _planned, claim = at_share(100)
        service.write(guard_patch(service.route, "Lease expired"))
        assert (service.route.selector, service.route.epoch) == (LABELS, 2)
        with pytest.raises(FencedError):
            routes.shift(service.route, claim, 100, 0.0)

    def test_claim_is_refused_if_another_version_serves_than_planned(self) -> None:
        service, planned = Service().verified(plan()), plan(1, TEAM)
        with pytest.raises(FencedError, match="is served by payments-0123456-1795417200 now, not by payments"):
            routes.claim(service.route, planned.claim())


class TestWhatIsThere:
    def test_serving_version_is_unknown_before_the_first_claim(self) -> None:
        assert Service().route.serving() == ""

    def test_next_deployment_adopts_a_foreign_selector(self) -> None:
        first = plan()
        service = Service().verified(first)
        service.body["spec"]["selector"] = {"app": "mine"}
        assert service.route.serving() == ""
        with pytest.raises(RefusedError, match="selects app=mine, which no deployment has set"):
            service.route.stable()
        service.write(service.route.adopt("other"))
        assert service.route.serving() == "other"
        assert service.route.labels_of("other") == {"app": "mine"}

    def test_labels_of_the_old_selector_do_not_change_the_serving_version(self) -> None:
        first = plan()
        service, second = Service().verified(first), plan(1, first.candidate)
        service.body["spec"]["selector"] |= LABELS
        assert (service.behind(), service.route.serving()) == ({first.candidate}, first.candidate)
        service.claimed(second)
        assert service.route.selector == {VERSION: first.candidate}
        service.shifted(second, 50).body["spec"]["selector"] |= LABELS
        assert service.behind() == {first.candidate, second.candidate}
        service.body["spec"]["selector"] = {VERSION: second.candidate, **LABELS}
        assert service.behind() == {second.candidate}
        service.body["spec"]["selector"] |= {"other": "label"}
        assert service.route.serving() == ""

    def test_earlier_adopted_selectors_stay_recorded(self) -> None:
        service = Service().verified(plan())
        service.body["spec"]["selector"] = {"app": "mine"}
        service.write(service.route.adopt("other"))
        assert set(service.route.adopted) == {TEAM, "other"}

    @pytest.mark.parametrize("said", ["[]", "{", '{"payments": 1}', "null", '"x"'])
    def test_overwritten_annotation_is_reported(self, said: str) -> None:
        service, _planned, claim = at_share(33)
        service.body["metadata"]["annotations"][ADOPTED] = said
        with pytest.raises(FencedError, match=f"the annotation {ADOPTED} was changed by hand"):
            routes.rollback(service.route, claim, routes.BRAKED)

    def test_deleted_service_serves_no_version(self) -> None:
        gone = absent_route(ServiceRoute, "shop", TEAM)
        assert (gone.is_there, gone.serving(), gone.owner, gone.names("x")) == (False, "", None, False)

    def test_serving_and_claimed_versions_count_as_in_use(self) -> None:
        service, planned, _ = at_share(33)
        assert [service.route.mentions(name) for name in (TEAM, planned.candidate, "other")] == [True, True, False]
        assert [service.route.names(name) for name in (TEAM, planned.candidate, "other")] == [True, True, False]

    def test_gitops_tool_that_owns_the_selector_is_named(self) -> None:
        service = Service()
        fields: dict[str, Any] = {"f:spec": {"f:selector": {}}}
        service.body["metadata"]["managedFields"] = [{"manager": "argocd-controller", "fieldsV1": fields}]
        assert service.route.gitops_managers() == ["argocd-controller"]
        service.body["metadata"]["managedFields"][0]["fieldsV1"] = {"f:spec": {"f:ports": {}}}
        assert service.route.gitops_managers() == []


class TestDivision:
    @pytest.mark.parametrize(
        ("stage", "stable", "most", "pods"),
        [(5, 2, 2, 1), (50, 2, 2, 2), (50, 2, 1, 1), (5, 19, 20, 1), (5, 20, 20, 2), (25, 9, 9, 3), (100, 9, 4, 4)],
    )
    def test_stage_uses_the_fewest_pods_that_reach_its_share(
        self, stage: int, stable: int, most: int, pods: int
    ) -> None:
        assert pods_for_stage(stage, stable, most) == pods

    @given(st.integers(1, 99), st.integers(1, 200), st.integers(1, 200))
    def test_share_follows_from_the_number_of_pods(self, stage: int, stable: int, most: int) -> None:
        pods = pods_for_stage(stage, stable, most)
        assert 1 <= pods <= most
        assert share_of(pods, stable) <= max(1.0, 100 * pods / (pods + stable)) < share_of(pods, stable) + 1
        if pods < most:
            assert 100 * pods >= stage * (pods + stable)
        if 1 < pods < most:
            assert 100 * (pods - 1) < stage * (pods - 1 + stable)

    @given(st.integers(1, 50), st.integers(1, 50), st.lists(st.integers(1, 99), max_size=4, unique=True))
    def test_shares_rise_with_their_pods_and_end_at_100(self, stable: int, most: int, stages: list[int]) -> None:
        declared = spec(replicas=most, canary={"stages": [*sorted(stages), 100]}, criticality="low")
        planned = make_plan(declared, stable_ready=stable)
        shares = [share for stage in declared.canary.stages for share in planned.router.shares(stage)]
        assert shares == sorted(shares)
        assert shares[-1] == 100
        needed = [planned.pods_for(share) for share in shares]
        assert all(one <= two for one, two in pairwise(needed))
        assert needed[-1] == most
        for share, pods in zip(shares[:-1], needed[:-1], strict=True):
            assert share_of(pods, stable) == share

    def test_candidate_has_all_its_pods_before_the_full_share(self) -> None:
        assert plan().router.shares(100) == (50, 100)
        assert plan().router.shares(5) == (33,)
        assert [plan().pods_for(share) for share in (33, 50, 100)] == [1, 2, 2]


class TestDeclared:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            (
                {"route": {"name": TEAM, "url": "http://gateway:80"}},
                "router is not valid: .* remove route.url and route.gateway",
            ),
            (
                {"route": {"name": TEAM, "gateway": {"name": "a", "namespace": "b"}, "hostnames": ["a.example.com"]}},
                "router is not valid: .* remove route.url and route.gateway",
            ),
            ({"metrics": "traefik"}, "metrics is not valid: .* needs the preset pods"),
            ({"metrics": "application"}, "metrics is not valid: .* needs the preset pods"),
            ({"router": "gateway"}, "metrics is not valid: .* needs the preset pods"),
            ({"shadow": {"share": 5, "safe_to_mirror": True}}, "shadow is not valid: .* remove shadow"),
            ({"scaling": {"max": 4}}, "scaling is not valid: .* remove scaling"),
            ({"service": "a" * 28}, "router is not valid: .* at most 27 characters"),
            ({"router": "nginx"}, "router is not valid: "),
        ],
    )
    def test_spec_that_pods_cannot_fulfil_is_refused(self, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(RefusedError, match=said):
            spec(**changes)

    def test_pod_names_of_the_longest_service_name_are_not_cut(self) -> None:
        planned = make_plan(spec(service="a" * 27))
        pod = f"{planned.candidate}-{'f' * 10}-"
        assert len(pod) <= 58  # where the API server cuts

    def test_version_of_a_pod_follows_from_its_name(self) -> None:
        planned = plan()
        preset, versions = SOURCES["pods"], [planned.candidate, TEAM]
        pods = {
            f"{TEAM}-7d4b9c6f5-x2x4z": TEAM,
            f"{planned.candidate}-7d4b9c6f5d-abcde": planned.candidate,
            f"{TEAM}-abcdef0-1795417999-7d4b9c6f5d-abcde": None,
            f"{TEAM}s-7d4b9c6f5-x2x4z": None,
        }
        assert {pod: preset.service_of({"pod": pod}, "shop", TEAM, versions) for pod in pods} == pods

    def test_pods_of_each_version_have_its_version_label(self) -> None:
        first = plan()
        second = plan(1, first.candidate)
        assert all(LABELS.items() <= one.pod_labels.items() for one in (first, second))
        assert [one.pod_labels[VERSION] for one in (first, second)] == [first.candidate, second.candidate]


class TestLease:
    def test_service_and_route_of_one_name_have_different_leases(self) -> None:
        assert lease_name(TEAM, "replicas") != lease_name(TEAM)

    @pytest.mark.parametrize("router", LEASE_SUFFIXES)
    def test_lease_name_yields_route_and_router(self, router: str) -> None:
        lease = Lease(new_lease("shop", TEAM, "DEP-1-00000000/1", 45, router))
        assert (lease.route, lease.router) == (TEAM, router)


def test_service_has_the_same_record_as_a_route() -> None:
    service, _, _ = at_share(33)
    assert service.route.shifts == [Shift(33, 100.0)]
    assert json.loads(service.body["metadata"]["annotations"][ADOPTED]) == {TEAM: LABELS}
