"""The stack, shared by all end-to-end tests: started unless it is up, and ended only if it was started here."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.deployment import forget, share_of_team
from tests.e2e.world import REFUSING, SMALL, World
from tests.stack import StackInfo
from tests.stack.access import kubectl
from tests.stack.errors import StackError
from tests.stack.layout import CHECKOUT, INFO
from tests.stack.processes import recorded
from tests.stack.sample.repository import Sample
from tests.stack.service import PAYMENTS, serve
from tests.stack.traffic import users


def _stack(command: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}  # tests bring their own cluster
    subprocess.run([sys.executable, "-m", "tests.stack", command], cwd=CHECKOUT, env=env, check=True)


@pytest.fixture(scope="session")
def stack(capfd_disabled: Callable[[], None]) -> Iterator[StackInfo]:
    """Return the running stack."""
    capfd_disabled()
    ours = not INFO.exists()
    # If a part has died, `up` would restart everything during the tests of the other lane.
    if not ours and (dead := [name for name, process in recorded().items() if not process.alive()]):
        raise StackError(f"{', '.join(dead)} of the stack died: look at the logs, then run `make down`")
    try:
        if ours:
            _stack("up")
        yield StackInfo.load()
    finally:
        if ours:
            _stack("down")


@pytest.fixture(scope="session")
def capfd_disabled(request: pytest.FixtureRequest) -> Callable[[], None]:
    """Let the stack's progress through to the terminal: its start takes a minute, the first one several."""
    manager = request.config.pluginmanager.getplugin("capturemanager")
    return lambda: manager.suspend_global_capture(in_=True)


@pytest.fixture(scope="session")
def team(stack: StackInfo) -> Callable[..., Sample]:
    """Return what brings up the payment service as its team runs it, under the YAML's fields that it is given.

    What is there from the test before is kept if that had no other fields, and the team's version has the traffic.
    """
    running: Sample | None = None

    def bring_up(**declared: Any) -> Sample:
        nonlocal running
        World.end_runs(stack)
        if running and not declared and share_of_team(PAYMENTS) == 100:
            forget(stack, PAYMENTS)
            return running
        sample = serve(stack, **{"bake": 5, "max_bake": 240, "resources": SMALL, **declared})
        running = None if declared else sample
        return sample

    return bring_up


@pytest.fixture
def world(
    stack: StackInfo, team: Callable[..., Sample], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[World]:
    """Return the payment service as its team runs it, under traffic; the mark ``served`` changes what its YAML says."""
    asked = request.node.get_closest_marker("served")
    sample = team(**(asked.kwargs if asked else {}))
    with users(tmp_path / "requests.jsonl") as record:
        world = World(stack, sample, record)
        world.wait_served(10)
        yield world


@pytest.fixture(scope="module")
def refusing(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Return a service without traffic: what is refused needs none."""
    sample = serve(stack, REFUSING, resources=SMALL)
    yield World(stack, sample, tmp_path_factory.mktemp(REFUSING) / "requests.jsonl", REFUSING)
    kubectl("delete", "namespace", REFUSING, "--wait=false")
