"""Deployments settle, whatever dies: the triggerer in every state, and at 25 % of the traffic every component.

All of it is one pass over nine services: the whole matrix is `make chaos`.
"""

import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.bench.chaos import run_row
from tests.bench.held import Fleet, fleet
from tests.bench.matrix import DEATHS
from tests.stack import StackInfo
from tests.stack.failures import COMPONENTS
from tests.stack.processes import wait_until

COLUMN = "CANARY 25 %"
AWAY = 5.0
"""Seconds: every other component is away for less long than in the matrix, for all of them take their turn."""
ASIDE = ("triggerer", "airflow")


@pytest.fixture(scope="module")
def held(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(stack, tmp_path_factory.mktemp("held")) as found:
        yield found


def said(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def test_every_deployment_settles_whose_triggerer_dies(held: Fleet) -> None:
    rows = run_row(held, "triggerer", said)
    assert {row.state: row.broken for row in rows} == {row.state: [] for row in rows}


def test_a_share_of_25_percent_outlives_each_component_and_is_taken_back_without_airflow(held: Fleet) -> None:
    one = next(one for one in held.held if one.state == COLUMN)
    held.reset()
    held.hold(said, [one])
    shared = held.weights(one)
    for component in [name for name in COMPONENTS if name not in ASIDE]:
        said(f"killing {component}")
        COMPONENTS[component].kill()
        time.sleep(AWAY)
        COMPONENTS[component].bring_back()
        assert wait_until(partial(held.looked, one, time.time()), DEATHS[component].unwatched), component
        assert held.weights(one) == shared, component
    killed_at = time.time()
    COMPONENTS["airflow"].kill()
    assert wait_until(lambda: held.weights(one)[one.candidate] == 0, DEATHS["airflow"].unwatched), "the guard"
    COMPONENTS["airflow"].bring_back()
    held.release()
    held.wait_ended(said, [one])
    row = held.outcome(one, "airflow", killed_at)
    assert row.broken == []
