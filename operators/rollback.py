"""The task ``rollback``, which runs as soon as anything fails."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.domain.errors import FencedError, NotFinalizedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.lifecycle.xcom_keys import REASON_KEY, VERDICT_KEY
from airflow_deploy.operators.audit import RecordingOperator
from airflow_deploy.rollout.rollback import abandon_route
from airflow_deploy.rollout.teardown import roll_back_and_stop
from airflow_deploy.tasks.base import ROLLBACK_RETRIES, record_step, recorded_steps

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
