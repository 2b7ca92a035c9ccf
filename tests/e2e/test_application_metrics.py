"""Judged by the application's own counters, as any Prometheus finds them that knows pods by their Service."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.counted import by_service, counted
from tests.e2e.trail import audited, check_consistent, summary
from tests.e2e.world import World, served
from tests.stack import StackInfo

METER, PORT = "meter", 9098


@pytest.fixture(scope="module")
def world(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(METER)
    with counted(stack, METER, PORT, folder, by_service) as connection:
        declared: dict[str, Any] = {
            "commit": "good",
            "stages": [50, 100],
            "criticality": "medium",
            "bake": 5,
            "metrics": "application",
            "connections": {"prometheus": connection},
        }
        with served(stack, METER, folder, **declared) as world:
            yield world


def test_application_metrics_roll_back_a_bad_fix(world: World) -> None:
    run = world.deploy(world.sample.bad)
    assert world.ended(run) == "failed"
    check_consistent(folder := audited(world, run))
    said = summary(folder)
    assert said["state"] == "ROLLED_BACK"
    assert re.match(r"error_rate: [\d,]+ of [\d,]+ requests failed \(stable ", said["judgements"]["watch"]["reason"])
    mine = [request for request in world.requests() if request.version == said["candidate"]]
    assert 0 < said["judgements"]["watch"]["numbers"]["errors"] <= sum(request.failed for request in mine)
