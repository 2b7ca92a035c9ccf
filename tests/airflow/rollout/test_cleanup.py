"""What old deployments leave is stopped and deleted in time, and nothing else is touched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_deploy.clients.artifacts import Artifacts, frozen_manifest
from airflow_deploy.clients.kubernetes.routes import create_route
from airflow_deploy.domain.config.spec_file import parse_spec
from airflow_deploy.domain.labels import VERSION
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.testers import route_for_testers, route_name_for_testers
from airflow_deploy.domain.workloads.versions import RUN_GRACE_SECONDS, PreviousVersion, plan_cleanup
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.cleanup import CleanupResult, clean_up, survey
from tests.support.claims import undo
from tests.support.judgement import START
from tests.support.kubernetes_api import Object
from tests.support.versions import ALL, WINDOW, DeployedService, claim_route, send_all_to, settle
from tests.support.world import Clock

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def service() -> DeployedService:
    return DeployedService()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which a renewal of the Lease is waited for."""
    clock = Clock()
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=clock.time, sleep=clock.sleep))
    return clock


class TestVersionsInTheirOrder:
    def test_the_previous_version_stays_warm_within_the_rollback_window(self, service: DeployedService) -> None:
        first, second = service.deploy(), service.deploy()
        before = service.state()
        assert service.clean_up(WINDOW - 1) == CleanupResult()
        assert service.state() == before
        assert service.pods() == {first.candidate: 2, second.candidate: 2}

    def test_the_previous_version_is_stopped_after_the_window_and_the_route_says_so(
        self, service: DeployedService
    ) -> None:
        first, second = service.deploy(), service.deploy()
        assert service.clean_up(WINDOW).done == [f"stopped {first.candidate}"]
        assert service.pods() == {first.candidate: 0, second.candidate: 2}
        assert service.cluster.weights() == {first.candidate: 0, second.candidate: 100}
        assert service.cluster.now.stopped == first.candidate
        before = service.state()
        assert service.clean_up(60) == CleanupResult()
        assert service.state() == before

    def test_a_version_that_the_route_names_is_not_deleted(self, service: DeployedService) -> None:
        """Some gateways answer 500 to every request if a Service is missing."""
        first, _, older, _ = service.deploy(), service.deploy(), service.apply(), service.apply()
        for _ in range(2):
            service.clean_up(WINDOW)
        assert (service.has(older), service.has(first)) == ([], ALL)
        assert service.cluster.weights()[first.candidate] == 0
        assert service.pods_of(first) == 0

    def test_a_version_beyond_those_to_keep_is_deleted_whole(self, service: DeployedService) -> None:
        first, second = service.deploy(), service.deploy()
        service.clean_up(WINDOW)
        service.now -= WINDOW - 1  # not long after it was made, too
        third = service.deploy()
        assert service.clean_up().done == [f"deleted {first.candidate}"]
        assert [service.has(plan) for plan in (first, second, third)] == [[], ALL, ALL]
        assert service.pods() == {second.candidate: 2, third.candidate: 2}

    def test_as_many_versions_are_kept_as_the_service_says(self) -> None:
        service = DeployedService(keep=3)
        plans = [service.deploy() for _ in range(6)]
        service.clean_up(WINDOW)
        service.clean_up()
        assert [bool(service.has(plan)) for plan in plans] == [False, False, True, True, True, True]

    def test_versions_that_were_rolled_back_count_as_kept_ones_too(self, service: DeployedService) -> None:
        first = service.deploy()
        failed = [service.deploy(held=False) for _ in range(3)]
        service.clean_up(WINDOW)
        assert [service.has(plan) for plan in (first, *failed)] == [ALL, [], [], ALL]
        assert service.pods_of(first) == 2

    def test_a_version_that_was_overtaken_twice_is_stopped_before_the_window_ends(
        self, service: DeployedService
    ) -> None:
        first, second, third = (service.deploy() for _ in range(3))
        service.clean_up(RUN_GRACE_SECONDS)
        assert service.pods() == {first.candidate: 0, second.candidate: 2, third.candidate: 2}

    def test_the_teams_own_workload_is_never_touched(self, service: DeployedService) -> None:
        plan = service.deploy()
        for _ in range(3):
            service.clean_up(2 * WINDOW)
        assert service.cluster.replicas == {"payments": 2, plan.candidate: 2}
        assert not service.cluster.now.stopped

    def test_a_promotion_that_was_rolled_back_to_the_teams_own_workload_is_stopped(
        self, service: DeployedService
    ) -> None:
        plan = service.deploy()
        undo(service.cluster.client, plan)
        service.clean_up(RUN_GRACE_SECONDS)
        assert service.pods() == {plan.candidate: 0}
        assert service.cluster.weights() == {"payments": 100, plan.candidate: 0}


class TestObjectsThatLookLikeOurs:
    @pytest.mark.parametrize(
        "change",
        [
            {"app.kubernetes.io/managed-by": "Helm"},
            {"app.kubernetes.io/name": "orders"},
            {"app.kubernetes.io/version": "payments-0000000-1"},
        ],
    )
    def test_objects_with_our_name_and_other_labels_are_left(
        self, service: DeployedService, change: dict[str, str]
    ) -> None:
        plan = service.apply()
        for kind in ALL:
            service.cluster.api.edit(
                kind, "payments", plan.candidate, lambda body: body["metadata"]["labels"].update(change)
            )
        assert service.clean_up(10 * WINDOW) == CleanupResult()
        assert service.pods() == {plan.candidate: 2}

    def test_a_deployment_with_our_labels_and_another_name_is_left(self, service: DeployedService) -> None:
        """A team may copy our labels to what it runs by itself."""
        plan = service.apply()
        team = service.cluster.api.get("Deployment", "payments", plan.candidate)
        service.cluster.api.remove("Deployment", "payments", plan.candidate)
        labels = {**team["metadata"]["labels"], VERSION: "payments-batch"}
        metadata = {"name": "payments-batch", "namespace": "payments", "labels": labels}
        service.cluster.api.add({**team, "metadata": {**metadata, "annotations": team["metadata"]["annotations"]}})
        service.clean_up(10 * WINDOW)
        assert service.pods() == {"payments-batch": 2}


class TestLeftAlone:
    @pytest.mark.parametrize("phase", [routes.CANARY, routes.BRAKED, routes.PROMOTED, routes.ABANDONED, "odd"])
    def test_nothing_is_touched_while_the_route_is_not_at_rest(self, service: DeployedService, phase: str) -> None:
        service.deploy()
        service.deploy()
        service.deploy()
        service.cluster.annotate(routes.PHASE, phase).annotate(routes.OWNER, "DEP-5-ffffffff/9")
        before = service.state()
        assert service.clean_up(10 * WINDOW).left
        assert service.state() == before

    def test_nothing_is_touched_if_the_traffic_was_divided_by_hand(self, service: DeployedService) -> None:
        service.deploy()
        service.deploy()
        service.cluster.edit(lambda body: body["spec"]["rules"][0]["backendRefs"][0].update(weight=1))
        before = service.state()
        assert "give one Service the whole weight" in (service.clean_up(10 * WINDOW).left or "")
        assert service.state() == before

    def test_nothing_is_touched_if_the_record_of_what_serves_is_lost(self, service: DeployedService) -> None:
        service.deploy()
        plan = service.deploy()
        Artifacts(plan).write(f"{plan.deployment_id}.json", "{}")
        before = service.state()
        assert "no deployment is recorded" in (service.clean_up(10 * WINDOW).left or "")
        assert service.state() == before

    def test_a_version_that_a_mirror_copies_requests_to_is_not_deleted(self, service: DeployedService) -> None:
        first = service.deploy()
        mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": first.candidate, "port": 80}}}
        service.deploy()
        service.deploy()
        service.cluster.edit(lambda body: body["spec"]["rules"][0].update(filters=[mirror]))
        for _ in range(2):
            service.clean_up(WINDOW)
        assert service.has(first) == ALL


class TestLostRuns:
    def test_a_version_that_was_never_claimed_is_stopped_when_no_run_can_be_at_it(
        self, service: DeployedService
    ) -> None:
        plan = service.apply()
        assert service.clean_up(RUN_GRACE_SECONDS - 1) == CleanupResult()
        assert service.clean_up(1).done == [f"stopped {plan.candidate}"]
        assert service.pods() == {plan.candidate: 0}

    def test_a_version_that_is_just_being_applied_is_not_deleted(self, service: DeployedService) -> None:
        """By another Airflow, say: its Deployment comes last, and later versions exist already."""
        plan = service.apply()
        service.apply()
        service.cluster.api.remove("Deployment", "payments", plan.candidate)
        kinds = service.has(plan)
        assert kinds == [kind for kind in ALL if kind != "Deployment"]
        service.clean_up(RUN_GRACE_SECONDS - 1)
        assert service.has(plan) == kinds
        service.clean_up(1)
        assert service.has(plan) == []

    @pytest.mark.parametrize("share", [0, 5, 100])
    def test_the_traffic_of_a_lost_run_is_returned(self, service: DeployedService, share: int) -> None:
        first, second = service.deploy(), service.apply()
        claim_route(service.cluster, second, share)
        assert service.clean_up(RUN_GRACE_SECONDS - 1).left
        (said,) = service.clean_up(1).alarms
        assert said.startswith(f"{second.deployment_id} was canary, and Airflow has no live run of it")
        assert service.cluster.weights() == {first.candidate: 100, second.candidate: 0}
        assert service.pods() == {first.candidate: 2, second.candidate: 0}
        assert service.clean_up(60) == CleanupResult()

    def test_the_traffic_of_a_run_that_another_airflow_watches_is_left(
        self, service: DeployedService, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service.deploy()
        claim_route(service.cluster, service.apply(), 50)
        service.cluster.hold_lease(service.cluster.claim)

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            lease.renew(service.cluster.client, service.cluster.plan, service.cluster.claim)

        monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=clock.time, sleep=sleep))
        before = service.state()
        assert "whose watch is alive" in (service.clean_up(10 * WINDOW).left or "")
        assert service.state() == before

    @pytest.mark.parametrize("owner", [None, "DEP-5-ffffffff/9", "../../../etc/x/1", "nonsense"])
    def test_the_traffic_of_an_unknown_owner_is_left(self, service: DeployedService, owner: str | None) -> None:
        service.deploy()
        claim_route(service.cluster, service.apply(), 50)
        service.cluster.annotate(routes.OWNER, owner)
        before = service.state()
        assert service.clean_up(10 * WINDOW).left
        assert service.state() == before


class TestTestersRoute:
    @pytest.fixture
    def service(self) -> DeployedService:
        """One deployment that was rolled back, and died before it could delete the testers' route."""
        service = DeployedService()
        plan = service.apply()
        claim_route(service.cluster, plan, 50)
        testers = route_for_testers(service.cluster.now, plan.claim(service.cluster.claim))
        settle(service.cluster, plan)
        create_route(service.cluster.client, testers or {})
        return service

    def test_that_of_a_run_that_is_over_is_deleted(self, service: DeployedService) -> None:
        assert service.clean_up().done == [f"deleted route {service.name}/testers-payments-route"]
        assert (service.cluster.testers, service.clean_up().done) == (None, [])

    def test_that_of_an_unknown_deployment_is_kept(self, service: DeployedService) -> None:
        def change(body: Object) -> None:
            body["metadata"]["annotations"][routes.OWNER] = "DEP-1-00000000/1"

        service.cluster.api.edit("HTTPRoute", "payments", route_name_for_testers("payments-route"), change)
        assert service.clean_up().done == []
        assert service.cluster.testers is not None


class TestStartedByHand:
    @pytest.fixture
    def old(self, service: DeployedService) -> DeploymentPlan:
        """A version that was stopped long ago."""
        old = service.deploy()
        service.deploy()
        service.clean_up(WINDOW)
        assert service.pods_of(old) == 0
        return old

    @staticmethod
    def start(service: DeployedService, plan: DeploymentPlan) -> None:
        """Start a version as ``kubectl scale`` does."""
        service.start(plan, service.now, service.now + 1)

    def test_a_person_who_starts_a_version_has_time_to_give_it_traffic(
        self, service: DeployedService, old: DeploymentPlan
    ) -> None:
        self.start(service, old)
        assert service.clean_up(RUN_GRACE_SECONDS - 1) == CleanupResult()
        assert service.pods_of(old) == 2
        send_all_to(service.cluster, old.candidate)
        service.clean_up(WINDOW)
        assert service.pods_of(old) == 2

    def test_a_started_version_that_gets_no_traffic_is_stopped_again(
        self, service: DeployedService, old: DeploymentPlan
    ) -> None:
        self.start(service, old)
        assert service.clean_up(RUN_GRACE_SECONDS).done == [f"stopped {old.candidate}"]

    def test_a_version_that_wants_pods_and_has_none_yet_is_left(
        self, service: DeployedService, old: DeploymentPlan
    ) -> None:
        service.cluster.workloads.let(old.candidate, observed=False)
        service.cluster.replicas[old.candidate] = 2
        assert service.clean_up(1) == CleanupResult()
        service.cluster.workloads.let(old.candidate)
        assert service.clean_up(RUN_GRACE_SECONDS - 1) == CleanupResult()
        assert service.clean_up(1).done == [f"stopped {old.candidate}"]

    @pytest.mark.parametrize(("age", "stopped"), [(0.0, True), (60.0, True), (61.0, False)])
    def test_pods_of_the_first_minute_of_a_version_were_not_started_by_hand(
        self, service: DeployedService, age: float, stopped: bool
    ) -> None:
        """Windows may be short."""
        plan = service.apply()
        service.start(plan, START + age)
        (version,) = survey(service.cluster.client, plan).versions
        previous = PreviousVersion(version.name, START + 1)
        found = plan_cleanup([version], service.cluster.now, previous, 1, START + 61)
        assert found.stop == ((version,) if stopped else ())

    def test_a_pod_that_was_replaced_does_not_count_as_a_start(self, service: DeployedService) -> None:
        """A node was drained, say, or an autoscaler has added one."""
        old = service.apply()
        service.now += RUN_GRACE_SECONDS
        pod, *_ = service.cluster.workloads.pods(old.candidate)
        service.cluster.api.remove("Pod", "payments", pod["metadata"]["name"])
        assert len(service.cluster.workloads.pods(old.candidate)) == 2
        assert service.clean_up().done == [f"stopped {old.candidate}"]


class TestFormerRoute:
    """A team gives its service another route or router, and users still come by the old one."""

    def clean_up(self, service: DeployedService) -> CleanupResult:
        """Clean up after a latest plan that has a new route, by which the team's own workload serves."""
        plan = service.plans[0]
        backends = [{"kind": "Service", "name": "web", "port": 80, "weight": 1}]
        metadata = {"name": "new", "namespace": "payments"}
        service.cluster.api.add(
            {"kind": "HTTPRoute", "metadata": metadata, "spec": {"rules": [{"backendRefs": backends}]}}
        )
        spec = plan.spec.model_copy(update={"route": plan.spec.route.model_copy(update={"name": "new"})})
        moved = plan.model_copy(update={"spec": spec})
        return clean_up(survey(service.cluster.client, moved), service.now + 10 * WINDOW)

    def test_a_version_that_serves_by_it_is_not_stopped(self, service: DeployedService) -> None:
        plan = service.deploy()
        result = self.clean_up(service)
        assert result.done == []
        assert result.alarms == [
            f"{plan.candidate} is not stopped: it has users by a route that its service had before; let them come by"
            " route payments/new"
        ]
        assert service.pods() == {plan.candidate: 2}

    def test_a_version_that_its_service_selects_is_not_stopped(self, service: DeployedService) -> None:
        plan = service.deploy()
        changes = {"router": "replicas", "metrics": "pods", "scaling": None}
        spec = parse_spec({**plan.spec.dump(), **changes}, "payments.yaml")
        manifest = frozen_manifest(service.name, plan.deployment_id) or ""
        Artifacts(plan.model_copy(update={"spec": spec})).freeze(manifest)
        metadata = {"name": plan.spec.route.name, "namespace": "payments"}
        service.cluster.without_route()
        service.cluster.api.add(
            {"kind": "Service", "metadata": metadata, "spec": {"selector": {VERSION: plan.candidate}}}
        )
        result = self.clean_up(service)
        assert (result.done, len(result.alarms)) == ([], 1)
        assert service.pods() == {plan.candidate: 2}

    @pytest.mark.parametrize("gone", [False, True], ids=["serves another", "is gone"])
    def test_a_version_is_stopped_if_the_former_route(self, service: DeployedService, gone: bool) -> None:
        plan = service.deploy()
        send_all_to(service.cluster, plan.model_copy(update={"commit": "f" * 40}).candidate)
        if gone:
            service.cluster.without_route()
        result = self.clean_up(service)
        assert (result.done, result.alarms) == ([f"stopped {plan.candidate}"], [])

    def test_a_version_that_it_names_is_not_deleted(self, service: DeployedService) -> None:
        plan = service.deploy()
        later = service.apply()
        for one in (plan, later):
            service.cluster.replicas[one.candidate] = 0

        def change(body: Object) -> None:
            for ref in body["spec"]["rules"][0]["backendRefs"]:
                ref["weight"] = int(ref["name"] != plan.candidate)

        service.cluster.edit(change)
        assert self.clean_up(service) == CleanupResult()
        service.cluster.without_route()
        assert self.clean_up(service).done == [f"deleted {plan.candidate}"]
