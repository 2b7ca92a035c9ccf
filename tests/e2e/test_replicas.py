"""No gateway: a Service alone, whose pods divide the traffic, and users who connect to it anew each time."""

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_deploy.domain.labels import VERSION
from tests.e2e.counted import by_pod, counted
from tests.e2e.deployment import Deployment
from tests.e2e.trail import transitions, unix
from tests.e2e.world import World, served
from tests.stack import StackInfo
from tests.stack.access import kubectl

QUAY, PORT = "quay", 9097
TEAM = {"app.kubernetes.io/name": QUAY}


@pytest.fixture(scope="module")
def world(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(QUAY)
    with counted(stack, QUAY, PORT, folder, by_pod) as connection:
        declared: dict[str, Any] = {
            "commit": "good",
            "route": {"name": QUAY},
            "router": "replicas",
            "metrics": "pods",
            "stages": [25, 50, 100],
            "criticality": "low",
            "bake": 10,
            "connections": {"prometheus": connection},
        }
        with served(stack, QUAY, folder, direct=True, **declared) as world:
            kubectl("-n", QUAY, "delete", "httproute", QUAY)
            yield world


def selector() -> dict[str, str]:
    """Return the labels of the pods that the Service sends requests to."""
    found: dict[str, str] = json.loads(kubectl("-n", QUAY, "get", "service", QUAY, "-o", "json"))["spec"]["selector"]
    return found


def pods(version: str) -> int:
    """Return the replicas of the version's Deployment."""
    return int(kubectl("-n", QUAY, "get", "deployment", version, "-o", "jsonpath={.spec.replicas}"))


def shares(deployment: Deployment) -> list[str]:
    """Return what was said of each share."""
    return [step["reason"] for step in transitions(deployment.folder) if step["to"] == "CANARY"]


def check_rolled_back(deployment: Deployment, stable: str, selects: dict[str, str]) -> None:
    """Check that only the stable's pods serve, and that only the candidate's answers were bad."""
    deployment.ended()
    said = deployment.summary
    assert (deployment.state, said["state"], said["stable"]) == ("failed", "ROLLED_BACK", stable)
    assert re.match(r"error_rate: [\d,]+ of [\d,]+ requests failed \(stable ", said["judgements"]["watch"]["reason"])
    assert (selector(), pods(said["candidate"]), pods(stable)) == (selects, 0, 2)
    assert {request.version for request in deployment.failed()} == {said["candidate"]}
    # What was on its way when the verdict fell is answered; then pods end.
    by_candidate, _ = deployment.answers()
    assert max(request.sent for request in by_candidate) < unix(said["restored_at"]) + 10


def test_pods_divide_the_traffic_of_a_service_through_rollback_and_promotion(world: World) -> None:
    """One after the other, as each finds what the one before has left."""
    bad = Deployment(world, world.sample.bad)
    check_rolled_back(bad, QUAY, TEAM)
    assert shares(bad)[0].startswith("shifting 33 % to ")
    # It would lower the confidence in the next, so that a person were asked.
    shutil.rmtree(bad.folder)

    good = Deployment(world, world.sample.good)
    said = good.ended()
    assert (good.state, said["state"], said["stable"]) == ("success", "VERIFIED", QUAY)
    assert good.failed() == []
    first = said["candidate"]
    assert (selector(), pods(first), pods(QUAY)) == ({VERSION: first}, 2, 2)

    later = Deployment(world, world.sample.bad)
    check_rolled_back(later, first, {VERSION: first})
    # A later deployment beside the replacing version does not select the team's own pods again.
    assert {request.version for request in later.requests()} == {first, later.summary["candidate"]}
