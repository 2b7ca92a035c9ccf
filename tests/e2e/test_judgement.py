"""The judge's verdict on each kind of fault on the real stack, and the harm to its users until then.

All of it happens to one service, which is not the one that the other lane's tests take turns on.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.e2e.deployment import RESTORED_WITHIN, Deployment, afresh, forget
from tests.e2e.trail import states, transitions, unix
from tests.e2e.world import SMALL, World, served
from tests.stack import StackInfo, prometheus
from tests.stack.access import kubectl
from tests.stack.api import AirflowApi
from tests.stack.layout import ADDRESS
from tests.stack.load import Request, read
from tests.stack.processes import end, recorded, wait_until
from tests.stack.service import declare
from tests.stack.traffic import users

KIOSK = "kiosk"
HOST = f"{KIOSK}.test"
STAGES: dict[str, Any] = {"stages": [50, 100], "criticality": "medium"}
GATES = {"error_rate": 0.01, "latency_p95": 0.25, "latency_p99": 1.0}
MAX_BLIND = 20
OUTAGE = 60
"""Seconds that an outage lasts."""
TOO_MUCH = 1_000_000_000
"""Cents that the ledger books for no version."""
ASIDE, PORT = "prometheus-aside", 9099
URL = f"http://{ADDRESS}:{PORT}"


@pytest.fixture(scope="module")
def kiosk(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a service that does well, and whose first stage lasts until a fault that comes late has come."""
    with served(
        stack,
        KIOSK,
        tmp_path_factory.mktemp(KIOSK),
        commit="good",
        bake=120,
        **STAGES,
        gates={**GATES, "cpu_saturation": 0.4, "memory": 0.4},
        blindness={"max_blind": MAX_BLIND, "then": "rollback"},
        branches=["main", "screening", "receipts", "journal", "session"],
    ) as world:
        yield world


@pytest.fixture
def world(kiosk: World) -> World:
    return afresh(kiosk)


def test_a_fix_that_delays_a_fifth_of_the_requests_is_rolled_back(world: World) -> None:
    deployment = Deployment(world, world.sample.slow)
    deployment.rolled_back("BREACHED", "latency_p95")
    assert deployment.failed() == []
    # Each answer of the screening's takes 320 ms at least; what takes so long without it is the machine's doing.
    by_candidate, by_others = (share_of(answers, slower=0.3) for answers in deployment.answers())
    assert by_candidate > 0.1
    assert by_others < 0.05


def test_a_memory_leak_is_rolled_back_before_its_pods_are_killed(world: World) -> None:
    deployment = Deployment(world, world.sample.leak)
    deployment.rolled_back("BREACHED", "memory")
    assert deployment.failed() == []


def test_a_fix_that_saturates_its_cpu_is_rolled_back(world: World) -> None:
    deployment = Deployment(world, world.sample.burn)
    deployment.rolled_back("BREACHED", "cpu_saturation")
    assert deployment.failed() == []


def test_a_fix_whose_pods_crash_after_30_s_is_rolled_back(world: World) -> None:
    deployment = Deployment(world, world.sample.crash)
    # Whichever is seen first: the failures, or that no pod is left.
    deployment.rolled_back("BREACHED", "error_rate", "ready_pods")
    by_candidate, _ = deployment.answers()
    failed = deployment.failed()
    # The gateway answered the requests to a pod that had just died, without a version.
    assert {request.version for request in failed} == {""}
    assert min(request.sent for request in failed) - by_candidate[0].sent > 29
    assert max(request.sent for request in failed) < unix(deployment.summary["verdict_at"]) + RESTORED_WITHIN


@contextmanager
def bypass(world: World) -> Iterator[None]:
    """Route all users past the route that is shifted, by another route whose matches are more specific.

    The gateway's counters of it begin with the same words.
    """
    (stable,) = (name for name, weight in world.weights().items() if weight)
    rule = {
        "matches": [{"path": {"type": "Exact", "value": "/payments"}}],
        "backendRefs": [{"name": stable, "port": 80}],
    }
    route = json.loads(kubectl("-n", KIOSK, "get", "httproute", KIOSK, "-o", "json"))
    other = {
        "apiVersion": route["apiVersion"],
        "kind": "HTTPRoute",
        "metadata": {"name": f"{KIOSK}-direct", "namespace": KIOSK},
        "spec": {**route["spec"], "rules": [rule]},
    }
    kubectl("apply", "-f", "-", stdin=json.dumps(other))
    try:
        yield
    finally:
        kubectl("-n", KIOSK, "delete", "httproute", f"{KIOSK}-direct")


def test_a_candidate_that_gets_no_requests_is_held_and_rolled_back_as_blind(world: World) -> None:
    with bypass(world):
        deployment = Deployment(world, world.sample.good)
        deployment.rolled_back("BLIND", "request_rate")
    said = deployment.summary
    assert unix(said["restored_at"]) - unix(said["first_exposed_at"]) > MAX_BLIND
    assert "CANARY_EVALUATING" not in states(deployment.folder)
    assert deployment.answers()[0] == []
    assert deployment.failed() == []


@pytest.fixture(scope="module")
def aside(kiosk: World) -> Iterator[Callable[[], None]]:
    """Give the service short stages, and a Prometheus of its own, so that no other service is blind without it.

    The value starts that Prometheus again.
    """
    admin = AirflowApi(kiosk.info, "admin")
    connection = {"connection_id": ASIDE, "conn_type": "prometheus", "host": URL}
    admin.request("POST", "connections", **connection).raise_for_status()

    def start() -> None:
        prometheus.start(ASIDE, PORT)
        assert wait_until(lambda: prometheus.ready(URL), 60)

    def scraped() -> bool:
        asked = {"query": f'traefik_service_requests_total{{service=~".*-{KIOSK}-.*"}}'}
        found = requests.get(f"{URL}/api/v1/query", params=asked, timeout=10).json()
        return bool(found["data"]["result"])

    start()
    kiosk.until(scraped, "it has scraped the gateway")
    gates = {**GATES, "error_rate": 0.2}
    asked: dict[str, Any] = {**STAGES, "resources": SMALL, "gates": gates, "connections": {"prometheus": ASIDE}}
    declare(kiosk.info, kiosk.sample, KIOSK, bake=5, **asked)
    kiosk.api.await_read(kiosk.dag)
    yield start
    forget(kiosk.info, KIOSK)  # the verification would go on looking, and there is nothing to look at any more
    end(recorded()[ASIDE])
    admin.request("DELETE", f"connections/{ASIDE}").raise_for_status()


@pytest.mark.usefixtures("aside")
def test_an_outage_of_both_versions_holds_the_canary_and_rolls_nothing_back(world: World, tmp_path: Path) -> None:
    """For a minute, a fourth of the payments is more than the ledger books, whichever version asks it to."""
    deployment = Deployment(world, world.sample.good)
    world.until(lambda: world.tasks(deployment.run)["apply_manifest"] == "success", "the candidate is applied")
    # Evenly, they would fall in step with the other users, and all be one version's for a second at a time.
    with users(tmp_path / "outage.jsonl", rate=17, host=HOST, amount=TOO_MUCH, at_random=True) as record:
        world.until(lambda: (r := read(record)) and r[-1].sent - r[0].sent >= OUTAGE, "the outage is over", 2 * OUTAGE)
    outage = read(record)
    deployment.verified()
    said = deployment.summary
    assert {request.status for request in outage} == {500}
    assert len({request.version for request in outage}) == 2
    shared = [step for step in transitions(deployment.folder) if step["to"] == "CANARY_EVALUATING"]
    assert unix(shared[0]["at"]) > outage[-1].sent, "no share was given while the candidate failed more than it may"
    assert said["judgements"]["watch"]["verdict"] == "CLOSED"
    assert deployment.failed() == []


def test_a_canary_holds_while_prometheus_is_away_and_then_goes_on(world: World, aside: Callable[[], None]) -> None:
    deployment = Deployment(world, world.sample.good)
    candidate = deployment.exposed()
    end(recorded()[ASIDE])
    stopped = time.time()
    world.until(lambda: time.time() - stopped >= OUTAGE, "Prometheus was away for a minute")
    assert world.weights()[candidate] == 50
    restarted = time.time()
    aside()
    deployment.verified()
    moved = [unix(step["at"]) for step in transitions(deployment.folder) if step["to"] != "CANARY_WAITING"]
    assert [moment for moment in moved if stopped < moment < restarted] == []
    assert deployment.failed() == []


def share_of(answers: list[Request], slower: float) -> float:
    """Return which part of the answers took more seconds than that."""
    return sum(request.latency > slower for request in answers) / len(answers)
