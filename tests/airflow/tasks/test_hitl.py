"""Our one use of Airflow's private API of questions: what we call, and what we read of its answers."""

from __future__ import annotations

from datetime import UTC, datetime
from inspect import signature
from typing import Any
from uuid import uuid4

import pytest
from airflow.sdk.api.datamodels._generated import HITLDetailResponse, HITLUser
from airflow.sdk.execution_time import hitl as private

from airflow_deploy.tasks.hitl import QuestionStatus, close_question, put_question, read_question

QUESTION = uuid4()
AT = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)

SIGNATURES = {
    "upsert_hitl_detail": "ti_id, options, subject, body, defaults, multiple, params, assigned_users",
    "update_hitl_detail_response": "ti_id, chosen_options, params_input",
    "get_hitl_detail_content_detail": "ti_id",
}
FIELDS = {
    HITLDetailResponse: "response_received, responded_by_user, responded_at, chosen_options, params_input",
    HITLUser: "id, name",
}


class TestAirflowsPrivateApi:
    @pytest.mark.parametrize("name", SIGNATURES)
    def test_functions_have_the_signatures_that_we_call(self, name: str) -> None:
        found = ", ".join(signature(getattr(private, name, lambda: None)).parameters)
        assert found == SIGNATURES[name], f"Airflow has changed {name}(); adapt airflow_deploy/tasks/hitl.py, then this"

    @pytest.mark.parametrize("model", FIELDS)
    def test_answers_have_the_fields_that_we_read(self, model: Any) -> None:
        found = ", ".join(model.model_fields)
        assert found == FIELDS[model], (
            f"Airflow has changed {model.__name__}; adapt airflow_deploy/tasks/hitl.py, then this"
        )


class TestQuestion:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
        """What reaches Airflow, with every argument bound as the real signature has it."""
        calls: list[tuple[str, dict[str, Any]]] = []
        for name in ("upsert_hitl_detail", "update_hitl_detail_response"):
            real = signature(getattr(private, name))

            def record(*, _name: str = name, _real: Any = real, **given: Any) -> None:
                calls.append((_name, _real.bind(**given).arguments))

            monkeypatch.setattr(private, name, record)
        return calls

    def test_is_put_with_two_options_of_which_rejection_is_the_default(self, calls: list[Any]) -> None:
        put_question(QUESTION, "Deploy?", "Why")
        arguments = {"ti_id": QUESTION, "options": ["Approve", "Reject"], "subject": "Deploy?", "body": "Why"}
        assert calls == [("upsert_hitl_detail", {**arguments, "defaults": ["Reject"], "params": {}})]

    def test_is_closed_as_a_rejection(self, calls: list[Any]) -> None:
        close_question(QUESTION)
        arguments = {"ti_id": QUESTION, "chosen_options": ["Reject"], "params_input": {}}
        assert calls == [("update_hitl_detail_response", arguments)]


class TestStatus:
    def status(self, monkeypatch: pytest.MonkeyPatch, **fields: Any) -> QuestionStatus:
        response = HITLDetailResponse(**{"responded_at": None, "chosen_options": None, **fields})
        monkeypatch.setattr(private, "get_hitl_detail_content_detail", lambda ti_id: {QUESTION: response}[ti_id])
        return read_question(QUESTION)

    def test_of_an_open_question_has_no_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.status(monkeypatch, response_received=False) == QuestionStatus(closed=False, answer=None)

    def test_of_one_that_no_person_closed_has_no_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        status = self.status(monkeypatch, response_received=True, responded_at=AT, chosen_options=["Reject"])
        assert status == QuestionStatus(closed=True, answer=None)

    def test_of_an_answered_one_has_the_event_of_airflow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        by = HITLUser(id="7", name="grace")
        status = self.status(
            monkeypatch, response_received=True, responded_at=AT, chosen_options=["Approve"], responded_by_user=by
        )
        assert status == QuestionStatus(
            closed=True,
            answer={
                "chosen_options": ["Approve"],
                "responded_at": AT.isoformat(),
                "responded_by_user": {"id": "7", "name": "grace"},
            },
        )
