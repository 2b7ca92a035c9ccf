"""The life of a version on the real stack: warm, then stopped, then deleted, while no user notices."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.trail import audited, summary
from tests.e2e.world import SMALL, World
from tests.stack import StackInfo
from tests.stack.access import kubectl
from tests.stack.layout import DAGS
from tests.stack.service import serve
from tests.stack.traffic import users

BAZAAR = "bazaar"
WINDOW = 60
DAG = "tidy_up"
BY_HAND = f"""
from airflow.sdk import DAG

from airflow_deploy.operators.tidy import TidyVersionsOperator

with DAG("{DAG}", schedule=None, is_paused_upon_creation=False) as dag:
    TidyVersionsOperator(task_id="tidy", retries=0)
"""
"""The scheduled DAG's own task, so that a test need not wait for the minute: it runs beside that one."""


@pytest.fixture
def world(stack: StackInfo, tmp_path: Path) -> Iterator[World]:
    World.end_runs(stack, BAZAAR)
    asked = {"stages": (100,), "criticality": "medium", "rollback": {"window": f"{WINDOW}s", "keep": 1}}
    sample = serve(stack, BAZAAR, commit="good", bake=5, max_bake=120, resources=SMALL, **asked)
    with users(tmp_path / "requests.jsonl", host=f"{BAZAAR}.test") as record:
        world = World(stack, sample, record, BAZAAR)
        world.wait_served(10)
        yield world
    kubectl("delete", "namespace", BAZAAR, "--wait=false")


@pytest.fixture
def tidy(world: World) -> Iterator[Callable[[], str]]:
    """Tidy up once; return how that ended and what was said of the service."""
    file = DAGS / "tidy_up.py"
    file.write_text(BY_HAND)

    def read() -> bool:
        file.touch()  # what changes while it is being read would be missed
        return world.api.has_dag(DAG)

    def once() -> str:
        run = world.api.trigger(DAG, {})
        world.until(lambda: world.api.run_state(DAG, run) in ("success", "failed"), "it is tidied up")
        said = [line for line in world.api.log(DAG, run, "tidy") if line.split()[:1] == [BAZAAR]]
        return f"{world.api.run_state(DAG, run)}: {' '.join(said)}"

    world.until(read, "Airflow reads the DAG")
    yield once
    file.unlink()


def verified(world: World) -> tuple[str, float]:
    """Deploy once more; return the version's name and when it was verified."""
    run = world.deploy(world.sample.good)
    assert world.ended(run) == "success"
    said = summary(audited(world, run))
    return said["candidate"], datetime.fromisoformat(said["ended_at"]).timestamp()


def objects_of(world: World, version: str) -> set[str]:
    return {name.partition(".")[0].partition("/")[0] for name in world.objects() if name.endswith(f"/{version}")}


def test_a_version_stays_warm_is_stopped_and_is_deleted_and_no_request_is_lost(
    world: World, tidy: Callable[[], str]
) -> None:
    mine = {"deployment", "service", "configmap", "networkpolicy", "poddisruptionbudget"}
    first, _ = verified(world)
    second, since = verified(world)
    assert f"{world.service}" in tidy()
    assert (world.replicas(first), world.replicas(second)) == (2, 2)

    def stopped() -> bool:
        tidy()
        return world.replicas(first) == 0

    world.until(stopped, "the version before is stopped", WINDOW + 60)
    marked = json.loads(kubectl("-n", BAZAAR, "get", "httproute", BAZAAR, "-o", "json"))["metadata"]
    written = [entry for entry in marked["managedFields"] if entry["manager"] == "airflow-deploy"]
    assert min(datetime.fromisoformat(entry["time"]).timestamp() for entry in written) >= since + WINDOW - 1
    assert marked["annotations"]["airflow-deploy/stopped"] == first
    assert world.weights() == {first: 0, second: 100}
    assert objects_of(world, first) == mine

    # Nobody needs a claim to see that a person's change is found.
    change = '{"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 31}}}}'
    kubectl("-n", BAZAAR, "patch", "deployment", first, "-p", change)
    assert tidy().startswith("success")
    kubectl("-n", BAZAAR, "patch", "deployment", second, "-p", change)
    said = tidy()
    assert said.startswith("failed")
    assert f"{second} is not as it was applied: Deployment.spec.template.spec.terminationGracePeriodSeconds" in said

    third, _ = verified(world)
    world.until(lambda: tidy() and not objects_of(world, first), "the version beyond those kept is deleted", 60)
    assert (objects_of(world, second), objects_of(world, third)) == (mine, mine)
    assert (world.replicas(second), world.replicas(third)) == (2, 2)
    # What the team had before us is as it was.
    assert world.replicas(BAZAAR) == json.loads(
        kubectl("-n", BAZAAR, "get", "deployment", BAZAAR, "-o", "jsonpath={.status.readyReplicas}")
    )
    assert [request for request in world.requests() if request.failed] == []
