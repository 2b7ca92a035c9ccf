"""What all our operators and sensors share: the plan, the retries, and the recording of states."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context, ExceptionRetryPolicy, RetryAction, RetryRule, get_current_context

from airflow_deploy.domain.errors import IllegalTransitionError, NotFinalizedError, PermanentError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State, Step
from airflow_deploy.domain.lifecycle.xcom_keys import REASON_KEY, STEPS_KEY
from airflow_deploy.tasks.frozen import BASELINE, BUILT, CLAIM, Document, read, read_plan

TASK_RETRIES: dict[str, Any] = {
    "retries": 8,
    "retry_delay": timedelta(seconds=2),
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(exception=PermanentError, action=RetryAction.FAIL, reason="trying again cannot help"),
            # 40 s between the tries, and each tries its request for some 12 s: a server that was killed is back then.
            RetryRule(exception=TemporaryError, action=RetryAction.RETRY, retry_delay=timedelta(seconds=5)),
        ]
    ),
}
"""Which errors of a task Airflow retries. Other failures (a lost worker, say) are retried as usual."""

ROLLBACK_RETRIES: dict[str, Any] = {
    "retries": 30,
    "retry_delay": timedelta(seconds=5),
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(
                exception=[NotFinalizedError, IllegalTransitionError],
                action=RetryAction.FAIL,
                reason="a person is needed",
            )
        ]
    ),
}
"""A rollback does not give up at the first refusal: an API server that restarts answers 401, 403 and 404 to all."""


class DeployOperator(BaseOperator):
    """A step of one deployment. Plan, claim and baseline come from the artifact store, by the run's own identity.

    :param plan: the plan's JSON, if the DAG has it; by default the task reads what ``build_image`` has frozen.
    :param claim: the owner of the route, if the DAG has it; by default the task reads what ``claim_route`` has frozen.
    :param baseline: the baseline's JSON, if the DAG has it; by default it is what ``capture_baseline`` has frozen.
    """

    # No template: an XCom that is rendered into a task could change what it deploys, or where.
    template_fields: Sequence[str] = ()
    ui_color = "#e8f0fe"
    reads: Document = BUILT
    """The plan that the task reads."""

    def __init__(
        self,
        *,
        plan: dict[str, Any] | None = None,
        claim: str | None = None,
        baseline: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**{**TASK_RETRIES, **kwargs})
        self.plan = plan
        self.claim = claim
        self.baseline = baseline
        self._run: Context | None = None

    def pre_execute(self, context: Any) -> None:
        """Remember the run: Airflow makes a task's links after it has ended, when it has no current context."""
        self._run = context

    def load_plan(self) -> DeploymentPlan:
        """Return the plan.

        :raises PermanentError: it is not frozen yet, or is not what was frozen.
        :raises TemporaryError: the artifact store did not give it.
        """
        return read_plan(self._context, self.reads) if self.plan is None else DeploymentPlan.load(self.plan)

    def load_claim(self) -> str:
        """Return the owner that ``claim_route`` has made of this run; it raises as ``load_plan`` does."""
        return str(read(self._context, CLAIM)["owner"]) if self.claim is None else self.claim

    def load_baseline(self) -> dict[str, Any]:
        """Return what ``capture_baseline`` has measured, as JSON; it raises as ``load_plan`` does."""
        return dict(read(self._context, BASELINE)) if self.baseline is None else self.baseline

    @property
    def _context(self) -> Context:
        return self._run if self._run is not None else get_current_context()


def record_step(
    context: Context, to: State, reason: str, *, evidence: str | None = None, at: datetime | None = None
) -> None:
    """Push a step to XCom. A task that runs again records each state once.

    :param evidence: SHA-256 of the evidence that the step rests on.
    :param at: when it happened, if that is not now.
    """
    ti = context["ti"]
    step = Step(
        to=to,
        at=at or datetime.now(UTC),
        task=ti.task_id,
        try_number=ti.try_number,
        reason=reason,
        evidence=evidence,
    )
    steps = [item for item in recorded_steps(context, [ti.task_id]) if item.to != to] + [step]
    ti.xcom_push(key=STEPS_KEY, value=[item.model_dump(mode="json") for item in steps])


def push_reason(context: Context, why: str) -> None:
    """Push why this task fails."""
    context["ti"].xcom_push(key=REASON_KEY, value=why)


def recorded_steps(context: Context, task_ids: Sequence[str]) -> list[Step]:
    """Return the steps that these tasks pushed, in the order of ``task_ids``."""
    steps: list[Step] = []
    for task_id in task_ids:
        pushed = context["ti"].xcom_pull(task_ids=task_id, key=STEPS_KEY)
        steps += [Step.model_validate(item) for item in pushed or []]
    return steps
