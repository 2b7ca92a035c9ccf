"""After the promotion, on the real stack: the scheduled DAG rolls back bad promotions only."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
import requests

from tests.e2e.test_versions import AUTOSCALER
from tests.e2e.trail import audited, check_consistent, states, summary, transitions
from tests.e2e.world import INCIDENT, World
from tests.stack.access import kubectl
from tests.stack.airflow import install_deployments
from tests.stack.layout import DAGS
from tests.stack.processes import recorded

DAG = "verify_deployments"

BY_HAND = """
from airflow_deploy.factory.verification import verification_dag

dag = verification_dag(schedule=None, limit={limit})
dag.tags.add("limit {limit}")
"""


pytestmark = pytest.mark.served(stages=[50, 100], criticality="medium")


@pytest.fixture(autouse=True)
def _by_hand(world: World) -> Iterator[None]:
    verified_by_hand(world, limit=3)
    yield
    install_deployments([])


def verified_by_hand(world: World, limit: int) -> None:
    """Let the verification look only when it is told to, and wait until Airflow has read that."""
    (DAGS / "verification.py").write_text(BY_HAND.format(limit=limit))

    def read() -> bool:
        (DAGS / "verification.py").touch()  # what changes while it is being read would be missed
        return f"limit {limit}" in {tag["name"] for tag in world.api.get(f"dags/{DAG}")["tags"]}

    world.until(read, "Airflow reads the verification DAG")


def verify(world: World) -> tuple[str, str]:
    """Let the verification look once; return how that ended and what it said of the service."""
    run = world.api.trigger(DAG, {})
    world.until(lambda: world.api.run_state(DAG, run) in ("success", "failed"), "the pass ends")
    lines = world.api.log(DAG, run, "check")
    return verdict(world, run), "\n".join(line for line in lines if world.service in line)


def verdict(world: World, run: str) -> str:
    """Return how a pass ended, without the services of other tests that it may have tidied up."""
    return "success" if world.api.task_states(DAG, run)["report"] == "success" else "failed"


@contextmanager
def frozen(part: str) -> Iterator[None]:
    """Stop a server of the stack, as a machine does that swaps."""
    process = recorded()[part]
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


def pay_in_yen(world: World) -> None:
    """Send what makes the late fix fail from then on: often enough for each of its two pods."""
    for _ in range(40):
        body = {"amount": 1205, "currency": "JPY"}
        url = f"{world.info.gateway_url}/payments"
        assert requests.post(url, json=body, headers={"Host": f"{world.service}.test"}, timeout=10).ok


@pytest.fixture
def least(world: World) -> Iterator[Callable[[], int]]:
    """Give the team's own Deployment an autoscaler that would leave it one pod; return how to read its minimum."""
    where = {"name": world.service, "namespace": world.service}
    spec = {**AUTOSCALER["spec"], "scaleTargetRef": {**AUTOSCALER["spec"]["scaleTargetRef"], "name": world.service}}
    kubectl("apply", "-f", "-", stdin=json.dumps({**AUTOSCALER, "metadata": where, "spec": spec}))
    of = "-n", world.service, "get", "hpa", world.service, "-o", "jsonpath={.spec.minReplicas}"
    yield lambda: int(kubectl(*of))
    kubectl("-n", world.service, "delete", "hpa", world.service)


def test_a_fix_that_turns_bad_after_its_promotion_is_rolled_back(world: World, least: Callable[[], int]) -> None:
    team = world.replicas(world.service)
    run = world.deploy(world.sample.late)
    assert world.ended(run) == "success"
    folder = audited(world, run)
    candidate = summary(folder)["candidate"]
    promoted = {"payments": 0, candidate: 100}
    ended, said = verify(world)
    assert ended == "success"
    assert "HEALTHY" in said
    assert least() == team > 1, "the stable keeps its pods until the verification"

    verified_by_hand(world, limit=0)
    pay_in_yen(world)
    world.until(lambda: sum(request.failed for request in world.requests()) >= 30, "users are harmed")
    with frozen("prometheus"):
        ended, said = verify(world)
    assert (ended, world.weights()) == ("success", promoted)
    assert "BLIND" in said

    while "BLIND" in said:  # until Prometheus has scraped again
        ended, said = verify(world)
    assert (ended, world.weights()) == ("failed", promoted)
    assert "1 of them breach, and at most 0 may" in said

    began = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    install_deployments([])
    world.until(lambda: world.weights() == {"payments": 100, candidate: 0}, "the scheduled pass rolls it back", 120)
    world.until(lambda: states(folder)[-1] == "ROLLED_BACK", "the artifacts say so")
    assert states(folder)[-4:] == ["VERIFYING", "VERIFIED", "ROLLING_BACK", "ROLLED_BACK"]
    check_consistent(folder)
    assert "error_rate" in summary(folder)["reason"] or "error_rate" in transitions(folder)[-2]["reason"]
    assert summary(folder)["verdict_at"] <= summary(folder)["restored_at"]
    assert (world.replicas(candidate), world.replicas(world.service)) == (0, team)
    world.until(lambda: least() == 1, "the autoscaler is let go")
    # The rollback lost no request: every failed one was answered by the fix.
    assert {request.version for request in world.requests() if request.failed} == {candidate}
    asked = f"dags/{DAG}/dagRuns?run_type=scheduled&state=failed&run_after_gte={began}"

    def failed() -> list[str]:
        runs = [run["dag_run_id"] for run in world.api.get(asked)["dag_runs"]]
        return [run for run in runs if verdict(world, run) == "failed"]

    world.until(lambda: len(failed()) == 1, "the pass ends as failed, so that alerts work")


def test_verification_spares_a_live_run_and_rolls_back_a_fix_whose_incident_returns(world: World) -> None:
    run = world.deploy(world.sample.good, incident=INCIDENT)
    assert world.ended(run) == "success"
    folder = audited(world, run)
    candidate = summary(folder)["candidate"]

    later = world.deploy(world.sample.late)
    world.until(lambda: world.weights()[candidate] < 100, "the next fix has traffic")
    before = world.weights()
    with partners(world):
        ended, said = verify(world)
        assert (ended, world.weights()) == ("success", before)
        assert "a run of deploy_payments is under way" in said
        world.api.end_run("deploy_payments", later)
        world.until(lambda: world.tasks(later)["finalize"] == "failed", "the next fix is rolled back")
        assert world.weights()[candidate] == 100

        # The next fix has left a route that no longer names the version before this one.
        world.until(lambda: verify(world)[0] == "failed", "the incident was back for a minute", 120)
    assert world.weights() == {"payments": 100, candidate: 0}
    assert states(folder)[-3:] == ["VERIFIED", "ROLLING_BACK", "ROLLED_BACK"]
    assert "the incident is back" in transitions(folder)[-2]["reason"]
    check_consistent(folder)
    assert [request for request in world.requests() if request.failed] == []


@contextmanager
def partners(world: World) -> Iterator[None]:
    """Ask the gateway, ten times a second, for what it does not know."""
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.1):
            requests.get(world.info.gateway_url, headers={"Host": "partners.test"}, timeout=10)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield
    finally:
        over.set()
        asking.join()
