"""The way back on a cluster in memory: whatever became of the route, traffic is never taken from a third party."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, cast

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.domain.errors import (
    DeployError,
    FencedError,
    NotFinalizedError,
    PermanentError,
    RefusedError,
    TemporaryError,
)
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.operators import finalize as settling
from airflow_deploy.operators.finalize import FinalizeOperator, RollbackOperator
from airflow_deploy.rollout.rollback import abandon_route
from airflow_deploy.rollout.teardown import roll_back_and_stop
from airflow_deploy.tasks.base import recorded_steps
from tests.airflow.operators.test_operators import ENDING, STAGE, Run
from tests.support.builders import make_plan
from tests.support.claims import recorded_reason, roll_back
from tests.support.fake_cluster import FakeCluster
from tests.support.fake_fleet import planned, verified

S = State
Claim = Callable[[FakeCluster], FakeCluster]


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> DeploymentPlan:
    return make_plan(run_id=request.node.name)


@pytest.fixture
def run() -> Run:
    return Run()


def real(cluster: FakeCluster) -> Cluster:
    return cast("Cluster", cluster)


def newer(plan: DeploymentPlan) -> DeploymentPlan:
    """The next deployment, which found this one's candidate as its stable."""
    later = {"run_id": "the-next", "created": plan.created + 60, "commit": "f" * 40}
    return plan.model_copy(update={**later, "stable": plan.candidate})


def claimed_by_the_next(cluster: FakeCluster, share: int = 0) -> DeploymentPlan:
    """Let the next deployment claim the route of a verified one."""
    following = newer(cluster.plan)
    _, claim = routes.claim(cluster.now, following.claim())
    cluster.patch_route(cluster.now, claim)
    if share:
        cluster.patch_route(cluster.now, routes.shift(cluster.now, following.claim(cluster.claim), share, 0.0))
    return following


def with_a_rule_for_the_candidate_alone(cluster: FakeCluster) -> FakeCluster:
    ref = {"kind": "Service", "name": cluster.plan.candidate, "port": 80, "weight": 1}
    cluster.body["spec"]["rules"].append({"backendRefs": [ref]})
    return cluster


class TestReturningTraffic:
    def test_leaves_the_word_and_the_phase(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        assert roll_back(cluster, plan, routes.BRAKED, "errors")
        assert (cluster.now.phase, recorded_reason(cluster.now)) == (routes.BRAKED, "errors")
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    @pytest.mark.parametrize("phase", [routes.BRAKED, routes.SETTLED])
    def test_a_verified_promotion_is_not_undone(self, plan: DeploymentPlan, phase: str) -> None:
        cluster = FakeCluster.verified(plan)
        before = cluster.writes
        assert not roll_back(cluster, plan, phase)
        assert cluster.writes == before

    def test_a_brake_that_comes_after_the_rollback_writes_nothing(self, plan: DeploymentPlan) -> None:
        """Its answer was lost, and it tries again while the run goes on."""
        cluster = FakeCluster.at_share(plan, 25)
        roll_back_and_stop(real(cluster), plan)
        before, writes = cluster.now.body, cluster.writes
        assert roll_back(cluster, plan, routes.BRAKED, "errors")
        assert (cluster.now.body, cluster.writes) == (before, writes)

    @pytest.mark.parametrize("phase", [routes.BRAKED, routes.SETTLED])
    def test_of_all_rules_but_that_of_somebody_else_it_is_returned(self, plan: DeploymentPlan, phase: str) -> None:
        cluster = with_a_rule_for_the_candidate_alone(FakeCluster.at_share(plan, 25))
        rule = copy.deepcopy(cluster.body["spec"]["rules"][1])
        with pytest.raises(FencedError, match=f"sends requests to {plan.candidate} and does not name {plan.stable}"):
            roll_back(cluster, plan, phase, "errors")
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}
        assert (cluster.now.phase, cluster.body["spec"]["rules"][1]) == (routes.BRAKED, rule)

    @pytest.mark.parametrize("owner", [None, "DEP-2-ffffffff/9", "nonsense", ""])
    def test_a_route_that_is_not_ours_is_not_written(self, plan: DeploymentPlan, owner: str | None) -> None:
        cluster = FakeCluster.at_share(plan, 25).annotate(routes.OWNER, owner)
        before = cluster.writes
        assert not roll_back(cluster, plan, routes.BRAKED)
        assert cluster.writes == before


class TestStableWithoutPods:
    """Users of a bad version are better off than users of none."""

    @pytest.mark.parametrize("phase", [routes.BRAKED, routes.SETTLED])
    def test_takes_nothing_back_until_it_has_one(self, plan: DeploymentPlan, phase: str) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        cluster.replicas[plan.stable] = 0
        before = cluster.body
        with pytest.raises(
            TemporaryError, match=f"{plan.stable} has no ready pod that could take the traffic of .*: start one"
        ):
            roll_back(cluster, plan, phase)
        assert cluster.body is before
        cluster.replicas[plan.stable] = 1
        assert roll_back(cluster, plan, phase)
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    @pytest.mark.parametrize("error", [RefusedError("403"), TemporaryError("no answer")])
    def test_where_that_is_not_known_nobody_waits(self, plan: DeploymentPlan, error: DeployError) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        cluster.replicas[plan.stable] = 0
        cluster.fail("ready_endpoints", error)
        assert roll_back(cluster, plan, routes.BRAKED)
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    def test_settles_where_the_candidate_has_no_traffic(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 0)
        cluster.replicas[plan.stable] = 0
        assert roll_back_and_stop(real(cluster), plan).acted

    @pytest.mark.parametrize("error", [None, RefusedError("403"), PermanentError("400")])
    @pytest.mark.parametrize(("try_number", "ends"), [(1, False), (30, False), (31, True)])
    def test_fails_for_good_only_with_the_last_try(
        self,
        plan: DeploymentPlan,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        try_number: int,
        ends: bool,
        error: DeployError | None,
    ) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        if error:
            cluster.fail("route", error)
        else:
            cluster.replicas[plan.stable] = 0
        monkeypatch.setattr(settling, "Cluster", lambda _: cluster)
        deploying(run, plan)
        run.ti.try_number = try_number
        operator = FinalizeOperator(task_id="finalize", audit="audit", **ENDING)
        with pytest.raises(NotFinalizedError if ends else type(error) if error else TemporaryError):
            operator.execute(run.at("finalize"))
        states = [step.to for step in recorded_steps(run.context, ["finalize"])]
        assert states == ([S.ROLLING_BACK, S.FAILED] if ends else [])


class TestRouteThatIsGone:
    """Somebody has deleted it in the middle of a run: nobody has traffic, and nobody must wait for it."""

    def test_leaves_a_candidate_to_stop(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25).without_route()
        settled = roll_back_and_stop(real(cluster), plan)
        assert (settled.acted, settled.verified, cluster.replicas[plan.candidate]) == (True, False, 0)
        assert (
            settled.reason == f"route {plan.spec.namespace}/{plan.spec.route.name} is gone, so no version has traffic"
        )

    @pytest.mark.parametrize("task", ["rollback", "finalize"])
    def test_is_an_end(self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str) -> None:
        deploying(run, plan)
        cluster = FakeCluster.at_share(plan, 25).without_route()
        with pytest.raises(NotFinalizedError) if task == "finalize" else nullcontext():
            execute(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.ROLLING_BACK, S.ROLLED_BACK]

    def test_has_no_traffic_for_the_brake(self, plan: DeploymentPlan) -> None:
        assert not roll_back(FakeCluster.at_share(plan, 25).without_route(), plan, routes.BRAKED)

    def test_is_not_abandoned(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25).without_route()
        writes = cluster.writes
        abandon_route(real(cluster), plan.claim())
        assert cluster.writes == writes


class TestSettling:
    @pytest.mark.parametrize("share", [0, 5, 50, 100])
    def test_the_traffic_comes_back_and_the_candidate_stops(self, plan: DeploymentPlan, share: int) -> None:
        cluster = FakeCluster.at_share(plan, share)
        settled = roll_back_and_stop(real(cluster), plan)
        assert (settled.acted, settled.verified) == (True, False)
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}
        assert cluster.now.phase == routes.SETTLED
        assert cluster.replicas == {plan.stable: 2, plan.candidate: 0}

    def test_the_pods_wait_until_the_gateway_sends_them_no_more(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has lost the API server for a while, say, and goes on by the weights that it knows."""
        cluster = FakeCluster.at_share(plan, 50)
        seen: list[Any] = []

        def still_comes(asked: DeploymentPlan) -> str:
            seen.append((asked, cluster.weights()[plan.candidate], cluster.replicas[plan.candidate]))
            return "some still came"

        monkeypatch.setattr("airflow_deploy.rollout.routers.draining.wait_until_drained", still_comes)
        settled = roll_back_and_stop(real(cluster), plan)
        assert seen == [(plan, 0, 2)]
        assert cluster.replicas[plan.candidate] == 0
        assert settled.reason == f"rolled back to {plan.stable}; some still came"

    def test_what_never_had_the_route_is_stopped_at_once(
        self, plan: DeploymentPlan, drained: list[DeploymentPlan]
    ) -> None:
        cluster = FakeCluster.at_share(plan, 50).annotate(routes.OWNER, "DEP-2-ffffffff/9")
        cluster.body["spec"]["rules"][0]["backendRefs"] = [{"name": plan.stable, "port": 80, "weight": 100}]
        roll_back_and_stop(real(cluster), plan)
        assert (cluster.replicas[plan.candidate], drained) == (0, [])

    def test_twice_is_as_good_as_once(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 50)
        first = roll_back_and_stop(real(cluster), plan)
        writes = cluster.writes
        assert roll_back_and_stop(real(cluster), plan) == first
        assert cluster.writes == writes

    def test_a_promotion_that_was_not_verified_comes_back_too(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.promoted(plan)
        assert roll_back_and_stop(real(cluster), plan).acted
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    def test_what_was_applied_but_never_claimed_is_stopped(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster(plan)
        cluster.replicas[plan.candidate] = 2
        assert roll_back_and_stop(real(cluster), plan).acted
        assert cluster.replicas[plan.candidate] == 0
        assert cluster.writes == 0

    def test_where_nothing_was_applied_nothing_is_done(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster(plan)
        settled = roll_back_and_stop(real(cluster), plan)
        assert (settled.acted, settled.verified) == (False, False)
        assert (cluster.writes, cluster.replicas) == (0, {plan.stable: 2})

    def test_a_verified_version_stays(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.verified(plan)
        settled = roll_back_and_stop(real(cluster), plan)
        assert (settled.acted, settled.verified) == (False, True)
        assert cluster.weights() == {plan.stable: 0, plan.candidate: 100}
        assert cluster.replicas[plan.candidate] == 2

    @pytest.mark.parametrize("share", [0, 25, 100])
    def test_a_later_deployments_previous_version_is_not_touched(self, plan: DeploymentPlan, share: int) -> None:
        """It serves, or stays warm as the later one's way back."""
        cluster = FakeCluster.verified(plan)
        claimed_by_the_next(cluster, share)
        body = cluster.now.body
        if share < 100:
            with pytest.raises(FencedError, match=f"{plan.candidate} has traffic"):
                roll_back_and_stop(real(cluster), plan)
        else:
            assert not roll_back_and_stop(real(cluster), plan).acted
        assert cluster.now.body == body
        assert cluster.replicas[plan.candidate] == 2

    def test_traffic_under_a_foreign_owner_is_said_and_not_taken(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25).annotate(routes.OWNER, "DEP-2-ffffffff/9")
        body = cluster.now.body
        with pytest.raises(FencedError, match=f"DEP-2-ffffffff/9 owns route .*, and {plan.candidate} has traffic"):
            roll_back_and_stop(real(cluster), plan)
        assert cluster.now.body == body
        assert cluster.replicas[plan.candidate] == 2

    def test_traffic_under_no_owner_is_said_too(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25).annotate(routes.OWNER, None)
        with pytest.raises(FencedError, match="no deployment owns route"):
            roll_back_and_stop(real(cluster), plan)

    def test_a_race_that_is_lost_may_be_won_later(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        cluster.fail("patch_route", TemporaryError("somebody wrote meanwhile"))
        with pytest.raises(TemporaryError):
            roll_back_and_stop(real(cluster), plan)
        assert roll_back_and_stop(real(cluster), plan).acted

    @pytest.mark.parametrize("where", ["route", "patch_route", "exists", "scale"])
    def test_whatever_fails_the_next_try_completes_it(self, plan: DeploymentPlan, where: str) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        cluster.fail(where, RefusedError("403"))
        with pytest.raises(RefusedError):
            roll_back_and_stop(real(cluster), plan)
        assert roll_back_and_stop(real(cluster), plan).acted
        assert cluster.weights()[plan.candidate] == 0
        assert cluster.replicas[plan.candidate] == 0


class TestAbandoning:
    def test_closes_our_own_route(self, plan: DeploymentPlan) -> None:
        cluster = with_a_rule_for_the_candidate_alone(FakeCluster.at_share(plan, 25))
        abandon_route(real(cluster), plan.claim())
        assert cluster.now.phase == routes.ABANDONED

    @pytest.mark.parametrize("owner", [None, "DEP-2-ffffffff/9", ""])
    def test_leaves_everybody_elses_alone(self, plan: DeploymentPlan, owner: str | None) -> None:
        cluster = FakeCluster.at_share(plan, 25).annotate(routes.OWNER, owner)
        before = cluster.writes
        abandon_route(real(cluster), plan.claim())
        assert (cluster.writes, cluster.now.phase) == (before, routes.CANARY)


def deploying(run: Run, plan: DeploymentPlan) -> None:
    run.planned(plan)
    run.reach("plan", S.INIT)
    run.reach("build_image", S.BUILDING)
    run.reach("shift", S.DEPLOYING, *STAGE)


def execute(run: Run, task: str, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settling, "Cluster", lambda _: cluster)
    made: dict[str, Any] = {
        "rollback": lambda: RollbackOperator(task_id="rollback", judges=["watch"], gates=[], **ENDING),
        "finalize": lambda: FinalizeOperator(task_id="finalize", audit="audit", **ENDING),
    }
    made[task]().execute(run.at(task))


@pytest.mark.parametrize("task", ["rollback", "finalize"])
class TestBothWaysBack:
    def test_an_added_rule_does_not_disarm_them(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        cluster = FakeCluster.at_share(plan, 50)
        ref = {"kind": "Service", "name": plan.stable, "port": 80, "weight": 3}
        cluster.body["spec"]["rules"].insert(0, {"backendRefs": [ref]})
        self.attempt(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.ROLLING_BACK, S.ROLLED_BACK]
        assert not cluster.now.serves(plan.candidate)
        assert cluster.now.body["spec"]["rules"][0] == {"backendRefs": [ref]}

    def test_what_cannot_be_taken_back_is_failed_and_closed(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        cluster = with_a_rule_for_the_candidate_alone(FakeCluster.at_share(plan, 50))
        with pytest.raises(NotFinalizedError, match=plan.deployment_id):
            execute(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.ROLLING_BACK, S.FAILED]
        assert cluster.now.phase == routes.ABANDONED
        # Nobody comes after the teardown.
        assert bool(run.ti.xcom_pull(task_ids="finalize")) == (task == "finalize")

    @pytest.mark.parametrize("last", [False, True])
    def test_whose_route_somebody_changed_they_say_so_at_whatever_try(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str, last: bool
    ) -> None:
        deploying(run, plan)
        run.ti.try_number = 31 if last else 1
        cluster = with_a_rule_for_the_candidate_alone(FakeCluster.at_share(plan, 50))
        with pytest.raises(NotFinalizedError, match="was changed by hand"):
            execute(run, task, cluster, monkeypatch)

    def test_under_a_foreign_owner_they_tell_a_person_and_write_nothing(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        cluster = FakeCluster.at_share(plan, 50).annotate(routes.OWNER, "DEP-2-ffffffff/9")
        before = cluster.now.body
        with pytest.raises(NotFinalizedError, match=r"DEP-2-ffffffff/9 owns route"):
            execute(run, task, cluster, monkeypatch)
        assert cluster.now.body == before
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.ROLLING_BACK, S.FAILED]

    def test_a_verified_version_stays_and_is_recorded_as_such(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        run.reach("promote", S.PROMOTING, S.PROMOTED)
        run.reach("verify", S.VERIFYING)
        cluster = FakeCluster.verified(plan)
        with pytest.raises(AirflowSkipException) if task == "rollback" else nullcontext():
            execute(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.VERIFIED]
        assert cluster.weights() == {plan.stable: 0, plan.candidate: 100}

    def test_they_may_be_tried_until_the_cluster_answers(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        cluster = FakeCluster.at_share(plan, 50)
        errors: list[DeployError] = [RefusedError("403"), TemporaryError("no answer"), RefusedError("404")]
        for where, error in zip(("route", "patch_route", "scale"), errors, strict=True):
            cluster.fail(where, error)
            with pytest.raises(type(error)):
                execute(run, task, cluster, monkeypatch)
            assert recorded_steps(run.context, [task]) == []
        self.attempt(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.ROLLING_BACK, S.ROLLED_BACK]
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    def test_a_route_that_cannot_be_given_up_now_is_given_up_at_the_next_try(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        cluster = with_a_rule_for_the_candidate_alone(FakeCluster.at_share(plan, 50))
        cluster.fail("patch_route", TemporaryError("no answer"))
        with pytest.raises(TemporaryError):
            execute(run, task, cluster, monkeypatch)
        with pytest.raises(NotFinalizedError):
            execute(run, task, cluster, monkeypatch)
        assert cluster.now.phase == routes.ABANDONED

    def attempt(self, run: Run, task: str, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run it to its end; a settle that had to act fails the run."""
        if task == "rollback":
            execute(run, task, cluster, monkeypatch)
        else:
            with pytest.raises(NotFinalizedError):
                execute(run, task, cluster, monkeypatch)


def test_settle_after_a_rollback_that_failed_does_not_try_again_but_fails_the_run(
    run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploying(run, plan)
    cluster = with_a_rule_for_the_candidate_alone(FakeCluster.at_share(plan, 50))
    for task in ("rollback", "finalize"):
        with pytest.raises(NotFinalizedError):
            execute(run, task, cluster, monkeypatch)
    assert recorded_steps(run.context, ["finalize"]) == []


@pytest.mark.usefixtures("store")
def test_a_version_that_was_verified_stays_warm_whatever_a_later_deployment_has_left_on_the_route() -> None:
    """It may be the way back of the one that serves. Who stops it is the task that tidies up."""
    plan = planned()
    verified(plan)
    cluster = FakeCluster.verified(plan)
    cluster.annotate(routes.OWNER, "DEP-3-ffffffff/9").annotate(routes.PHASE, routes.SETTLED)
    for ref in cluster.body["spec"]["rules"][0]["backendRefs"]:
        ref["name"] = {plan.candidate: "payments-2222222-2", plan.stable: "payments-3333333-3"}[ref["name"]]
    settled = roll_back_and_stop(real(cluster), plan)
    assert (settled.acted, settled.overtaken, cluster.replicas[plan.candidate]) == (False, True, 2)


def test_the_previous_version_of_a_later_deployment_stays_warm_when_an_old_run_is_cleared(
    run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploying(run, plan)
    cluster = FakeCluster.verified(plan)
    claimed_by_the_next(cluster, 100)
    body = cluster.now.body
    with pytest.raises(AirflowSkipException):
        execute(run, "rollback", cluster, monkeypatch)
    assert recorded_steps(run.context, ["rollback"]) == []
    assert cluster.replicas[plan.candidate] == 2
    assert cluster.now.body == body
