"""The kill matrix: the expected outcome of every cell, and the names of deviations."""

import json
import math
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_deploy.domain.routing import transitions as routes
from tests.bench.held import name_of, slow_build, unwatched, writes
from tests.bench.matrix import DEATHS, STATES, Row, load, must, table
from tests.stack.failures import COMPONENTS
from tests.stack.faults import KINDS, Call, sometimes
from tests.stack.load import quantile
from tests.stack.sample.repository import make_repository

GOOD = Row("triggerer", "CANARY 25 %", "VERIFIED", True, (), True, 30.0, 200.0, 0)


def test_every_component_has_a_row_in_the_matrix() -> None:
    assert set(DEATHS) == set(COMPONENTS)


@pytest.mark.parametrize("component", DEATHS)
def test_expected_outcomes_keep_rollbacks_and_limit_unwatched_time_to_the_lease(component: str) -> None:
    cells = {state: must(component, state) for state in STATES}
    assert cells["ROLLING_BACK"].ended == {"ROLLED_BACK"}
    deaf = 60 if component == "kube-apiserver" else 0
    assert max(cell.unwatched for cell in cells.values()) <= 55 + deaf
    assert {cell.loses for cell in cells.values()} == {component == "gateway"}
    assert all(cell.ended <= {"VERIFIED", "ROLLED_BACK", "REJECTED"} for cell in cells.values())
    assert {state for state in STATES if "REJECTED" in cells[state].ended} <= {"BUILDING"}


def test_cell_as_expected_is_not_broken() -> None:
    assert GOOD.broken == []
    assert load(GOOD.dump()) == GOOD


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (replace(GOOD, ended="FAILED"), "ended FAILED"),
        (replace(GOOD, route_whole=False), "the route"),
        (replace(GOOD, orphans=("held-1",)), "left behind: held-1"),
        (replace(GOOD, audit_legal=False), "the audit"),
        (replace(GOOD, unwatched_s=56.0), "unwatched for 56.0 s"),
        (replace(GOOD, unwatched_s=math.inf), "unwatched for inf s"),
        (replace(GOOD, lost=3), "3 requests lost"),
    ],
)
def test_broken_cell_is_named_and_bold(row: Row, said: str) -> None:
    (broken,) = row.broken
    assert broken.startswith(said)
    *_, line = table([row])
    assert f"{broken}**" in line


def test_unwatched_time_runs_from_the_last_look_to_the_verification() -> None:
    looks = [100.0, 101.0, 131.0]
    assert unwatched([100.5, 128.0, 131.5], looks, None) == 27.0
    assert unwatched([100.5, 128.0, 500.0], looks, until=132.0) == 27.0
    assert unwatched([100.5, 500.0], looks, None) == 369.0
    assert unwatched([99.0], looks, None) is None
    assert unwatched([], [], None) is None
    assert unwatched([100.5], [], None) == math.inf


def test_only_promotion_and_rollback_writes_are_held() -> None:
    def call(service: str, phase: str, method: str = "PATCH") -> Call:
        path = f"/apis/gateway.networking.k8s.io/v1/namespaces/{service}/httproutes/{service}?fieldManager=x"
        return Call(method, path, json.dumps([{"op": "add", "value": phase}]).encode())

    promoting, returning = name_of("PROMOTING"), name_of("ROLLING_BACK")
    assert writes(call(promoting, routes.PROMOTED))
    assert writes(call(returning, routes.SETTLED))
    others = [call(promoting, routes.SETTLED), call(returning, routes.CANARY), call("held-canary-5", routes.SETTLED)]
    assert not any(map(writes, [*others, call(promoting, routes.PROMOTED, "GET")]))


def test_slow_build_makes_a_new_commit_each_time(tmp_path: Path) -> None:
    sample = make_repository(tmp_path / "repository")
    first, second = slow_build(sample), slow_build(sample)
    assert first != second
    dockerfile = subprocess.run(
        ["git", "-C", sample.path, "show", f"{second}:Dockerfile"], capture_output=True, text=True, check=True
    ).stdout
    build, image = dockerfile.split("FROM scratch")
    assert "sleep" in build.splitlines()[-2]
    assert "COPY --from=build" in image


def test_each_service_is_named_after_its_state() -> None:
    assert [name_of(state) for state in STATES[2:4]] == ["held-canary-5", "held-canary-25"]
    assert len({name_of(state) for state in STATES}) == len(STATES)


def test_fault_fails_a_fifth_of_the_calls_in_every_way() -> None:
    fault = sometimes(0.2, seed=1)
    said = Counter(fault(Call("GET", "/", b"")) for _ in range(3000))
    assert set(said) == {None, *KINDS}
    assert 2300 < said[None] < 2500


def test_quantile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(20, 0, -1)]
    assert [quantile(values, level) for level in (0.5, 0.95, 1.0)] == [10, 19, 20]
