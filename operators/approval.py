"""The questions to a person: before the deployment, after a gate that cannot decide, and before the promotion."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from airflow.sdk import Context

from airflow_deploy.domain.errors import DeclinedError, FencedError, RefusedError
from airflow_deploy.domain.lifecycle.approval import APPROVE, REJECT, Answer, Person, answered
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.question import About, Question
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.lifecycle.xcom_keys import STEPS_KEY, VERDICT_KEY
from airflow_deploy.operators.confidence import pushed_confidence
from airflow_deploy.tasks.base import DeployOperator, record_step, recorded_steps
from airflow_deploy.tasks.decisions import read_decision, store_decision
from airflow_deploy.tasks.hitl import put_question
from airflow_deploy.tasks.question_trigger import QuestionTrigger


class DeploymentApprovalOperator(DeployOperator):
    """Ask a person whether to go on, and wait for the answer; silence is a no.

    After the deployment was agreed on, the question ends also with the claim: a breach closes it.

    :param about: the subject. A question about a share follows a gate that could not decide, the last one of ``seen``.
    :param timeout: seconds after which silence counts.
    :param score: id of the task that computed the score, which is shown.
    :param seen: ids of the gates and questions so far, whose results are shown.
    """

    def __init__(
        self,
        *,
        about: About,
        timeout: int,
        score: str,
        seen: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.about: About = about
        self.timeout = timeout
        self.score = score
        self.seen = list(seen)

    def execute(self, context: Context) -> None:
        """Record the question, ask it, and wait."""
        record_step(context, State.AWAITING_APPROVAL, self._why(context))
        store_decision(self.load_plan(), context["ti"].task_id, None, goes_on=False)
        self._ask(context, deadline=time.time() + self.timeout)

    def answered(self, context: Context, event: dict[str, Any], deadline: float) -> None:
        """Record the answer: succeed on a yes, and wait on if it does not count.

        :param deadline: of the question, in unix seconds: it stays the same when the question is asked again.
        :raises DeclinedError: a no, or silence.
        :raises FencedError: the question was withdrawn.
        """
        answer = self._answer(event)
        _keep(context, answer)
        self.log.info("%s", answer.sentence)
        if not answer.counts:
            self._ask(context, deadline)
        if answer.agreed:
            store_decision(self.load_plan(), context["ti"].task_id, answer.sentence, goes_on=True)
            return
        if self.about == "deployment":  # else the rollback records what follows
            record_step(context, State.REJECTED, answer.sentence)
        raise (FencedError if answer.said == "withdrawn" else DeclinedError)(answer.sentence)

    def _ask(self, context: Context, deadline: float) -> None:
        """Open the question in Airflow and wait. Asked again, it keeps its first text."""
        question, identity = self._question(context), context["ti"].id
        subject, body = question.subject, question.body()
        self.log.info("%s\n%s", subject, body)
        put_question(identity, subject, body)
        claim = None if self.about == "deployment" else self.load_claim()
        trigger = QuestionTrigger(str(identity), deadline, question.plan.dump(), claim)
        self.defer(trigger=trigger, method_name="answered", kwargs={"deadline": deadline})

    def _question(self, context: Context) -> Question:
        seen, undecided = self.seen, None
        if seen and (gate := _pulled(context, seen[-1], VERDICT_KEY)).get("verdict") != "HEALTHY":
            seen, undecided = seen[:-1], gate.get("numbers", {})
        return Question(
            plan=self.load_plan(),
            confidence=pushed_confidence(context, self.score),
            about=self.about,
            timeout=self.timeout,
            seen=[(task, said) for task in seen for said in _said(context, task)],
            undecided=undecided,
        )

    def _why(self, context: Context) -> str:
        gate = _pulled(context, self.seen[-1], VERDICT_KEY) if self.seen else {}
        if self.seen and gate.get("verdict") != "HEALTHY":
            return f"{self.seen[-1]} leaves it to a person: {gate.get('reason', 'it has no verdict')}"
        return f"confidence {pushed_confidence(context, self.score).score:g} asks a person"

    def _answer(self, event: dict[str, Any]) -> Answer:
        if "closed" in event:
            return Answer.model_validate(event["closed"])
        by = event["responded_by_user"] and Person.model_validate(dict(event["responded_by_user"]))
        said = APPROVE if event["chosen_options"] == [APPROVE] else REJECT
        return answered(said, event["responded_at"], by, self.load_plan().requester)


def check_agreed(plan: DeploymentPlan, judge: str, question: str) -> None:
    """Make sure that ``judge``, a gate or a score, or a person let the deployment go on.

    A task that was marked as done in Airflow has decided nothing.

    :raises RefusedError: neither did.
    """
    decisions = (read_decision(plan, task) for task in (judge, question))
    if not any(decision and decision.goes_on for decision in decisions):
        raise RefusedError(
            f"{question} has no yes of a person who may agree; answer the question instead of marking the task as done"
        )


def _pulled(context: Context, task: str, key: str) -> dict[str, Any]:
    value = context["ti"].xcom_pull(task_ids=task, key=key)
    return value if isinstance(value, dict) else {}


def _said(context: Context, task: str) -> list[str]:
    if event := _pulled(context, task, VERDICT_KEY):
        return [f"{event['verdict']}: {event['reason']}"]
    return [answer.sentence for step in recorded_steps(context, [task]) for answer in step.answers]


def _keep(context: Context, answer: Answer) -> None:
    """Add the answer to the question's step, which keeps the latest answer of each person."""
    ti = context["ti"]
    steps = [
        step.model_copy(update={"answers": (*(a for a in step.answers if a.by != answer.by), answer)})
        for step in recorded_steps(context, [ti.task_id])
        if step.to == State.AWAITING_APPROVAL
    ]
    ti.xcom_push(key=STEPS_KEY, value=[step.model_dump(mode="json") for step in steps])
