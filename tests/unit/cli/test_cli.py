"""The commands: their output, the secrets that they never print, and their exit codes."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_deploy.cli.main import main
from airflow_deploy.clients.airflow_rest.runs import DeploymentRun, RunSnapshot
from tests.support import kubeconfig
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
    FakeAirflow,
)
from tests.support.hostile import drawn, hostile_confs


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "fix.json"
    path.write_text(json.dumps(CONF))
    return path


Output = pytest.CaptureFixture[str]


class TestWatch:
    def test_watch_prints_one_line_per_state_and_task_change(self, airflow: FakeAirflow, capsys: Output) -> None:
        airflow.frames = [QUEUED, CANARY, CANARY, GOOD]
        assert main(["watch", "payments", RUN]) == 0
        lines = [line[10:].rstrip() for line in capsys.readouterr().out.splitlines()[:3]]
        assert lines == [
            "INIT",
            "CANARY_WAITING     plan success, canary_5.gate deferred, watch deferred",
            "VERIFIED           canary_25.gate success, canary_5.gate success, watch success, verify success,"
            " audit success, finalize success",
        ]

    def test_watch_prints_the_page_of_each_question_once(self, airflow: FakeAirflow, capsys: Output) -> None:
        airflow.frames = [CANARY, ASKED, ASKED, ANSWERED, GOOD]
        assert main(["watch", "payments", RUN]) == 0
        lines = capsys.readouterr().out.splitlines()
        page = f"{airflow.url}/dags/deploy_payments/runs/{RUN}/tasks/canary_5.ask/required_actions"
        assert lines[1][10:] == "AWAITING_APPROVAL  canary_5.gate success, canary_5.ask deferred"
        assert lines[2] == f"          waiting for an approval, and silence rejects: {page}"
        assert sum("waiting for an approval" in line for line in lines) == 1

    def test_watch_ends_with_state_reason_and_verdicts(self, airflow: FakeAirflow, capsys: Output) -> None:
        assert main(["watch", "payments", RUN]) == 0
        said = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines()[1:])
        assert said == {
            "state": "VERIFIED",
            "reason": "HEALTHY: still good",
            "image": make_plan().image_tag,
            "artifacts": FOLDER,
            "canary_5.gate": "HEALTHY: 90 of 90 good",
            "canary_25.gate": "HEALTHY: 190 of 190 good",
            "watch": "CLOSED: promoted",
            "verify": "HEALTHY: still good",
            "page": f"{airflow.url}/dags/deploy_payments/runs/{RUN}",
        }

    @pytest.mark.parametrize(
        ("frame", "code", "said"),
        [(GOOD, 0, "VERIFIED"), (BAD, 1, "ROLLED_BACK"), (REFUSED, 2, "REJECTED")],
        ids=["good", "bad", "refused"],
    )
    def test_watch_exit_code_follows_from_the_outcome(
        self, airflow: FakeAirflow, capsys: Output, frame: Any, code: int, said: str
    ) -> None:
        airflow.frames = [frame]
        assert main(["watch", "payments", RUN]) == code
        assert f"state             {said}\n" in capsys.readouterr().out

    @pytest.mark.parametrize("arguments", [["payments", "unknown"], ["other", RUN], ["payments", "../x"], ["a b", RUN]])
    def test_watch_of_an_unknown_run_is_refused(
        self, airflow: FakeAirflow, capsys: Output, arguments: list[str]
    ) -> None:
        assert main(["watch", *arguments]) == 2
        assert capsys.readouterr().err.startswith("airflow-deploy: ")

    def test_interrupted_watch_leaves_the_deployment_running(
        self, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(_: DeploymentRun) -> RunSnapshot:
            raise KeyboardInterrupt

        monkeypatch.setattr(DeploymentRun, "snapshot", interrupt)
        assert main(["watch", "payments", RUN]) == 130
        assert airflow.requests == []


class TestTrigger:
    def test_trigger_prints_only_the_run_id_to_stdout(self, airflow: FakeAirflow, conf: Path, capsys: Output) -> None:
        assert main(["trigger", "payments", "--conf", str(conf)]) == 0
        output = capsys.readouterr()
        assert output.out == f"{airflow.runs[-1]}\n"
        assert output.err == f"triggered: {airflow.url}/dags/deploy_payments/runs/{airflow.runs[-1]}\n"

    def test_trigger_reads_the_conf_from_stdin(
        self, airflow: FakeAirflow, monkeypatch: pytest.MonkeyPatch, capsys: Output
    ) -> None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(CONF)))
        assert main(["trigger", "payments", "--conf", "-"]) == 0
        assert airflow.bodies[-1]["conf"] == CONF

    @pytest.mark.parametrize(("frame", "code"), [(GOOD, 0), (BAD, 1), (REFUSED, 2)], ids=["good", "bad", "refused"])
    def test_trigger_wait_exit_code_follows_from_the_outcome(
        self, airflow: FakeAirflow, conf: Path, capsys: Output, frame: Any, code: int
    ) -> None:
        airflow.frames = [QUEUED, frame]
        assert main(["trigger", "payments", "--conf", str(conf), "--wait"]) == code

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "conf: is not valid JSON"),
            ("{", "conf: is not valid JSON"),
            ("[" * 50_000, "conf: is not valid JSON"),
            ("[]", "conf: is empty or not an object; send an object"),
            (" " * 70_000, "conf: is larger than 65536 bytes; shorten its texts"),
            ('{"a": "\x1b[31m"}', "conf: is not valid JSON"),
            (json.dumps({**CONF, "surprise": 1}), "conf: surprise is not a known key; remove it"),
            (
                json.dumps({**CONF, "safety_gate": {**CONF["safety_gate"], "recommendation": "REVIEW"}}),
                "conf: safety_gate",
            ),
        ],
        ids=["empty", "broken", "deep", "list", "large", "escape", "unknown-key", "review"],
    )
    def test_trigger_sends_no_invalid_conf(
        self, airflow: FakeAirflow, conf: Path, capsys: Output, text: str, said: str
    ) -> None:
        conf.write_text(text)
        assert main(["trigger", "payments", "--conf", str(conf)]) == 2
        output = capsys.readouterr()
        assert output.err.startswith(f"airflow-deploy: {said}")
        assert output.err.rstrip("\n").isprintable()
        assert (output.out, airflow.requests) == ("", [])

    def test_trigger_sends_no_hostile_conf(self, airflow: FakeAirflow, conf: Path, capsys: Output) -> None:
        for hostile in drawn(hostile_confs, 200):
            conf.write_text(json.dumps(hostile.conf))
            assert main(["trigger", "payments", "--conf", str(conf)]) == 2
            output = capsys.readouterr()
            assert output.err.startswith("airflow-deploy: conf: ")
            assert output.err.rstrip("\n").isprintable()
            assert output.out == ""
        assert airflow.requests == []

    def test_trigger_names_an_unreadable_conf(self, airflow: FakeAirflow, tmp_path: Path, capsys: Output) -> None:
        assert main(["trigger", "payments", "--conf", str(tmp_path / "none.json")]) == 2
        assert "none.json cannot be read (No such file or directory); correct --conf" in capsys.readouterr().err

    def test_unreachable_airflow_has_exit_code_3(self, airflow: FakeAirflow, conf: Path, capsys: Output) -> None:
        assert main(["trigger", "payments", "--conf", str(conf), "--url", "http://127.0.0.1:1"]) == 3
        assert capsys.readouterr().err.startswith("airflow-deploy: Airflow at http://127.0.0.1:1 does not answer")

    @pytest.mark.parametrize(
        "variables", [{"AIRFLOW_DEPLOY_PASSWORD": "wrong-secret"}, {"AIRFLOW_DEPLOY_TOKEN": "wrong-secret"}]
    )
    def test_refused_login_is_not_printed(
        self,
        airflow: FakeAirflow,
        conf: Path,
        capsys: Output,
        monkeypatch: pytest.MonkeyPatch,
        variables: dict[str, str],
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert main(["trigger", "payments", "--conf", str(conf)]) == 2
        output = capsys.readouterr()
        assert "wrong-secret" not in output.out + output.err
        assert "AIRFLOW_DEPLOY_PASSWORD" in output.err

    def test_login_is_never_printed(self, airflow: FakeAirflow, conf: Path, capsys: Output) -> None:
        main(["trigger", "payments", "--conf", str(conf), "--wait"])
        output = capsys.readouterr()
        assert not any(secret in output.out + output.err for secret in (PASSWORD, *airflow.accept))


class TestDockerfile:
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Path:
        (tmp_path / "go.mod").write_text("module m\n\ngo 1.26\n")
        (tmp_path / "main.go").write_text("package main\n")
        return tmp_path

    def test_dockerfile_is_printed_to_stdout_and_its_reasons_to_stderr(self, repository: Path, capsys: Output) -> None:
        assert main(["dockerfile", str(repository)]) == 0
        output = capsys.readouterr()
        assert output.out.startswith("# Generated by `airflow-deploy dockerfile`")
        assert output.out.endswith('ENTRYPOINT ["/app"]\n')
        assert output.err.splitlines()[1] == "go.mod: Go 1.26"

    def test_dockerfile_ignore_prints_the_dockerignore(self, repository: Path, capsys: Output) -> None:
        assert main(["dockerfile", str(repository), "--ignore"]) == 0
        assert capsys.readouterr().out.splitlines()[0] == ".git"

    def test_dockerfile_digest_pins_the_base_image(self, repository: Path, capsys: Output) -> None:
        digest = "sha256:" + "ab" * 32
        assert main(["dockerfile", str(repository), "--digest", digest]) == 0
        assert f"FROM golang:1.26-bookworm@{digest} AS build\n" in capsys.readouterr().out

    def test_dockerfile_of_an_unknown_project_is_refused(self, tmp_path: Path, capsys: Output) -> None:
        assert main(["dockerfile", str(tmp_path)]) == 2
        output = capsys.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)


class TestRbac:
    def test_rbac_binds_the_accounts_to_a_role_of_the_namespace(self, capsys: Output) -> None:
        accounts = ["--service-account", "airflow:worker", "--service-account", "airflow:triggerer"]
        assert main(["rbac", "shop", *accounts]) == 0
        role, binding = yaml.safe_load_all(capsys.readouterr().out)
        assert (role["kind"], binding["kind"]) == ("Role", "RoleBinding")
        assert {item["metadata"]["namespace"] for item in (role, binding)} == {"shop"}
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        assert binding["subjects"] == [
            {"kind": "ServiceAccount", "name": name, "namespace": "airflow"} for name in ("worker", "triggerer")
        ]

    def test_rbac_role_has_no_secrets_and_no_wildcards(self, capsys: Output) -> None:
        assert main(["rbac", "shop", "--service-account", "airflow:worker"]) == 0
        role, _ = yaml.safe_load_all(capsys.readouterr().out)
        verbs = {verb for rule in role["rules"] for verb in rule["verbs"]}
        assert verbs <= {"get", "list", "create", "patch", "delete"}
        assert not {"secrets", "pods/exec", "*"} & {name for rule in role["rules"] for name in rule["resources"]}

    def test_rbac_hostile_name_stays_a_value(self, capsys: Output) -> None:
        assert main(["rbac", "shop}\n---\nkind: Pod", "--service-account", "a: {b:c\nd"]) == 0
        role, binding = yaml.safe_load_all(capsys.readouterr().out)
        assert role["metadata"]["namespace"] == "shop}\n---\nkind: Pod"
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": " {b:c\nd", "namespace": "a"}]

    @pytest.mark.parametrize("account", ["worker", "airflow:", ":worker", ""])
    def test_rbac_invalid_service_account_is_refused(self, account: str, capsys: Output) -> None:
        assert main(["rbac", "shop", "--service-account", account]) == 2
        output = capsys.readouterr()
        assert (output.out, output.err.count("\n")) == ("", 1)
        assert "NAMESPACE:NAME" in output.err


EVERYWHERE: list[str | None] = [None]
RIGHTS = {("leases", "list"), ("httproutes", "get"), ("httproutes", "patch"), ("endpointslices", "list")}


class TestGuard:
    def manifest(self, capsys: Output, *arguments: str) -> list[dict[str, Any]]:
        assert main(["guard", "--manifest", "registry.example.com/airflow:3.3", *arguments]) == 0
        return list(yaml.safe_load_all(capsys.readouterr().out))

    def test_guard_manifest_has_two_replicas_and_permits_one_eviction(self, capsys: Output) -> None:
        objects = {item["kind"]: item for item in self.manifest(capsys, "--home", "ops")}
        assert {item["metadata"]["namespace"] for kind, item in objects.items() if "Cluster" not in kind} == {"ops"}
        spec = objects["Deployment"]["spec"]
        pod = spec["template"]["spec"]
        assert spec["replicas"] == 2
        assert objects["PodDisruptionBudget"]["spec"]["minAvailable"] == 1
        assert spec["selector"] == objects["PodDisruptionBudget"]["spec"]["selector"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
        assert pod["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"]
        (container,) = pod["containers"]
        assert container["image"] == "registry.example.com/airflow:3.3"
        assert container["command"] == ["airflow-deploy", "guard"]
        assert "args" not in container

    def test_guard_pods_pass_pod_security_restricted(self, capsys: Output) -> None:
        (pod,) = (item["spec"]["template"]["spec"] for item in self.manifest(capsys) if item["kind"] == "Deployment")
        (container,) = pod["containers"]
        assert pod["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }

    @pytest.mark.parametrize("namespaces", [[], ["shop", "orders"]])
    def test_guard_role_has_only_the_rights_it_needs(self, capsys: Output, namespaces: list[str]) -> None:
        objects = self.manifest(capsys, *(f"--namespace={name}" for name in namespaces))
        roles = [item for item in objects if item["kind"] in ("Role", "ClusterRole")]
        bindings = [item for item in objects if item["kind"] in ("RoleBinding", "ClusterRoleBinding")]
        for item in (*roles, *bindings):
            assert item["kind"].startswith("Cluster") is not bool(namespaces)
        assert [item["metadata"].get("namespace") for item in roles] == (namespaces or EVERYWHERE)
        assert [item["metadata"].get("namespace") for item in bindings] == (namespaces or EVERYWHERE)
        for role in roles:
            given = {(kind, verb) for rule in role["rules"] for kind in rule["resources"] for verb in rule["verbs"]}
            assert given == RIGHTS
        for binding in bindings:
            assert binding["roleRef"]["kind"] == roles[0]["kind"]
            assert binding["subjects"] == [
                {"kind": "ServiceAccount", "name": "airflow-deploy-guard", "namespace": "airflow"}
            ]
        (container,) = objects[-2]["spec"]["template"]["spec"]["containers"]
        assert container.get("args", []) == [f"--namespace={name}" for name in namespaces]

    def test_guard_without_a_cluster_names_the_setting(self, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        monkeypatch.setattr("kubernetes.config.KUBE_CONFIG_DEFAULT_LOCATION", "/nowhere")
        assert main(["guard"]) == 2
        assert "set KUBECONFIG" in capsys.readouterr().err

    def test_cli_runs_without_airflow(self) -> None:
        code = "import sys; sys.modules['airflow'] = None; from airflow_deploy.cli.main import main; main(['--help'])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "renewing its Lease" in done.stdout

    def test_guard_exits_with_0_after_sigterm(self, tmp_path: Path) -> None:
        """Also if the API server is down: this one refuses the connection."""
        path = kubeconfig.write(tmp_path, "http://127.0.0.1:9")
        code = "import sys; from airflow_deploy.cli.main import main; sys.exit(main(['guard', '--namespace', 'shop']))"
        environment = {**os.environ, "KUBECONFIG": str(path)}
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
            assert process.stderr is not None
            first, second = process.stderr.readline(), process.stderr.readline()
            process.terminate()
            rest = process.stderr.read()
            assert process.wait(30) == 0
        assert re.fullmatch(r"[0-9-]{10}T[0-9:]{8}Z INFO    guards       shop\n", first)
        assert "ERROR   blind        shop: listing Leases of shop: the API server does not answer" in second
        assert rest.endswith("INFO    stopped\n")


class TestHelp:
    @pytest.mark.parametrize("command", ["trigger", "watch", "dockerfile", "rbac", "guard", "judge replay"])
    def test_help_of_each_command_has_an_example_and_exit_codes(self, command: str, capsys: Output) -> None:
        assert main([*command.split(), "--help"]) == 0
        said = capsys.readouterr().out
        assert said.startswith(f"Usage: airflow-deploy {command} ")
        _, example, codes = re.split("^Example:|^Exit codes:", said, flags=re.MULTILINE)
        assert f" airflow-deploy {command} " in example
        assert re.match(r"\n  0    \S", codes)

    @pytest.mark.parametrize("command", ["trigger", "watch"])
    def test_help_names_the_variables_of_the_airflow_login(self, command: str, capsys: Output) -> None:
        main([command, "--help"])
        said = capsys.readouterr().out
        assert all(f"\n  {variable}  " in said for variable in FakeAirflow().environment)

    def test_conf_in_the_help_is_valid(self, airflow: FakeAirflow, conf: Path, capsys: Output) -> None:
        main(["trigger", "--help"])
        said = capsys.readouterr().out
        conf.write_text(said[said.index("{") : said.index("  $ airflow-deploy trigger")])
        assert main(["trigger", "payments", "--conf", str(conf)]) == 0

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["deploy"],
            ["trigger", "payments"],
            ["watch", "payments"],
            ["dockerfile"],
            ["rbac", "shop"],
            ["guard", "shop"],
            ["guard", "--names", "shop"],
            ["judge"],
            ["judge", "replay"],
        ],
    )
    def test_invalid_command_line_is_refused_with_the_usage(self, arguments: list[str], capsys: Output) -> None:
        assert main(arguments) == 2
        output = capsys.readouterr()
        assert output.err.startswith("Usage: airflow-deploy")
        assert output.out == ""

    def test_cli_prints_its_version(self) -> None:
        code = "import sys; from airflow_deploy.cli.main import main; sys.exit(main(['--version']))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.startswith("airflow-deploy ")
