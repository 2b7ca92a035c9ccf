"""Scoring, which chooses the branch that follows, and the refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseBranchOperator, Context

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.domain.errors import PermanentError, RefusedError
from airflow_deploy.domain.lifecycle.confidence import ASK, Confidence, ScoreInputs, score
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.lifecycle.xcom_keys import CONFIDENCE_KEY
from airflow_deploy.tasks.base import DeployOperator, record_step
from airflow_deploy.tasks.decisions import read_decision, store_decision


class ScoreConfidenceOperator(DeployOperator, BaseBranchOperator):
    """Compute the confidence in this deployment, and go on, ask a person or refuse, as the score says.

    :param branches: the task that follows each route: ``go``, ``ask`` and ``refuse``.
    :param gates: ids of the health gates whose verdicts are known by now; empty before the canary.
    """

    def __init__(self, *, branches: Mapping[str, str], gates: Sequence[str] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.branches = dict(branches)
        self.gates = list(gates)

    def choose_branch(self, context: Context) -> str:
        """Push the score, log it, and return the id of the task that follows."""
        plan, ti = self.load_plan(), context["ti"]
        decisions = [read_decision(plan, gate) for gate in self.gates]
        verdicts = [decision.said if decision else None for decision in decisions]
        confidence = score(ScoreInputs(plan, Artifacts(plan).earlier(), verdicts))
        # Under a key of its own: Airflow keeps no return value of a task that skips others.
        ti.xcom_push(key=CONFIDENCE_KEY, value=confidence.dump())
        store_decision(plan, ti.task_id, confidence.route, goes_on=confidence.route == "go")
        self.log.info("::group::Confidence %.1f: %s", confidence.score, confidence.route)
        for line in report(confidence):
            self.log.info("%s", line)
        self.log.info("::endgroup::")
        return self.branches[confidence.route]


def report(confidence: Confidence) -> list[str]:
    """Return the score as a table for the log."""
    rows = [
        f"| {f.name} | {f.weight:.0%} | {'unknown' if f.value is None else f'{f.value:.2f}'} | {f.reason} |"
        for f in confidence.factors
    ]
    vetoes = [f"- **veto**: {veto}" for veto in confidence.vetoes]
    return ["| factor | weight | value | reason |", "|---|---|---|---|", *rows, *vetoes]


def pushed_confidence(context: Context, score: str) -> Confidence:
    """Return the score that the task ``score`` has pushed.

    :raises PermanentError: there is none.
    """
    pushed = context["ti"].xcom_pull(task_ids=score, key=CONFIDENCE_KEY)
    if not pushed:
        raise PermanentError(f"the confidence is missing: {score} has not finished")
    return Confidence.load(pushed)


class RefuseOperator(DeployOperator):
    """End the deployment, because of its score or a veto. The task fails, so that alerts work as usual.

    :param score: id of the task that computed the score.
    :param state: REJECTED if nothing was deployed; None if the rollback records what follows.
    """

    def __init__(self, *, score: str, state: State | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.score = score
        self.state = state

    def execute(self, context: Context) -> None:
        """Record the refusal and raise it."""
        confidence = pushed_confidence(context, self.score)
        reason = "; ".join(confidence.vetoes) or f"confidence {confidence.score:g} is below {ASK}"
        if self.state:
            record_step(context, self.state, reason)
        raise RefusedError(f"refused: {reason}")
