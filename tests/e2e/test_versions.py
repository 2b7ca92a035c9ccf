"""The life of a version on the real stack: warm, then stopped, then deleted, while no user notices."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.versions import list_versions
from airflow_deploy.domain.workloads.drift import drift
from airflow_deploy.domain.workloads.versions import versions_of
from tests.e2e.dags import cleanup_once
from tests.e2e.trail import audited, summary, unix
from tests.e2e.world import World, served
from tests.stack import StackInfo
from tests.stack.access import kubectl
from tests.stack.layout import DAGS

BAZAAR = "bazaar"
WINDOW = 60
KINDS = "deployments,services,configmaps,networkpolicies,poddisruptionbudgets,horizontalpodautoscalers"
ALL = {"deployment", "service", "configmap", "networkpolicy", "poddisruptionbudget", "horizontalpodautoscaler"}
DAG = cleanup_once.dag.dag_id
AUTOSCALER: dict[str, Any] = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": BAZAAR, "namespace": BAZAAR},
    "spec": {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": BAZAAR},
        "minReplicas": 1,
        "maxReplicas": 5,
    },
}
"""The team's own: while the fix has the traffic, it would leave the team's version one pod."""


@pytest.fixture
def world(stack: StackInfo, tmp_path: Path) -> Iterator[World]:
    rollback = {"window": f"{WINDOW}s", "keep": 1}
    asked: dict[str, Any] = {"stages": (50, 100), "criticality": "low", "rollback": rollback, "scaling": {"max": 3}}
    with served(stack, BAZAAR, tmp_path, commit="good", bake=5, max_bake=120, **asked) as world:
        kubectl("apply", "-f", "-", stdin=json.dumps(AUTOSCALER))
        yield world


@pytest.fixture
def cleanup(world: World) -> Iterator[Callable[[], str]]:
    """Run the cleanup once, beside the scheduled one; return how that ended and what it said of the service."""
    file = DAGS / "cleanup_once.py"
    shutil.copyfile(cleanup_once.__file__, file)

    def read() -> bool:
        file.touch()  # what changes while it is being read would be missed
        return world.api.has_dag(DAG)

    def once() -> str:
        run = world.api.trigger(DAG, {})
        world.until(lambda: world.api.run_state(DAG, run) in ("success", "failed"), "the cleanup ends")
        said = [line for line in world.api.log(DAG, run, "cleanup") if line.split()[:1] == [BAZAAR]]
        return f"{world.api.run_state(DAG, run)}: {' '.join(said)}"

    world.until(read, "Airflow reads the DAG")
    yield once
    file.unlink()


def verified(world: World, run: str) -> tuple[str, float]:
    """Return the name of the version that the run deployed, and when it was verified."""
    assert world.ended(run) == "success"
    said = summary(audited(world, run))
    return said["candidate"], unix(said["ended_at"])


def objects_of(version: str) -> set[str]:
    found = kubectl("-n", BAZAAR, "get", KINDS, "-o", "name").split()
    return {name.partition("/")[0].partition(".")[0] for name in found if name.endswith(f"/{version}")}


def drifted(world: World, version: str) -> list[str]:
    """Return what differs of a version from what was applied, as the API server tells it.

    A version that is stopped may differ without failing a pass of the scheduled DAG, which others' tests count.
    """
    objects = list_versions(connect("bazaar"), BAZAAR, BAZAAR)
    (live,) = [item for item in versions_of(BAZAAR, objects, {}) if item.name == version]
    manifest = world.artifacts(live.deployment_id) / f"manifest_{live.deployment_id}.yaml"
    return drift([item for item in yaml.safe_load_all(manifest.read_text()) if item], live)


def minimum() -> int:
    return int(kubectl("-n", BAZAAR, "get", "hpa", BAZAAR, "-o", "jsonpath={.spec.minReplicas}"))


def by_hand(world: World, version: str, cleanup: Callable[[], str]) -> None:
    """Go back to a version as the page says; the cleanup comes at the worst moment."""
    kubectl("-n", BAZAAR, "scale", "deployment", version, "--replicas=2")
    kubectl("-n", BAZAAR, "rollout", "status", f"deployment/{version}", "--timeout=60s")
    cleanup()
    to = [{"name": version, "port": 80, "weight": 100}]
    patch = [{"op": "replace", "path": "/spec/rules/0/backendRefs", "value": to}]
    kubectl("-n", BAZAAR, "patch", "httproute", BAZAAR, "--type=json", "-p", json.dumps(patch))
    cleanup()
    assert world.replicas(version) == 2
    since = time.time() + 1
    world.until(lambda: [r for r in world.requests() if r.sent > since], "users are served")
    assert {r.version for r in world.requests() if r.sent > since} == {version}


def test_a_replaced_version_stays_warm_then_stops_then_is_deleted_and_loses_no_request(
    world: World, cleanup: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": world.info.admin_kubeconfig}}
    monkeypatch.setenv("AIRFLOW_CONN_BAZAAR", json.dumps(connection))
    team = world.replicas(BAZAAR)
    run = world.deploy(world.sample.good)
    world.until(lambda: minimum() == team, "the team's autoscaler is kept from shrinking it")
    first, _ = verified(world, run)
    assert minimum() == team, "within the window it keeps the pods for a rollback"
    second, since = verified(world, world.deploy(world.sample.good))
    assert "success" in cleanup()
    assert minimum() == 1
    assert (world.replicas(first), world.replicas(second)) == (2, 2)

    def stopped() -> bool:
        cleanup()
        return world.replicas(first) == 0

    world.until(stopped, "the version before is stopped", WINDOW + 60)
    assert time.time() >= since + WINDOW
    route = json.loads(kubectl("-n", BAZAAR, "get", "httproute", BAZAAR, "-o", "json"))
    assert route["metadata"]["annotations"]["airflow-deploy/stopped"] == first
    assert world.weights() == {first: 0, second: 100}
    assert objects_of(first) == ALL

    assert drifted(world, first) == []
    kubectl("-n", BAZAAR, "patch", "deployment", first, "-p", '{"spec": {"minReadySeconds": 5}}')
    assert drifted(world, first) == []  # that field was not declared
    change = '{"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 31}}}}'
    kubectl("-n", BAZAAR, "patch", "deployment", first, "-p", change)
    kubectl("-n", BAZAAR, "delete", "poddisruptionbudget", first)
    assert drifted(world, first) == [
        "PodDisruptionBudget is missing",
        "Deployment.spec.template.spec.terminationGracePeriodSeconds was changed",
    ]

    by_hand(world, first, cleanup)
    by_hand(world, second, cleanup)
    kubectl("-n", BAZAAR, "scale", "deployment", first, "--replicas=0")

    third, _ = verified(world, world.deploy(world.sample.good))
    world.until(lambda: cleanup() and not objects_of(first), "the version beyond those kept is deleted", 60)
    assert (objects_of(second), objects_of(third)) == (ALL, ALL)
    assert (world.replicas(second), world.replicas(third)) == (2, 2)
    # What the team had before us is as it was.
    assert (world.replicas(BAZAAR), minimum()) == (team, 1)
    assert [request for request in world.requests() if request.failed] == []
