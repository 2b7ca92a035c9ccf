"""Scoring, the branches that follow the score, and the refusal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseBranchOperator, Context, XComArg

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.confidence import Confidence, ScoreInputs, score
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.tasks.base import RETRIES, DeployOperator, record_step, resolved


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
        verdicts = [(context["ti"].xcom_pull(task_ids=gate) or {}).get("verdict") for gate in self.gates]
        confidence = score(ScoreInputs(plan, Artifacts(plan).earlier(), verdicts))
        self.log.info("::group::Confidence %.1f: %s", confidence.score, confidence.route)
        for line in report(confidence):
            self.log.info("%s", line)
        self.log.info("::endgroup::")
        return confidence.dump()


def report(confidence: Confidence) -> list[str]:
    """Return the score as a table for the log."""
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
            record_step(context, self.state, reason)
        raise RefusedError(f"refused: {reason}")
