"""The safety gate's call: what it refuses before any call, what it triggers, and what it makes of the run's XComs."""

from __future__ import annotations

import subprocess
import sys
from copy import deepcopy
from dataclasses import dataclass, fields
from enum import Enum
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple

import pytest
from pydantic import BaseModel

from airflow_deploy.clients.airflow_rest import api as airflow_api
from airflow_deploy.clients.airflow_rest import runs
from airflow_deploy.clients.airflow_rest.api import AirflowApi, Login
from airflow_deploy.clients.airflow_rest.runs import DeploymentRun
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.result import DeployResult, TaskVerdict, state_of
from airflow_deploy.domain.lifecycle.states import ENDS, State, Step
from airflow_deploy.domain.lifecycle.xcom_keys import PLAN_KEY
from airflow_deploy.safety_gate import Orchestrator, Settings, deploy_from_safety_gate
from tests.support.builders import CONF, make_plan
from tests.support.fake_airflow import (
    ANSWERED,
    ASKED,
    BAD,
    CANARY,
    FOLDER,
    GOOD,
    PASSWORD,
    QUEUED,
    REFUSED,
    RUN,
    SHIFTED,
    USER,
    FakeAirflow,
    Frame,
    step,
)


@pytest.fixture
def api(airflow: FakeAirflow) -> AirflowApi:
    return AirflowApi(airflow.url, Login("secret-token"))


def deploy(**changes: Any) -> DeployResult:
    arguments: dict[str, Any] = {
        "incident_id": "INC-001",
        "safety_gate_result": CONF["safety_gate"],
        "commit_hash": CONF["commit"],
        "service": "payments",
        "title": "Payments time out",
        "severity": "critical",
        "change": CONF["change"],
    }
    return deploy_from_safety_gate(**{**arguments, **changes})


class TestBeforeAnyCall:
    @pytest.mark.parametrize("recommendation", ["REVIEW", "BLOCK", "DO_NOT_DEPLOY", "ROLLBACK"])
    def test_any_recommendation_but_deploy_is_refused(self, airflow: FakeAirflow, recommendation: str) -> None:
        with pytest.raises(
            RefusedError, match=f"^conf: safety_gate.recommendation is {recommendation}, and only DEPLOY"
        ):
            deploy(safety_gate_result={**CONF["safety_gate"], "recommendation": recommendation})
        assert airflow.requests == []

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"commit_hash": "--upload-pack=x"}, "conf: commit is not valid"),
            ({"incident_id": "../etc"}, "conf: incident.id is not valid"),
            ({"severity": "urgent"}, "conf: incident.severity is not valid"),
            ({"title": "two\nlines"}, "conf: incident.title is not valid"),
            ({"change": {"files": 1}}, "conf: change.lines is missing; add it"),
            ({"safety_gate_result": {"recommendation": "DEPLOY"}}, "safety_gate_result: tests is missing; add it"),
            ({"resolved_when": {"query": "x"}}, "conf: incident.resolved_when.op is missing; add it"),
            ({"safety_gate_result": None}, "conf: safety_gate is not valid"),
            ({"emergency": ""}, "conf: emergency.reason is not valid"),
            (
                {"safety_gate_result": {**CONF["safety_gate"], "coverage": float("nan")}},
                "conf: safety_gate.coverage is not valid: Input should be a finite number",
            ),
            ({"change": {**CONF["change"], "x\x1b[2J": 1}}, "conf: change.'x\\x1b[2J' is not a known key"),
            ({"change": {**CONF["change"], 1: 1}}, "conf: change.1 is not valid: Keys should be strings"),
            ({"change": {"files": {1, 2}}}, "conf: is not plain JSON (TypeError)"),
            (
                {"resolved_when": {"query": "up[1y:1s]", "op": "<", "value": 1}},
                "conf: incident.resolved_when.query is not valid: one of its ranges is longer than 1d; shorten it",
            ),
            ({"service": "../other"}, "service: ../other is not a service's name"),
            ({"service": "payments\n"}, "service: payments"),
            ({"url": "airflow.example.com"}, "the address of Airflow is not valid"),
            ({"url": "http://user:secret@host"}, "the address of Airflow is not valid"),
            ({"url": "http://host:99999"}, "the address of Airflow is not valid"),
            ({"url": "http://host/?x=1"}, "the address of Airflow is not valid"),
            ({"token": "two\nlines"}, "AIRFLOW_DEPLOY_TOKEN: is not a token"),
        ],
    )
    def test_invalid_argument_is_named(self, airflow: FakeAirflow, changes: dict[str, Any], said: str) -> None:
        with pytest.raises(RefusedError) as refused:
            deploy(**changes)
        assert str(refused.value).startswith(said)
        assert "secret" not in str(refused.value)
        assert airflow.requests == []

    @pytest.mark.parametrize("missing", ["AIRFLOW_DEPLOY_URL", "AIRFLOW_DEPLOY_USER", "AIRFLOW_DEPLOY_PASSWORD"])
    def test_missing_environment_variable_is_named(
        self, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch, missing: str
    ) -> None:
        monkeypatch.delenv(missing)
        with pytest.raises(RefusedError, match=missing):
            deploy()

    def test_safety_gate_does_not_import_airflow(self) -> None:
        code = "import airflow_deploy.cli.main, airflow_deploy.safety_gate, sys; sys.exit('airflow' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)


@dataclass(frozen=True)
class Counts:
    passed: int
    total: int


class Severity(Enum):
    CRITICAL = "critical"


class Counted(BaseModel):
    files: int
    lines: int
    migrations: bool = False
    dependencies: bool = False
    configuration: bool = False


class Condition(NamedTuple):
    query: str
    op: str
    value: float
    for_: str


WHOLE = {**CONF["safety_gate"], "service": "payments", "title": "Payments time out", "severity": "critical"}
WHOLE |= {"change": CONF["change"], "resolved_when": CONF["incident"]["resolved_when"], "emergency": "money is lost"}
CALL = {"incident_id": "INC-001", "commit_hash": CONF["commit"]}


def sent(airflow: FakeAirflow) -> dict[str, Any]:
    (conf,) = [body["conf"] for body in airflow.bodies if body and "conf" in body]
    return dict(conf)


def as_object() -> SimpleNamespace:
    """A result as another program may hold it: each part is an object of another kind, with additional fields."""
    gate, condition = CONF["safety_gate"], CONF["incident"]["resolved_when"]
    return SimpleNamespace(
        recommendation="DEPLOY",
        tests=Counts(**gate["tests"]),
        coverage=gate["coverage"],
        lint_issues=gate["lint_issues"],
        vulnerabilities=SimpleNamespace(**gate["vulnerabilities"], medium=9),
        build=gate["build"],
        service="payments",
        title="Payments time out",
        severity=Severity.CRITICAL,
        change=Counted(**CONF["change"]),
        resolved_when=Condition(condition["query"], condition["op"], condition["value"], condition["for"]),
        emergency=SimpleNamespace(reason=CONF["emergency"]["reason"], at="now"),
        reviewer="ada",
        session=object(),
    )


class TestResult:
    """The call with the incident's id, the result and the commit only."""

    def test_mapping_as_result_gives_the_whole_conf(self, airflow: FakeAirflow) -> None:
        result = {**WHOLE, "emergency": CONF["emergency"]}
        deploy_from_safety_gate(**CALL, safety_gate_result=MappingProxyType(result))
        assert sent(airflow) == CONF

    def test_object_as_result_gives_the_conf_and_no_other_field(self, airflow: FakeAirflow) -> None:
        deploy_from_safety_gate(**CALL, safety_gate_result=as_object())
        assert sent(airflow) == CONF

    def test_method_of_the_result_is_not_a_field(self, airflow: FakeAirflow) -> None:
        result = as_object()
        result.build = lambda: "success"
        deploy_from_safety_gate(**CALL, safety_gate_result=result)
        assert "build" not in sent(airflow)["safety_gate"]

    @pytest.mark.parametrize("key", ["reviewer", "test", "commit"])
    def test_mapping_with_an_unknown_key_is_refused(self, airflow: FakeAirflow, key: str) -> None:
        with pytest.raises(RefusedError, match=f"^conf: safety_gate.{key} is not a known key; remove it or correct"):
            deploy_from_safety_gate(**CALL, safety_gate_result={**WHOLE, key: "x"})
        assert airflow.requests == []

    def test_result_is_not_changed(self, airflow: FakeAirflow) -> None:
        result = deepcopy(WHOLE)
        deploy_from_safety_gate(**CALL, safety_gate_result=result)
        assert result == WHOLE

    @pytest.mark.parametrize("kind", ["mapping", "object"])
    @pytest.mark.parametrize(
        ("missing", "said"),
        [
            (["title"], "title is missing; add it, or pass title to the call or to Orchestrator"),
            (
                ["service", "title", "severity", "change"],
                "service, title, severity and change are missing; add them, or pass service, title, severity and change"
                " to the call or to Orchestrator",
            ),
            (["recommendation"], "recommendation is missing; add it"),
            (
                ["service", "tests", "change"],
                "tests, service and change are missing; add them, or pass service and change to the call or to"
                " Orchestrator",
            ),
        ],
        ids=["one", "all-of-the-fix", "of-the-gate", "of-both"],
    )
    def test_missing_fields_are_named_in_one_sentence(
        self, airflow: FakeAirflow, kind: str, missing: list[str], said: str
    ) -> None:
        whole = vars(as_object()) if kind == "object" else WHOLE
        rest = {name: value for name, value in whole.items() if name not in missing}
        with pytest.raises(RefusedError) as refused:
            deploy_from_safety_gate(**CALL, safety_gate_result=SimpleNamespace(**rest) if kind == "object" else rest)
        assert str(refused.value) == f"safety_gate_result: {said}"
        assert airflow.requests == []

    @pytest.mark.parametrize(
        "result", [None, 1, "DEPLOY", ["DEPLOY"], object(), {}], ids=lambda result: type(result).__name__
    )
    def test_empty_result_is_refused(self, airflow: FakeAirflow, result: Any) -> None:
        with pytest.raises(
            RefusedError, match=r"^safety_gate_result: .*service, title, severity and change are missing"
        ):
            deploy_from_safety_gate(**CALL, safety_gate_result=result)
        assert airflow.requests == []

    def test_result_that_contains_itself_is_refused(self, airflow: FakeAirflow) -> None:
        result = dict(WHOLE)
        result["tests"] = result
        with pytest.raises(RefusedError, match=r"^conf: is not plain JSON \(ValueError\)"):
            deploy_from_safety_gate(**CALL, safety_gate_result=result)
        assert airflow.requests == []


class TestPrecedence:
    def conf(self, airflow: FakeAirflow, orchestrator: Orchestrator, **settings: Any) -> dict[str, Any]:
        orchestrator.deploy_from_safety_gate(**CALL, safety_gate_result=WHOLE, **settings)
        return sent(airflow)

    def test_result_is_used_if_call_and_orchestrator_set_nothing(self, airflow: FakeAirflow) -> None:
        assert self.conf(airflow, Orchestrator())["incident"]["severity"] == "critical"

    def test_orchestrator_overrides_the_result(self, airflow: FakeAirflow) -> None:
        conf = self.conf(airflow, Orchestrator(severity="low", change={"files": 1, "lines": 1}, emergency="held"))
        assert (conf["incident"]["severity"], conf["change"]["files"]) == ("low", 1)
        assert conf["emergency"] == {"reason": "held"}

    def test_call_overrides_the_orchestrator(self, airflow: FakeAirflow) -> None:
        orchestrator = Orchestrator(service="other", severity="low", title="held")
        conf = self.conf(airflow, orchestrator, service="payments", severity="high", title=None)
        assert conf["incident"]["severity"] == "high"
        assert conf["incident"]["title"] == "held"
        assert airflow.triggers() == ["/api/v2/dags/deploy_payments/dagRuns"]

    def test_orchestrator_holds_address_and_login_and_hides_the_token(
        self, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for variable in airflow.environment:
            monkeypatch.delenv(variable)
        airflow.frames = [QUEUED, GOOD]
        orchestrator = Orchestrator(url=airflow.url, token="secret-token", wait=True)
        result = orchestrator.deploy_from_safety_gate(**CALL, safety_gate_result=WHOLE)
        assert result.state is State.VERIFIED
        assert "secret" not in repr(orchestrator)

    def test_orchestrator_has_the_settings_of_the_call(self) -> None:
        assert [field.name for field in fields(Orchestrator)] == list(Settings.__annotations__)

    def test_unknown_setting_is_an_error(self, airflow: FakeAirflow) -> None:
        with pytest.raises(TypeError, match="'servce'"):
            deploy_from_safety_gate(**CALL, safety_gate_result=WHOLE, servce="payments")  # type: ignore[call-arg]
        assert airflow.requests == []


class TestTriggering:
    def test_trigger_sends_the_conf_to_the_rest_api_once(self, airflow: FakeAirflow) -> None:
        airflow.frames = [QUEUED]
        condition = CONF["incident"]["resolved_when"]
        result = deploy(resolved_when=condition, emergency=CONF["emergency"]["reason"])
        sent = next(body for body in airflow.bodies if body and "conf" in body)
        assert sent == {"logical_date": None, "dag_run_id": result.run_id, "conf": CONF}
        assert airflow.triggers() == ["/api/v2/dags/deploy_payments/dagRuns"]

    def test_result_without_waiting_has_the_present_state(self, airflow: FakeAirflow) -> None:
        airflow.frames = [QUEUED]
        result = deploy()
        assert (result.state, result.ended, result.image_tag, result.artifact_path) == (State.INIT, False, None, None)
        assert result.run_id.startswith("deploy__INC-001__abc123def456__")
        assert result.page == f"{airflow.url}/dags/deploy_payments/runs/{result.run_id}"

    def test_lost_answer_does_not_deploy_twice(self, airflow: FakeAirflow) -> None:
        airflow.lose_answers = 2
        result = deploy()
        assert airflow.runs == [RUN, result.run_id]
        assert len(airflow.triggers()) == 3

    def test_run_is_named_if_it_may_have_been_triggered(self, airflow: FakeAirflow) -> None:
        airflow.lose_answers = 99
        with pytest.raises(TemporaryError, match=r"run deploy__INC-001\S+ may have been triggered: look it up$"):
            deploy()

    def test_paused_dag_is_not_triggered(self, airflow: FakeAirflow) -> None:
        airflow.paused = True
        with pytest.raises(RefusedError, match="is paused"):
            deploy()
        assert airflow.triggers() == []

    def test_unknown_service_is_named(self, airflow: FakeAirflow) -> None:
        with pytest.raises(RefusedError, match=r"^DAG deploy_other: not found in Airflow"):
            deploy(service="other")
        assert airflow.triggers() == []


class TestWaiting:
    def test_good_fix_is_verified_with_image_artifacts_and_verdicts(self, airflow: FakeAirflow) -> None:
        airflow.frames = [QUEUED, CANARY, GOOD]
        result = deploy(wait=True)
        assert (result.state, result.ended) == (State.VERIFIED, True)
        assert result.image_tag == make_plan().image_tag
        assert result.artifact_path == FOLDER
        assert result.reason == "HEALTHY: still good"
        assert result.canary == (
            TaskVerdict("canary_5.gate", "HEALTHY", "90 of 90 good"),
            TaskVerdict("canary_25.gate", "HEALTHY", "190 of 190 good"),
            TaskVerdict("watch", "CLOSED", "promoted"),
            TaskVerdict("verify", "HEALTHY", "still good"),
        )

    def test_bad_fix_is_rolled_back_with_its_reason(self, airflow: FakeAirflow) -> None:
        airflow.frames = [CANARY, BAD]
        result = deploy(wait=True)
        assert (result.state, result.reason) == (State.ROLLED_BACK, "watch: BREACHED")
        assert [verdict.verdict for verdict in result.canary] == ["CLOSED", "BREACHED"]

    def test_refusal_of_plan_is_rejected_with_its_sentence(self, airflow: FakeAirflow) -> None:
        airflow.frames = [REFUSED]
        result = deploy(wait=True)
        assert (result.state, result.reason, result.image_tag) == (State.REJECTED, "conf: no", None)

    def test_wait_includes_the_teardown_of_a_run_failed_by_hand(self, airflow: FakeAirflow) -> None:
        failed = Frame("failed", {"watch": "failed", "finalize": None}, SHIFTED)
        settled = Frame("failed", {"watch": "failed", "finalize": "failed"}, {**SHIFTED, **BAD.xcoms})
        airflow.frames = [CANARY, failed, failed, settled]
        assert deploy(wait=True).state is State.ROLLED_BACK

    def test_wait_for_the_teardown_ends_after_a_limit(
        self, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runs, "TEARDOWN_SECONDS", 0.05)
        airflow.frames = [Frame("failed", {"watch": "failed", "finalize": None}, SHIFTED)]
        result = deploy(wait=True)
        assert (result.state, result.ended) == (State.CANARY_WAITING, False)

    def test_timeout_of_the_wait_leaves_the_deployment_running(self, airflow: FakeAirflow) -> None:
        airflow.frames = [CANARY]
        result = deploy(wait=True, timeout=0.05)
        assert (result.state, result.ended) == (State.CANARY_WAITING, False)

    def test_result_has_the_page_of_an_open_question(self, airflow: FakeAirflow) -> None:
        airflow.frames = [ASKED]
        result = deploy(wait=True, timeout=0.05)
        assert result.state is State.AWAITING_APPROVAL
        assert result.question == f"{result.page}/tasks/canary_5.ask/required_actions"
        airflow.frames = [ANSWERED]
        assert deploy(wait=True, timeout=0.05).question is None

    def test_short_outage_of_airflow_is_tolerated(self, airflow: FakeAirflow, api: AirflowApi) -> None:
        airflow.frames = [CANARY, GOOD]
        seen = []
        for snapshot in DeploymentRun(api, "payments", RUN).follow():
            seen.append(snapshot.state)
            airflow.faults.extend([None, (500, b"restarting"), (429, b"")])
        assert seen == [State.CANARY_WAITING, State.VERIFIED]

    def test_long_outage_of_airflow_is_an_error(
        self, airflow: FakeAirflow, api: AirflowApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runs, "OUTAGE_SECONDS", 0.05)
        airflow.frames = [CANARY]
        following = DeploymentRun(api, "payments", RUN).follow()
        next(following)
        airflow.faults.extend([(500, b"")] * 100)
        with pytest.raises(TemporaryError, match="Airflow failed"):
            next(following)

    def test_unchanged_xcoms_are_not_read_again(self, airflow: FakeAirflow, api: AirflowApi) -> None:
        airflow.frames = [CANARY, CANARY, CANARY, GOOD]
        DeploymentRun(api, "payments", RUN).wait()
        read = [path for _, path in airflow.requests if "/plan/xcomEntries/steps" in path]
        assert len(read) == 1

    def test_expired_token_is_renewed(self, airflow: FakeAirflow) -> None:
        run = DeploymentRun(AirflowApi.from_environment(), "payments", RUN)
        run.snapshot()
        airflow.accept.clear()
        assert run.snapshot().state is State.VERIFIED
        assert [path for _, path in airflow.requests].count("/auth/token") == 2

    def test_xcoms_of_another_version_are_refused_with_the_remedy(self, airflow: FakeAirflow, api: AirflowApi) -> None:
        run = DeploymentRun(api, "payments", RUN)
        airflow.frames = [Frame("running", {}, {("plan", PLAN_KEY): {"surprise": 1}})]
        with pytest.raises(RefusedError, match="plan cannot be read; install the version"):
            run.result()
        airflow.frames = [Frame("running", {}, {("plan", "steps"): [{"to": "ELSEWHERE"}]})]
        with pytest.raises(RefusedError, match="steps cannot be read; install the version"):
            run.snapshot()


class TestFaults:
    @pytest.mark.parametrize("status", [408, 425, 429, 500, 501])
    def test_server_error_is_temporary(self, airflow: FakeAirflow, api: AirflowApi, status: int) -> None:
        airflow.faults.append((status, b""))
        with pytest.raises(TemporaryError, match=f"HTTP {status}"):
            api.run_state("deploy_payments", RUN)

    def test_failed_read_is_repeated(self, airflow: FakeAirflow, api: AirflowApi) -> None:
        airflow.faults.extend([(503, b""), None])
        assert api.run_state("deploy_payments", RUN) == "success"

    @pytest.mark.parametrize(
        ("status", "said"), [(401, "login"), (403, "permission"), (404, "not found"), (400, "HTTP 400")]
    )
    def test_client_error_is_final(self, airflow: FakeAirflow, api: AirflowApi, status: int, said: str) -> None:
        airflow.faults.append((status, b'{"detail": "because\\u001b[31m\\nso"}'))
        with pytest.raises(RefusedError, match=said) as refused:
            api.run_state("deploy_payments", RUN)
        assert str(refused.value).endswith(r": because\x1b[31m so")

    @pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"1", b"\xff", b"[" * 100_000])
    def test_answer_that_is_not_airflows_is_a_temporary_error(
        self, airflow: FakeAirflow, api: AirflowApi, body: bytes
    ) -> None:
        airflow.faults.append((200, body))
        with pytest.raises(TemporaryError, match="does not answer like Airflow's API; check the address"):
            api.check_dag("deploy_payments")

    @pytest.mark.parametrize("body", [b"{}", b'{"task_instances": 1, "total_entries": 1}', b'{"task_instances": []}'])
    def test_invalid_list_is_a_temporary_error(self, airflow: FakeAirflow, api: AirflowApi, body: bytes) -> None:
        airflow.faults.append((200, body))
        with pytest.raises(TemporaryError, match="does not answer like"):
            api.tasks("deploy_payments", RUN)

    def test_all_pages_of_a_list_are_read(self, airflow: FakeAirflow, api: AirflowApi) -> None:
        api.run_state("deploy_payments", RUN)
        assert api.tasks("deploy_payments", RUN) == GOOD.tasks

    def test_redirect_is_not_followed(self, airflow: FakeAirflow, api: AirflowApi) -> None:
        airflow.headers = {"Location": "https://elsewhere.example.com/login"}
        airflow.faults.append((302, b""))
        with pytest.raises(RefusedError, match=r"redirects to https://elsewhere\.example\.com/login; give the address"):
            api.check_dag("deploy_payments")

    def test_refused_connection_is_a_temporary_error(self) -> None:
        with pytest.raises(
            TemporaryError, match=r"^Airflow at http://127\.0\.0\.1:1 does not answer \(ConnectionError\)"
        ):
            AirflowApi("http://127.0.0.1:1", Login("token")).check_dag("deploy_payments")

    def test_hanging_server_is_a_temporary_error(
        self, airflow: FakeAirflow, api: AirflowApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(airflow_api, "API_TIMEOUT", (1, 0.05))
        airflow.hang = 0.5
        with pytest.raises(TemporaryError, match="does not answer"):
            api.check_dag("deploy_payments")

    def test_wrong_password_is_not_in_the_error(self, airflow: FakeAirflow) -> None:
        api = AirflowApi(airflow.url, Login(user=USER, password=f"{PASSWORD}!"))
        with pytest.raises(RefusedError, match="refuses the login of gate") as refused:
            api.check_dag("deploy_payments")
        assert PASSWORD not in f"{refused.value!r} {refused.value.__cause__!r} {refused.value.__context__!r}"

    def test_repr_of_the_login_hides_password_and_token(self) -> None:
        assert "secret" not in repr(Login("secret", "ada", "secret"))

    def test_netrc_does_not_replace_the_token(
        self, airflow: FakeAirflow, api: AirflowApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        netrc = tmp_path / "netrc"
        netrc.write_text("machine 127.0.0.1 login other password other\n")
        monkeypatch.setenv("NETRC", str(netrc))
        api.check_dag("deploy_payments")

    def test_run_with_unreadable_logs_has_a_result(
        self, airflow: FakeAirflow, api: AirflowApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        airflow.frames = [REFUSED]
        monkeypatch.setattr(api, "error_of", _forbidden)
        result = DeploymentRun(api, "payments", RUN).result()
        assert (result.state, result.reason) == (State.REJECTED, None)


def _forbidden(*_: str) -> str:
    raise RefusedError("no")


def _steps(*states: str) -> list[Step]:
    return [Step.model_validate(step(state, second)) for second, state in enumerate(states)]


class TestState:
    @pytest.mark.parametrize("end", sorted(ENDS))
    def test_final_state_is_the_state_of_the_run(self, end: State) -> None:
        assert state_of(_steps("INIT", "DEPLOYING", end), over=True) is end

    def test_rollback_outweighs_a_later_step_of_a_stage(self) -> None:
        assert state_of(_steps("ROLLING_BACK", "ROLLED_BACK", "CANARY_EVALUATING"), over=False) is State.ROLLED_BACK

    @pytest.mark.parametrize("states", [(), ("INIT",), ("INIT", "BUILDING"), ("INIT", "BUILDING", "AWAITING_APPROVAL")])
    def test_run_that_ended_before_deploying_is_rejected(self, states: tuple[str, ...]) -> None:
        assert state_of(_steps(*states), over=True) is State.REJECTED

    @pytest.mark.parametrize("last", ["DEPLOYING", "CANARY", "PROMOTED", "ROLLING_BACK"])
    def test_run_that_ended_between_deploying_and_a_final_state_has_failed(self, last: str) -> None:
        assert state_of(_steps("INIT", "DEPLOYING", last), over=True) is State.FAILED

    def test_running_deployment_has_the_state_of_its_last_step(self) -> None:
        assert state_of(_steps("INIT", "DEPLOYING"), over=False) is State.DEPLOYING
        assert state_of([], over=False) is State.INIT
