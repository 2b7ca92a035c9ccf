"""Hostile confs against the real trigger endpoint are refused by the field's name, and nothing is left of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_deploy.domain.config.request import parse_request
from airflow_deploy.domain.errors import RefusedError
from tests.e2e.snapshot import snapshot
from tests.e2e.world import REFUSING, World, dag_of
from tests.stack.demo import conf
from tests.support.builders import changed
from tests.support.hostile import Hostile, drawn, hostile_confs

RUNS = f"dags/{dag_of(REFUSING)}/dagRuns"
SECRET = "s3cr3t-of-a-user"


@pytest.fixture
def paused(refusing: World) -> Iterator[World]:
    """Runs are accepted, and wait."""
    _pause(refusing, True)
    yield refusing
    World.end_runs(refusing.info, refusing.service)
    _pause(refusing, False)


@pytest.fixture(autouse=True)
def _nothing_is_left(refusing: World) -> Iterator[None]:
    before, deaths = snapshot(refusing), _deaths(refusing)
    yield
    assert snapshot(refusing) == before
    assert _deaths(refusing) == deaths
    health = refusing.api.get("monitor/health")
    assert {name: part["status"] for name, part in health.items()} == dict.fromkeys(health, "healthy")
    assert refusing.api.get("importErrors")["total_entries"] == 0
    assert "dag_runs" in refusing.api.get(f"{RUNS}?limit=100")


def test_500_hostile_confs_are_refused_by_the_endpoint_or_by_plan(paused: World) -> None:
    """All that Airflow lets through is read back as ``plan`` would get it, for PostgreSQL changes some numbers."""
    hostile = drawn(hostile_confs, 500)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda item: _post(paused, {"conf": item.conf}), hostile))
    for item, answer in zip(hostile, answers, strict=True):
        if answer.ok:
            run = f"{RUNS}/{answer.json()['dag_run_id']}"
            with pytest.raises(RefusedError) as refused:
                parse_request(paused.api.get(run)["conf"])
            assert any(f"conf: {field} " in str(refused.value) for field in item.named)
            paused.api.request("DELETE", run).raise_for_status()
        else:
            _check_answer(item, answer)
    assert paused.api.unfinished(paused.dag) == []
    kinds = Counter(answer.status_code for answer in answers)
    assert set(kinds) == {200, 400, 422}
    assert kinds.total() == 500


def _check_answer(item: Hostile, answer: requests.Response) -> None:
    detail = answer.json()["detail"]
    roots = {field.partition(".")[0] for field in item.named}
    named = any(str(detail).startswith(f"Invalid input for param {root}: ") for root in roots)
    # What PostgreSQL cannot store, Airflow refuses without saying where it is.
    unstorable = "Value rejected by database" in str(detail)
    no_object = not isinstance(item.conf, dict) or not item.conf
    assert (answer.status_code == 400 and (named or no_object)) or (
        answer.status_code == 422 and (unstorable or no_object)
    )


def test_plan_refuses_in_one_sentence_what_the_endpoint_accepts(paused: World, tmp_path: Path) -> None:
    """One run each: their first task says in one sentence what is wrong, and repeats no value."""
    runs = {}
    for name, (body, named) in _let_through(paused, tmp_path / "ran").items():
        answer = _post(paused, body)
        assert answer.ok, f"{name}: {answer.text}"
        runs[str(answer.json()["dag_run_id"])] = name, named
    _pause(paused, False)
    for run, (name, named) in runs.items():
        assert paused.ended(run) == "failed", name
        ended = {
            task: state for task, state in paused.tasks(run).items() if state not in ("upstream_failed", "skipped")
        }
        assert ended == {"plan": "failed", "finalize": "failed"}, name
        (said,) = [line for line in paused.api.log(paused.dag, run, "plan") if "Error: " in line][:1]
        assert said.startswith(f"RefusedError: {named}"), f"{name}: {said}"
        assert said.isprintable(), name
        assert paused.api.get(f"{RUNS}/{run}/taskInstances/~/xcomEntries")["total_entries"] == 0, name
        logged = "".join(path.read_text() for path in _logs(paused, run))
        assert "RefusedError" in logged
        assert SECRET not in logged, name
        assert not {"\x1b", "\u202e"} & set(logged), name
    assert not (tmp_path / "ran").exists()


def _let_through(world: World, ran: Path) -> dict[str, tuple[dict[str, Any], str]]:
    """Return by name what is posted, and how the refusal begins."""
    good = {**conf(world.sample.good, "Payments time out"), "change": {"files": 3, "lines": 41}}
    command = f"touch {ran}"

    def but(value: Any, *path: str) -> dict[str, Any]:
        return {"conf": changed(good, path, value)}

    def query(text: str, **more: Any) -> dict[str, Any]:
        return but({"query": text, "op": "<", "value": 1, **more}, "incident", "resolved_when")

    unusable = "conf: incident.resolved_when.query is not usable:"
    unknown = "'{{ var.value.x }}\\x1b[2J\\n\\u202e' is not a known key;"
    return {
        "a key of terminal codes": (but(SECRET, "{{ var.value.x }}\x1b[2J\n\u202e"), f"conf: {unknown}"),
        "what Airflow's own serialization might run": (
            but({"__classname__": "os.system", "__data__": command, "__type": "dict"}, "__var"),
            "conf: __var is not a known key;",
        ),
        "a large conf": (
            but(f"$({command})" + "x" * 65_536, "note"),
            "conf: is 6",
        ),
        "a line end": (but(f"{world.sample.good}\n", "commit"), "conf: commit is not valid:"),
        "a count that is none": (but(3.0, "change", "files"), "conf: change.files is not valid:"),
        "more passed than run": (but(128, "safety_gate", "tests", "passed"), "conf: safety_gate.tests is not valid:"),
        "a duration of more than a day": (
            query("up", **{"for": "25h"}),
            "conf: incident.resolved_when.for is not valid:",
        ),
        "another branch's commit": (
            but(world.sample.experiment, "commit"),
            f"conf: commit {world.sample.experiment} is",
        ),
        "half a query": (query(f'sum(rate(up{{job="$({command})"}}[1m])'), unusable),
        "a query that ends another": (query('up"} or vector(1)'), unusable),
        "a query of many results": (query('{__name__=~".+"}'), unusable),
        "a query of no number": (query("up[5m]"), unusable),
        "a query of years": (
            query("count_over_time(vector(1)[10y:1ms])"),
            "conf: incident.resolved_when.query is not valid:",
        ),
        "a run of the year 1": (
            {"conf": good, "run_after": "0001-01-01T00:00:00Z"},
            "run_after: the run is dated before",
        ),
    }


def _post(world: World, body: dict[str, Any]) -> requests.Response:
    # Not by the session's json=, which sends no NaN.
    raw = json.dumps({"logical_date": None, **body})
    url, header = f"{world.info.airflow_url}/api/v2/{RUNS}", {"Content-Type": "application/json"}
    return world.api.session.post(url, data=raw, headers=header, timeout=60)


def _pause(world: World, paused: bool) -> None:
    world.api.request("PATCH", f"dags/{world.dag}", is_paused=paused).raise_for_status()


def _logs(world: World, run: str) -> list[Path]:
    return list(Path(world.info.logs).glob(f"airflow/dag_id={world.dag}/run_id={run}/**/*.log"))


def _deaths(world: World) -> int:
    """How often a component of Airflow has died and was started again."""
    logs = Path(world.info.logs).glob("airflow-*.log")
    return sum(log.read_text(errors="replace").count("supervisor: ended with") for log in logs)
