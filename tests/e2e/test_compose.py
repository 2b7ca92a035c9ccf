"""The Compose file before the programs that read it: Compose, BusyBox, Prometheus and the API server.

The start itself is not shown: it pulls images, and there is no registry of them in reach.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stack import go_modules
from tests.stack.access import SERVER, add_account, kubectl
from tests.stack.info import StackInfo
from tests.stack.layout import CHECKOUT

FILE = CHECKOUT / "docker-compose.airflow.yml"


def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Compose without any setting."""
    program = go_modules.compose() / go_modules.COMPOSE
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
    command: list[str | Path] = [program, "--file", FILE, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The file as Compose understands it."""
    go_modules.build_compose()
    done = compose("config", "--format=json")
    assert (done.returncode, done.stderr) == (0, "")
    read: dict[str, Any] = json.loads(done.stdout)
    return read


def content(project: dict[str, Any], config: str, folder: Path) -> Path:
    """Write one of the file's inline files as a container would see it."""
    path = folder / config
    path.write_text(project["configs"][config]["content"].replace("$$", "$"))
    return path


def test_compose_file_is_valid_without_any_setting(project: dict[str, Any]) -> None:
    assert compose("config", "--quiet").stderr == ""
    assert project["name"] == "airflow-deploy"
    (port,) = project["services"]["airflow-api-server"]["ports"]
    assert (port["host_ip"], port["published"]) == ("127.0.0.1", "8080")


def test_compose_runs_two_workers_and_two_triggerers(project: dict[str, Any]) -> None:
    replicas = {
        name: service["deploy"]["replicas"] for name, service in project["services"].items() if "deploy" in service
    }
    assert replicas == {"airflow-worker": 2, "airflow-triggerer": 2}


def test_compose_secrets_are_made_once_and_readable_by_their_user_alone(
    project: dict[str, Any], tmp_path: Path
) -> None:
    script = content(project, "make-secrets", tmp_path)
    for folder in ("postgres", "redis", "airflow"):
        (tmp_path / folder).mkdir()

    def made() -> dict[str, Path]:
        subprocess.run(["busybox", "sh", script], cwd=tmp_path, check=True)
        paths = {str(path.relative_to(tmp_path)): path for path in tmp_path.glob("*/*")}
        complete = paths.pop("airflow/complete")
        assert complete.read_text() == ""
        return paths

    def values() -> dict[str, str]:
        return {name: path.read_text() for name, path in made().items()}

    owners = {"postgres": 70, "redis": 999, "airflow": 50000}
    for name, path in made().items():
        mode = 0o600 if name == "airflow/passwords.json" else 0o400
        assert (path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) == (owners[name.split("/")[0]], mode)

    first = values()
    assert values() == first
    (tmp_path / "airflow" / "complete").unlink()  # a start that was interrupted
    second = values()
    for value in (first, second):
        database, broker = value["postgres/password"], value["redis/redis.conf"].split()[1]
        assert value["airflow/database-url"] == f"postgresql+psycopg2://airflow:{database}@postgres/airflow"
        assert value["airflow/broker-url"] == f"redis://:{broker}@redis:6379/0"
        assert set(json.loads(value["airflow/passwords.json"])) == {"admin", "deployer", "viewer"}
    secrets = [
        secret
        for value in (first, second)
        for secret in (
            value["postgres/password"],
            value["redis/redis.conf"].split()[1],
            *json.loads(value["airflow/passwords.json"]).values(),
            *(value[f"airflow/{name}"] for name in ("fernet-key", "jwt-secret", "api-secret-key")),
        )
    ]
    assert len(set(secrets)) == len(secrets) == 16
    assert min(map(len, secrets)) >= 43


def test_compose_prometheus_configuration_is_valid(project: dict[str, Any], stack: StackInfo, tmp_path: Path) -> None:
    config = content(project, "prometheus", tmp_path)
    done = subprocess.run(["promtool", "check", "config", "--syntax-only", config], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def accounts(stack: StackInfo) -> Iterator[None]:
    """Make the ServiceAccounts that a setup which keeps nothing does not make."""
    for name in ("airflow-deploy", "airflow-deploy-guard", "prometheus"):
        add_account(f"airflow:{name}", {})
    yield
    kubectl("delete", "namespace", "airflow", "--wait")


@pytest.mark.usefixtures("accounts")
def test_compose_cluster_setup_gives_airflow_its_own_access_and_no_more(
    project: dict[str, Any], stack: StackInfo, tmp_path: Path
) -> None:
    """Run the script before the stack's API server, which checks what it applies but keeps nothing of it."""
    real = Path(sys.executable).with_name("kubectl")
    shim = tmp_path / "kubectl"
    shim.write_text(
        f"""#!/bin/sh
case "$*" in
    apply*) shift; exec {real} apply --dry-run=server "$@" ;;
    *rollout*) exit 0 ;;
esac
exec {real} "$@"
"""
    )
    shim.chmod(0o755)
    for folder in ("airflow", "guard", "prometheus"):
        (tmp_path / "access" / folder).mkdir(parents=True)
    script = content(project, "cluster-setup", tmp_path)
    text = script.read_text()
    here = {
        "/admin/kubeconfig": stack.admin_kubeconfig,
        "/access": str(tmp_path / "access"),
        "/cluster.yaml": str(content(project, "cluster", tmp_path)),
        "https://k3s:6443": SERVER,
    }
    for there, path in here.items():
        assert there in text
        text = text.replace(there, path)
    script.write_text(text)
    for _ in range(2):  # every `up` does it again
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = subprocess.run(
            ["busybox", "sh", script], env=os.environ | {"PATH": path}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    for applied in ("deployment.apps/traefik", "gateway.gateway.networking.k8s.io/gateway", "clusterrole"):
        assert applied in done.stdout

    kubeconfig, guards = (tmp_path / "access" / who / "kubeconfig" for who in ("airflow", "guard"))
    token = tmp_path / "access" / "prometheus" / "token"
    assert [(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in (kubeconfig, guards, token)] == [
        (50000, 0o400),
        (50000, 0o400),
        (65534, 0o400),
    ]

    def may(*question: str) -> bool:
        command: list[str | Path] = [real, f"--kubeconfig={kubeconfig}", "auth", "can-i", *question]
        return bool(subprocess.run(command, capture_output=True, text=True, check=False).stdout == "yes\n")

    def name(config: Path) -> str:
        whoami: list[str | Path] = [real, f"--kubeconfig={config}", "auth", "whoami", "--output=json"]
        who = subprocess.run(whoami, capture_output=True, text=True, check=False)
        assert who.returncode == 0, who.stderr
        return str(json.loads(who.stdout)["status"]["userInfo"]["username"])

    assert name(kubeconfig) == "system:serviceaccount:airflow:airflow-deploy"
    assert name(guards) == "system:serviceaccount:airflow:airflow-deploy-guard"
    assert may("create", "selfsubjectaccessreviews")
    assert not may("get", "secrets", "--namespace=kube-system")
    assert not may("create", "deployments", "--namespace=default")
    authority = (tmp_path / "access" / "prometheus" / "ca.crt").read_text()
    assert authority.startswith("-----BEGIN CERTIFICATE-----")


def test_compose_image_copies_all_that_the_wheel_needs(project: dict[str, Any], tmp_path: Path) -> None:
    dockerfile: str = project["services"]["airflow-init"]["build"]["dockerfile_inline"]
    (tmp_path / "tree").mkdir()
    for line in dockerfile.splitlines():
        if line.startswith("COPY"):
            *sources, _ = line.split()[2:]
            for source in sources:
                if (CHECKOUT / source).is_dir():
                    shutil.copytree(CHECKOUT / source, tmp_path / "tree" / source, symlinks=True)
                else:
                    shutil.copy(CHECKOUT / source, tmp_path / "tree")
    uv = Path(sys.executable).with_name("uv")
    build: list[str | Path] = [uv, "build", "--quiet", "--wheel", f"--out-dir={tmp_path}/wheel", tmp_path / "tree"]
    done = subprocess.run(build, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    listing = subprocess.run([sys.executable, "-m", "zipfile", "-l", wheel], capture_output=True, text=True, check=True)
    for part in ("operators/apply.py", "sensors/gates.py", "templates/version.yaml.j2", "domain/lifecycle/plan.py"):
        assert f"airflow_deploy/{part}" in listing.stdout
