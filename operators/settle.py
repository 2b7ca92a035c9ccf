"""The way back: ``rollback`` as soon as anything fails, and ``settle``, the teardown that runs whatever happened."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.cluster import Cluster
from airflow_deploy.clients.settling import settle
from airflow_deploy.domain.errors import FencedError, NotSettledError
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.states import ENDS, State
from airflow_deploy.operators.audit import RecordingOperator, write_audit
from airflow_deploy.operators.base import DeployOperator, record, recorded, resolved


def take_back(context: Context, plan: DeploymentPlan, why: str, at: datetime | None = None) -> bool:
    """Settle this deployment and record it; return False where it had left nothing to undo.

    :param at: when the verdict fell, where that is known.
    :raises NotSettledError: a person must look at the route.
    """
    try:
        settled = settle(Cluster(plan.spec.connections.kubernetes), plan)
    except FencedError as error:
        record(context, State.ROLLING_BACK, why, at=at)
        record(context, State.FAILED, str(error))
        raise NotSettledError(f"{plan.deployment_id} is not settled, look at its route: {error}") from error
    if settled.acted:
        record(context, State.ROLLING_BACK, why, at=at)
        record(context, State.ROLLED_BACK, settled.reason)
    return settled.acted


class RollbackOperator(DeployOperator):
    """Return the traffic, then stop the candidate.

    :param judges: ids of the tasks whose verdict may be the reason.
    """

    def __init__(self, *, judges: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.judges = list(judges)

    def execute(self, context: Context) -> None:
        """Take the deployment back; skip where it failed before anything was applied."""
        if resolved(self.plan) is None:
            raise AirflowSkipException("nothing was planned, so there is nothing to take back")
        why, at = self._reason(context)
        if not take_back(context, self.load_plan(), why, at):
            raise AirflowSkipException("nothing was applied, so there is nothing to take back")

    def _reason(self, context: Context) -> tuple[str, datetime | None]:
        for task in self.judges:
            event = context["ti"].xcom_pull(task_ids=task) or {}
            if event.get("verdict") in ("BREACHED", "UNDECIDED", "BLIND"):
                return f"{task}: {event['verdict']}: {event['reason']}", datetime.fromisoformat(event["at"])
        return "a step failed", None


class SettleOperator(RecordingOperator):
    """The teardown: whatever happened, the route is whole before the run ends."""

    def execute(self, context: Context) -> None:
        """Settle what nobody has settled yet.

        :raises NotSettledError: unless the deployment is VERIFIED: the run must not end as a success.
        """
        plan = self.latest_plan(context)
        reached = {step.to for step in recorded(context, [*self.steps_of, context["ti"].task_id])}
        if State.VERIFIED in reached and State.ROLLING_BACK not in reached:
            self.log.info("%s is VERIFIED; the previous version stays warm", plan.deployment_id)
            return
        if not reached & (ENDS - {State.VERIFIED}):
            take_back(context, plan, "the run ended before the deployment was verified")
            write_audit(context, plan, [*self.steps_of, context["ti"].task_id])
        raise NotSettledError(f"{plan.deployment_id} did not reach VERIFIED; see its artifacts for the reason")
