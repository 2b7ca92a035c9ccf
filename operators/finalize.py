"""The task ``finalize``: the teardown that always runs."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.domain.errors import DeployError, NotFinalizedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import ENDS, State
from airflow_deploy.operators.audit import RecordingOperator, write_audit
from airflow_deploy.operators.rollback import roll_back
from airflow_deploy.rollout.teardown import release
from airflow_deploy.tasks.base import ROLLBACK_RETRIES, record_step, recorded_steps

log = logging.getLogger(__name__)


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
