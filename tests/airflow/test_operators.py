"""What tasks record, what the audit makes of it, and that a run ends as a success only where all is well."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from airflow.sdk import Context, RetryAction
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.cluster import Cluster
from airflow_deploy.clients.settling import Settled
from airflow_deploy.domain.confidence import Known, Outcomes, score
from airflow_deploy.domain.errors import (
    FencedError,
    HarmError,
    IllegalTransition,
    NotSettledError,
    PermanentError,
    RefusedError,
    TemporaryError,
)
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.request import parse_request
from airflow_deploy.domain.states import State
from airflow_deploy.operators import settle as settling
from airflow_deploy.operators.audit import AuditOperator
from airflow_deploy.operators.base import RETRIES, STEPS_KEY, record, recorded
from airflow_deploy.operators.confidence import RefuseOperator, RouteOnConfidenceOperator, ScoreConfidenceOperator
from airflow_deploy.operators.settle import RollbackOperator, SettleOperator
from airflow_deploy.sensors.gates import HealthGateSensor, VerifySensor, WatchSensor
from tests.unit.airflow_home import isolate
from tests.unit.builders import CONF, changed, make_plan

S = State
STAGE = [S.CANARY, S.CANARY_WAITING, S.CANARY_EVALUATING]
TASKS = ["plan", "build_image", "shift", "promote", "verify", "rollback"]


@dataclass
class TaskInstance:
    """Stands for Airflow's: one store of XComs for the whole run."""

    task_id: str = "plan"
    try_number: int = 1
    store: dict[tuple[str, str], Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.store[self.task_id, key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str = "return_value") -> Any:
        return self.store.get((task_ids, key))


@dataclass
class Run:
    """A run whose tasks can be asked to record."""

    ti: TaskInstance = field(default_factory=TaskInstance)

    @property
    def context(self) -> Context:
        return cast("Context", {"ti": self.ti})

    def at(self, task_id: str) -> Context:
        self.ti.task_id = task_id
        return self.context

    def reach(self, task_id: str, *states: State) -> None:
        for state in states:
            record(self.at(task_id), state, f"{task_id} says {state}")

    def returned(self, task_id: str, value: Any) -> None:
        self.ti.store[task_id, "return_value"] = value


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
    run.returned("build_image", plan.dump())
    operator = AuditOperator(task_id="audit", plans_of=["build_image", "plan"], steps_of=TASKS)
    return operator.execute(run.at("audit"))


class TestRecording:
    def test_a_task_that_runs_twice_records_each_state_once(self, run: Run) -> None:
        run.reach("shift", S.CANARY, S.CANARY_WAITING)
        run.ti.try_number = 2
        run.reach("shift", S.CANARY, S.CANARY_WAITING)
        steps = recorded(run.context, ["shift"])
        assert [(step.to, step.try_number) for step in steps] == [(S.CANARY, 2), (S.CANARY_WAITING, 2)]

    def test_steps_come_in_the_dags_order(self, run: Run) -> None:
        run.reach("promote", S.PROMOTING)
        run.reach("plan", S.INIT)
        assert [step.to for step in recorded(run.context, ["plan", "nothing", "promote"])] == [S.INIT, S.PROMOTING]

    def test_what_is_pushed_is_plain_json(self, run: Run) -> None:
        record(run.at("gate"), S.CANARY_EVALUATING, "fine", evidence="ab" * 32)
        (pushed,) = run.ti.store["gate", STEPS_KEY]
        assert (pushed["to"], pushed["evidence"], pushed["task"]) == ("CANARY_EVALUATING", "ab" * 32, "gate")


class TestRetries:
    @pytest.mark.parametrize("error", [RefusedError, FencedError, HarmError, IllegalTransition, NotSettledError])
    def test_trying_again_cannot_help_a_permanent_error(self, error: type[PermanentError]) -> None:
        assert self.action(error("no")) == RetryAction.FAIL

    def test_a_temporary_error_is_tried_again_soon(self) -> None:
        assert self.action(TemporaryError("later")) == RetryAction.RETRY

    @staticmethod
    def action(error: Exception) -> RetryAction:
        decision: RetryAction = RETRIES["retry_policy"].evaluate(error, try_number=1, max_tries=3).action
        return decision


class TestAudit:
    def test_a_good_deployment_leaves_the_four_artifacts(self, run: Run, plan: DeploymentPlan, folder: Path) -> None:
        run.reach("plan", S.INIT)
        run.reach("build_image", S.BUILDING)
        run.reach("shift", S.DEPLOYING, *STAGE)
        run.reach("promote", S.PROMOTING, S.PROMOTED)
        run.reach("verify", S.VERIFYING, S.VERIFIED)
        run.returned("score_confidence", {"score": 85})
        audit(run, plan)
        identity = plan.deployment_id
        summary = json.loads((folder / f"{identity}.json").read_text())
        assert (summary["state"], summary["commit"], summary["requester"]) == ("VERIFIED", plan.commit, "ada")
        lines = (folder / f"transitions_{identity}.jsonl").read_text().splitlines()
        assert [json.loads(line)["to"] for line in lines][-1] == "VERIFIED"
        assert json.loads((folder / f"confidence_{identity}.json").read_text()) == {"score_confidence": {"score": 85}}
        assert len(list(yaml.safe_load_all((folder / f"manifest_{identity}.yaml").read_text()))) == 5

    def test_an_illegal_path_is_refused_and_nothing_written(self, run: Run, plan: DeploymentPlan, folder: Path) -> None:
        run.reach("plan", S.INIT)
        run.reach("promote", S.PROMOTING, S.PROMOTED)
        with pytest.raises(IllegalTransition):
            audit(run, plan)
        assert not folder.exists()

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
        run.returned("verify", {**event, "restored_at": "2026-11-23T07:00:01+00:00"})
        audit(run, plan)
        summary = json.loads((folder / f"{plan.deployment_id}.json").read_text())
        assert summary["state"] == "ROLLED_BACK"
        assert (summary["verdict_at"], summary["restored_at"]) == (event["at"], "2026-11-23T07:00:01+00:00")

    def test_a_request_that_was_never_planned_leaves_nothing(self, run: Run) -> None:
        operator = AuditOperator(task_id="audit", plans_of=["build_image", "plan"], steps_of=TASKS)
        with pytest.raises(AirflowSkipException):
            operator.execute(run.context)


class TestConfidence:
    def test_the_score_counts_the_gates_that_ended_healthy(self, run: Run, plan: DeploymentPlan) -> None:
        run.returned("gate_5", {"verdict": "HEALTHY"})
        run.returned("gate_25", {"verdict": "UNDECIDED"})
        operator = ScoreConfidenceOperator(task_id="score", plan=plan.dump(), gates=["gate_5", "gate_25", "gate_50"])
        factors = {factor["name"]: factor["value"] for factor in operator.execute(run.context)["factors"]}
        assert factors["canary_health"] == pytest.approx(1 / 3)

    @pytest.mark.parametrize("route", ["go", "ask", "refuse"])
    def test_each_route_leads_to_its_task(self, run: Run, plan: DeploymentPlan, route: str) -> None:
        confidence = {**score(Known(plan, Outcomes())).dump(), "route": route}
        routes = {"go": "agreed", "ask": "approve", "refuse": "refuse"}
        operator = RouteOnConfidenceOperator(task_id="route", confidence=confidence, routes=routes)
        assert operator.choose_branch(run.context) == routes[route]

    def test_a_veto_is_the_reason_of_the_refusal(self, run: Run) -> None:
        vetoed = make_plan(request=parse_request(changed(CONF, ("safety_gate", "recommendation"), "HOLD")))
        confidence = score(Known(vetoed, Outcomes())).dump()
        operator = RefuseOperator(task_id="refuse", plan=vetoed.dump(), confidence=confidence, state=S.REJECTED)
        with pytest.raises(RefusedError, match=r"recommendation is HOLD, not DEPLOY"):
            operator.execute(run.at("refuse"))
        assert [step.to for step in recorded(run.context, ["refuse"])] == [S.REJECTED]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What ``settle`` answers, one after the other; an exception is raised."""
    answers: list[Any] = []

    def answer(*_: object) -> Settled:
        following = answers.pop(0)
        if isinstance(following, Exception):
            raise following
        result: Settled = following
        return result

    monkeypatch.setattr(settling, "settle", answer)
    monkeypatch.setattr(Cluster, "__init__", lambda *_: None)
    return answers


def rollback(run: Run, plan: DeploymentPlan | None) -> None:
    operator = RollbackOperator(task_id="rollback", plan=plan and plan.dump(), judges=["watch", "verify"])
    operator.execute(run.at("rollback"))


class TestRollback:
    def test_records_the_verdict_as_its_reason(self, run: Run, plan: DeploymentPlan, settled: list[Any]) -> None:
        run.returned("watch", {"verdict": "BREACHED", "reason": "worse", "at": "2026-11-23T07:00:00+00:00"})
        settled.append(Settled(True, "payments has all traffic"))
        rollback(run, plan)
        back, done = recorded(run.context, ["rollback"])
        assert (back.to, back.reason, back.at.isoformat()) == (
            S.ROLLING_BACK,
            "watch: BREACHED: worse",
            "2026-11-23T07:00:00+00:00",
        )
        assert (done.to, done.reason) == (S.ROLLED_BACK, "payments has all traffic")

    def test_skips_where_nothing_was_done(self, run: Run, plan: DeploymentPlan, settled: list[Any]) -> None:
        settled.append(Settled(False, ""))
        with pytest.raises(AirflowSkipException):
            rollback(run, plan)
        with pytest.raises(AirflowSkipException):
            rollback(run, None)
        assert recorded(run.context, ["rollback"]) == []

    def test_tells_a_person_where_it_cannot_settle(self, run: Run, plan: DeploymentPlan, settled: list[Any]) -> None:
        settled.append(FencedError("somebody changed its backends"))
        with pytest.raises(NotSettledError, match="somebody changed its backends"):
            rollback(run, plan)
        assert [step.to for step in recorded(run.context, ["rollback"])] == [S.ROLLING_BACK, S.FAILED]


class TestSettle:
    def execute(self, run: Run, plan: DeploymentPlan | None) -> None:
        run.returned("plan", plan and plan.dump())
        SettleOperator(task_id="settle", plans_of=["build_image", "plan"], steps_of=TASKS).execute(run.at("settle"))

    def test_leaves_a_verified_deployment_alone(self, run: Run, plan: DeploymentPlan, settled: list[Any]) -> None:
        run.reach("verify", S.VERIFYING, S.VERIFIED)
        self.execute(run, plan)
        assert settled == []
        assert recorded(run.context, ["settle"]) == []

    @pytest.mark.parametrize("end", [S.ROLLED_BACK, S.FAILED, S.REJECTED])
    def test_a_deployment_that_has_ended_is_not_settled_twice_but_the_run_fails(
        self, run: Run, plan: DeploymentPlan, settled: list[Any], end: State
    ) -> None:
        run.reach("rollback", end)
        with pytest.raises(NotSettledError):
            self.execute(run, plan)
        assert recorded(run.context, ["settle"]) == []

    def test_restores_the_traffic_itself_where_the_rollback_was_skipped(
        self, run: Run, plan: DeploymentPlan, settled: list[Any]
    ) -> None:
        run.reach("plan", S.INIT)
        run.reach("build_image", S.BUILDING)
        run.reach("shift", S.DEPLOYING, S.CANARY, S.CANARY_WAITING)
        settled.append(Settled(True, "payments has all traffic"))
        with pytest.raises(NotSettledError):
            self.execute(run, plan)
        assert [step.to for step in recorded(run.context, ["settle"])] == [S.ROLLING_BACK, S.ROLLED_BACK]

    def test_a_verified_deployment_that_was_taken_back_fails_the_run(
        self, run: Run, plan: DeploymentPlan, settled: list[Any]
    ) -> None:
        run.reach("verify", S.VERIFIED)
        run.reach("rollback", S.ROLLING_BACK, S.ROLLED_BACK)
        with pytest.raises(NotSettledError):
            self.execute(run, plan)

    def test_skips_where_nothing_was_planned(self, run: Run) -> None:
        with pytest.raises(AirflowSkipException):
            self.execute(run, None)


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
            with pytest.raises(HarmError, match=verdict):
                sensor.finish(run.at(sensor.task_id), event(verdict))
            assert run.ti.xcom_pull(task_ids=sensor.task_id)["verdict"] == verdict  # kept for rollback and audit

    def test_the_watch_ends_well_only_where_the_route_was_promoted(self, run: Run) -> None:
        watch = WatchSensor(task_id="watch", **self.owned)
        assert watch.finish(run.at("watch"), event("CLOSED", phase="promoted"))["verdict"] == "CLOSED"
        for phase in ("braked", "settled", "owned by DEP-2/2"):
            with pytest.raises(FencedError):
                watch.finish(run.at("watch"), event("CLOSED", phase=phase))

    def test_a_gate_whose_route_is_closed_stands_aside(self, run: Run) -> None:
        gate = HealthGateSensor(task_id="gate", next_share=25, **self.owned)
        with pytest.raises(AirflowSkipException):
            gate.finish(run.at("gate"), event("CLOSED", phase="braked"))
        assert recorded(run.context, ["gate"]) == []

    def test_healthy_goes_on_with_its_evidence(self, run: Run) -> None:
        gate = HealthGateSensor(task_id="gate", next_share=25, **self.owned)
        gate.finish(run.at("gate"), event("HEALTHY"))
        verify = VerifySensor(task_id="verify", **self.owned)
        verify.finish(run.at("verify"), event("HEALTHY"))
        steps = recorded(run.context, ["gate", "verify"])
        assert [(step.to, step.evidence) for step in steps] == [
            (S.CANARY_EVALUATING, "ab" * 32),
            (S.VERIFIED, "ab" * 32),
        ]

    def test_a_verification_that_lost_its_route_is_not_verified(self, run: Run) -> None:
        verify = VerifySensor(task_id="verify", **self.owned)
        with pytest.raises(FencedError):
            verify.finish(run.at("verify"), event("CLOSED", phase="owned by DEP-2/2"))
        assert recorded(run.context, ["verify"]) == []
