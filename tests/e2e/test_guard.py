"""Components die during a canary: its watch goes on, or the guard returns the traffic."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from requests import HTTPError

from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing.lease import lease_name
from tests.e2e.counted import by_pod, counted
from tests.e2e.trail import folder_of, states, summary, transitions, unix
from tests.e2e.world import World, served
from tests.stack import StackInfo
from tests.stack.access import kubectl
from tests.stack.failures import COMPONENTS
from tests.stack.layout import GUARD_KUBECONFIG

VAULT = "vault"
JETTY, PORT = "jetty", 9096
"""The service without a gateway, and its Prometheus."""
LEASE = 15
WITHIN = LEASE + 6
"""Seconds from Airflow's death until the guard has returned the traffic: the Lease, and the sights before and after."""
TERMINATING = 5
"""Seconds for which pods that were taken away may still be asked: until their addresses are withdrawn."""


UNNEEDED = ("worker", "api-server", "scheduler", "dag-processor", "prometheus", "kubelet")
"""Components that looks do not need: only the triggerer makes them, and BLIND ones count."""
NEEDED = ("triggerer", "postgres", "kube-apiserver", "gateway")


LONG: dict[str, Any] = {"stages": [25, 100], "bake": 600, "max_bake": 1200, "criticality": "low", "lease": LEASE}
"""A first stage, of 25 %, that lasts longer than the tests."""


@pytest.fixture
def world(stack: StackInfo, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Return a service in the gateway's care; the mark ``served`` changes what its YAML says."""
    asked = dict(LONG)
    if marked := request.node.get_closest_marker("served"):
        asked |= marked.kwargs
    with served(stack, VAULT, tmp_path, **asked) as world:
        yield world


@pytest.fixture
def behind_pods(stack: StackInfo, tmp_path: Path) -> Iterator[World]:
    """Return a service without a gateway: the candidate's pods are its share."""
    with counted(stack, JETTY, PORT, tmp_path, by_pod) as connection:
        declared = {**LONG, "router": "replicas", "metrics": "pods", "route": {"name": JETTY}}
        declared["connections"] = {"prometheus": connection}
        with served(stack, JETTY, tmp_path / JETTY, direct=True, **declared) as world:
            kubectl("-n", JETTY, "delete", "httproute", JETTY)
            yield world


def lease() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("-n", VAULT, "get", "lease", lease_name(VAULT), "-o", "json"))
    return found


def annotations() -> dict[str, str]:
    found: dict[str, str] = json.loads(kubectl("-n", VAULT, "get", "httproute", VAULT, "-o", "json"))["metadata"][
        "annotations"
    ]
    return {key.partition("/")[2]: value for key, value in found.items() if key.startswith("airflow-deploy/")}


def exposed(world: World) -> tuple[str, DeploymentPlan]:
    """Deploy a good fix, and wait until it has its first share, and its run has heard of that."""
    run, plan = judged(world)
    assert world.weights()[plan.candidate] == 25
    return run, plan


def judged(world: World) -> tuple[str, DeploymentPlan]:
    """Deploy a good fix, and wait until its first share is judged."""
    run = world.deploy(world.sample.good)
    plan = DeploymentPlan.load(world.plan(run))
    world.until(lambda: world.tasks(run).get("canary_25.gate") == "deferred", "the first share is judged")
    return run, plan


@pytest.mark.served(lease=180)
def test_a_canary_at_25_percent_keeps_its_share_and_its_watch_when_any_component_dies(world: World) -> None:
    """The expected outcomes are in tests/bench/matrix.py; with so long a Lease the guard has no reason to act."""
    run, plan = exposed(world)
    claim = annotations()["owner"]
    assert lease()["spec"]["holderIdentity"] == claim == f"{plan.deployment_id}/1"

    for name in UNNEEDED:
        COMPONENTS[name].kill()
    try:
        for _ in range(3):
            looked_at_again(world)
    finally:
        for name in UNNEEDED:
            COMPONENTS[name].bring_back()
    for name in NEEDED:
        COMPONENTS[name].kill()
        COMPONENTS[name].bring_back()
        looked_at_again(world)
        assert (world.weights()[plan.candidate], annotations()["owner"]) == (25, claim), name

    world.until(lambda: ended(world, run), "a person has ended the run")
    world.until(lambda: world.tasks(run)["finalize"] == "failed", "the teardown has spoken")
    said = summary(folder_of(world, run))
    assert (said["state"], said["irregular"]) == ("ROLLED_BACK", None)
    assert "guard" not in said["reason"]
    assert world.weights() == {plan.stable: 100, plan.candidate: 0}
    assert world.replicas(plan.candidate) == 0


def looked_at_again(world: World) -> None:
    """Wait until the Lease has been renewed."""
    before = lease()["spec"]["renewTime"]
    world.until(lambda: lease()["spec"]["renewTime"] > before, "the Lease is renewed")


def ended(world: World, run: str) -> bool:
    """End a run by hand; retry if a scheduler that has just started has written it meanwhile."""
    with suppress(HTTPError):
        world.api.end_run(world.dag, run)
    return world.api.run_state(world.dag, run) == "failed"


@pytest.mark.usefixtures("stack")
def test_the_guard_has_only_the_rights_of_its_manifest() -> None:
    shown = kubectl("auth", "can-i", "--list", f"--namespace={VAULT}", "--no-headers", config=GUARD_KUBECONFIG)
    rows = [re.fullmatch(r"(\S+)\s+\[.*?\]\s+\[.*?\]\s+\[(.*)\]", line.strip()) for line in shown.splitlines()]
    may = {row[1]: set(row[2].split()) for row in rows if row and "selfsubject" not in row[1]}
    assert may == {
        "leases.coordination.k8s.io": {"list"},
        "httproutes.gateway.networking.k8s.io": {"get", "patch"},
        "endpointslices.discovery.k8s.io": {"list"},
        # If pods divide the traffic
        "services": {"get", "patch"},
        "pods": {"list"},
        "deployments.apps": {"patch"},
    }


def test_the_guard_returns_the_traffic_within_the_lease_when_all_of_airflow_dies(
    world: World, behind_pods: World
) -> None:
    run, plan = exposed(world)
    run_of_pods, plan_of_pods = judged(behind_pods)
    whole = {plan.stable: 100, plan.candidate: 0}
    assert behind_pods.replicas(plan_of_pods.candidate) == 1
    COMPONENTS["airflow"].kill()
    died = time.time()
    try:
        world.until(lambda: world.weights() == whole, "the traffic is returned", WITHIN)
        restored = time.time()
        behind_pods.until(lambda: behind_pods.replicas(plan_of_pods.candidate) == 0, "the pods are taken away", WITHIN)
        found = annotations()
        assert (found["owner"], found["phase"]) == (f"{plan.deployment_id}/2", "braked")
        world.wait_served(restored - world.requests()[0].sent + 5)
    finally:
        COMPONENTS["airflow"].bring_back()

    returned(world, run, died)
    assert world.weights() == whole
    assert world.replicas(plan.candidate) == 0
    # The candidate got no further requests, and none failed during the rollback.
    assert max(request.sent for request in world.requests() if request.version == plan.candidate) < restored + 1

    gone = returned(behind_pods, run_of_pods, died)
    assert behind_pods.replicas(plan_of_pods.candidate) == 0
    assert behind_pods.replicas(plan_of_pods.stable) == 2
    # What a team has brought is told from the candidate by no label: its pods end, and are asked until they do.
    answered = [r.sent for r in behind_pods.requests() if r.version == plan_of_pods.candidate]
    assert max(answered) < gone + TERMINATING


def returned(world: World, run: str, died: float) -> float:
    """Check that the run ends as one whose traffic the guard has returned, and return when that was."""
    assert world.ended(run) == "failed"
    folder = folder_of(world, run)
    assert states(folder)[-3:] == ["CANARY_WAITING", "ROLLING_BACK", "ROLLED_BACK"]
    said = summary(folder)
    assert (said["state"], said["irregular"]) == ("ROLLED_BACK", None)
    assert "guard: the watch has not renewed its Lease for" in transitions(folder)[-2]["reason"]
    at = unix(said["judgements"]["watch"]["restored_at"])
    assert LEASE - 2 <= at - died <= WITHIN
    assert [request for request in world.requests() if request.failed] == []
    log = (Path(world.info.logs) / "guard.log").read_text()
    assert re.search(
        rf"rolled back  {world.service}/{world.service}: guard: the watch has not renewed its Lease for", log
    )
    return at
