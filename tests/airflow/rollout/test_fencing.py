"""Steps that come second: each has one defined outcome, and no traffic moves that should not.

The guard and the Lease have tests of their own, and so have the route's patches, one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_deploy.domain.errors import FencedError, PermanentError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator, ShiftCanaryOperator
from airflow_deploy.rollout import lease
from airflow_deploy.rollout import shift as shifting
from airflow_deploy.rollout.teardown import roll_back_and_stop
from airflow_deploy.sensors.gates import HealthGateSensor, VerifySensor
from airflow_deploy.tasks.base import DeployOperator, recorded_steps
from airflow_deploy.tasks.decisions import store_decision
from tests.support.builders import make_plan
from tests.support.claims import guard_patch
from tests.support.cluster import lead_to
from tests.support.ending import execute
from tests.support.kubernetes_api import Object
from tests.support.other_writers import claimed_by_the_next
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster
from tests.support.world import Clock

OWNED: dict[str, Any] = {"agreed": ("judge", "")}
NEXT = {"shift": 25, "promote": 100}
"""Each step of the owner's, and the share that the candidate has before it."""
HEALTHY = {"verdict": "HEALTHY", "reason": "because", "numbers": {}, "evidence_sha256": "ab" * 32}


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> DeploymentPlan:
    return make_plan(run_id=request.node.name)


@pytest.fixture
def run(plan: DeploymentPlan) -> Run:
    store_decision(plan, "judge", "HEALTHY", goes_on=True)
    return Run()


class Stage:
    """One deployment whose watch renews the Lease all the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cluster: ServiceCluster) -> None:
        self.cluster, self.claim, clock = cluster, cluster.claim, Clock()

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            if cluster.now.owner == self.claim:
                cluster.hold_lease(self.claim)

        moved = SimpleNamespace(time=clock.time, monotonic=clock.time, sleep=sleep)
        for module in (shifting, lease):
            monkeypatch.setattr(module, "time", moved)
        lead_to(cluster.api, monkeypatch)

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
    return Stage(monkeypatch, ServiceCluster.at_share(plan, NEXT[name]))


def done(cluster: ServiceCluster, name: str) -> bool:
    return (
        cluster.now.phase == routes.PROMOTED if name == "promote" else cluster.weights()[cluster.plan.candidate] == 50
    )


class TestRetriedTask:
    def test_second_try_finds_what_the_first_has_written(self, stage: Stage, name: str, run: Run) -> None:
        """The answer was lost, or the worker died before it recorded the step."""
        stage.cluster.api.fail("httproutes/", method="PATCH", exception=ConnectionResetError, done=True)
        with pytest.raises(TemporaryError):
            stage.step(name).execute(run.at(name))
        writes = stage.cluster.writes
        run.ti.try_number = 2
        stage.step(name).execute(run.at(name))
        assert (done(stage.cluster, name), stage.cluster.writes) == (True, writes)
        assert [step.try_number for step in recorded_steps(run.context, [name])] == [2, 2]

    def test_first_and_second_try_side_by_side_write_once(self, stage: Stage, name: str, run: Run) -> None:
        """A worker whose heartbeat was lost runs to its end beside the second try."""
        writes = stage.cluster.writes
        stage.cluster.api.before("httproutes/", lambda: stage.step(name).execute(run.at(name)), method="PATCH")
        with pytest.raises(TemporaryError):
            stage.step(name).execute(run.at(name))
        assert (done(stage.cluster, name), stage.cluster.writes) == (True, writes + 1)


WAYS: dict[str, Callable[[ServiceCluster], Any]] = {
    "the next deployment has the route": lambda cluster: claimed_by_the_next(cluster, share=25),
    "the guard has it": lambda cluster: cluster.write(guard_patch(cluster.now)),
    "its annotations are gone": lambda cluster: cluster.annotate(routes.OWNER, None),
    "the watch has braked": lambda cluster: cluster.annotate(routes.PHASE, routes.BRAKED),
    "the run was settled": lambda cluster: cluster.annotate(routes.PHASE, routes.SETTLED),
}
"""How a deployment may be over."""


class TestLateTask:
    """A task that wakes up when the deployment is over."""

    @pytest.mark.parametrize("way", list(WAYS))
    def test_late_step_writes_nothing_and_records_nothing(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, run: Run, way: str
    ) -> None:
        for name in NEXT:
            cluster = ServiceCluster.verified(plan) if "next" in way else ServiceCluster.at_share(plan, NEXT[name])
            stage = Stage(monkeypatch, cluster)
            WAYS[way](cluster)
            before, writes = cluster.now.body, cluster.writes
            with pytest.raises(FencedError):
                stage.step(name).execute(run.at(name))
            assert (cluster.now.body, cluster.writes) == (before, writes)
            assert recorded_steps(run.context, [name]) == []

    def test_late_finalize_leaves_the_next_deployment_its_traffic(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, run: Run
    ) -> None:
        cluster = ServiceCluster.verified(plan)
        following = claimed_by_the_next(cluster, share=25)
        run.planned(plan)
        with pytest.raises(PermanentError):
            execute(run, "finalize", cluster, monkeypatch)
        assert cluster.weights() == {following.stable: 75, following.candidate: 25}
        assert cluster.now.owned_by(following.deployment_id)


class TestPersonWhoEditsTheWeights:
    def test_edited_weights_stop_the_deployment_and_stay_until_it_is_rolled_back(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, name: str, run: Run
    ) -> None:
        stage = Stage(monkeypatch, ServiceCluster.at_share(plan, NEXT[name]))

        def change(body: Object) -> None:
            refs = body["spec"]["rules"][0]["backendRefs"]
            refs[0]["weight"], refs[1]["weight"] = 90, 10

        stage.cluster.edit(change)
        writes = stage.cluster.writes
        with pytest.raises(FencedError):  # permanent: a failed test never means "try harder"
            stage.step(name).execute(run.at(name))
        assert (stage.cluster.weights()[plan.candidate], stage.cluster.writes) == (10, writes)
        assert roll_back_and_stop(stage.cluster.client, plan).acted
        assert stage.cluster.weights() == {plan.stable: 100, plan.candidate: 0}


class TestClearedRun:
    @pytest.mark.parametrize("share", [0, 5, 100])
    def test_run_that_is_cleared_in_mid_canary_goes_on_under_its_first_claim(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, run: Run, share: int
    ) -> None:
        stage = Stage(monkeypatch, ServiceCluster.at_share(plan, share))
        writes = stage.cluster.writes
        claim = ClaimRouteOperator(task_id="claim_route", plan=plan.dump()).execute(run.at("claim_route"))
        assert (claim, stage.cluster.writes) == (stage.claim, writes)

    def test_run_that_is_cleared_after_the_guards_rollback_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, run: Run
    ) -> None:
        stage = Stage(monkeypatch, ServiceCluster.at_share(plan, 25))
        stage.cluster.write(guard_patch(stage.cluster.now))
        with pytest.raises(FencedError, match="is braked by this deployment; trigger a new run"):
            ClaimRouteOperator(task_id="claim_route", plan=plan.dump()).execute(run.at("claim_route"))


class TestSecondEvent:
    def test_gate_that_gets_its_event_twice_records_one_step(self, plan: DeploymentPlan, run: Run) -> None:
        gate = HealthGateSensor(task_id="gate", next_share=25, plan=plan.dump(), claim="DEP-1/1", baseline={})
        for _ in range(2):
            gate.finish(run.at("gate"), HEALTHY)
        assert [step.to for step in recorded_steps(run.context, ["gate"])] == [State.CANARY_EVALUATING]

    def test_verification_that_gets_its_event_twice_writes_once(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, run: Run
    ) -> None:
        cluster = ServiceCluster.promoted(plan)
        lead_to(cluster.api, monkeypatch)
        verify = VerifySensor(task_id="verify", plan=plan.dump(), claim=cluster.claim, baseline={})
        writes = cluster.writes
        for _ in range(2):
            verify.finish(run.at("verify"), HEALTHY)
        assert (cluster.now.phase, cluster.writes) == (routes.VERIFIED, writes + 1)
        assert [step.to for step in recorded_steps(run.context, ["verify"])] == [State.VERIFIED]
