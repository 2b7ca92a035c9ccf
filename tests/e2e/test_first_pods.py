"""No gateway and no serving version: a Service whose first pods are those of its first version."""

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_deploy.domain.labels import VERSION
from airflow_deploy.domain.routing.service_route import MATCH_NO_POD
from tests.e2e.counted import by_pod, counted
from tests.e2e.deployment import Deployment
from tests.e2e.trail import unix
from tests.e2e.world import SMALL, World
from tests.stack import StackInfo
from tests.stack.access import kubectl
from tests.stack.service import ground
from tests.stack.traffic import users

WHARF, PORT = "wharf", 9095
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": WHARF, "namespace": WHARF},
    "spec": {"selector": {"app": WHARF}, "ports": [{"port": 80, "targetPort": "http"}]},
}


@pytest.fixture(scope="module")
def world(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a service that has users already."""
    folder = tmp_path_factory.mktemp(WHARF)
    World.end_runs(stack, WHARF)
    with counted(stack, WHARF, PORT, folder, by_pod) as connection:
        asked: dict[str, Any] = {"stages": [50, 100], "bake": 5, "criticality": "low", "resources": SMALL}
        how = {"router": "replicas", "metrics": "pods", "connections": {"prometheus": connection}}
        sample = ground(stack, WHARF, **asked, **how, route={"name": WHARF})
        kubectl("apply", "-f", "-", stdin=json.dumps(SERVICE))
        ip = str(service()["spec"]["clusterIP"])
        with users(folder / "requests.jsonl", host=f"{WHARF}.test", cluster_ip=ip) as record:
            world = World(stack, sample, record, WHARF)
            world.wait_served(1)
            yield world
    kubectl("delete", "namespace", WHARF, "--wait=false")


def service() -> dict[str, Any]:
    """Return the team's Service as it stands."""
    found: dict[str, Any] = json.loads(kubectl("-n", WHARF, "get", "service", WHARF, "-o", "json"))
    return found


def test_first_versions_behind_a_service_without_pods_roll_back_if_bad_and_serve_if_good(world: World) -> None:
    bad = Deployment(world, world.sample.bad)
    said = bad.ended()
    candidate = said["candidate"]
    assert (bad.state, said["state"], said["stable"]) == ("failed", "ROLLED_BACK", "")
    assert re.search(r"error_rate: [\d,]+ of [\d,]+ requests failed \(limit ", said["judgements"]["watch"]["reason"])
    assert "; rolled back to no traffic, as before in " in said["reason"]
    assert (service()["spec"]["selector"], world.replicas(candidate)) == (MATCH_NO_POD, 0)
    served = [request.sent for request in bad.requests() if request.version == candidate]
    assert served
    assert max(served) < unix(said["restored_at"]) + 2
    assert {request.version for request in world.requests() if request.sent < min(served)} == {""}
    # It would lower the confidence in the next, so that a person were asked.
    shutil.rmtree(bad.folder)

    good = Deployment(world, world.sample.good)
    said = good.ended()
    first = said["candidate"]
    assert (good.state, said["state"], said["stable"]) == ("success", "VERIFIED", "")
    assert (service()["spec"]["selector"], world.replicas(first)) == ({VERSION: first}, 2)
    served = [request.sent for request in good.requests() if request.version == first]
    after = [request for request in good.requests() if request.sent > min(served) + 1]
    assert {(request.version, request.failed) for request in after} == {(first, False)}
