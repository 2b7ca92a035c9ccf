"""Scoring, the branches that follow the score, the question to a person, and the refusal."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import BaseBranchOperator, Context, XComArg

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.domain.confidence import Confidence, Known, score
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.states import State
from airflow_deploy.operators.base import RETRIES, DeployOperator, record, resolved

QUESTION_KEY = "question"
"""XCom key of a question's identity, by which a rollback withdraws it."""


class ScoreConfidenceOperator(DeployOperator):
    """Compute the confidence in this deployment and return it as JSON.

    :param gates: ids of the health gates whose verdicts are known by now; empty before the canary.
    """

    def __init__(self, *, gates: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gates = list(gates)

    def execute(self, context: Context) -> dict[str, Any]:
        """Return a ``Confidence`` as JSON."""
        plan = self.load_plan()
        health = None
        if self.gates:
            verdicts = [(context["ti"].xcom_pull(task_ids=gate) or {}).get("verdict") for gate in self.gates]
            health = verdicts.count("HEALTHY") / len(verdicts)
        confidence = score(Known(plan=plan, outcomes=Artifacts(plan).earlier(), canary_health=health))
        self.log.info("::group::Confidence %.1f: %s", confidence.score, confidence.route)
        for line in report(confidence):
            self.log.info("%s", line)
        self.log.info("::endgroup::")
        return confidence.dump()


def report(confidence: Confidence) -> list[str]:
    """Return the score as a Markdown table, for logs and for the question to a person."""
    rows = [
        f"| {f.name} | {f.weight:.0%} | {'unknown' if f.value is None else f'{f.value:.2f}'} | {f.reason} |"
        for f in confidence.factors
    ]
    vetoes = [f"- **veto**: {veto}" for veto in confidence.vetoes]
    return ["| factor | weight | value | reason |", "|---|---|---|---|", *rows, *vetoes]


class RouteOnConfidenceOperator(BaseBranchOperator):
    """Follow ``go``, ``ask`` or ``refuse``, as the score's route says.

    :param confidence: the score as JSON.
    :param routes: the task that each route leads to.
    """

    template_fields: Sequence[str] = ("confidence",)
    template_fields_renderers = {"confidence": "json"}  # noqa: RUF012 - Airflow declares it so

    def __init__(self, *, confidence: dict[str, Any] | str | XComArg, routes: dict[str, str], **kwargs: Any) -> None:
        super().__init__(**{**RETRIES, **kwargs})
        self.confidence = confidence
        self.routes = routes

    def choose_branch(self, context: Context) -> str:
        """Return the next task's id."""
        return self.routes[Confidence.load(resolved(self.confidence)).route]


class RefuseOperator(DeployOperator):
    """End here: the score, or a veto, says no. The task fails, so that alerts work as usual.

    :param state: REJECTED where nothing was deployed; None where the rollback records what follows.
    """

    template_fields: Sequence[str] = ("plan", "confidence")

    def __init__(self, *, confidence: dict[str, Any] | str | XComArg, state: State | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.confidence = confidence
        self.state = state

    def execute(self, context: Context) -> None:
        """Record the refusal and raise it."""
        confidence = Confidence.load(resolved(self.confidence))
        reason = "; ".join(confidence.vetoes) or f"confidence {confidence.score:g} is below 60"
        if self.state:
            record(context, self.state, reason)
        raise RefusedError(f"refused: {reason}")


class DeploymentApprovalOperator(ApprovalOperator):
    """Ask a person whether to go on; silence is a no.

    :param confidence: the score as JSON; it is shown.
    :param timeout: how long to wait.
    """

    template_fields: Collection[str] = (*ApprovalOperator.template_fields, "confidence")

    def __init__(self, *, confidence: dict[str, Any] | str | XComArg, timeout: timedelta, **kwargs: Any) -> None:
        super().__init__(fail_on_reject=True, response_timeout=timeout, defaults="Reject", **{**RETRIES, **kwargs})
        self.confidence = confidence

    def execute(self, context: Context) -> Any:
        """Record the question and wait."""
        confidence = Confidence.load(resolved(self.confidence))
        self.body = "\n".join([f"Confidence **{confidence.score:g}** of 100.", "", *report(confidence)])
        record(context, State.AWAITING_APPROVAL, f"confidence {confidence.score:g} asks a person")
        context["ti"].xcom_push(key=QUESTION_KEY, value=str(context["ti"].id))
        return super().execute(context)
