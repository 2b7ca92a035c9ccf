"""The demo on a cluster of the user's own: here the session's, from a second checkout on the same machine."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.e2e.world import free_port
from tests.stack.access import kubectl
from tests.stack.info import StackInfo
from tests.stack.layout import CACHE, CHECKOUT, KEPT_BY_DOWN, MARKER
from tests.stack.sample.base_image import import_base

NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".stack", ".*_cache", ".hypothesis", "__pycache__")


class Checkout:
    """A user's checkout, and what their shell says of their cluster."""

    def __init__(self, folder: Path, shell: dict[str, str]) -> None:
        self.folder, self.shell = folder, shell

    def run(self, *command: str, **changes: str | None) -> subprocess.CompletedProcess[str]:
        env = {name: value for name, value in {**os.environ, **self.shell, **changes}.items() if value is not None}
        return subprocess.run(command, cwd=self.folder, env=env, capture_output=True, text=True, check=False)

    def succeed(self, *command: str, **changes: str | None) -> str:
        done = self.run(*command, **changes)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def left_behind(self) -> list[str]:
        kept = [path.name for path in KEPT_BY_DOWN]
        state = self.folder / ".stack"
        files = [str(path) for path in state.iterdir() if path.name not in kept] if state.exists() else []
        marker = f"{MARKER}={state}".encode()
        return files + [str(path) for path in Path("/proc").glob("[0-9]*/environ") if marker in _read(path)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _written() -> list[str]:
    """Objects of the cluster that `make down` might leave; other tests make namespaces at the same time."""
    kinds = "clusterroles,clusterrolebindings,customresourcedefinitions,gateways,gatewayclasses"
    found = kubectl("get", kinds, "--all-namespaces", "-o", "name").split()
    marked = "--selector=airflow-deploy/stack,airflow-deploy/stack!=embedded"
    for which in (marked, "--field-selector=metadata.name=payments"):
        found += kubectl("get", "namespaces", which, "-o", "name").split()
    return sorted(found)


@pytest.fixture(scope="module")
def checkout(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Copy this checkout, and make room for its demo: the session's own has the same name."""
    folder = tmp_path_factory.mktemp("own") / "c"
    shutil.copytree(CHECKOUT, folder, symlinks=True, ignore=NOT_COPIED)
    (folder / ".venv").symlink_to(CHECKOUT / ".venv")
    shell = {
        "KUBECONFIG": stack.admin_kubeconfig,
        "PROMETHEUS_URL": stack.prometheus_url,
        "REGISTRY": stack.registry,
        "DOCKER_HOST": stack.docker_url,
        "AIRFLOW_PORT": str(free_port()),
    }
    import_base(docker.DockerClient(base_url=stack.docker_url), CACHE)  # not pulled: the network may be closed
    kubectl("delete", "namespace", "payments", "--ignore-not-found", "--wait")
    made = Checkout(folder, shell)
    yield made
    made.run("make", "down")
    kubectl("delete", "namespace", "payments", "--ignore-not-found", "--wait")


MISSING: dict[str, tuple[dict[str, str | None], str]] = {
    "cluster": ({"KUBECONFIG": "/nonexistent"}, "KUBECONFIG: /nonexistent names no cluster"),
    "prometheus": ({"PROMETHEUS_URL": None}, "KUBECONFIG is set, PROMETHEUS_URL is not: set it to"),
    "registry": ({"REGISTRY": None}, "KUBECONFIG is set, REGISTRY is not: set it to"),
    "no-docker": ({"DOCKER_HOST": "unix:///nonexistent"}, "Docker does not answer at unix:///nonexistent"),
    "no-registry": ({"REGISTRY": "127.0.0.1:1"}, "REGISTRY: Docker does not reach 127.0.0.1:1"),
    "no-prometheus": (
        {"PROMETHEUS_URL": "http://127.0.0.1:1"},
        "PROMETHEUS_URL: http://127.0.0.1:1 answers no queries",
    ),
    "no-gateway": ({"GATEWAY": "a/b"}, "GATEWAY: the cluster has no Gateway a/b: it has gateway/gateway."),
    "unreached": ({"GATEWAY_URL": "http://127.0.0.1:1"}, "GATEWAY_URL: http://127.0.0.1:1 does not answer"),
}


@pytest.mark.parametrize("name", MISSING)
def test_up_names_what_is_missing_before_it_writes_anything(checkout: Checkout, name: str) -> None:
    changes, sentence = MISSING[name]
    before = _written()
    done = checkout.run("make", "up", **changes)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if sentence in line], done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert (_written(), checkout.left_behind()) == (before, [])


def test_up_refuses_a_port_that_another_airflow_has(checkout: Checkout, stack: StackInfo) -> None:
    port = stack.airflow_url.rpartition(":")[2]
    assert f"error: Port {port}, for Airflow, is taken" in checkout.run("make", "up", AIRFLOW_PORT=port).stderr


OTHER_GATEWAY = """
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: other}
spec: {controllerName: example.com/other}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: other, namespace: default}
spec: {gatewayClassName: other, listeners: [{name: web, port: 80, protocol: HTTP}]}
"""


def test_up_asks_which_gateway_of_traefik_to_use(checkout: Checkout) -> None:
    kubectl("apply", "-f", "-", stdin=OTHER_GATEWAY)
    try:
        assert "several Gateways: set GATEWAY to one of them (" in checkout.run("make", "up").stderr
        said = checkout.run("make", "up", GATEWAY="default/other").stderr
        assert "error: The Gateway default/other is of example.com/other, and only Traefik's metrics are known" in said
    finally:
        kubectl("delete", "-f", "-", stdin=OTHER_GATEWAY)


def test_up_and_down_leave_a_foreign_namespace_alone(checkout: Checkout) -> None:
    kubectl("create", "namespace", "payments")
    try:
        done = checkout.run("make", "up")
        assert "error: The cluster has a namespace payments, and the demo makes one" in done.stderr
        checkout.run("make", "down")
        assert kubectl("get", "namespace", "payments", "-o", "name").strip() == "namespace/payments"
    finally:
        kubectl("delete", "namespace", "payments", "--wait")


def test_a_good_fix_is_verified_on_ones_own_cluster_and_down_leaves_nothing(
    checkout: Checkout, stack: StackInfo
) -> None:
    before = _written()
    said = checkout.succeed("make", "up")
    assert f"Airflow        http://127.0.0.1:{checkout.shell['AIRFLOW_PORT']}" in said
    assert "etcd" not in said

    # Up with one cluster, it serves no other.
    other = checkout.run("make", "up", KUBECONFIG="/nonexistent")
    assert "error: KUBECONFIG: /nonexistent names no cluster" in other.stderr

    # The second checkout's own end-to-end test, with the second checkout's Airflow.
    test = "tests/e2e/test_deployments.py::test_a_gate_cleared_in_mid_canary_lets_the_deployment_finish"
    checkout.succeed(".venv/bin/python", "-m", "pytest", "-q", "-p", "no:cacheprovider", test)

    checkout.succeed("make", "down", **dict.fromkeys(checkout.shell))
    assert (_written(), checkout.left_behind()) == (before, [])
    status = subprocess.run(["make", "status"], cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert status.returncode == 0, status.stdout
    assert f"Airflow        {stack.airflow_url}" in status.stdout
