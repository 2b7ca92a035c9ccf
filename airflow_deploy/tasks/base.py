"""What all our operators and sensors share: the plan, the retries, and the recording of states."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import BaseOperator, Context, ExceptionRetryPolicy, RetryAction, RetryRule, XComArg

from airflow_deploy.domain.errors import IllegalTransitionError, NotFinalizedError, PermanentError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import STEPS_KEY, State, Step

RETRIES: dict[str, Any] = {
    "retries": 8,
    "retry_delay": timedelta(seconds=2),
    "retry_policy": ExceptionRetryPolicy(
        rules=[
            RetryRule(exception=PermanentError, action=RetryAction.FAIL, reason="trying again cannot help"),
            # 40 s in all: a server that was killed is back by then.
            RetryRule(exception=TemporaryError, action=RetryAction.RETRY, retry_delay=timedelta(seconds=5)),
        ]
    ),
}
"""The one place where errors become retries. What is not ours (a lost worker, say) is retried as usual."""

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
"""The way back does not give up at the first no: an API server that restarts says 401, 403 and 404 to everybody."""


class DeployOperator(BaseOperator):
    """A step of one deployment.

    :param plan: the plan's JSON: a task's output, or a template such as ``output_of`` makes.
    """

    template_fields: Sequence[str] = ("plan",)
    template_fields_renderers = {"plan": "json"}  # noqa: RUF012 - Airflow declares it so
    ui_color = "#e8f0fe"

    def __init__(self, *, plan: dict[str, Any] | str | XComArg | None = None, **kwargs: Any) -> None:
        super().__init__(**{**RETRIES, **kwargs})
        self.plan = plan

    def load_plan(self) -> DeploymentPlan:
        """Return the plan, once Airflow has resolved it."""
        plan = resolved(self.plan)
        if plan is None:
            raise PermanentError("the plan is missing: the tasks before this one did not finish")
        return DeploymentPlan.load(plan)


def output_of(task_id: str) -> str:
    """Return a template that yields a task's result as JSON.

    Unlike ``task.output`` it draws no edge. Nearly all tasks need the plan: with an edge from ``build_image`` to each,
    nobody could read the graph, and trigger rules would count a parent that succeeded long ago.
    """
    return f"{{{{ ti.xcom_pull(task_ids='{task_id}') | tojson }}}}"


def resolved(value: Any) -> Any:
    """Return the value of a template field, given as it is or as the JSON that ``output_of`` yields."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:  # a task's output that is a text
        return value


def record_step(
    context: Context, to: State, reason: str, *, evidence: str | None = None, at: datetime | None = None
) -> None:
    """Push a step to XCom. A task that runs twice records each state once.

    :param evidence: SHA-256 of the evidence that the step rests on.
    :param at: when it happened, where that is not now.
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


REASON_KEY = "why"
"""XCom key under which a task that fails says why, for those who come after it."""


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
