"""What tasks record, what the audit makes of it, and that a run succeeds only if all is well."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, ExceptionRetryPolicy, RetryAction, chain
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped, TaskDeferred

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.kubernetes.connection import REQUEST_RETRIES
from airflow_deploy.domain.config.request import parse_request
from airflow_deploy.domain.errors import (
    DeclinedError,
    FencedError,
    HarmError,
    IllegalTransitionError,
    NotFinalizedError,
    PermanentError,
    RefusedError,
    TemporaryError,
)
from airflow_deploy.domain.lifecycle.approval import Answer, Person
from airflow_deploy.domain.lifecycle.confidence import PastDeployments, ScoreInputs, score
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State, Step
from airflow_deploy.domain.lifecycle.xcom_keys import CONFIDENCE_KEY, STEPS_KEY, VERDICT_KEY
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.operators import confidence as scoring
from airflow_deploy.operators import finalize as finalizing
from airflow_deploy.operators import rollback as rolling_back
from airflow_deploy.operators.audit import AuditOperator, RecordingOperator
from airflow_deploy.operators.confidence import RefuseOperator, ScoreConfidenceOperator
from airflow_deploy.operators.finalize import FinalizeOperator
from airflow_deploy.operators.rollback import RollbackOperator
from airflow_deploy.rollout.rollback import RollbackOutcome
from airflow_deploy.sensors.gates import HealthGateSensor, VerifySensor, WatchSensor
from airflow_deploy.tasks.base import ROLLBACK_RETRIES, TASK_RETRIES, record_step, recorded_steps
from airflow_deploy.tasks.decisions import Decision, read_decision, store_decision
from tests.support.airflow_home import isolate
from tests.support.builders import CONF, changed, make_plan
from tests.support.cluster import lead_to
from tests.support.ending import ENDING, STAGE, TASKS
from tests.support.hostile import drawn, odd_confs
from tests.support.recorded_run import Run as Run
from tests.support.service_cluster import ServiceCluster

S = State


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> DeploymentPlan:
    return make_plan(run_id=request.node.name)


@pytest.fixture
def folder(plan: DeploymentPlan) -> Path:
    return isolate() / "artifacts" / plan.spec.service / plan.deployment_id


def audit(run: Run, plan: DeploymentPlan) -> Any:
    run.planned(plan)
    operator = AuditOperator(task_id="audit", plans_of=["build_image", "plan"], steps_of=TASKS)
    return operator.execute(run.at("audit"))


class TestRecording:
    def test_a_task_that_runs_twice_records_each_state_once(self, run: Run) -> None:
        run.reach("shift", S.CANARY, S.CANARY_WAITING)
        run.ti.try_number = 2
        run.reach("shift", S.CANARY, S.CANARY_WAITING)
        steps = recorded_steps(run.context, ["shift"])
        assert [(step.to, step.try_number) for step in steps] == [(S.CANARY, 2), (S.CANARY_WAITING, 2)]

    def test_steps_come_in_the_dags_order(self, run: Run) -> None:
        run.reach("promote", S.PROMOTING)
        run.reach("plan", S.INIT)
        assert [step.to for step in recorded_steps(run.context, ["plan", "nothing", "promote"])] == [
            S.INIT,
            S.PROMOTING,
        ]

    def test_what_is_pushed_is_plain_json(self, run: Run) -> None:
        record_step(run.at("gate"), S.CANARY_EVALUATING, "fine", evidence="ab" * 32)
        (pushed,) = run.ti.store["gate", STEPS_KEY]
        assert (pushed["to"], pushed["evidence"], pushed["task"]) == ("CANARY_EVALUATING", "ab" * 32, "gate")


class TestRetries:
    @pytest.mark.parametrize(
        "error", [RefusedError, FencedError, DeclinedError, HarmError, IllegalTransitionError, NotFinalizedError]
    )
    def test_trying_again_cannot_help_a_permanent_error(self, error: type[PermanentError]) -> None:
        assert self.action(error("no")) == RetryAction.FAIL
        assert self.action(error("no"), after_parsing(TASK_RETRIES)) == RetryAction.FAIL

    def test_a_temporary_error_is_tried_again_soon(self) -> None:
        assert self.action(TemporaryError("later")) == RetryAction.RETRY

    @pytest.mark.parametrize("error", [RefusedError, FencedError, HarmError, PermanentError, TemporaryError, KeyError])
    def test_a_rollback_does_not_give_up_at_the_first_refusal(self, error: type[Exception]) -> None:
        assert self.action(error("403"), ROLLBACK_RETRIES) != RetryAction.FAIL
        assert self.action(error("403"), after_parsing(ROLLBACK_RETRIES)) != RetryAction.FAIL

    @pytest.mark.parametrize("error", [NotFinalizedError, IllegalTransitionError])
    def test_a_rollback_ends_at_once_if_a_person_is_needed(self, error: type[PermanentError]) -> None:
        assert self.action(error("look"), ROLLBACK_RETRIES) == RetryAction.FAIL

    @pytest.mark.parametrize("task", ["rollback", "finalize"])
    def test_rollback_and_finalize_are_tried_as_long(self, task: str) -> None:
        ending = {"plans_of": ["plan"], "steps_of": TASKS}
        made: dict[str, RecordingOperator] = {
            "rollback": RollbackOperator(task_id="rollback", judges=[], gates=[], **ending),
            "finalize": FinalizeOperator(task_id="finalize", audit="audit", **ending),
        }
        assert made[task].retries == ROLLBACK_RETRIES["retries"]
        assert made[task].retry_policy is ROLLBACK_RETRIES["retry_policy"]

    @staticmethod
    def action(error: Exception, retries: dict[str, Any] = TASK_RETRIES) -> RetryAction:
        decision: RetryAction = retries["retry_policy"].evaluate(error, try_number=1, max_tries=3).action
        return decision


def after_parsing(retries: dict[str, Any]) -> dict[str, Any]:
    """What a worker finds in the serialised DAG."""
    return {
        "retry_policy": ExceptionRetryPolicy.deserialize(json.loads(json.dumps(retries["retry_policy"].serialize())))
    }


class TestAudit:
    def test_a_good_deployment_leaves_the_four_artifacts(self, run: Run, plan: DeploymentPlan, folder: Path) -> None:
        run.reach("plan", S.INIT)
        run.reach("build_image", S.BUILDING)
        run.reach("shift", S.DEPLOYING, *STAGE)
        run.reach("promote", S.PROMOTING, S.PROMOTED)
        run.reach("verify", S.VERIFYING, S.VERIFIED)
        run.scored("score_confidence", {"score": 85})
        audit(run, plan)
        identity = plan.deployment_id
        summary = json.loads((folder / f"{identity}.json").read_text())
        assert (summary["state"], summary["commit"], summary["requester"]) == ("VERIFIED", plan.commit, "ada")
        assert summary["irregular"] is None
        lines = (folder / f"transitions_{identity}.jsonl").read_text().splitlines()
        assert [json.loads(line)["to"] for line in lines][-1] == "VERIFIED"
        assert json.loads((folder / f"confidence_{identity}.json").read_text()) == {"score_confidence": {"score": 85}}
        assert len(list(yaml.safe_load_all((folder / f"manifest_{identity}.yaml").read_text()))) == 5

    def test_an_illegal_path_is_written_down_as_such_and_refused(
        self, run: Run, plan: DeploymentPlan, folder: Path
    ) -> None:
        """A person marked a gate as done, say: exactly these runs must not go without artifacts."""
        run.reach("plan", S.INIT)
        run.reach("promote", S.PROMOTING, S.PROMOTED)
        with pytest.raises(IllegalTransitionError, match="INIT may not be followed by PROMOTING"):
            audit(run, plan)
        identity = plan.deployment_id
        summary = json.loads((folder / f"{identity}.json").read_text())
        assert summary["state"] == "PROMOTED"
        assert "INIT may not be followed by PROMOTING" in summary["irregular"]
        lines = [json.loads(line) for line in (folder / f"transitions_{identity}.jsonl").read_text().splitlines()]
        assert [(line["from"], line["to"]) for line in lines] == [
            (None, "INIT"),
            ("INIT", "PROMOTING"),
            ("PROMOTING", "PROMOTED"),
        ]
        assert (folder / f"manifest_{identity}.yaml").exists()
        assert (folder / f"confidence_{identity}.json").exists()

    def test_what_failed_before_it_was_deployed_was_rejected(
        self, run: Run, plan: DeploymentPlan, folder: Path
    ) -> None:
        run.reach("plan", S.INIT)
        run.reach("build_image", S.BUILDING)
        audit(run, plan)
        assert json.loads((folder / f"{plan.deployment_id}.json").read_text())["state"] == "REJECTED"

    def test_a_rollback_says_when_the_verdict_fell_and_the_traffic_was_back(
        self, run: Run, plan: DeploymentPlan, folder: Path
    ) -> None:
        run.reach("plan", S.INIT)
        run.reach("build_image", S.BUILDING)
        run.reach("shift", S.DEPLOYING, S.CANARY, S.CANARY_WAITING)
        run.reach("rollback", S.ROLLING_BACK, S.ROLLED_BACK)
        event = {"verdict": "BREACHED", "reason": "worse", "at": "2026-11-23T07:00:00+00:00"}
        run.judged("verify", {**event, "restored_at": "2026-11-23T07:00:01+00:00"})
        audit(run, plan)
        summary = json.loads((folder / f"{plan.deployment_id}.json").read_text())
        assert summary["state"] == "ROLLED_BACK"
        assert (summary["verdict_at"], summary["restored_at"]) == (event["at"], "2026-11-23T07:00:01+00:00")

    def test_who_answered_what_and_when_stands_in_the_trail_and_in_the_summary(
        self, run: Run, plan: DeploymentPlan, folder: Path
    ) -> None:
        run.reach("plan", S.INIT)
        run.reach("build_image", S.BUILDING)
        at = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
        answer = Answer(said="Approve", at=at, by=Person(id="3", name="grace"))
        step = Step(to=S.AWAITING_APPROVAL, at=at, task="ask", try_number=1, reason="?", answers=(answer,))
        run.ti.store["ask", STEPS_KEY] = [step.model_dump(mode="json")]
        audit(run, plan)
        recorded_answer = {
            "said": "Approve",
            "at": "2026-11-23T07:00:00Z",
            "by": {"id": "3", "name": "grace"},
            "why": "",
            "counts": True,
        }
        lines = (folder / f"transitions_{plan.deployment_id}.jsonl").read_text().splitlines()
        assert [json.loads(line)["answers"] for line in lines] == [[], [], [recorded_answer], []]
        assert json.loads((folder / f"{plan.deployment_id}.json").read_text())["approvals"] == [
            {"task": "ask", "asked_at": "2026-11-23T07:00:00+00:00", "answers": [recorded_answer]}
        ]

    def test_no_text_of_a_request_becomes_more_than_a_text(self, run: Run, plan: DeploymentPlan, folder: Path) -> None:
        run.reach("plan", S.INIT)
        for conf in drawn(odd_confs(), 20):
            request = parse_request(conf)
            audit(run, plan.model_copy(update={"request": request}))
            summary = (folder / f"{plan.deployment_id}.json").read_text()
            assert summary.replace("\n", "").isprintable()
            assert summary.isascii()
            assert json.loads(summary)["incident"] == request.incident.dump()
        assert {path.name for path in folder.iterdir()} == {
            f"{plan.deployment_id}.json",
            f"confidence_{plan.deployment_id}.json",
            f"manifest_{plan.deployment_id}.yaml",
            f"transitions_{plan.deployment_id}.jsonl",
            f"planned_{plan.deployment_id}.json",
            f"built_{plan.deployment_id}.json",
        }

    def test_a_request_that_was_never_planned_leaves_nothing(self, run: Run) -> None:
        operator = AuditOperator(task_id="audit", plans_of=["build_image", "plan"], steps_of=TASKS)
        with pytest.raises(AirflowSkipException):
            operator.execute(run.context)


BRANCHES = {"go": "agreed", "ask": "approve", "refuse": "refuse"}


class TestConfidence:
    def test_the_score_counts_the_gates_that_ended_healthy(self, run: Run, plan: DeploymentPlan) -> None:
        for gate, verdict in (("gate_5", "HEALTHY"), ("gate_25", "BREACHED"), ("gate_50", "UNDECIDED")):
            store_decision(plan, gate, verdict, goes_on=verdict == "HEALTHY")
        assert self.health(run, plan, "gate_5", "gate_25", "gate_50", "gate_100") == 0.5

    def test_gates_that_left_it_to_people_say_nothing_of_the_health(self, run: Run, plan: DeploymentPlan) -> None:
        store_decision(plan, "gate_5", "UNDECIDED", goes_on=False)
        assert self.health(run, plan, "gate_5", "gate_25") is None

    @staticmethod
    def health(run: Run, plan: DeploymentPlan, *gates: str) -> Any:
        operator = ScoreConfidenceOperator(task_id="score", plan=plan.dump(), gates=gates, branches=BRANCHES)
        operator.choose_branch(run.at("score"))
        pushed = run.ti.xcom_pull(task_ids="score", key=CONFIDENCE_KEY)
        return next(f["value"] for f in pushed["factors"] if f["name"] == "canary_health")

    @pytest.mark.parametrize(("last", "route"), [("HEALTHY", "go"), ("UNDECIDED", "ask"), (None, "ask")])
    def test_what_the_last_gate_could_not_decide_is_asked_with_the_promotion(
        self, run: Run, plan: DeploymentPlan, last: str | None, route: str
    ) -> None:
        """A person who marked that gate as done has decided nothing either."""
        gates = [f"gate_{number}" for number in range(20)]
        for gate in gates:
            store_decision(plan, gate, "HEALTHY", goes_on=True)
        store_decision(plan, gates[-1], last, goes_on=last == "HEALTHY")
        operator = ScoreConfidenceOperator(task_id="score", plan=plan.dump(), gates=gates, branches=BRANCHES)
        assert operator.choose_branch(run.at("score")) == BRANCHES[route]
        confidence = run.ti.xcom_pull(task_ids="score", key=CONFIDENCE_KEY)
        assert (confidence["score"] >= 80, confidence["route"]) == (True, route)

    @pytest.mark.parametrize("route", ["go", "ask", "refuse"])
    def test_each_route_leads_to_its_task_and_skips_the_others(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, route: str
    ) -> None:
        known = score(ScoreInputs(plan, PastDeployments())).model_copy(update={"route": route})
        monkeypatch.setattr(scoring, "score", lambda _: known)
        with DAG("branching"):
            operator = ScoreConfidenceOperator(task_id="score", plan=plan.dump(), branches=BRANCHES)
            chain(operator, [EmptyOperator(task_id=task) for task in BRANCHES.values()])
        run.ti.task = operator
        with pytest.raises(DownstreamTasksSkipped) as skipped:
            operator.execute(run.at("score"))
        assert {task for task, _ in skipped.value.tasks} == set(BRANCHES.values()) - {BRANCHES[route]}
        assert run.ti.xcom_pull(task_ids="score", key=CONFIDENCE_KEY) == known.dump()

    def test_a_veto_is_the_reason_of_the_refusal(self, run: Run) -> None:
        vetoed = make_plan(request=parse_request(changed(CONF, ("safety_gate", "recommendation"), "HOLD")))
        run.scored("score", score(ScoreInputs(vetoed, PastDeployments())))
        operator = RefuseOperator(task_id="refuse", score="score", state=S.REJECTED)
        with pytest.raises(RefusedError, match=r"recommendation is HOLD, not DEPLOY"):
            operator.execute(run.at("refuse"))
        assert [step.to for step in recorded_steps(run.context, ["refuse"])] == [S.REJECTED]

    def test_a_refusal_without_a_score_says_what_is_missing(self, run: Run) -> None:
        with pytest.raises(PermanentError, match="score has not finished"):
            RefuseOperator(task_id="refuse", score="score", state=S.REJECTED).execute(run.at("refuse"))


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ``finalize`` answers, one after the other; an exception is raised."""
    answers: list[Any] = []

    def answer(*_: object) -> RollbackOutcome:
        following = answers.pop(0)
        if isinstance(following, Exception):
            raise following
        result: RollbackOutcome = following
        return result

    monkeypatch.setattr(rolling_back, "roll_back_and_stop", answer)
    monkeypatch.setattr(finalizing, "release", lambda *_, **__: [])
    for module in (finalizing, rolling_back):
        monkeypatch.setattr(module, "connect", lambda *_: None)
    return answers


def rollback(run: Run, plan: DeploymentPlan | None) -> None:
    if plan:
        run.planned(plan)
    operator = RollbackOperator(task_id="rollback", judges=["watch", "verify"], gates=["gate"], **ENDING)
    operator.execute(run.at("rollback"))


DONE = RollbackOutcome(returned=True, reason="rolled back to payments")
NOTHING = RollbackOutcome(returned=False, reason="payments-1 had no traffic")
KEPT = RollbackOutcome(returned=False, verified=True, reason="it is verified and stays")


class TestRollback:
    def test_records_the_verdict_as_its_reason(self, run: Run, plan: DeploymentPlan, settled: list[Any]) -> None:
        run.judged("watch", {"verdict": "BREACHED", "reason": "worse", "at": "2026-11-23T07:00:00+00:00"})
        settled.append(DONE)
        rollback(run, plan)
        back, done = recorded_steps(run.context, ["rollback"])
        assert (back.to, back.reason, back.at.isoformat()) == (
            S.ROLLING_BACK,
            "watch: BREACHED: worse",
            "2026-11-23T07:00:00+00:00",
        )
        assert (done.to, done.reason) == (S.ROLLED_BACK, "rolled back to payments")

    def answer(self, said: Any, **fields: Any) -> dict[str, Any]:
        at = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
        answer = Answer(said=said, at=at, by=Person(id="3", name="grace"), **fields)
        step = Step(to=S.AWAITING_APPROVAL, at=at, task="ask", try_number=1, reason="", answers=(answer,))
        return step.model_dump(mode="json")

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ({"said": "Reject"}, "ask: grace (id 3) rejected at 2026-11-23 07:00:00 UTC"),
            ({"said": "silence"}, "ask: no answer until 2026-11-23 07:00:00 UTC, which counts as a rejection"),
            (
                {"said": "withdrawn", "why": "braked"},
                "ask: the question was withdrawn at 2026-11-23 07:00:00 UTC: braked",
            ),
            ({"said": "Approve"}, "a step failed"),
            ({"said": "Approve", "counts": False}, "a step failed"),
        ],
    )
    def test_records_a_persons_rejection_as_its_reason(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], answer: dict[str, Any], reason: str
    ) -> None:
        """A gate that could not decide is none: it has asked."""
        run.judged("gate", {"verdict": "UNDECIDED", "reason": "too little", "at": "2026-11-23T06:59:00+00:00"})
        run.ti.store["ask", STEPS_KEY] = [self.answer(**answer)]
        settled.append(DONE)
        rollback(run, plan)
        assert recorded_steps(run.context, ["rollback"])[0].reason == reason

    def test_harm_is_the_reason_even_if_a_question_ended_with_it(
        self, run: Run, plan: DeploymentPlan, settled: list[Any]
    ) -> None:
        run.judged("watch", {"verdict": "BREACHED", "reason": "worse", "at": "2026-11-23T07:00:00+00:00"})
        run.ti.store["ask", STEPS_KEY] = [self.answer("withdrawn", why="braked")]
        settled.append(DONE)
        rollback(run, plan)
        assert recorded_steps(run.context, ["rollback"])[0].reason == "watch: BREACHED: worse"

    def test_a_verification_that_could_not_decide_is_a_reason(
        self, run: Run, plan: DeploymentPlan, settled: list[Any]
    ) -> None:
        run.judged("verify", {"verdict": "UNDECIDED", "reason": "late", "at": "2026-11-23T07:00:00+00:00"})
        settled.append(DONE)
        rollback(run, plan)
        assert recorded_steps(run.context, ["rollback"])[0].reason == "verify: UNDECIDED: late"

    def test_skips_if_nothing_was_done(self, run: Run, plan: DeploymentPlan, settled: list[Any]) -> None:
        with pytest.raises(AirflowSkipException):
            rollback(run, None)
        settled.append(NOTHING)
        with pytest.raises(AirflowSkipException):
            rollback(run, plan)
        assert recorded_steps(run.context, ["rollback"]) == []

    def test_what_was_to_be_deployed_is_recorded_as_rolled_back_even_if_nothing_is_found(
        self, run: Run, plan: DeploymentPlan, settled: list[Any]
    ) -> None:
        """DEPLOYING is no state to end in."""
        run.reach("shift", S.DEPLOYING)
        settled.append(NOTHING)
        rollback(run, plan)
        assert [step.to for step in recorded_steps(run.context, ["rollback"])] == [S.ROLLING_BACK, S.ROLLED_BACK]

    def test_a_verified_version_that_stays_is_not_recorded_as_taken_back(
        self, run: Run, plan: DeploymentPlan, settled: list[Any]
    ) -> None:
        run.reach("shift", S.DEPLOYING)
        settled.append(KEPT)
        with pytest.raises(AirflowSkipException):
            rollback(run, plan)
        assert [step.to for step in recorded_steps(run.context, ["rollback"])] == [S.VERIFIED]

    def test_tells_a_person_if_it_cannot_settle(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], abandoned: list[str]
    ) -> None:
        settled.append(FencedError("its backends were changed by hand"))
        with pytest.raises(NotFinalizedError, match="its backends were changed by hand"):
            rollback(run, plan)
        assert [step.to for step in recorded_steps(run.context, ["rollback"])] == [S.ROLLING_BACK, S.FAILED]
        assert abandoned == [plan.deployment_id]

    @pytest.mark.parametrize("error", [TemporaryError("later"), RefusedError("403")])
    def test_records_nothing_while_the_cluster_refuses(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], abandoned: list[str], error: Exception
    ) -> None:
        settled += [error, DONE]
        with pytest.raises(type(error)):
            rollback(run, plan)
        assert (recorded_steps(run.context, ["rollback"]), abandoned) == ([], [])
        rollback(run, plan)
        assert [step.to for step in recorded_steps(run.context, ["rollback"])] == [S.ROLLING_BACK, S.ROLLED_BACK]


@pytest.fixture
def abandoned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The deployments that gave their route up."""
    found: list[str] = []
    monkeypatch.setattr(rolling_back, "abandon_route", lambda _, claim: found.append(claim.deployment_id))
    return found


class TestFinalize:
    def execute(self, run: Run, plan: DeploymentPlan | None, *, audited: bool = True) -> None:
        if plan:
            run.planned(plan)
        run.returned("audit", "the folder" if audited else None)
        FinalizeOperator(task_id="finalize", audit="audit", **ENDING).execute(run.at("finalize"))

    def verified(self, run: Run) -> None:
        run.reach("plan", S.INIT)
        run.reach("build_image", S.BUILDING)
        run.reach("shift", S.DEPLOYING, *STAGE)
        run.reach("promote", S.PROMOTING, S.PROMOTED)
        run.reach("verify", S.VERIFYING, S.VERIFIED)

    def test_leaves_a_verified_deployment_alone(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], folder: Path
    ) -> None:
        self.verified(run)
        self.execute(run, plan)
        assert settled == []
        assert recorded_steps(run.context, ["finalize"]) == []
        assert not (folder / f"{plan.deployment_id}.json").exists()

    @pytest.mark.parametrize("end", [S.ROLLED_BACK, S.FAILED, S.REJECTED])
    def test_a_deployment_that_has_ended_is_not_settled_twice_but_the_run_fails(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], folder: Path, end: State
    ) -> None:
        run.reach("rollback", end)
        with pytest.raises(NotFinalizedError):
            self.execute(run, plan)
        assert recorded_steps(run.context, ["finalize"]) == []
        assert not (folder / f"{plan.deployment_id}.json").exists()

    def test_restores_the_traffic_itself_if_the_rollback_was_skipped(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], folder: Path
    ) -> None:
        run.reach("plan", S.INIT)
        run.reach("build_image", S.BUILDING)
        run.reach("shift", S.DEPLOYING, S.CANARY, S.CANARY_WAITING)
        settled.append(DONE)
        with pytest.raises(NotFinalizedError):
            self.execute(run, plan)
        assert [step.to for step in recorded_steps(run.context, ["finalize"])] == [S.ROLLING_BACK, S.ROLLED_BACK]
        assert self.summary(folder, plan)["state"] == "ROLLED_BACK"  # the audit came before

    def test_a_verified_deployment_that_was_taken_back_fails_the_run(
        self, run: Run, plan: DeploymentPlan, settled: list[Any]
    ) -> None:
        run.reach("verify", S.VERIFIED)
        run.reach("rollback", S.ROLLING_BACK, S.ROLLED_BACK)
        with pytest.raises(NotFinalizedError):
            self.execute(run, plan)

    def test_a_run_that_planned_nothing_is_no_success(self, run: Run) -> None:
        with pytest.raises(NotFinalizedError, match="nothing was written anywhere"):
            self.execute(run, None)

    def test_writes_what_the_audit_could_not(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], folder: Path
    ) -> None:
        self.verified(run)
        self.execute(run, plan, audited=False)
        assert self.summary(folder, plan)["state"] == "VERIFIED"
        assert settled == []

    def test_a_deployment_whose_artifacts_cannot_be_written_is_tried_again(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object) -> str:
            raise OSError("the store is away")

        self.verified(run)
        monkeypatch.setattr(Artifacts, "write", away)
        with pytest.raises(OSError, match="the store is away") as caught:
            self.execute(run, plan, audited=False)
        assert TestRetries.action(caught.value, ROLLBACK_RETRIES) != RetryAction.FAIL

    def test_the_traffic_comes_before_the_artifacts(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def away(*_: object) -> str:
            raise OSError("the store is away")

        run.reach("shift", S.DEPLOYING)
        settled.append(DONE)
        monkeypatch.setattr(Artifacts, "write", away)
        with pytest.raises(OSError, match="the store is away"):
            self.execute(run, plan, audited=False)
        assert settled == []
        assert [step.to for step in recorded_steps(run.context, ["finalize"])] == [S.ROLLING_BACK, S.ROLLED_BACK]

    def test_what_a_person_marked_as_done_is_written_down_and_said(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], folder: Path
    ) -> None:
        run.reach("plan", S.INIT)
        run.reach("promote", S.PROMOTING, S.PROMOTED)
        run.reach("verify", S.VERIFYING, S.VERIFIED)
        with pytest.raises(IllegalTransitionError):
            self.execute(run, plan, audited=False)
        assert self.summary(folder, plan)["irregular"]
        assert settled == []

    def test_a_version_that_the_route_calls_verified_stays_although_it_was_not_recorded(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], folder: Path
    ) -> None:
        """``verify`` died between the two."""
        run.reach("plan", S.INIT)
        run.reach("build_image", S.BUILDING)
        run.reach("shift", S.DEPLOYING, *STAGE)
        run.reach("promote", S.PROMOTING, S.PROMOTED)
        run.reach("verify", S.VERIFYING)
        settled.append(KEPT)
        self.execute(run, plan)
        assert [step.to for step in recorded_steps(run.context, ["finalize"])] == [S.VERIFIED]
        assert self.summary(folder, plan)["state"] == "VERIFIED"

    @staticmethod
    def summary(folder: Path, plan: DeploymentPlan) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((folder / f"{plan.deployment_id}.json").read_text())
        return found


def event(verdict: str, **numbers: Any) -> dict[str, Any]:
    return {"verdict": verdict, "reason": "because", "numbers": numbers, "evidence_sha256": "ab" * 32}


class TestFinish:
    owned: dict[str, Any] = {"claim": "DEP-1/1", "baseline": {}, "deferrable": True}  # noqa: RUF012

    @pytest.mark.parametrize("verdict", ["BREACHED", "BLIND", "UNDECIDED"])
    def test_no_sensor_goes_on_after_harm(self, run: Run, verdict: str) -> None:
        for sensor in (
            WatchSensor(task_id="watch", **self.owned),
            HealthGateSensor(task_id="gate", next_share=25, **self.owned),
            VerifySensor(task_id="verify", **self.owned),
        ):
            if (sensor.role, verdict) == ("gate", "UNDECIDED"):
                continue
            with pytest.raises(HarmError, match=verdict):
                sensor.finish(run.at(sensor.task_id), event(verdict))
            pushed = run.ti.xcom_pull(task_ids=sensor.task_id, key=VERDICT_KEY)
            assert pushed["verdict"] == verdict  # kept for rollback and audit

    @pytest.mark.parametrize(("verdict", "skipped"), [("HEALTHY", {"ask"}), ("UNDECIDED", set())])
    def test_a_gate_skips_the_question_only_if_it_is_healthy(
        self, run: Run, plan: DeploymentPlan, verdict: str, skipped: set[str]
    ) -> None:
        with DAG("branching"):
            gate = HealthGateSensor(
                task_id="gate", next_share=25, branches=("shift", "ask"), plan=plan.dump(), **self.owned
            )
            chain(gate, EmptyOperator(task_id="ask"), shift := EmptyOperator(task_id="shift"))
            chain(gate, shift)
        run.ti.task, found = gate, set()
        try:
            gate.finish(run.at("gate"), event(verdict))
        except DownstreamTasksSkipped as said:
            found = {task for task, _ in said.tasks}
        assert found == skipped
        assert [step.to for step in recorded_steps(run.context, ["gate"])] == [S.CANARY_EVALUATING]
        assert run.ti.xcom_pull(task_ids="gate", key=VERDICT_KEY)["verdict"] == verdict
        assert read_decision(plan, "gate") == Decision(
            deployment=plan.deployment_id, task="gate", said=verdict, goes_on=verdict == "HEALTHY"
        )

    def test_gate_that_runs_again_withdraws_what_it_has_decided(self, run: Run, plan: DeploymentPlan) -> None:
        gate = HealthGateSensor(task_id="gate", next_share=100, plan=plan.dump(), **self.owned)
        gate.finish(run.at("gate"), event("HEALTHY"))
        with pytest.raises(TaskDeferred):
            gate.execute(run.at("gate"))
        decision = read_decision(plan, "gate")
        assert decision
        assert (decision.said, decision.goes_on) == (None, False)

    def test_the_last_gate_leaves_it_to_the_score(self, run: Run, plan: DeploymentPlan) -> None:
        gate = HealthGateSensor(task_id="gate", next_share=100, plan=plan.dump(), **self.owned)
        gate.finish(run.at("gate"), event("UNDECIDED"))
        assert [step.to for step in recorded_steps(run.context, ["gate"])] == [S.CANARY_EVALUATING]

    def test_the_watch_ends_well_only_if_the_promotion_was_verified(self, run: Run) -> None:
        watch = WatchSensor(task_id="watch", **self.owned)
        watch.finish(run.at("watch"), event("CLOSED", phase="verified"))
        assert run.ti.xcom_pull(task_ids="watch", key=VERDICT_KEY)["verdict"] == "CLOSED"
        for phase in ("braked", "settled", "abandoned", "owned by DEP-2/2"):
            with pytest.raises(FencedError):
                watch.finish(run.at("watch"), event("CLOSED", phase=phase))

    def test_a_gate_whose_route_is_closed_stands_aside(self, run: Run) -> None:
        gate = HealthGateSensor(task_id="gate", next_share=25, **self.owned)
        with pytest.raises(AirflowSkipException):
            gate.finish(run.at("gate"), event("CLOSED", phase="braked"))
        assert recorded_steps(run.context, ["gate"]) == []

    def test_healthy_goes_on_with_its_evidence(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gate = HealthGateSensor(task_id="gate", next_share=25, plan=plan.dump(), **self.owned)
        gate.finish(run.at("gate"), event("HEALTHY"))
        self.verify(monkeypatch, plan, ServiceCluster.promoted(plan)).finish(run.at("verify"), event("HEALTHY"))
        steps = recorded_steps(run.context, ["gate", "verify"])
        assert [(step.to, step.evidence) for step in steps] == [
            (S.CANARY_EVALUATING, "ab" * 32),
            (S.VERIFIED, "ab" * 32),
        ]

    def verify(self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, cluster: ServiceCluster) -> VerifySensor:
        lead_to(cluster.api, monkeypatch)
        claim = cluster.now.owner
        assert claim is not None
        return VerifySensor(task_id="verify", plan=plan.dump(), **{**self.owned, "claim": claim})

    def test_verified_is_recorded_on_the_route_so_that_no_step_rolls_it_back(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = ServiceCluster.promoted(plan)
        self.verify(monkeypatch, plan, cluster).finish(run.at("verify"), event("HEALTHY"))
        assert cluster.now.phase == routes.VERIFIED
        assert [step.to for step in recorded_steps(run.context, ["verify"])] == [S.VERIFIED]

    def test_a_verification_that_died_after_its_record_on_the_route_is_verified(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = ServiceCluster.verified(plan)
        self.verify(monkeypatch, plan, cluster).finish(run.at("verify"), event("CLOSED", phase=routes.VERIFIED))
        assert [step.to for step in recorded_steps(run.context, ["verify"])] == [S.VERIFIED]

    @pytest.mark.parametrize("phase", [routes.BRAKED, routes.SETTLED, routes.CANARY, routes.ABANDONED])
    def test_what_was_taken_back_meanwhile_is_not_verified(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, phase: str
    ) -> None:
        cluster = ServiceCluster.promoted(plan).annotate(routes.PHASE, phase)
        with pytest.raises(FencedError):
            self.verify(monkeypatch, plan, cluster).finish(run.at("verify"), event("HEALTHY"))
        assert cluster.now.phase == phase
        assert recorded_steps(run.context, ["verify"]) == []

    def test_a_cluster_that_does_not_answer_is_asked_again_before_it_counts_as_verified(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, slept: list[float]
    ) -> None:
        cluster = ServiceCluster.promoted(plan)
        cluster.api.fail("/httproutes/", method="PATCH", times=1 + int(REQUEST_RETRIES.total or 0))
        verify = self.verify(monkeypatch, plan, cluster)
        with pytest.raises(TemporaryError):
            verify.finish(run.at("verify"), event("HEALTHY"))
        assert recorded_steps(run.context, ["verify"]) == []
        verify.finish(run.at("verify"), event("HEALTHY"))
        assert cluster.now.phase == routes.VERIFIED

    def test_a_verification_that_lost_its_route_is_not_verified(self, run: Run) -> None:
        verify = VerifySensor(task_id="verify", **self.owned)
        with pytest.raises(FencedError):
            verify.finish(run.at("verify"), event("CLOSED", phase="owned by DEP-2/2"))
        assert recorded_steps(run.context, ["verify"]) == []
