"""A question is put once, shown with all that was seen, and lets the deployment go on by one person's word alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferred

from airflow_deploy.clients.artifacts import DeploymentFolder
from airflow_deploy.domain.errors import DeclinedError, FencedError, PermanentError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.approval import Answer, Person
from airflow_deploy.domain.lifecycle.confidence import PastDeployments, ScoreInputs, score
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.question import About
from airflow_deploy.domain.lifecycle.states import State, Step
from airflow_deploy.domain.lifecycle.xcom_keys import CONFIDENCE_KEY, VERDICT_KEY
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.operators import apply, approval, canary
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.approval import DeploymentApprovalOperator, check_agreed
from airflow_deploy.operators.canary import PromoteOperator, ShiftCanaryOperator
from airflow_deploy.tasks.base import recorded_steps
from airflow_deploy.tasks.decisions import read_decision, store_decision
from airflow_deploy.tasks.question_trigger import QuestionTrigger
from tests.support.builders import make_plan
from tests.support.cluster import lead_to
from tests.support.judgement import START
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster

S = State
TIMEOUT = 3600
GATE = "canary_5.gate"
AT = datetime(2026, 11, 23, 7, 30, tzinfo=UTC)
AGREED: tuple[str, str] = ("judge", "ask")
"""The judge and the question before a task."""
pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def run() -> Run:
    made = Run()
    made.scored("score_confidence", score(ScoreInputs(make_plan(), PastDeployments())))
    return made


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> list[Mapping[str, Any]]:
    """The questions that Airflow was given, one after the other."""
    found: list[Mapping[str, Any]] = []
    monkeypatch.setattr("airflow.sdk.execution_time.hitl.upsert_hitl_detail", lambda **asked: found.append(asked))
    monkeypatch.setattr(approval, "time", type("Clock", (), {"time": staticmethod(lambda: START)}))
    return found


def operator(about: About = 25, plan: DeploymentPlan | None = None, **changes: Any) -> DeploymentApprovalOperator:
    plan = plan or make_plan()
    fields: dict[str, Any] = {
        "plan": plan.dump(),
        "score": "score_confidence",
        "claim": "DEP-1/1",
        "seen": [] if about == "deployment" else [GATE],
        **changes,
    }
    return DeploymentApprovalOperator(task_id="ask", about=about, timeout=TIMEOUT, **fields)


def event(option: str = "Approve", by: str | None = "grace") -> dict[str, Any]:
    """What Airflow resumes the task with."""
    return {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": AT,
        "responded_by_user": by and {"id": by, "name": by},
        "timedout": False,
    }


def closed(said: Any, why: str = "") -> dict[str, Any]:
    return {"closed": Answer(said=said, at=AT, why=why).model_dump(mode="json")}


def ask(run: Run, asking: DeploymentApprovalOperator) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as waiting:
        asking.execute(run.at("ask"))
    return waiting.value


def steps(run: Run) -> list[Step]:
    return recorded_steps(run.context, ["ask"])


def undecided(run: Run) -> None:
    numbers = {"requests": 25, "errors": 0, "findings": []}
    run.judged(GATE, {"verdict": "UNDECIDED", "reason": "after 10 s: too little", "numbers": numbers})


class TestAsking:
    def test_puts_the_question_and_waits_for_as_long_as_the_spec_says(
        self, run: Run, put: list[Mapping[str, Any]]
    ) -> None:
        undecided(run)
        waiting = ask(run, operator())
        (asked,) = put
        assert (asked["ti_id"], asked["options"], asked["defaults"]) == (run.ti.id, ["Approve", "Reject"], ["Reject"])
        assert asked["subject"] == "Shift 25 % of traffic to the new version of payments?"
        assert (waiting.method_name, waiting.timeout) == ("answered", None)
        trigger = waiting.trigger
        assert isinstance(trigger, QuestionTrigger)
        assert (trigger.question, trigger.held, trigger.deadline) == (str(run.ti.id), "DEP-1/1", START + TIMEOUT)

    def test_the_body_shows_score_factors_and_what_was_seen_and_answered(
        self, run: Run, put: list[Mapping[str, Any]]
    ) -> None:
        run.judged("canary_1.gate", {"verdict": "UNDECIDED", "reason": "none yet", "numbers": {}})
        undecided(run)
        earlier = operator(seen=["canary_1.gate"])
        ask(run, earlier)
        earlier.answered(run.at("ask"), event(), START)
        with pytest.raises(TaskDeferred):
            operator(seen=["canary_1.gate", "ask", GATE]).execute(run.at("canary_5.ask"))
        body = put[-1]["body"]
        for part in ("**Confidence", "| coverage |", "25 requests, 0 of them", "UNDECIDED\\: none yet"):
            assert part in body
        assert "| ask | grace approved at" in body

    def test_records_that_and_why_a_person_is_asked(self, run: Run, put: list[Mapping[str, Any]]) -> None:
        undecided(run)
        ask(run, operator())
        (step,) = steps(run)
        assert (step.to, step.answers) == (S.AWAITING_APPROVAL, ())
        assert step.reason == "canary_5.gate leaves it to a person: after 10 s: too little"

    def test_asks_after_a_gate_that_was_marked_as_done(self, run: Run, put: list[Mapping[str, Any]]) -> None:
        ask(run, operator())
        assert len(put) == 1
        assert steps(run)[0].reason == "canary_5.gate leaves it to a person: it has no verdict"

    @pytest.mark.parametrize("about", ["deployment", "promotion"])
    def test_asks_about_the_score(self, run: Run, put: list[Mapping[str, Any]], about: About) -> None:
        run.judged(GATE, {"verdict": "HEALTHY", "reason": "fine"})
        asking = operator(about)
        ask(run, asking)
        assert (
            steps(run)[0].reason
            == f"confidence {score(ScoreInputs(make_plan(), PastDeployments())).score:g} asks a person"
        )

    def test_a_task_that_runs_again_asks_again_and_forgets_what_was_answered(
        self, run: Run, put: list[Mapping[str, Any]]
    ) -> None:
        """A person cleared it, or its worker died: Airflow clears its XComs."""
        undecided(run)
        asking = operator()
        ask(run, asking)
        asking.answered(run.at("ask"), event(), START)
        run.ti.try_number = 2
        ask(run, asking)
        (step,) = steps(run)
        assert (step.try_number, step.answers, len(put)) == (2, (), 2)


class TestAnswer:
    @pytest.fixture(autouse=True)
    def _asked(self, run: Run, put: list[Mapping[str, Any]]) -> None:
        undecided(run)
        ask(run, operator())

    @pytest.mark.parametrize("about", ["deployment", 25, "promotion"])
    def test_a_yes_of_another_person_lets_the_deployment_go_on(self, run: Run, about: About) -> None:
        operator(about).answered(run.at("ask"), event(), START)
        check_agreed(make_plan(), *AGREED)
        (step,) = steps(run)
        (answer,) = step.answers
        assert (answer.said, str(answer.by), answer.at, answer.counts) == ("Approve", "grace", AT, True)

    @pytest.mark.parametrize("by", ["grace", "ada", None])
    @pytest.mark.parametrize(("about", "states"), [("deployment", [S.AWAITING_APPROVAL, S.REJECTED])] + [
        (about, [S.AWAITING_APPROVAL]) for about in (25, "promotion")
    ])  # fmt: skip
    def test_a_no_of_any_person_ends_the_deployment(
        self, run: Run, by: str | None, about: About, states: list[State]
    ) -> None:
        with pytest.raises(DeclinedError, match="rejected at 2026-11-23 07:30:00 UTC"):
            operator(about).answered(run.at("ask"), event("Reject", by), START)
        assert [step.to for step in steps(run)] == states
        assert steps(run)[0].answers[0].said == "Reject"
        assert {step.reason for step in steps(run) if step.to == S.REJECTED} <= {steps(run)[0].answers[0].sentence}

    def test_silence_is_a_no(self, run: Run) -> None:
        with pytest.raises(DeclinedError, match="no answer until"):
            operator().answered(run.at("ask"), closed("silence"), START)
        assert steps(run)[0].answers[0].said == "silence"

    def test_a_question_that_was_withdrawn_stops_what_follows(self, run: Run) -> None:
        with pytest.raises(FencedError, match=r"withdrawn at .*: the route is braked"):
            operator().answered(run.at("ask"), closed("withdrawn", "the route is braked"), START)
        assert steps(run)[0].answers[0].why == "the route is braked"


class TestRequester:
    @pytest.fixture(autouse=True)
    def _asked(self, run: Run, put: list[Mapping[str, Any]]) -> None:
        undecided(run)
        ask(run, operator())

    @pytest.mark.parametrize("by", ["ada", "ADA ", None])
    def test_a_yes_that_does_not_count_leaves_the_question_open_until_its_first_deadline(
        self, run: Run, put: list[Mapping[str, Any]], by: str | None
    ) -> None:
        with pytest.raises(TaskDeferred) as waiting:
            operator().answered(run.at("ask"), event(by=by), START + 7)
        assert put[1] == put[0]
        trigger = waiting.value.trigger
        assert isinstance(trigger, QuestionTrigger)
        assert trigger.deadline == START + 7
        assert waiting.value.kwargs == {"deadline": START + 7}
        assert steps(run)[0].answers[0].counts is False
        with pytest.raises(RefusedError, match="no yes"):
            check_agreed(make_plan(), *AGREED)

    def test_another_person_may_still_agree_and_both_answers_are_recorded(self, run: Run) -> None:
        for _ in range(3):
            with pytest.raises(TaskDeferred):
                operator().answered(run.at("ask"), event(by="ada"), START)
        operator().answered(run.at("ask"), event(by="grace"), START)
        answers = steps(run)[0].answers
        assert [(str(answer.by), answer.counts) for answer in answers] == [("ada", False), ("grace", True)]

    def test_without_a_requester_any_person_may_agree(self, run: Run) -> None:
        operator(plan=make_plan(requester=None)).answered(run.at("ask"), event(by="ada"), START)
        check_agreed(make_plan(), *AGREED)


class TestWhatFollows:
    @pytest.mark.parametrize("said", ["HEALTHY", "go"])
    def test_deployment_goes_on_without_a_question_if_the_gate_or_score_says_so(self, said: str) -> None:
        store_decision(make_plan(), "judge", said, goes_on=True)
        check_agreed(make_plan(), *AGREED)

    @pytest.mark.parametrize("said", ["UNDECIDED", "ask", None])
    def test_deployment_goes_on_after_a_yes(self, run: Run, said: str | None, put: list[Mapping[str, Any]]) -> None:
        store_decision(make_plan(), "judge", said, goes_on=False)
        operator().answered(run.at("ask"), event(), START)
        check_agreed(make_plan(), *AGREED)

    @pytest.mark.parametrize("said", ["UNDECIDED", "BREACHED", "ask", "refuse", None])
    def test_deployment_stops_if_the_question_was_marked_as_done(self, said: str | None) -> None:
        if said:
            store_decision(make_plan(), "judge", said, goes_on=False)
        with pytest.raises(RefusedError, match="ask has no yes of a person who may agree"):
            check_agreed(make_plan(), *AGREED)

    def test_no_xcom_lets_a_deployment_go_on(self, run: Run) -> None:
        """The role that may trigger a run may also write its XComs."""
        yes = Answer(said="Approve", at=AT, by=Person(id="grace", name="grace"), counts=True).model_dump(mode="json")
        for task in AGREED:
            for key in (VERDICT_KEY, CONFIDENCE_KEY, "answer", "return_value"):
                for value in ({"verdict": "HEALTHY"}, {"route": "go"}, {"x": 1}, yes):
                    run.ti.store[task, key] = value
                    with pytest.raises(RefusedError, match="no yes"):
                        check_agreed(make_plan(), *AGREED)

    def test_yes_of_another_run_counts_for_no_other(self, run: Run, put: list[Mapping[str, Any]]) -> None:
        operator(plan=make_plan(run_id="another")).answered(run.at("ask"), event(), START)
        with pytest.raises(RefusedError, match="no yes"):
            check_agreed(make_plan(), *AGREED)

    def test_question_that_is_asked_again_withdraws_the_earlier_yes(
        self, run: Run, put: list[Mapping[str, Any]]
    ) -> None:
        undecided(run)
        operator().answered(run.at("ask"), event(), START)
        ask(run, operator())
        with pytest.raises(RefusedError, match="no yes"):
            check_agreed(make_plan(), *AGREED)

    @pytest.mark.parametrize("text", ["", "nothing", "[]", "{}", '{"goes_on": true}', "[" * 100_000])
    def test_decision_that_is_not_readable_stops_the_deployment(self, text: str) -> None:
        store_decision(make_plan(), "judge", "HEALTHY", goes_on=True)
        plan = make_plan()
        DeploymentFolder(plan.spec.service, plan.deployment_id).write(f"decision_judge_{plan.deployment_id}.json", text)
        with pytest.raises(PermanentError, match="is no decision; clear the task judge"):
            check_agreed(plan, *AGREED)

    def test_decision_of_another_task_or_run_is_refused(self) -> None:
        plan, other = make_plan(), make_plan(run_id="another")
        for source, task in ((other, "judge"), (plan, "plan")):
            store_decision(source, task, "HEALTHY", goes_on=True)
            name = f"decision_{task}_{source.deployment_id}.json"
            text = DeploymentFolder(source.spec.service, source.deployment_id).read(name)
            own = DeploymentFolder(plan.spec.service, plan.deployment_id)
            own.write(f"decision_judge_{plan.deployment_id}.json", text)
            with pytest.raises(PermanentError, match="is another task's"):
                read_decision(plan, "judge")

    def test_store_that_is_away_is_tried_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def away(*_: object) -> str:
            raise PermissionError("denied")

        for method in ("read", "write"):
            monkeypatch.setattr(DeploymentFolder, method, away)
        with pytest.raises(TemporaryError, match=r"artifact store: cannot read decision_judge_.*denied"):
            check_agreed(make_plan(), *AGREED)
        with pytest.raises(TemporaryError, match=r"artifact store: cannot write decision_judge_.*denied"):
            store_decision(make_plan(), "judge", "HEALTHY", goes_on=True)

    def test_no_cluster_is_reached_without_a_yes(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (apply, canary):
            monkeypatch.setattr(module, "connect", None)
        plan = make_plan().dump()
        owned: dict[str, Any] = {"plan": plan, "claim": "DEP-1/1"}
        for writing in (
            ApplyManifestOperator(task_id="apply", agreed=AGREED, plan=plan),
            ShiftCanaryOperator(task_id="shift", agreed=AGREED, share=25, **owned),
            PromoteOperator(task_id="promote", agreed=AGREED, **owned),
        ):
            with pytest.raises(RefusedError, match="no yes"):
                writing.execute(run.at(writing.task_id))
            assert recorded_steps(run.context, [writing.task_id]) == []

    def test_a_yes_in_the_moment_of_a_breach_gives_no_share(
        self, run: Run, put: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = make_plan()
        cluster = ServiceCluster.at_share(plan, 5)
        lead_to(cluster.api, monkeypatch)
        operator().answered(run.at("ask"), event(), START)
        cluster.annotate(routes.PHASE, routes.BRAKED)
        shift = ShiftCanaryOperator(task_id="shift", agreed=AGREED, share=25, plan=plan.dump(), claim=cluster.claim)
        with pytest.raises(FencedError, match="is braked"):
            shift.execute(run.at("shift"))
        assert cluster.weights()[plan.candidate] == 5
        assert recorded_steps(run.context, ["shift"]) == []
