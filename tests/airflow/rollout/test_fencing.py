"""Whoever comes second: each has one defined outcome, and no traffic moves that should not.

The guard and the Lease have tests of their own, and so have the route's patches, one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.domain.errors import FencedError, PermanentError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.operators import canary
from airflow_deploy.operators import finalize as settling
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator, ShiftCanaryOperator
from airflow_deploy.operators.finalize import FinalizeOperator
from airflow_deploy.rollout import lease
from airflow_deploy.rollout import shift as shifting
from airflow_deploy.rollout.teardown import roll_back_and_stop
from airflow_deploy.sensors.gates import HealthGateSensor, VerifySensor
from airflow_deploy.tasks.base import DeployOperator, recorded_steps
from tests.airflow.operators.test_operators import ENDING, Run, event
from tests.airflow.rollout.test_rollback import claimed_by_the_next
from tests.support.builders import make_plan
from tests.support.claims import guard_patch
from tests.support.fake_cluster import FakeCluster
from tests.support.fake_world import Clock

OWNED: dict[str, Any] = {"agreed": ("judge", "")}
NEXT = {"shift": 25, "promote": 100}
"""Each step of the owner's, and the share that the candidate has before it."""


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> DeploymentPlan:
    return make_plan(run_id=request.node.name)


@pytest.fixture
def run() -> Run:
    run = Run()
    run.judged("judge", {"verdict": "HEALTHY"})
    return run


class Stage:
    """One deployment on a cluster in memory, with somebody who looks all the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> None:
        self.cluster, self.claim, clock = cluster, cluster.claim, Clock()

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            if cluster.now.owner == self.claim:
                cluster.hold_lease(self.claim)

        moved = SimpleNamespace(time=clock.time, monotonic=clock.time, sleep=sleep)
        for module in (shifting, lease):
            monkeypatch.setattr(module, "time", moved)
        for module in (canary, settling):
            monkeypatch.setattr(module, "Cluster", lambda _: cluster)

    def step(self, name: str) -> DeployOperator:
        owned: dict[str, Any] = {"plan": self.cluster.plan.dump(), "claim": self.claim, **OWNED}
        if name == "promote":
            return PromoteOperator(task_id=name, **owned)
        return ShiftCanaryOperator(task_id=name, share=50, **owned)


@pytest.fixture(params=list(NEXT))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, name: str) -> Stage:
    return Stage(monkeypatch, FakeCluster.at_share(plan, NEXT[name]))


def done(cluster: FakeCluster, name: str) -> bool:
    return (
        cluster.now.phase == routes.PROMOTED if name == "promote" else cluster.weights()[cluster.plan.candidate] == 50
    )


class TestRetriedTask:
    def test_finds_what_its_first_try_has_written(self, stage: Stage, name: str, run: Run) -> None:
        """The answer was lost, or the worker died before it said so."""
        stage.cluster.lose_answers = 1
        with pytest.raises(TemporaryError):
            stage.step(name).execute(run.at(name))
        writes = stage.cluster.writes
        run.ti.try_number = 2
        stage.step(name).execute(run.at(name))
        assert (done(stage.cluster, name), stage.cluster.writes) == (True, writes)
        assert [step.try_number for step in recorded_steps(run.context, [name])] == [2, 2]

    def test_that_runs_beside_its_first_try_writes_once(
        self, stage: Stage, name: str, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A worker whose heartbeat was lost runs to its end beside the second try."""
        patch_route = stage.cluster.patch_route
        writes = stage.cluster.writes

        def meanwhile(*arguments: Any) -> Any:
            monkeypatch.setattr(stage.cluster, "patch_route", patch_route)
            stage.step(name).execute(run.at(name))
            return patch_route(*arguments)

        monkeypatch.setattr(stage.cluster, "patch_route", meanwhile)
        with pytest.raises(TemporaryError):
            stage.step(name).execute(run.at(name))
        assert (done(stage.cluster, name), stage.cluster.writes) == (True, writes + 1)


WAYS: dict[str, Callable[[FakeCluster], Any]] = {
    "the next deployment has the route": lambda cluster: claimed_by_the_next(cluster, share=25),
    "the guard has it": lambda cluster: cluster.patch_route(cluster.now, guard_patch(cluster.now)),
    "its annotations are gone": lambda cluster: cluster.annotate(routes.OWNER, None),
    "the watch has braked": lambda cluster: cluster.annotate(routes.PHASE, routes.BRAKED),
    "the run was settled": lambda cluster: cluster.annotate(routes.PHASE, routes.SETTLED),
}
"""How a deployment may be over."""


class TestZombie:
    """A task that wakes up when all is over."""

    @pytest.mark.parametrize("way", list(WAYS))
    def test_writes_nothing_and_records_nothing(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, run: Run, way: str
    ) -> None:
        for name in NEXT:
            cluster = FakeCluster.verified(plan) if "next" in way else FakeCluster.at_share(plan, NEXT[name])
            stage = Stage(monkeypatch, cluster)
            WAYS[way](cluster)
            before, writes = cluster.now.body, cluster.writes
            with pytest.raises(FencedError):
                stage.step(name).execute(run.at(name))
            assert (cluster.now.body, cluster.writes) == (before, writes)
            assert recorded_steps(run.context, [name]) == []

    def test_that_settles_leaves_the_next_deployment_its_traffic(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, run: Run
    ) -> None:
        cluster = FakeCluster.verified(plan)
        Stage(monkeypatch, cluster)
        following = claimed_by_the_next(cluster, share=25)
        run.planned(plan)
        with pytest.raises(PermanentError):
            FinalizeOperator(task_id="finalize", audit="audit", **ENDING).execute(run.at("finalize"))
        assert cluster.weights() == {following.stable: 75, following.candidate: 25}
        assert cluster.now.owned_by(following.deployment_id)


class TestPersonWhoEditsTheWeights:
    def test_stops_the_deployment_and_keeps_what_they_set_until_it_is_taken_back(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, name: str, run: Run
    ) -> None:
        stage = Stage(monkeypatch, FakeCluster.at_share(plan, NEXT[name]))
        refs = stage.cluster.body["spec"]["rules"][0]["backendRefs"]
        refs[0]["weight"], refs[1]["weight"] = 90, 10
        writes = stage.cluster.writes
        with pytest.raises(FencedError):  # permanent: a failed test never means "try harder"
            stage.step(name).execute(run.at(name))
        assert (stage.cluster.weights()[plan.candidate], stage.cluster.writes) == (10, writes)
        assert roll_back_and_stop(cast("Cluster", stage.cluster), plan).acted
        assert stage.cluster.weights() == {plan.stable: 100, plan.candidate: 0}


class TestClearedRun:
    @pytest.mark.parametrize("share", [0, 5, 100])
    def test_in_mid_canary_goes_on_under_its_first_claim(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, run: Run, share: int
    ) -> None:
        stage = Stage(monkeypatch, FakeCluster.at_share(plan, share))
        writes = stage.cluster.writes
        claim = ClaimRouteOperator(task_id="claim_route", plan=plan.dump()).execute(run.at("claim_route"))
        assert (claim, stage.cluster.writes) == (stage.claim, writes)

    def test_after_the_guard_it_is_over(self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, run: Run) -> None:
        stage = Stage(monkeypatch, FakeCluster.at_share(plan, 25))
        stage.cluster.patch_route(
            stage.cluster.now,
            guard_patch(stage.cluster.now),
        )
        with pytest.raises(FencedError, match="is braked by this deployment; trigger a new run"):
            ClaimRouteOperator(task_id="claim_route", plan=plan.dump()).execute(run.at("claim_route"))


class TestSecondEvent:
    def test_of_a_gate_records_its_word_once(self, plan: DeploymentPlan, run: Run) -> None:
        gate = HealthGateSensor(task_id="gate", next_share=25, plan=plan.dump(), claim="DEP-1/1", baseline={})
        for _ in range(2):
            gate.finish(run.at("gate"), event("HEALTHY"))
        assert [step.to for step in recorded_steps(run.context, ["gate"])] == [State.CANARY_EVALUATING]

    def test_of_the_verification_writes_once(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, run: Run
    ) -> None:
        cluster = FakeCluster.promoted(plan)
        monkeypatch.setattr("airflow_deploy.sensors.gates.Cluster", lambda _: cluster)
        verify = VerifySensor(task_id="verify", plan=plan.dump(), claim=cluster.claim, baseline={})
        writes = cluster.writes
        for _ in range(2):
            verify.finish(run.at("verify"), event("HEALTHY"))
        assert (cluster.now.phase, cluster.writes) == (routes.VERIFIED, writes + 1)
        assert [step.to for step in recorded_steps(run.context, ["verify"])] == [State.VERIFIED]
