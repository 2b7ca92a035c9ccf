"""Deployments settle, whatever dies: all triggerers in each state, and every component at 25 % of the traffic.

All of it is one pass, for it takes minutes; the whole matrix is `make chaos`. It needs the stack for itself, and so it
is run by hand: `pytest -s tests/e2e/test_chaos.py`.
"""

import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.bench.held import Fleet, Held, fleet
from tests.bench.matrix import BACK, DEATHS, EITHER, GUARDED, Row
from tests.stack import StackInfo
from tests.stack.failures import COMPONENTS
from tests.stack.processes import wait_until

COLUMN = "CANARY 25 %"
AWAY = 5.0
"""Seconds for which a component is away that takes its turn while the column is held."""


@pytest.fixture(scope="module")
def held(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(stack, tmp_path_factory.mktemp("held")) as found:
        yield found


def said(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def test_every_deployment_settles_whatever_dies(held: Fleet) -> None:
    one = next(one for one in held.held if one.state == COLUMN)
    held.reset()
    held.hold(said)
    shared = held.weights(one)
    killed_at = time.time()
    COMPONENTS["triggerer"].kill()
    held.release(but=[one])
    time.sleep(DEATHS["triggerer"].away)
    COMPONENTS["triggerer"].bring_back()
    is_watched(held, one, "triggerer", shared)

    for component in [name for name in COMPONENTS if name not in ("triggerer", "airflow")]:
        said(f"killing {component}")
        COMPONENTS[component].kill()
        time.sleep(AWAY)
        COMPONENTS[component].bring_back()
        is_watched(held, one, component, shared)

    said("killing all of Airflow")
    COMPONENTS["airflow"].kill()
    assert wait_until(lambda: held.weights(one)[one.candidate] == 0, GUARDED), "the guard takes the traffic back"
    COMPONENTS["airflow"].bring_back()
    held.release()
    held.wait_ended(said)
    rows = [held.outcome(each, "triggerer", killed_at) for each in held.held]
    assert [row for row in rows if not is_settled(row)] == []


def is_watched(held: Fleet, one: Held, component: str, shared: dict[str, int]) -> None:
    """The one that is held is looked at again, and its traffic is where it was."""
    back_at = time.time()
    assert wait_until(partial(held.looked, one, back_at), DEATHS[component].unwatched), component
    assert held.weights(one) == shared, component


def is_settled(row: Row) -> bool:
    ended = row.ended in (BACK if row.state in (COLUMN, "ROLLING_BACK") else EITHER)
    watched = (row.unwatched_s or 0) <= GUARDED
    return ended and row.route_whole and not row.orphans and row.audit_legal and watched
