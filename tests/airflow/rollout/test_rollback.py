"""The rollback of a run: it returns the run's traffic, stops the candidate, and takes no traffic from a third party."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.kubernetes.connection import REQUEST_RETRIES
from airflow_deploy.clients.kubernetes.errors import (
    ConflictError,
    ForbiddenError,
    InvalidError,
    UnavailableError,
    UnknownApiError,
)
from airflow_deploy.domain.errors import DeployError, FencedError, NotFinalizedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State as S
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.operators.audit import write_audit
from airflow_deploy.rollout.rollback import abandon_route
from airflow_deploy.rollout.teardown import roll_back_and_stop
from airflow_deploy.tasks.base import recorded_steps
from tests.support.builders import make_plan
from tests.support.claims import recorded_reason, roll_back
from tests.support.ending import TASKS, deploying, execute
from tests.support.judgement import GOOD_BASELINE
from tests.support.kubernetes_api import Object
from tests.support.other_writers import claimed_by_the_next, with_a_rule_for_the_candidate_alone
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster

OTHER = "DEP-2-ffffffff/9"


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> DeploymentPlan:
    return make_plan(run_id=request.node.name)


@pytest.fixture
def run() -> Run:
    return Run()


class TestRollback:
    def test_rollback_leaves_verdict_and_phase_on_the_route(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        assert roll_back(cluster.client, plan, routes.BRAKED, "errors")
        assert (cluster.now.phase, recorded_reason(cluster.now)) == (routes.BRAKED, "errors")
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    @pytest.mark.parametrize("phase", [routes.BRAKED, routes.SETTLED])
    def test_rollback_by_the_run_does_not_undo_a_verified_promotion(self, plan: DeploymentPlan, phase: str) -> None:
        cluster = ServiceCluster.verified(plan)
        before = cluster.writes
        assert not roll_back(cluster.client, plan, phase)
        assert cluster.writes == before

    def test_brake_after_the_rollback_writes_nothing(self, plan: DeploymentPlan) -> None:
        """Its answer was lost, and it tries again while the run goes on."""
        cluster = ServiceCluster.at_share(plan, 25)
        roll_back_and_stop(cluster.client, plan)
        before, writes = cluster.now.body, cluster.writes
        assert roll_back(cluster.client, plan, routes.BRAKED, "errors")
        assert (cluster.now.body, cluster.writes) == (before, writes)

    @pytest.mark.parametrize("phase", [routes.BRAKED, routes.SETTLED])
    def test_rollback_changes_all_rules_but_a_foreign_one(self, plan: DeploymentPlan, phase: str) -> None:
        cluster = with_a_rule_for_the_candidate_alone(ServiceCluster.at_share(plan, 25))
        rule = cluster.body["spec"]["rules"][1]
        with pytest.raises(FencedError, match=f"sends requests to {plan.candidate} and does not name {plan.stable}"):
            roll_back(cluster.client, plan, phase, "errors")
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}
        assert (cluster.now.phase, cluster.body["spec"]["rules"][1]) == (routes.BRAKED, rule)

    @pytest.mark.parametrize("owner", [None, OTHER, "nonsense", ""])
    def test_rollback_does_not_write_the_route_of_another_owner(self, plan: DeploymentPlan, owner: str | None) -> None:
        cluster = ServiceCluster.at_share(plan, 25).annotate(routes.OWNER, owner)
        before = cluster.writes
        assert not roll_back(cluster.client, plan, routes.BRAKED)
        assert cluster.writes == before


class TestStableWithoutPods:
    """Users of a bad version are better off than users of none."""

    @pytest.mark.parametrize("phase", [routes.BRAKED, routes.SETTLED])
    def test_rollback_waits_until_the_stable_has_a_ready_pod(self, plan: DeploymentPlan, phase: str) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        cluster.replicas[plan.stable] = 0
        before = cluster.body
        with pytest.raises(
            TemporaryError, match=f"{plan.stable} has no ready pod that could take the traffic of .*: start one"
        ):
            roll_back(cluster.client, plan, phase)
        assert cluster.body == before
        cluster.replicas[plan.stable] = 1
        assert roll_back(cluster.client, plan, phase)
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    @pytest.mark.parametrize("status", [403, 503])
    def test_brake_does_not_wait_if_the_cluster_does_not_tell_about_pods(
        self, plan: DeploymentPlan, status: int
    ) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        cluster.replicas[plan.stable] = 0
        cluster.api.fail("endpointslices", status)
        assert roll_back(cluster.client, plan, routes.BRAKED)
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    def test_run_whose_candidate_has_no_traffic_is_rolled_back(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 0)
        cluster.replicas[plan.stable] = 0
        assert roll_back_and_stop(cluster.client, plan).acted

    @pytest.mark.parametrize(("status", "error"), [(None, TemporaryError), (403, ForbiddenError), (400, InvalidError)])
    @pytest.mark.parametrize(("try_number", "ends"), [(1, False), (30, False), (31, True)])
    def test_finalize_records_failed_only_at_its_last_try(
        self,
        plan: DeploymentPlan,
        run: Run,
        monkeypatch: pytest.MonkeyPatch,
        try_number: int,
        ends: bool,
        status: int | None,
        error: type[DeployError],
    ) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        if status:
            cluster.api.fail("httproutes/payments-route", status)
        else:
            cluster.replicas[plan.stable] = 0
        deploying(run, plan)
        run.ti.try_number = try_number
        with pytest.raises(NotFinalizedError if ends else error):
            execute(run, "finalize", cluster, monkeypatch)
        states = [step.to for step in recorded_steps(run.context, ["finalize"])]
        assert states == ([S.ROLLING_BACK, S.FAILED] if ends else [])


class TestRouteThatIsGone:
    """A person has deleted it in the middle of a run: no version has traffic, and no task must wait for it."""

    def test_rollback_without_the_route_stops_the_candidate(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25).without_route()
        settled = roll_back_and_stop(cluster.client, plan)
        assert (settled.acted, settled.verified, cluster.replicas[plan.candidate]) == (True, False, 0)
        assert (
            settled.reason == f"route {plan.spec.namespace}/{plan.spec.route.name} is gone, so no version has traffic"
        )

    @pytest.mark.parametrize("task", ["rollback", "finalize"])
    def test_run_without_its_route_ends_rolled_back(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        cluster = ServiceCluster.at_share(plan, 25).without_route()
        with pytest.raises(NotFinalizedError) if task == "finalize" else nullcontext():
            execute(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.ROLLING_BACK, S.ROLLED_BACK]

    def test_brake_without_the_route_finds_no_traffic(self, plan: DeploymentPlan) -> None:
        assert not roll_back(ServiceCluster.at_share(plan, 25).without_route().client, plan, routes.BRAKED)

    def test_route_that_is_gone_is_not_abandoned(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25).without_route()
        writes = len(cluster.api.writes)
        abandon_route(cluster.client, plan.claim())
        assert (len(cluster.api.writes), cluster.team.is_there) == (writes, False)


class TestStop:
    @pytest.mark.parametrize("share", [0, 5, 50, 100])
    def test_rollback_returns_the_traffic_and_then_stops_the_candidate(self, plan: DeploymentPlan, share: int) -> None:
        cluster = ServiceCluster.at_share(plan, share)
        settled = roll_back_and_stop(cluster.client, plan)
        assert (settled.acted, settled.verified) == (True, False)
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}
        assert cluster.now.phase == routes.SETTLED
        assert cluster.replicas == {plan.stable: 2, plan.candidate: 0}

    def test_candidates_pods_wait_until_the_gateway_sends_them_no_more_requests(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has lost the API server for a while, say, and goes on by the weights that it knows."""
        cluster = ServiceCluster.at_share(plan, 50)
        seen: list[Any] = []

        def still_comes(asked: DeploymentPlan) -> str:
            seen.append((asked, cluster.weights()[plan.candidate], cluster.replicas[plan.candidate]))
            return "some still came"

        monkeypatch.setattr("airflow_deploy.rollout.routers.draining.wait_until_drained", still_comes)
        settled = roll_back_and_stop(cluster.client, plan)
        assert seen == [(plan, 0, 2)]
        assert cluster.replicas[plan.candidate] == 0
        assert settled.reason == f"rolled back to {plan.stable}; some still came"

    def test_candidate_that_never_had_the_route_is_stopped_at_once(
        self, plan: DeploymentPlan, drained: list[DeploymentPlan]
    ) -> None:
        cluster = ServiceCluster.at_share(plan, 50).annotate(routes.OWNER, OTHER)

        def change(body: Object) -> None:
            body["spec"]["rules"][0]["backendRefs"] = [{"name": plan.stable, "port": 80, "weight": 100}]

        cluster.edit(change)
        roll_back_and_stop(cluster.client, plan)
        assert (cluster.replicas[plan.candidate], drained) == (0, [])

    def test_rollback_done_twice_has_one_outcome_and_writes_once(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 50)
        first = roll_back_and_stop(cluster.client, plan)
        writes = cluster.writes
        assert roll_back_and_stop(cluster.client, plan) == first
        assert cluster.writes == writes

    def test_promotion_that_was_not_verified_is_rolled_back(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.promoted(plan)
        assert roll_back_and_stop(cluster.client, plan).acted
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    def test_candidate_that_was_applied_and_never_claimed_the_route_is_stopped(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster(plan)
        cluster.apply(plan)
        assert roll_back_and_stop(cluster.client, plan).acted
        assert cluster.replicas[plan.candidate] == 0
        assert cluster.writes == 0

    def test_rollback_of_a_run_that_applied_nothing_does_nothing(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster(plan)
        settled = roll_back_and_stop(cluster.client, plan)
        assert (settled.acted, settled.verified) == (False, False)
        assert (cluster.api.writes, dict(cluster.replicas)) == ([], {plan.stable: 2})

    def test_verified_version_stays(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.verified(plan)
        settled = roll_back_and_stop(cluster.client, plan)
        assert (settled.acted, settled.verified) == (False, True)
        assert cluster.weights() == {plan.stable: 0, plan.candidate: 100}
        assert cluster.replicas[plan.candidate] == 2

    @pytest.mark.parametrize("share", [0, 25, 100])
    def test_previous_version_of_a_later_deployment_is_not_touched(self, plan: DeploymentPlan, share: int) -> None:
        """It serves, or stays warm as the later one's rollback target."""
        cluster = ServiceCluster.verified(plan)
        claimed_by_the_next(cluster, share)
        body = cluster.now.body
        if share < 100:
            with pytest.raises(FencedError, match=f"{plan.candidate} has traffic"):
                roll_back_and_stop(cluster.client, plan)
        else:
            assert not roll_back_and_stop(cluster.client, plan).acted
        assert cluster.now.body == body
        assert cluster.replicas[plan.candidate] == 2

    def test_traffic_under_another_owner_is_reported_and_not_taken(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25).annotate(routes.OWNER, OTHER)
        body = cluster.now.body
        with pytest.raises(FencedError, match=f"{OTHER} owns route .*, and {plan.candidate} has traffic"):
            roll_back_and_stop(cluster.client, plan)
        assert cluster.now.body == body
        assert cluster.replicas[plan.candidate] == 2

    def test_traffic_under_no_owner_is_reported(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25).annotate(routes.OWNER, None)
        with pytest.raises(FencedError, match="no deployment owns route"):
            roll_back_and_stop(cluster.client, plan)

    def test_rollback_that_lost_a_race_succeeds_when_it_is_tried_again(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)

        def change() -> None:
            cluster.edit(lambda body: body["spec"]["rules"].insert(0, {"backendRefs": []}))

        cluster.api.before("httproutes/", change, method="PATCH")
        with pytest.raises(ConflictError):
            roll_back_and_stop(cluster.client, plan)
        assert roll_back_and_stop(cluster.client, plan).acted

    @pytest.mark.parametrize(
        ("method", "path"),
        [("GET", "httproutes/"), ("PATCH", "httproutes/"), ("GET", "deployments/"), ("PATCH", "deployments/")],
    )
    def test_rollback_that_failed_at_any_request_is_completed_by_the_next_try(
        self, plan: DeploymentPlan, method: str, path: str
    ) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        cluster.api.fail(path, 403, method=method)
        with pytest.raises(ForbiddenError):
            roll_back_and_stop(cluster.client, plan)
        assert roll_back_and_stop(cluster.client, plan).acted
        assert cluster.weights()[plan.candidate] == 0
        assert cluster.replicas[plan.candidate] == 0


class TestAbandon:
    def test_run_closes_its_own_route(self, plan: DeploymentPlan) -> None:
        cluster = with_a_rule_for_the_candidate_alone(ServiceCluster.at_share(plan, 25))
        abandon_route(cluster.client, plan.claim())
        assert cluster.now.phase == routes.ABANDONED

    @pytest.mark.parametrize("owner", [None, OTHER, ""])
    def test_run_leaves_the_route_of_another_owner_alone(self, plan: DeploymentPlan, owner: str | None) -> None:
        cluster = ServiceCluster.at_share(plan, 25).annotate(routes.OWNER, owner)
        before = cluster.writes
        abandon_route(cluster.client, plan.claim())
        assert (cluster.writes, cluster.now.phase) == (before, routes.CANARY)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let no request wait before it is sent again, and return for how long each would have waited."""
    waits: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    return waits


@pytest.mark.parametrize("task", ["rollback", "finalize"])
class TestTasks:
    """The two tasks that roll a run back."""

    def test_rule_that_a_person_added_does_not_stop_the_rollback(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        cluster = ServiceCluster.at_share(plan, 50)
        rule = {"backendRefs": [{"kind": "Service", "name": plan.stable, "port": 80, "weight": 3}]}
        cluster.edit(lambda body: body["spec"]["rules"].insert(0, copy.deepcopy(rule)))
        self.attempt(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.ROLLING_BACK, S.ROLLED_BACK]
        assert not cluster.now.serves(plan.candidate)
        assert cluster.now.body["spec"]["rules"][0] == rule

    def test_rollback_that_cannot_be_completed_is_failed_and_closes_the_route(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        cluster = with_a_rule_for_the_candidate_alone(ServiceCluster.at_share(plan, 50))
        with pytest.raises(NotFinalizedError, match=plan.deployment_id):
            execute(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.ROLLING_BACK, S.FAILED]
        assert cluster.now.phase == routes.ABANDONED
        # No task comes after the teardown.
        assert bool(run.ti.xcom_pull(task_ids="finalize")) == (task == "finalize")

    @pytest.mark.parametrize("last", [False, True])
    def test_route_that_a_person_changed_is_reported_at_any_try(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str, last: bool
    ) -> None:
        deploying(run, plan)
        run.ti.try_number = 31 if last else 1
        cluster = with_a_rule_for_the_candidate_alone(ServiceCluster.at_share(plan, 50))
        with pytest.raises(NotFinalizedError, match="was changed by hand"):
            execute(run, task, cluster, monkeypatch)

    def test_route_of_another_owner_is_reported_and_not_written(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        cluster = ServiceCluster.at_share(plan, 50).annotate(routes.OWNER, OTHER)
        before = cluster.now.body
        with pytest.raises(NotFinalizedError, match=f"{OTHER} owns route"):
            execute(run, task, cluster, monkeypatch)
        assert cluster.now.body == before
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.ROLLING_BACK, S.FAILED]

    def test_verified_version_stays_and_is_recorded_as_verified(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        run.reach("promote", S.PROMOTING, S.PROMOTED)
        run.reach("verify", S.VERIFYING)
        cluster = ServiceCluster.verified(plan)
        with pytest.raises(AirflowSkipException) if task == "rollback" else nullcontext():
            execute(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.VERIFIED]
        assert cluster.weights() == {plan.stable: 0, plan.candidate: 100}

    def test_failed_tries_record_nothing_and_the_next_one_rolls_back(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, slept: list[float], task: str
    ) -> None:
        deploying(run, plan)
        cluster = ServiceCluster.at_share(plan, 50)
        requests = int(REQUEST_RETRIES.total or 0) + 1
        faults: list[tuple[str, str, int, int, type[DeployError]]] = [
            ("GET", "httproutes/", 403, 1, ForbiddenError),
            ("PATCH", "httproutes/", 503, requests, UnavailableError),
            ("PATCH", "deployments/", 404, 1, UnknownApiError),
        ]
        for method, path, status, times, error in faults:
            cluster.api.fail(path, status, method=method, times=times)
            with pytest.raises(error):
                execute(run, task, cluster, monkeypatch)
            assert recorded_steps(run.context, [task]) == []
        assert slept, "a request that may succeed soon is sent again"
        self.attempt(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [S.ROLLING_BACK, S.ROLLED_BACK]
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    def test_route_that_cannot_be_closed_now_is_closed_at_the_next_try(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        deploying(run, plan)
        cluster = with_a_rule_for_the_candidate_alone(ServiceCluster.at_share(plan, 50))
        cluster.api.fail("httproutes/", 409, method="PATCH")
        with pytest.raises(ConflictError):
            execute(run, task, cluster, monkeypatch)
        with pytest.raises(NotFinalizedError):
            execute(run, task, cluster, monkeypatch)
        assert cluster.now.phase == routes.ABANDONED

    def attempt(self, run: Run, task: str, cluster: ServiceCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run it to its end; a ``finalize`` that had to roll back fails the run."""
        if task == "rollback":
            execute(run, task, cluster, monkeypatch)
        else:
            with pytest.raises(NotFinalizedError):
                execute(run, task, cluster, monkeypatch)


def test_finalize_after_a_failed_rollback_does_not_try_again_and_fails_the_run(
    run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploying(run, plan)
    cluster = with_a_rule_for_the_candidate_alone(ServiceCluster.at_share(plan, 50))
    for task in ("rollback", "finalize"):
        with pytest.raises(NotFinalizedError):
            execute(run, task, cluster, monkeypatch)
    assert recorded_steps(run.context, ["finalize"]) == []


@pytest.mark.usefixtures("store")
def test_verified_version_that_the_route_does_not_name_stays_warm(run: Run, plan: DeploymentPlan) -> None:
    """It may be the rollback target of the version that serves. The task ``cleanup`` stops it."""
    deploying(run, plan)
    run.measured(plan, GOOD_BASELINE.dump())
    run.reach("promote", S.PROMOTING, S.PROMOTED)
    run.reach("verify", S.VERIFYING, S.VERIFIED)
    write_audit(run.at("audit"), plan, TASKS)
    cluster = ServiceCluster.verified(plan)
    cluster.annotate(routes.OWNER, "DEP-3-ffffffff/9").annotate(routes.PHASE, routes.SETTLED)
    later = {plan.candidate: "payments-2222222-2", plan.stable: "payments-3333333-3"}

    def change(body: Object) -> None:
        for ref in body["spec"]["rules"][0]["backendRefs"]:
            ref["name"] = later[ref["name"]]

    cluster.edit(change)
    settled = roll_back_and_stop(cluster.client, plan)
    assert (settled.acted, settled.overtaken, cluster.replicas[plan.candidate]) == (False, True, 2)


def test_cleared_run_leaves_the_previous_version_of_a_later_deployment_warm(
    run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploying(run, plan)
    cluster = ServiceCluster.verified(plan)
    claimed_by_the_next(cluster, 100)
    body = cluster.now.body
    with pytest.raises(AirflowSkipException):
        execute(run, "rollback", cluster, monkeypatch)
    assert recorded_steps(run.context, ["rollback"]) == []
    assert cluster.replicas[plan.candidate] == 2
    assert cluster.now.body == body
