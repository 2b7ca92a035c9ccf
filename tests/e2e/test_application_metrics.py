"""Judged by the application's own counters, as any Prometheus finds them that knows pods by their Service."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.trail import audited, check_consistent, summary
from tests.e2e.world import SMALL, World
from tests.stack import StackInfo, prometheus
from tests.stack.access import kubectl
from tests.stack.api import AirflowApi
from tests.stack.layout import ADDRESS
from tests.stack.processes import end, recorded, wait_until
from tests.stack.service import serve
from tests.stack.traffic import users

METER, PORT = "meter", 9098
URL = f"http://{ADDRESS}:{PORT}"


@pytest.fixture(scope="module")
def by_service(stack: StackInfo) -> Iterator[str]:
    """Return the connection of a Prometheus that knows nothing of the gateway."""
    admin = AirflowApi(stack, "admin")
    connection = {"connection_id": METER, "conn_type": "prometheus", "host": URL}
    admin.request("DELETE", f"connections/{METER}")
    admin.request("POST", "connections", **connection).raise_for_status()
    prometheus.start(METER, PORT, services_of=METER)
    assert wait_until(lambda: prometheus.ready(URL), 60)
    yield METER
    end(recorded()[METER])
    admin.request("DELETE", f"connections/{METER}").raise_for_status()


@pytest.fixture(scope="module")
def world(stack: StackInfo, by_service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    World.end_runs(stack, METER)
    declared: dict[str, Any] = {
        "stages": [50, 100],
        "criticality": "medium",
        "resources": SMALL,
        "bake": 5,
        "max_bake": 240,
        "metrics": "application",
        "connections": {"prometheus": by_service},
    }
    sample = serve(stack, METER, **declared)
    kubectl("apply", "--server-side", "-f", "-", stdin=prometheus.rights(METER))
    with users(tmp_path_factory.mktemp(METER) / "requests.jsonl", host=f"{METER}.test") as record:
        world = World(stack, sample, record, METER)
        world.wait_served(10)
        yield world
    kubectl("delete", "namespace", METER, "--wait=false")


def test_a_bad_fix_is_taken_back_and_a_good_one_promoted_by_the_applications_counters(world: World) -> None:
    run = world.deploy(world.sample.bad)
    assert world.ended(run) == "failed"
    check_consistent(folder := audited(world, run))
    said = summary(folder)
    assert said["state"] == "ROLLED_BACK"
    assert "error_rate" in said["judgements"]["watch"]["reason"]
    mine = [request for request in world.requests() if request.version == said["candidate"]]
    assert said["judgements"]["watch"]["numbers"]["errors"] <= sum(request.failed for request in mine)

    run = world.deploy(world.sample.good)
    assert world.ended(run) == "success"
    assert summary(audited(world, run))["state"] == "VERIFIED"
