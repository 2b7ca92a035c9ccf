"""The questions to a person: before the deployment, where a gate cannot decide, and before the promotion."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context, XComArg
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.domain.errors import DeclinedError, FencedError, RefusedError
from airflow_deploy.domain.lifecycle.approval import APPROVE, REJECT, Answer, Person, answered
from airflow_deploy.domain.lifecycle.confidence import Confidence
from airflow_deploy.domain.lifecycle.question import About, Question
from airflow_deploy.domain.lifecycle.states import STEPS_KEY, State
from airflow_deploy.tasks.base import DeployOperator, record_step, recorded_steps, resolved
from airflow_deploy.tasks.question_trigger import QuestionTrigger


class DeploymentApprovalOperator(DeployOperator):
    """Ask a person whether to go on, and wait for the answer; silence is a no.

    :param about: what is asked. A question about a share stands behind a gate, the last one of ``seen``, and nobody is
        asked where that ended HEALTHY.
    :param timeout: seconds after which silence counts.
    :param confidence: the score as JSON; it is shown.
    :param seen: ids of the gates and questions so far; what they said is shown.
    :param claim: the owner that ``claim_route`` returned: the question ends with its route. None before there is one.
    """

    template_fields: Sequence[str] = ("plan", "confidence", "claim")

    def __init__(
        self,
        *,
        about: About,
        timeout: int,
        confidence: dict[str, Any] | str | XComArg,
        seen: Sequence[str] = (),
        claim: str | XComArg | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.about: About = about
        self.timeout = timeout
        self.confidence: Any = confidence
        self.seen = list(seen)
        self.claim: Any = claim

    def execute(self, context: Context) -> None:
        """Record the question, put it, and wait.

        :raises AirflowSkipException: the gate has decided.
        """
        gate = _event(context, self.seen[-1]) if self.seen else {}
        if isinstance(self.about, int) and gate.get("verdict") == "HEALTHY":
            raise AirflowSkipException("the gate has decided, so nobody is asked")
        record_step(context, State.AWAITING_APPROVAL, self._why(gate))
        self._ask(context, deadline=time.time() + self.timeout)

    def answered(self, context: Context, event: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Record the answer; return a yes, and wait on where it is one that does not count.

        :param deadline: of the question, in unix seconds: it stays the same when the question is put again.
        :raises DeclinedError: a no, or silence.
        :raises FencedError: the question was withdrawn.
        """
        answer = self._answer(event)
        _keep(context, answer)
        self.log.info("%s", answer.sentence)
        if not answer.counts:
            self._ask(context, deadline)
        if answer.agreed:
            return answer.model_dump(mode="json")
        if self.about == "deployment":  # else the rollback records what follows
            record_step(context, State.REJECTED, answer.sentence)
        raise (FencedError if answer.said == "withdrawn" else DeclinedError)(answer.sentence)

    def _ask(self, context: Context, deadline: float) -> None:
        """Put the question where Airflow shows it, open, and wait. Put again, it keeps the text that it had first."""
        from airflow.sdk.execution_time.hitl import upsert_hitl_detail

        question, identity = self._question(context), context["ti"].id
        subject, body = question.subject, question.body()
        self.log.info("%s\n%s", subject, body)
        upsert_hitl_detail(
            ti_id=identity, options=[APPROVE, REJECT], subject=subject, body=body, defaults=[REJECT], params={}
        )
        trigger = QuestionTrigger(str(identity), deadline, question.plan.dump(), resolved(self.claim))
        self.defer(trigger=trigger, method_name="answered", kwargs={"deadline": deadline})

    def _question(self, context: Context) -> Question:
        seen, undecided = self.seen, None
        if seen and (gate := _event(context, seen[-1])).get("verdict") != "HEALTHY":
            seen, undecided = seen[:-1], gate.get("numbers", {})
        return Question(
            plan=self.load_plan(),
            confidence=Confidence.load(resolved(self.confidence)),
            about=self.about,
            timeout=self.timeout,
            seen=[(task, said) for task in seen for said in _said(context, task)],
            undecided=undecided,
        )

    def _why(self, gate: dict[str, Any]) -> str:
        if self.seen and gate.get("verdict") != "HEALTHY":
            return f"{self.seen[-1]} leaves it to a person: {gate.get('reason', 'it has not judged')}"
        return f"confidence {Confidence.load(resolved(self.confidence)).score:g} asks a person"

    def _answer(self, event: dict[str, Any]) -> Answer:
        if "closed" in event:
            return Answer.model_validate(event["closed"])
        by = event["responded_by_user"] and Person.model_validate(dict(event["responded_by_user"]))
        said = APPROVE if event["chosen_options"] == [APPROVE] else REJECT
        return answered(said, event["responded_at"], by, self.load_plan().requester)


def check_agreed(context: Context, judge: str, question: str) -> None:
    """Make sure that ``judge``, a gate or a score, let the deployment go on, or that a person did.

    Whoever may edit tasks in Airflow can mark a question as done. That is no answer.

    :raises RefusedError: neither has.
    """
    said = _event(context, judge)
    if said.get("verdict") == "HEALTHY" or said.get("route") == "go":
        return
    if not _event(context, question):
        raise RefusedError(f"{question} has no yes of anybody who may agree; to mark it as done is none")


def _event(context: Context, task: str) -> dict[str, Any]:
    value = context["ti"].xcom_pull(task_ids=task)
    return value if isinstance(value, dict) else {}


def _said(context: Context, task: str) -> list[str]:
    event = _event(context, task)
    if "verdict" in event:
        return [f"{event['verdict']}: {event['reason']}"]
    return [answer.sentence for step in recorded_steps(context, [task]) for answer in step.answers]


def _keep(context: Context, answer: Answer) -> None:
    """Add the answer to the question's step; of each person the latest answer is kept."""
    ti = context["ti"]
    steps = [
        step.model_copy(update={"answers": (*(a for a in step.answers if a.by != answer.by), answer)})
        for step in recorded_steps(context, [ti.task_id])
        if step.to == State.AWAITING_APPROVAL
    ]
    ti.xcom_push(key=STEPS_KEY, value=[step.model_dump(mode="json") for step in steps])
