"""A service's first version on the real stack: judged by its limits alone, and rolled back to no traffic.

Its users come before it does: what they get until then is the gateway's own answer.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.deployment import Deployment, afresh
from tests.e2e.trail import states, unix
from tests.e2e.world import SMALL, World
from tests.stack import StackInfo
from tests.stack.access import kubectl
from tests.stack.cluster import Cluster
from tests.stack.service import ground
from tests.stack.traffic import users

DEBUT = "debut"
SHOWN = {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}]}
MOVED = {
    "matches": [{"path": {"type": "PathPrefix", "value": "/moved"}}],
    "filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 301, "hostname": "elsewhere.test"}}],
}
"""A rule that answers by itself, and may name no Service."""


def gateway() -> dict[str, str]:
    namespace, _, name = Cluster.load().gateway.partition("/")
    return {"namespace": namespace, "name": name}


@pytest.fixture(scope="module")
def debut(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    World.end_runs(stack, DEBUT)
    asked: dict[str, Any] = {"stages": (50, 100), "criticality": "low", "bake": 5, "max_bake": 120, "resources": SMALL}
    where = {"name": DEBUT, "gateway": gateway(), "hostnames": [f"{DEBUT}.test"]}
    sample = ground(stack, DEBUT, **asked, route=where)
    with users(tmp_path_factory.mktemp(DEBUT) / "requests.jsonl", host=f"{DEBUT}.test") as record:
        world = World(stack, sample, record, DEBUT)
        world.wait_served(1)
        yield world
    kubectl("delete", "namespace", DEBUT, "--wait=false")


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(kubectl("-n", DEBUT, "get", "httproute", DEBUT, "-o", "json"))["spec"][
        "rules"
    ]
    return found


def test_a_bad_first_version_behind_an_empty_route_is_rolled_back_to_no_traffic(debut: World) -> None:
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": DEBUT, "namespace": DEBUT},
        "spec": {"hostnames": [f"{DEBUT}.test"], "parentRefs": [gateway()], "rules": [SHOWN, MOVED]},
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(route))
    moved = rules()[1]
    deployment = Deployment(debut, debut.sample.bad)
    candidate = deployment.exposed()
    said = deployment.ended()
    assert (deployment.state, said["state"], said["stable"]) == ("failed", "ROLLED_BACK", "")
    assert states(deployment.folder)[-2:] == ["ROLLING_BACK", "ROLLED_BACK"]
    watch = said["judgements"]["watch"]
    assert watch["verdict"] == "BREACHED"
    assert re.search(r"requests failed \(limit ", watch["reason"])
    assert "; rolled back to no traffic, as before in " in said["reason"]
    assert (debut.weights(), debut.replicas(candidate)) == ({candidate: 0}, 0)
    assert rules()[1] == moved
    served = [request.sent for request in deployment.requests() if request.version == candidate]
    assert served
    assert max(served) < unix(said["restored_at"]) + 2
    before = {request.version for request in debut.requests() if request.sent < min(served)}
    assert before == {""}


def test_a_good_first_version_without_a_route_gets_a_route_and_all_traffic(debut: World) -> None:
    afresh(debut)
    kubectl("-n", DEBUT, "delete", "httproute", DEBUT)
    deployment = Deployment(debut, debut.sample.good)
    said = deployment.ended()
    first = said["candidate"]
    assert (deployment.state, said["state"], said["stable"]) == ("success", "VERIFIED", "")
    assert states(deployment.folder)[-4:] == ["PROMOTING", "PROMOTED", "VERIFYING", "VERIFIED"]
    assert debut.weights() == {first: 100}
    served = min(request.sent for request in deployment.requests() if request.version == first)
    after = [request for request in deployment.requests() if request.sent > served + 1]
    assert after
    assert {request.version for request in after} == {first}
    assert not [request for request in after if request.failed]
    # The next deployment finds an ordinary stable.
    run = debut.deploy(debut.sample.good)
    assert debut.plan(run)["stable"] == first
    World.end_runs(debut.info, DEBUT)
