"""Judged by the application's own counters, as any Prometheus finds them that knows pods by their Service."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.trail import audited, check_consistent, summary
from tests.e2e.world import World, served
from tests.stack import StackInfo, prometheus
from tests.stack.access import kubectl
from tests.stack.api import AirflowApi
from tests.stack.errors import StackError
from tests.stack.layout import ADDRESS
from tests.stack.processes import end, wait_until

METER, PORT = "meter", 9098
URL = f"http://{ADDRESS}:{PORT}"


def pods_by_service() -> list[dict[str, Any]]:
    """Return the pods behind the namespace's Services, as Prometheus reads them from a file."""
    slices = json.loads(kubectl("-n", METER, "get", "endpointslices", "-o", "json"))["items"]
    return [
        {
            "targets": [f"{endpoint['addresses'][0]}:{found['ports'][0]['port']}"],
            "labels": {"namespace": METER, "service": found["metadata"]["labels"]["kubernetes.io/service-name"]},
        }
        for found in slices
        for endpoint in found.get("endpoints") or []
    ]


@contextmanager
def discovered(targets: Path) -> Iterator[None]:
    """Do what Prometheus does by itself where it is built with Kubernetes' service discovery. Debian's is not."""
    over = threading.Event()

    def discover() -> None:
        while not over.wait(1):
            with suppress(StackError):  # the API server is busy, or the namespace is about to go
                written = targets.with_suffix(".new")
                written.write_text(json.dumps(pods_by_service()))
                written.replace(targets)

    targets.write_text("[]")
    thread = threading.Thread(target=discover)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def by_service(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return the connection of a Prometheus that knows nothing of the gateway."""
    admin = AirflowApi(stack, "admin")
    connection = {"connection_id": METER, "conn_type": "prometheus", "host": URL}
    admin.request("DELETE", f"connections/{METER}")
    admin.request("POST", "connections", **connection).raise_for_status()
    with discovered(targets := tmp_path_factory.mktemp("targets") / "services.json"):
        process = prometheus.start(METER, PORT, targets)
        try:
            assert wait_until(lambda: prometheus.ready(URL), 60), process.log_tail()
            yield METER
        finally:
            end(process)
    admin.request("DELETE", f"connections/{METER}").raise_for_status()


@pytest.fixture(scope="module")
def world(stack: StackInfo, by_service: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    declared: dict[str, Any] = {
        "commit": "good",
        "stages": [50, 100],
        "criticality": "medium",
        "bake": 5,
        "metrics": "application",
        "connections": {"prometheus": by_service},
    }
    with served(stack, METER, tmp_path_factory.mktemp(METER), **declared) as world:
        yield world


def test_a_bad_fix_is_taken_back_by_the_applications_counters(world: World) -> None:
    run = world.deploy(world.sample.bad)
    assert world.ended(run) == "failed"
    check_consistent(folder := audited(world, run))
    said = summary(folder)
    assert said["state"] == "ROLLED_BACK"
    assert said["judgements"]["watch"]["reason"].startswith("error_rate: worse than the stable")
    mine = [request for request in world.requests() if request.version == said["candidate"]]
    assert 0 < said["judgements"]["watch"]["numbers"]["errors"] <= sum(request.failed for request in mine)
