"""``rollback``, which runs as soon as anything fails, and ``finalize``, the teardown that always runs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.domain.errors import DeployError, FencedError, NotFinalizedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import ENDS, State
from airflow_deploy.domain.lifecycle.xcom_keys import REASON_KEY, VERDICT_KEY
from airflow_deploy.operators.audit import RecordingOperator, write_audit
from airflow_deploy.rollout.rollback import abandon_route
from airflow_deploy.rollout.teardown import release, roll_back_and_stop
from airflow_deploy.tasks.base import ROLLBACK_RETRIES, record_step, recorded_steps

log = logging.getLogger(__name__)

HARMFUL = frozenset({"BREACHED", "UNDECIDED", "BLIND"})


def roll_back(
    context: Context, plan: DeploymentPlan, why: str, *, reached: Collection[State], at: datetime | None = None
) -> bool:
    """Roll this deployment back and record it; return False if it had left nothing to undo.

    :param reached: the states recorded so far; after DEPLOYING a rollback is recorded in any case.
    :param at: when the verdict fell, if that is known.
    :raises NotFinalizedError: a person must correct the route.
    """
    cluster = connect(plan.spec.connections.kubernetes)
    try:
        outcome = roll_back_and_stop(cluster, plan, why)
    except FencedError as error:
        abandon_route(cluster, plan.claim())
        record_step(context, State.ROLLING_BACK, why, at=at)
        record_step(context, State.FAILED, str(error))
        raise NotFinalizedError(f"{plan.deployment_id} is not rolled back; correct its route: {error}") from error
    if outcome.verified and State.VERIFIED not in reached:  # its task died between the route and its record
        record_step(context, State.VERIFIED, outcome.reason)
    kept = outcome.verified or outcome.overtaken
    undone = not kept and (outcome.acted or State.DEPLOYING in reached)
    if undone:
        record_step(context, State.ROLLING_BACK, why, at=at)
        record_step(context, State.ROLLED_BACK, outcome.reason)
    return undone


class RollbackOperator(RecordingOperator):
    """Return the traffic, then stop the candidate.

    :param judges: ids of the tasks whose verdict may be the reason.
    :param gates: ids of those that ask a person when they are undecided, which is no reason then.
    """

    def __init__(self, *, judges: Sequence[str], gates: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**{**ROLLBACK_RETRIES, **kwargs})
        self.judges = list(judges)
        self.gates = list(gates)

    def execute(self, context: Context) -> None:
        """Roll the deployment back; skip if it failed before anything was applied."""
        plan = self.latest_plan(context)
        why, at = self._reason(context)
        reached = {step.to for step in recorded_steps(context, self.steps_of)}
        if not roll_back(context, plan, why, reached=reached, at=at):
            raise AirflowSkipException("nothing was applied, so there is nothing to roll back")

    def _reason(self, context: Context) -> tuple[str, datetime | None]:
        for task in [*self.judges, *self.gates]:
            event = context["ti"].xcom_pull(task_ids=task, key=VERDICT_KEY) or {}
            asks = task in self.gates and event.get("verdict") == "UNDECIDED"
            if event.get("verdict") in HARMFUL and not asks:
                return f"{task}: {event['verdict']}: {event['reason']}", datetime.fromisoformat(event["at"])
        for step in recorded_steps(context, self.steps_of):
            for answer in step.answers:
                if answer.counts and not answer.agreed:
                    return f"{step.task}: {answer.sentence}", answer.at
        for task in self.steps_of:
            if why := context["ti"].xcom_pull(task_ids=task, key=REASON_KEY):
                return f"{task}: {why}", None
        return "a step failed", None


def _release(plan: DeploymentPlan, *, settled: bool = True, verified: bool = False) -> None:
    """Give up what was held for the run: autoscalers, the testers' route, and the mirror.

    If that fails, the task ``cleanup`` does it later.

    :param settled: whether the traffic is the stable's; otherwise only a mirror that no route names is deleted.
    :param verified: whether the rollback window begins, in which the autoscalers of the previous version stay held: it
        may have to take all traffic.
    """
    mine = plan.deployment_id.__eq__
    try:
        release(
            connect(plan.spec.connections.kubernetes),
            plan,
            autoscalers_of=mine if settled and not verified else None,
            testers_of=mine if settled else None,
            mirrors_of=mine if plan.spec.shadow else None,
        )
    except DeployError as error:
        log.warning("cleanup incomplete; the task cleanup of verify_deployments completes it: %s", error)


class FinalizeOperator(RecordingOperator):
    """The teardown: after any failure, the route is whole before the run ends.

    :param audit: id of the task that writes the artifacts.
    """

    def __init__(self, *, audit: str, **kwargs: Any) -> None:
        super().__init__(**{**ROLLBACK_RETRIES, **kwargs})
        self.audit = audit

    def execute(self, context: Context) -> None:
        """Roll back what no other task has brought to an end.

        :raises NotFinalizedError: unless the deployment is VERIFIED: the run must not end as a success.
        """
        try:
            plan = self.latest_plan(context)
        except AirflowSkipException as error:
            raise NotFinalizedError("the request was refused; nothing was written anywhere") from error
        steps_of = [*self.steps_of, context["ti"].task_id]
        reached = {step.to for step in recorded_steps(context, steps_of)}
        verified = State.VERIFIED in reached and State.ROLLING_BACK not in reached
        settled = verified or bool(reached & (ENDS - {State.VERIFIED}))
        unsettled: NotFinalizedError | None = None
        if not settled:
            why = "the run ended before the deployment was verified"
            try:
                self._roll_back(context, plan, why, reached)
            except NotFinalizedError as error:
                unsettled = error  # recorded as FAILED, which the artifacts have to tell
            except DeployError:
                _release(plan, settled=False)
                raise
            verified = State.VERIFIED in {step.to for step in recorded_steps(context, [context["ti"].task_id])}
        if not settled or not context["ti"].xcom_pull(task_ids=self.audit):
            context["ti"].xcom_push(key="return_value", value=write_audit(context, plan, steps_of))
        if State.DEPLOYING in reached:
            # After FAILED the traffic may still have to come back.
            failed = State.FAILED in {step.to for step in recorded_steps(context, steps_of)}
            _release(plan, settled=not failed, verified=verified)
        if unsettled:
            raise unsettled
        if not verified:
            raise NotFinalizedError(f"{plan.deployment_id} did not reach VERIFIED; see its artifacts for the reason")
        self.log.info("%s is VERIFIED; the previous version stays warm", plan.deployment_id)

    def _roll_back(self, context: Context, plan: DeploymentPlan, why: str, reached: Collection[State]) -> None:
        try:
            roll_back(context, plan, why, reached=reached)
        except NotFinalizedError:
            raise
        except DeployError as error:
            if context["ti"].try_number <= (self.retries or 0) or State.DEPLOYING not in reached:
                raise
            # This was the last try.
            record_step(context, State.ROLLING_BACK, why)
            record_step(context, State.FAILED, str(error))
