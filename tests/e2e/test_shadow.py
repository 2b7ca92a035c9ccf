"""A shadow stage on the real gateway: users are answered by the stable alone, even if copies fail.

All of it happens to one service, which is not one that the other lane's tests take turns on.
"""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.errors import ConflictError
from airflow_deploy.clients.kubernetes.routes import patch_route, read_http_route
from airflow_deploy.clients.kubernetes.versions import delete_mirror, list_mirrors
from airflow_deploy.domain.errors import ProbeFailedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.names import mirror_name
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.transitions import claim
from airflow_deploy.rollout.routers import mirror
from airflow_deploy.rollout.routers import probe as testers
from tests.e2e.deployment import Deployment, afresh
from tests.e2e.trail import states, transitions, unix
from tests.e2e.world import SMALL, World, served
from tests.stack import StackInfo
from tests.stack.access import kubectl
from tests.stack.service import declare
from tests.support.builders import make_plan, make_spec

STALL, BROKEN = "stall", "broken"
SHARE = 25
ASKED: dict[str, Any] = {
    "stages": [50, 100],
    "criticality": "medium",
    "shadow": {"share": SHARE, "safe_to_mirror": True},
}


@pytest.fixture(scope="module")
def stall(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(stack, STALL, tmp_path_factory.mktemp(STALL), commit="good", bake=10, **ASKED) as world:
        yield world


@pytest.fixture
def world(stall: World) -> World:
    return afresh(stall)


def mirrored(world: World, deployment: Deployment) -> DeploymentPlan:
    """Wait until the candidate gets copies, and return the deployment's plan."""
    plan = DeploymentPlan.load(world.plan(deployment.run))
    world.until(lambda: world.weights().get(mirror_name(plan.candidate)) == SHARE, "requests are copied")
    return plan


def wait_served(world: World, deployment: Deployment, more: int = 100) -> None:
    """Wait until so many more users have come."""
    before = len(deployment.requests())
    world.until(lambda: len(deployment.requests()) >= before + more, "users come")


def mirrors() -> list[str]:
    found = kubectl("-n", STALL, "get", "services,traefikservices.traefik.io", "-o", "name").split()
    return [name for name in found if name.endswith(mirror_name(""))]


def processes_of(version: str) -> list[int]:
    """Return the processes of the version's pods, which run on this machine."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"VERSION={version}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def test_a_mirror_that_the_gateway_does_not_serve_is_refused_before_any_copy(
    stall: World, stack: StackInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is the stable's Service."""
    access = {"conn_type": "kubernetes", "extra": {"kube_config_path": stack.admin_kubeconfig}}
    monkeypatch.setenv("AIRFLOW_CONN_STALL", json.dumps(access))
    monkeypatch.setattr(testers, "PROBE_WAIT_SECONDS", 5.0)
    team = json.loads(kubectl("-n", STALL, "get", "httproute", STALL, "-o", "json"))
    team["metadata"] = {"name": BROKEN, "namespace": STALL}
    team["spec"] |= {"hostnames": [f"{BROKEN}.test"], "rules": [{"backendRefs": [{"name": BROKEN, "port": 80}]}]}
    kubectl("apply", "-f", "-", stdin=json.dumps(team))
    where = {"name": BROKEN, "url": stack.gateway_url}
    spec = make_spec(service=STALL, namespace=STALL, route=where, shadow=ASKED["shadow"])
    plan, cluster = make_plan(spec, stable=BROKEN), connect(STALL)

    def claimed() -> Claim | None:
        route = read_http_route(cluster, STALL, BROKEN)
        ours, patch = claim(route, plan.claim())
        with suppress(ConflictError):  # the gateway may write its status between the two calls
            patch_route(cluster, route, patch)
            return ours
        return None

    ours = stall.until(claimed, "the route is claimed")
    try:
        with pytest.raises(
            ProbeFailedError, match=r"nothing is mirrored: .*: HTTP [45]0[0-9], not from [^ ]*; .* remove shadow"
        ):
            mirror.set_up_mirror(cluster, plan, ours)
        assert not read_http_route(cluster, STALL, BROKEN).mirrors_to(plan.candidate)
    finally:
        kubectl("-n", STALL, "delete", "httproute", BROKEN, f"testers-{BROKEN}")
        for item in list_mirrors(cluster, STALL):
            delete_mirror(cluster, item)
    assert mirrors() == []


def test_a_good_fix_passes_its_shadow_stage_and_is_verified(world: World) -> None:
    deployment = Deployment(world, world.sample.good)
    plan = mirrored(world, deployment)
    name = mirror_name(plan.candidate)
    # Without the finalizer, no request would be answered from here on.
    kubectl("-n", STALL, "delete", f"service/{name}", f"traefikservice.traefik.io/{name}", "--wait=false")
    world.until(lambda: world.weights() == {plan.stable: 50, plan.candidate: 50}, "half of the users are sent to it")
    deployment.ended()
    assert (deployment.state, deployment.summary["state"]) == ("success", "VERIFIED")
    assert deployment.failed() == []
    assert mirrors() == []
    said = deployment.summary["judgements"]["shadow.gate"]
    assert said["verdict"] == "HEALTHY"
    assert "the route declares 20%" in said["reason"]
    assert states(deployment.folder).count("CANARY") == 3
    shadow, first, _ = (step for step in transitions(deployment.folder) if step["to"] == "CANARY")
    assert shadow["reason"].startswith(f"shifting copies of {SHARE} % to {plan.candidate}; ")
    assert unix(deployment.summary["first_exposed_at"]) == unix(first["at"])
    by_candidate, _ = deployment.answers()
    assert min(request.sent for request in by_candidate) > unix(first["at"])


def test_a_bad_fix_in_its_shadow_stage_harms_no_user(world: World) -> None:
    deployment = Deployment(world, world.sample.bad)
    deployment.rolled_back("BREACHED", "error_rate")
    assert (deployment.failed(), deployment.answers()[0]) == ([], [])
    assert deployment.summary["first_exposed_at"] is None
    assert deployment.summary["mirrored_at"]
    assert mirrors() == []


def test_a_candidate_that_hangs_and_dies_in_its_shadow_stage_harms_no_user(world: World) -> None:
    declare(world.info, world.sample, STALL, bake=120, resources=SMALL, **ASKED)
    world.api.await_read(world.dag)
    deployment = Deployment(world, world.sample.good)
    plan = mirrored(world, deployment)
    wait_served(world, deployment)
    processes = processes_of(plan.candidate)
    assert len(processes) >= plan.spec.replicas
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    wait_served(world, deployment)
    kubectl("-n", STALL, "delete", "service", plan.candidate)
    wait_served(world, deployment)
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    deployment.rolled_back("BREACHED", "ready_pods", "error_rate")
    assert deployment.failed() == []
    assert deployment.answers()[0] == []
    assert deployment.summary["first_exposed_at"] is None
    assert unix(deployment.summary["mirrored_at"]) < unix(deployment.summary["verdict_at"])
    assert states(deployment.folder).count("CANARY") == 1
    assert world.tasks(deployment.run)["canary_50.shift"] != "success"
    assert mirrors() == []
