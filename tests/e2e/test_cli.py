"""The command ``airflow-deploy`` on the real stack: refused calls."""

import json
from pathlib import Path
from typing import Any

import pytest

from airflow_deploy.clients.airflow_rest.api import AirflowApi, Login
from airflow_deploy.domain.errors import RefusedError
from tests.e2e.terminal import run, summary
from tests.e2e.world import World
from tests.stack.demo import conf


def test_trigger_wait_prints_the_refusal_of_plan_and_exits_with_2(refusing: World, tmp_path: Path) -> None:
    fix = tmp_path / "fix.json"
    fix.write_text(json.dumps(conf("0" * 40, "Payments time out")))
    done = run(refusing.info, "trigger", refusing.service, "--conf", fix, "--wait")
    assert done.returncode == 2, done.stderr
    said = summary(done.stdout)
    assert said["state"] == "REJECTED"
    assert said["reason"] == f"conf: commit {'0' * 40} is not on main; send a commit that is"


@pytest.mark.parametrize(
    "changes",
    [
        {"surprise": 1},
        {"safety_gate": {"recommendation": "REVIEW", "tests": {"passed": 1, "total": 1}}},
        {"commit": "--upload-pack=touch /tmp/x"},
    ],
    ids=["unknown-key", "not-deploy", "option"],
)
def test_trigger_refuses_an_invalid_conf_before_it_starts_a_run(refusing: World, changes: dict[str, Any]) -> None:
    before = _runs(refusing)
    fix = json.dumps({**conf(refusing.sample.good, "Payments time out"), **changes})
    done = run(refusing.info, "trigger", refusing.service, "--conf", "-", stdin=fix)
    assert (done.returncode, done.stdout) == (2, "")
    assert next(iter(changes)) in done.stderr
    assert _runs(refusing) == before


def test_a_viewer_may_not_trigger(refusing: World) -> None:
    viewer = AirflowApi(refusing.info.airflow_url, Login(user="viewer", password=refusing.info.users["viewer"]))
    fix = conf(refusing.sample.good, "Payments time out")
    with pytest.raises(RefusedError, match="the user lacks the permission"):
        viewer.trigger(refusing.dag, "deploy__viewer", fix)


def _runs(world: World) -> int:
    return int(world.api.get(f"dags/{world.dag}/dagRuns?limit=1")["total_entries"])
