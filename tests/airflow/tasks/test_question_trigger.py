"""An open question ends with its time or its route, and never takes an answer from a person who was in time."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import pytest
from airflow.sdk.exceptions import AirflowRuntimeError, ErrorType
from airflow.sdk.execution_time import hitl as private
from airflow.sdk.execution_time.comms import ErrorResponse

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import REQUEST_RETRIES
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.tasks import question_trigger as questions
from airflow_deploy.tasks.question_trigger import QuestionTrigger
from airflow_deploy.tasks.triggers import LOOK_INTERVAL
from tests.support.builders import make_plan
from tests.support.cluster import lead_to
from tests.support.events import ended
from tests.support.judgement import START
from tests.support.service_cluster import ServiceCluster
from tests.support.world import Clock

QUESTION = uuid4()
PLAN = make_plan()
TIMEOUT = 600.0
TRIES = 1 + int(REQUEST_RETRIES.total or 0)
"""How often a task's request is sent."""


@dataclass
class Asked:
    """What Airflow holds of a question, and what was answered in a person's place."""

    by: str | None = None
    chosen: list[str] = field(default_factory=list)
    answers: list[list[str]] = field(default_factory=list)
    faults: list[Exception] = field(default_factory=list)

    def read(self, *, ti_id: UUID) -> Any:
        assert ti_id == QUESTION
        self._fail()
        return SimpleNamespace(
            response_received=bool(self.chosen),
            responded_by_user=self.by and SimpleNamespace(id=self.by, name=self.by),
            responded_at=datetime.fromtimestamp(START, UTC) if self.chosen else None,
            chosen_options=self.chosen or None,
        )

    def write(self, ti_id: UUID, chosen_options: list[str], params_input: dict[str, Any]) -> None:
        assert (ti_id, params_input) == (QUESTION, {})
        self._fail()
        if self.chosen:
            raise AirflowRuntimeError(ErrorResponse(error=ErrorType.API_SERVER_ERROR, detail={"status_code": 409}))
        self.chosen = chosen_options
        self.answers.append(chosen_options)

    def answer(self, by: str, option: str) -> None:
        self.by, self.chosen = by, [option]

    def _fail(self) -> None:
        if self.faults:
            raise self.faults.pop(0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()

    async def sleep(seconds: float) -> None:
        clock.sleep(seconds)

    monkeypatch.setattr(questions, "time", SimpleNamespace(time=clock.time))
    monkeypatch.setattr(asyncio, "sleep", sleep)
    return clock


@pytest.fixture
def asked(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Asked:
    asked = Asked()
    monkeypatch.setattr(private, "get_hitl_detail_content_detail", asked.read)
    monkeypatch.setattr(private, "update_hitl_detail_response", asked.write)
    return asked


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> ServiceCluster:
    cluster = ServiceCluster.at_share(PLAN, 5)
    lead_to(cluster.api, monkeypatch)
    return cluster


@pytest.fixture
def trigger(cluster: ServiceCluster) -> QuestionTrigger:
    return QuestionTrigger(str(QUESTION), START + TIMEOUT, PLAN.dump(), cluster.claim)


class TestSilence:
    def test_closes_the_question_at_its_deadline(self, trigger: QuestionTrigger, asked: Asked, clock: Clock) -> None:
        closed = ended(trigger)["closed"]
        assert (closed["said"], asked.answers) == ("silence", [["Reject"]])
        assert TIMEOUT <= clock.now - START < TIMEOUT + 2 * LOOK_INTERVAL

    def test_a_trigger_that_starts_late_knows_the_deadline(
        self, trigger: QuestionTrigger, asked: Asked, clock: Clock
    ) -> None:
        clock.sleep(10 * TIMEOUT)
        assert ended(trigger)["closed"]["said"] == "silence"
        assert clock.now == START + 10 * TIMEOUT

    def test_counts_also_if_the_cluster_does_not_answer(
        self, trigger: QuestionTrigger, asked: Asked, cluster: ServiceCluster
    ) -> None:
        cluster.api.fail("/httproutes/", 503, times=100 * TRIES)
        cluster.api.fail("/httproutes/", 403, times=100)
        cluster.api.fail("/httproutes/", exception=KeyError("x"), times=None)
        assert ended(trigger)["closed"]["said"] == "silence"

    def test_counts_also_if_there_is_no_cluster(
        self, trigger: QuestionTrigger, asked: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_: str) -> KubernetesClient:
            raise RefusedError("no such connection")

        monkeypatch.setattr(questions, "connect", fail)
        assert ended(trigger)["closed"]["said"] == "silence"


class TestRoute:
    @pytest.mark.parametrize("phase", [routes.BRAKED, routes.PROMOTED, routes.SETTLED, routes.ABANDONED])
    def test_that_left_its_canary_phase_withdraws_the_question(
        self, trigger: QuestionTrigger, asked: Asked, cluster: ServiceCluster, phase: str
    ) -> None:
        cluster.annotate(routes.PHASE, phase)
        closed = ended(trigger)["closed"]
        assert (closed["said"], asked.answers) == ("withdrawn", [["Reject"]])
        assert closed["why"] == f"route {cluster.now.name} is {phase}"

    def test_that_has_another_owner_withdraws_the_question(
        self, trigger: QuestionTrigger, asked: Asked, cluster: ServiceCluster
    ) -> None:
        cluster.annotate(routes.OWNER, "DEP-other/9")
        closed = ended(trigger)["closed"]
        assert (closed["said"], closed["why"]) == ("withdrawn", f"route {cluster.now.name} is owned by DEP-other/9")

    def test_that_was_rolled_back_withdraws_the_question_with_its_verdict(
        self, trigger: QuestionTrigger, asked: Asked, cluster: ServiceCluster
    ) -> None:
        word = {"verdict": "BREACHED", "reason": "error_rate: worse than the stable"}
        cluster.annotate(routes.PHASE, routes.BRAKED).annotate(routes.FINAL_VERDICT, json.dumps(word))
        assert ended(trigger)["closed"]["why"].endswith("is braked: BREACHED: error_rate: worse than the stable")

    @pytest.mark.parametrize("word", ["", "garbled", "[]", "[" * 50_000, '{"verdict": 1}'])
    def test_whose_verdict_was_overwritten_withdraws_the_question_all_the_same(
        self, trigger: QuestionTrigger, asked: Asked, cluster: ServiceCluster, word: str
    ) -> None:
        cluster.annotate(routes.PHASE, routes.BRAKED).annotate(routes.FINAL_VERDICT, word)
        assert ended(trigger)["closed"]["why"].endswith("is braked")

    def test_is_read_again_after_errors(
        self, trigger: QuestionTrigger, asked: Asked, cluster: ServiceCluster, clock: Clock
    ) -> None:
        cluster.api.fail("/httproutes/", 503, times=30 * TRIES)
        cluster.annotate(routes.PHASE, routes.BRAKED)
        assert ended(trigger)["closed"]["said"] == "withdrawn"
        assert clock.now - START == pytest.approx(30 * LOOK_INTERVAL)

    def test_is_not_read_before_there_is_a_claim(self, asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(questions, "connect", None)
        trigger = QuestionTrigger(str(QUESTION), START + TIMEOUT, PLAN.dump(), None)
        assert ended(trigger)["closed"]["said"] == "silence"


class TestAnswers:
    @pytest.mark.parametrize("option", ["Approve", "Reject"])
    def test_one_that_came_before_the_task_was_deferred_counts(
        self, trigger: QuestionTrigger, asked: Asked, clock: Clock, option: str
    ) -> None:
        asked.answer("grace", option)
        assert ended(trigger) == {
            "chosen_options": [option],
            "responded_at": datetime.fromtimestamp(START, UTC).isoformat(),
            "responded_by_user": {"id": "grace", "name": "grace"},
        }
        assert (asked.answers, clock.now) == ([], START)

    def test_one_in_the_moment_of_a_breach_or_of_the_deadline_is_not_written_over(
        self, trigger: QuestionTrigger, asked: Asked, cluster: ServiceCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster.annotate(routes.PHASE, routes.BRAKED)
        write = asked.write

        def late(**given: Any) -> None:
            asked.answer("grace", "Approve")
            write(**given)

        monkeypatch.setattr(private, "update_hitl_detail_response", late)
        assert ended(trigger)["responded_by_user"] == {"id": "grace", "name": "grace"}
        assert (asked.answers, asked.chosen) == ([], ["Approve"])


class TestRestart:
    def test_a_question_that_was_closed_here_already_ends_the_same(
        self, trigger: QuestionTrigger, asked: Asked, cluster: ServiceCluster
    ) -> None:
        """The triggerer died between the closing and the event, or two of them closed at once."""
        cluster.annotate(routes.PHASE, routes.BRAKED)
        first = ended(trigger)["closed"]
        path, arguments = trigger.serialize()
        assert path == "airflow_deploy.tasks.question_trigger.QuestionTrigger"
        second = ended(QuestionTrigger(**json.loads(json.dumps(arguments))))["closed"]
        assert (second["said"], second["why"]) == (first["said"], first["why"])
        assert asked.answers == [["Reject"]]

    def test_airflow_that_is_away_is_asked_again(
        self, trigger: QuestionTrigger, asked: Asked, cluster: ServiceCluster
    ) -> None:
        cluster.annotate(routes.PHASE, routes.BRAKED)
        asked.faults = [OSError("away"), RuntimeError("again"), OSError("and again")]
        assert ended(trigger)["closed"]["said"] == "withdrawn"
        assert asked.answers == [["Reject"]]
