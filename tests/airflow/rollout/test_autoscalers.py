"""An autoscaler cannot shrink the stable while a run has its traffic elsewhere, and has its minimum back afterwards."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_deploy.clients.kubernetes.errors import ForbiddenError
from airflow_deploy.domain.errors import NotFinalizedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.workloads.autoscaling import HELD_ANNOTATION, hold_patch
from airflow_deploy.operators import apply as applying
from airflow_deploy.operators import canary
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.canary import ShiftCanaryOperator
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.cleanup import CleanupResult
from tests.airflow.operators.test_approval import AGREED
from tests.airflow.operators.test_operators import Run
from tests.airflow.operators.test_plan import World
from tests.airflow.rollout.test_cleanup import WINDOW, Service
from tests.airflow.rollout.test_rollback import deploying, execute, with_a_rule_for_the_candidate_alone
from tests.support.autoscalers import autoscaler
from tests.support.builders import make_plan
from tests.support.claims import undo
from tests.support.fake_cluster import FakeCluster
from tests.support.json_patch import apply_patch

S = State
pytestmark = pytest.mark.usefixtures("store")


def minimum(cluster: FakeCluster) -> tuple[int, bool]:
    """Return the autoscaler's minimum, and whether somebody holds it."""
    (only,) = cluster.scalers
    return only["spec"]["minReplicas"], HELD_ANNOTATION in only["metadata"].get("annotations", {})


def scaled(cluster: FakeCluster, by: str | None = None) -> FakeCluster:
    """Let the stable have an autoscaler that would leave it one pod; ``by`` holds it at five."""
    one = autoscaler(minimum=1)
    cluster.scalers = [apply_patch(one, hold_patch(one, by, 5)) if by else one]
    return cluster


class TestPlanning:
    @pytest.fixture
    def world(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
        world = World(monkeypatch, tmp_path)
        scaled(world.cluster)
        return world

    def test_writes_nothing(self, world: World) -> None:
        before = copy.deepcopy(world.cluster.scalers)
        assert world.plan().stable_ready == 2
        assert world.cluster.scalers == before

    def test_refuses_where_the_minimum_may_not_be_raised_and_says_what_to_do(self, world: World) -> None:
        world.cluster.fail("patch_autoscaler", ForbiddenError("403"))
        with pytest.raises(RefusedError, match=r"web could shrink payments .*`airflow-deploy rbac`.* minReplicas to 2"):
            world.plan()
        assert world.steps() == []


class TestApplying:
    def apply(self, monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> list[Any]:
        """Apply, and return the autoscaler's minimum whenever something was applied."""
        seen: list[Any] = []
        plan = cluster.plan
        cluster.replicas[plan.candidate] = 2
        monkeypatch.setattr(applying, "Cluster", lambda _: cluster)
        monkeypatch.setattr(cluster, "apply", lambda *_, **__: seen.append(minimum(cluster)), raising=False)
        operator = ApplyManifestOperator(task_id="apply", agreed=AGREED, plan=plan.dump())
        monkeypatch.setattr(applying, "check_agreed", lambda *_: None)
        operator.execute(Run().at("apply"))
        return seen

    def test_raises_the_minimum_first(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = scaled(FakeCluster(make_plan(stable_ready=5)))
        assert self.apply(monkeypatch, cluster) == [(1, False), (5, True)]
        assert self.apply(monkeypatch, cluster)[-1] == (5, True)

    def test_raises_it_to_what_the_stable_has_grown_to_since(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = scaled(FakeCluster(make_plan(stable_ready=3)))
        cluster.replicas[cluster.plan.stable] = 6
        assert self.apply(monkeypatch, cluster)[-1] == (6, True)

    def test_leaves_a_minimum_that_is_high_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = scaled(FakeCluster(make_plan(stable_ready=1)))
        cluster.replicas[cluster.plan.stable] = 1
        assert self.apply(monkeypatch, cluster)[-1] == (1, False)


class TestShifting:
    def test_holds_what_the_stable_has_grown_to_before_it_loses_traffic(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = make_plan(stable_ready=3)
        cluster = scaled(FakeCluster.at_share(plan, 5), by=plan.deployment_id)
        cluster.replicas[plan.stable] = 8
        monkeypatch.setattr(canary, "Cluster", lambda _: cluster)
        monkeypatch.setattr(canary, "check_agreed", lambda *_: None)
        held: list[Any] = []
        patch_route = cluster.patch_route

        def noted(route: Any, patch: Any) -> Any:
            held.append(minimum(cluster))
            return patch_route(route, patch)

        monkeypatch.setattr(cluster, "patch_route", noted)
        signs = iter([1, 2])
        monkeypatch.setattr(lease, "LeaseRenewal", lambda *_: SimpleNamespace(seen=lambda: next(signs)))
        operator = ShiftCanaryOperator(task_id="shift", share=25, agreed=AGREED, claim=cluster.claim, plan=plan.dump())
        operator.execute(Run().at("shift"))
        assert held == [(8, True)]
        assert cluster.weights()[plan.candidate] == 25


class TestEnding:
    @pytest.fixture
    def plan(self, request: pytest.FixtureRequest) -> DeploymentPlan:
        return make_plan(run_id=request.node.name)

    def settle(self, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, *reached: State) -> None:
        run = Run()
        deploying(run, cluster.plan)
        if reached:
            run.reach("verify", *reached)
            run.returned("audit", "the folder")
        execute(run, "finalize", cluster, monkeypatch)

    def test_as_verified_holds_it_on(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        """For as long as the window lasts, the previous version may have to take everything back."""
        cluster = scaled(FakeCluster.verified(plan), by=plan.deployment_id)
        self.settle(cluster, monkeypatch, S.PROMOTING, S.PROMOTED, S.VERIFYING, S.VERIFIED)
        assert minimum(cluster) == (5, True)

    def test_as_rolled_back_gives_it_back_after_the_traffic(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = scaled(FakeCluster.at_share(plan, 50), by=plan.deployment_id)
        cluster.fail("patch_route", TemporaryError("no answer"))
        with pytest.raises(TemporaryError):
            self.settle(cluster, monkeypatch)
        assert minimum(cluster) == (5, True)
        with pytest.raises(NotFinalizedError):
            self.settle(cluster, monkeypatch)
        assert minimum(cluster) == (1, False)

    def test_as_failed_holds_it_on(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        """Traffic is left at the candidate, and comes back when somebody has done what is asked."""
        cluster = with_a_rule_for_the_candidate_alone(FakeCluster.at_share(plan, 50))
        scaled(cluster, by=plan.deployment_id)
        with pytest.raises(NotFinalizedError, match="does not name payments"):
            self.settle(cluster, monkeypatch)
        assert minimum(cluster) == (5, True)

    def test_leaves_what_another_deployment_holds(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = scaled(FakeCluster.verified(plan), by="DEP-9-ffffffff")
        self.settle(cluster, monkeypatch, S.PROMOTING, S.PROMOTED, S.VERIFYING, S.VERIFIED)
        assert minimum(cluster) == (5, True)

    @pytest.mark.parametrize("method", ["all_autoscalers", "patch_autoscaler"])
    def test_does_not_wait_for_it(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
        cluster = scaled(FakeCluster.at_share(plan, 50), by=plan.deployment_id)
        cluster.fail(method, RefusedError("403"))
        with pytest.raises(NotFinalizedError):
            self.settle(cluster, monkeypatch)
        assert minimum(cluster) == (5, True)


class TestTidying:
    def test_gives_back_what_a_run_that_died_has_held(self) -> None:
        service = Service()
        service.deployed()
        plan = service.deployed(held=False)
        scaled(service.cluster, by=plan.deployment_id)
        assert service.tidied().done == ["gave web its minimum back"]
        assert minimum(service.cluster) == (1, False)

    def test_gives_back_what_a_promotion_has_held_when_its_window_is_over(self) -> None:
        service = Service()
        service.deployed()
        plan = service.deployed()
        scaled(service.cluster, by=plan.deployment_id)
        assert service.tidied(WINDOW - 1) == CleanupResult()
        assert minimum(service.cluster) == (5, True)
        assert service.tidied(1).done == [f"stopped {plan.stable}", "gave web its minimum back"]
        assert minimum(service.cluster) == (1, False)

    def test_holds_on_to_it_for_the_promotion_when_a_later_fix_comes_to_nothing(self) -> None:
        service = Service()
        plan = service.deployed()
        scaled(service.cluster, by=plan.deployment_id)
        service.deployed(held=False)
        assert service.tidied(WINDOW - 1) == CleanupResult()
        assert minimum(service.cluster) == (5, True)
        assert service.tidied(1).done == ["gave web its minimum back"]

    def test_gives_back_what_a_promotion_has_held_that_was_taken_back(self) -> None:
        service = Service()
        plan = service.deployed()
        scaled(service.cluster, by=plan.deployment_id)
        undo(service.cluster, plan)
        assert service.tidied().done == ["gave web its minimum back"]

    def test_leaves_what_another_services_run_holds(self) -> None:
        service = Service()
        service.deployed()
        scaled(service.cluster, by="DEP-1795410000-ffffffff")
        service.tidied(WINDOW)
        assert minimum(service.cluster) == (5, True)
