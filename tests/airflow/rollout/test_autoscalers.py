"""An autoscaler cannot shrink the stable while a run has its traffic elsewhere, and has its minimum back afterwards."""

from __future__ import annotations

import pytest

from airflow_deploy.domain.errors import NotFinalizedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.operators import apply as applying
from airflow_deploy.operators import canary
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.canary import ShiftCanaryOperator
from airflow_deploy.rollout.cleanup import CleanupResult
from tests.support.autoscalers import minimum, scaled
from tests.support.builders import make_plan
from tests.support.claims import undo
from tests.support.cluster import lead_to
from tests.support.ending import deploying, execute
from tests.support.other_writers import with_a_rule_for_the_candidate_alone
from tests.support.planning import Planning
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster
from tests.support.versions import WINDOW, DeployedService

S = State
AGREED = ("judge", "ask")
pytestmark = pytest.mark.usefixtures("store")


class TestPlan:
    @pytest.fixture
    def planning(self, monkeypatch: pytest.MonkeyPatch) -> Planning:
        return Planning(monkeypatch, scaled(ServiceCluster(make_plan())))

    def test_writes_nothing(self, planning: Planning) -> None:
        before = planning.cluster.api.all("HorizontalPodAutoscaler")
        assert planning.plan().stable_ready == 2
        assert planning.cluster.api.all("HorizontalPodAutoscaler") == before
        assert planning.cluster.api.writes == []

    def test_is_refused_with_the_remedy_if_the_minimum_may_not_be_raised(self, planning: Planning) -> None:
        planning.cluster.api.fail("horizontalpodautoscalers/web", 403, method="PATCH")
        with pytest.raises(RefusedError, match=r"web could shrink payments .*`airflow-deploy rbac`.* minReplicas to 2"):
            planning.plan()
        assert planning.steps() == []


class TestApply:
    APPLYING = "/(configmaps|services|poddisruptionbudgets|networkpolicies)/"

    def apply(self, monkeypatch: pytest.MonkeyPatch, cluster: ServiceCluster) -> list[tuple[int, bool]]:
        """Apply, and return the autoscaler's minimum at each object that was checked by a dry run or applied."""
        seen: list[tuple[int, bool]] = []
        lead_to(cluster.api, monkeypatch)
        cluster.api.before(self.APPLYING, lambda: seen.append(minimum(cluster)), method="PATCH", times=None)
        monkeypatch.setattr(applying, "check_agreed", lambda *_: None)
        ApplyManifestOperator(task_id="apply", agreed=AGREED, plan=cluster.plan.dump()).execute(Run().at("apply"))
        return seen

    def test_raises_the_minimum_before_the_first_object(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = scaled(ServiceCluster(make_plan(stable_ready=5)))
        checked_and_applied = self.apply(monkeypatch, cluster)
        half = len(checked_and_applied) // 2
        assert checked_and_applied == [(1, False)] * half + [(5, True)] * half
        assert half > 0
        assert set(self.apply(monkeypatch, cluster)) == {(5, True)}

    def test_raises_it_to_what_the_stable_has_grown_to_since_the_plan(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = scaled(ServiceCluster(make_plan(stable_ready=3)))
        cluster.replicas[cluster.plan.stable] = 6
        assert self.apply(monkeypatch, cluster)[-1] == (6, True)

    def test_leaves_a_minimum_that_is_high_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = scaled(ServiceCluster(make_plan(stable_ready=1)))
        cluster.replicas[cluster.plan.stable] = 1
        assert self.apply(monkeypatch, cluster)[-1] == (1, False)


class TestShift:
    def test_holds_what_the_stable_has_grown_to_before_it_loses_traffic(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = make_plan(stable_ready=3)
        cluster = scaled(ServiceCluster.at_share(plan, 5), by=plan.deployment_id)
        cluster.replicas[plan.stable] = 8
        lead_to(cluster.api, monkeypatch)
        monkeypatch.setattr(canary, "check_agreed", lambda *_: None)
        held: list[tuple[int, bool]] = []
        cluster.api.before("/httproutes/", lambda: held.append(minimum(cluster)), method="PATCH")
        # The watch renews its Lease as soon as the shift waits for that.
        cluster.api.after("/leases/", lambda: cluster.hold_lease(cluster.claim), method="GET")
        operator = ShiftCanaryOperator(task_id="shift", share=25, agreed=AGREED, claim=cluster.claim, plan=plan.dump())
        operator.execute(Run().at("shift"))
        assert held == [(8, True)]
        assert cluster.weights()[plan.candidate] == 25


class TestFinalize:
    @pytest.fixture
    def plan(self, request: pytest.FixtureRequest) -> DeploymentPlan:
        return make_plan(run_id=request.node.name)

    def finalize(self, cluster: ServiceCluster, monkeypatch: pytest.MonkeyPatch, *reached: State) -> None:
        run = Run()
        deploying(run, cluster.plan)
        if reached:
            run.reach("verify", *reached)
            run.returned("audit", "the folder")
        execute(run, "finalize", cluster, monkeypatch)

    def test_holds_the_minimum_of_a_verified_run(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        """For as long as the window lasts, the previous version may have to take all traffic."""
        cluster = scaled(ServiceCluster.verified(plan), by=plan.deployment_id)
        self.finalize(cluster, monkeypatch, S.PROMOTING, S.PROMOTED, S.VERIFYING, S.VERIFIED)
        assert minimum(cluster) == (5, True)

    def test_releases_the_minimum_of_a_rolled_back_run_after_its_traffic_returned(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = scaled(ServiceCluster.at_share(plan, 50), by=plan.deployment_id)
        cluster.api.fail("/httproutes/", 409, method="PATCH")
        with pytest.raises(TemporaryError):
            self.finalize(cluster, monkeypatch)
        assert minimum(cluster) == (5, True)
        with pytest.raises(NotFinalizedError):
            self.finalize(cluster, monkeypatch)
        assert minimum(cluster) == (1, False)

    def test_holds_the_minimum_of_a_failed_run(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        """Traffic is left at the candidate, and returns when a person has done what is asked."""
        cluster = with_a_rule_for_the_candidate_alone(ServiceCluster.at_share(plan, 50))
        scaled(cluster, by=plan.deployment_id)
        with pytest.raises(NotFinalizedError, match="does not name payments"):
            self.finalize(cluster, monkeypatch)
        assert minimum(cluster) == (5, True)

    def test_leaves_what_another_deployment_holds(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = scaled(ServiceCluster.verified(plan), by="DEP-9-ffffffff")
        self.finalize(cluster, monkeypatch, S.PROMOTING, S.PROMOTED, S.VERIFYING, S.VERIFIED)
        assert minimum(cluster) == (5, True)

    @pytest.mark.parametrize("method", ["GET", "PATCH"])
    def test_ends_the_run_even_if_the_minimum_cannot_be_released(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        cluster = scaled(ServiceCluster.at_share(plan, 50), by=plan.deployment_id)
        cluster.api.fail("/horizontalpodautoscalers", 403, method=method)
        with pytest.raises(NotFinalizedError):
            self.finalize(cluster, monkeypatch)
        assert minimum(cluster) == (5, True)
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}


class TestCleanup:
    def test_releases_the_minimum_that_a_lost_run_has_held(self) -> None:
        service = DeployedService()
        service.deploy()
        plan = service.deploy(held=False)
        scaled(service.cluster, by=plan.deployment_id)
        assert service.clean_up().done == ["gave web its minimum back"]
        assert minimum(service.cluster) == (1, False)

    def test_releases_the_minimum_of_a_promotion_when_its_window_is_over(self) -> None:
        service = DeployedService()
        service.deploy()
        plan = service.deploy()
        scaled(service.cluster, by=plan.deployment_id)
        assert service.clean_up(WINDOW - 1) == CleanupResult()
        assert minimum(service.cluster) == (5, True)
        assert service.clean_up(1).done == [f"stopped {plan.stable}", "gave web its minimum back"]
        assert minimum(service.cluster) == (1, False)

    def test_holds_the_minimum_of_a_promotion_if_a_later_fix_is_rolled_back(self) -> None:
        service = DeployedService()
        plan = service.deploy()
        scaled(service.cluster, by=plan.deployment_id)
        service.deploy(held=False)
        assert service.clean_up(WINDOW - 1) == CleanupResult()
        assert minimum(service.cluster) == (5, True)
        assert service.clean_up(1).done == ["gave web its minimum back"]

    def test_releases_the_minimum_of_a_promotion_that_was_rolled_back(self) -> None:
        service = DeployedService()
        plan = service.deploy()
        scaled(service.cluster, by=plan.deployment_id)
        undo(service.cluster.client, plan)
        assert service.clean_up().done == ["gave web its minimum back"]

    def test_leaves_what_a_run_of_another_service_holds(self) -> None:
        service = DeployedService()
        service.deploy()
        scaled(service.cluster, by="DEP-1795410000-ffffffff")
        service.clean_up(WINDOW)
        assert minimum(service.cluster) == (5, True)
