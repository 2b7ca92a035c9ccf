"""Airflow's questions to people: put one, read its answer, close it.

Airflow's own operators ask and wait in one step. Ours must also close a question when the route has decided it, and for
that there is no public API. All private names that we use are in this module; a test pins them, so that an upgrade of
Airflow that changes them fails there first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from airflow.sdk.execution_time import hitl as private

from airflow_deploy.domain.lifecycle.approval import APPROVE, REJECT


def put_question(task_instance: UUID, subject: str, body: str) -> None:
    """Show a question, open, where Airflow shows a task's. Put again, it keeps its first text."""
    private.upsert_hitl_detail(
        ti_id=task_instance, options=[APPROVE, REJECT], subject=subject, body=body, defaults=[REJECT], params={}
    )


@dataclass(frozen=True)
class QuestionStatus:
    """What Airflow knows of a question.

    :param closed: whether it takes no answer any more.
    :param answer: a person's, as the event with which Airflow resumes a task; None if no person has answered.
    """

    closed: bool
    answer: dict[str, Any] | None


def read_question(task_instance: UUID) -> QuestionStatus:
    """Ask Airflow whether a question is still open."""
    response = private.get_hitl_detail_content_detail(ti_id=task_instance)
    by = response.responded_by_user
    if not (response.response_received and by):
        return QuestionStatus(response.response_received, None)
    answer = {
        "chosen_options": list(response.chosen_options or []),
        "responded_at": response.responded_at and response.responded_at.isoformat(),
        "responded_by_user": {"id": by.id, "name": by.name},
    }
    return QuestionStatus(True, answer)


def close_question(task_instance: UUID) -> None:
    """Reject in no person's name, so that a late answer is refused.

    :raises Exception: a person has answered in the meantime, or Airflow does not answer.
    """
    private.update_hitl_detail_response(ti_id=task_instance, chosen_options=[REJECT], params_input={})
