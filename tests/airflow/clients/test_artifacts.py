"""A service's history is told by its artifacts, and by none that cannot be read."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from zlib import crc32

import pytest
from airflow.sdk import ObjectStoragePath

from airflow_deploy.clients.artifacts import HISTORY_LENGTH, Artifacts
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from tests.support.airflow_home import isolate
from tests.support.builders import make_plan, make_spec


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> DeploymentPlan:
    service = f"s{crc32(request.node.name.encode())}"
    return make_plan(make_spec(service=service), run_id="the-one", created=1_795_417_200)


def ended(plan: DeploymentPlan, number: int, text: str) -> None:
    """Leave an earlier deployment's artifact."""
    earlier = plan.model_copy(update={"run_id": f"run-{number}", "created": plan.created - 1000 + number})
    Artifacts(earlier).write(f"{earlier.deployment_id}.json", text)


def summary(state: str) -> str:
    return json.dumps({"state": state, "commit": "abc"}, indent=2)


def test_a_service_without_a_past_has_no_outcomes(plan: DeploymentPlan) -> None:
    found = Artifacts(plan).earlier()
    assert (found.verified, found.undone) == (0, 0)


def test_rejected_requests_say_nothing_about_the_service(plan: DeploymentPlan) -> None:
    for number, state in enumerate(["VERIFIED", "ROLLED_BACK", "FAILED", "REJECTED", "VERIFIED"]):
        ended(plan, number, summary(state))
    found = Artifacts(plan).earlier()
    assert (found.verified, found.undone) == (2, 2)


@pytest.mark.parametrize("cut", [0, 1, 12, 30])
def test_an_artifact_that_was_cut_off_is_left_out(plan: DeploymentPlan, cut: int) -> None:
    """A worker was killed while it wrote: every later deployment would fail at its score."""
    ended(plan, 1, summary("VERIFIED"))
    ended(plan, 2, summary("VERIFIED")[:cut])
    found = Artifacts(plan).earlier()
    assert (found.verified, found.undone) == (1, 0)


@pytest.mark.parametrize("text", ["[]", "null", "5", '"VERIFIED"', '{"state": ["VERIFIED"]}', '{"state": {}}', "{}"])
def test_an_artifact_of_another_shape_is_left_out(plan: DeploymentPlan, text: str) -> None:
    ended(plan, 1, summary("ROLLED_BACK"))
    ended(plan, 2, text)
    found = Artifacts(plan).earlier()
    assert (found.verified, found.undone) == (0, 1)


def test_what_else_lies_there_takes_no_deployments_place(plan: DeploymentPlan) -> None:
    ended(plan, 1, summary("VERIFIED"))
    for number in range(HISTORY_LENGTH):
        (isolate() / "artifacts" / plan.spec.service / f"notes-{number}").mkdir()
    assert Artifacts(plan).earlier().verified == 1


def test_a_deployment_is_not_its_own_past(plan: DeploymentPlan) -> None:
    Artifacts(plan).write(f"{plan.deployment_id}.json", summary("VERIFIED"))
    assert Artifacts(plan).earlier().verified == 0


def test_only_the_latest_count(plan: DeploymentPlan) -> None:
    ended(plan, 0, summary("FAILED"))
    for number in range(1, HISTORY_LENGTH + 1):
        ended(plan, number, summary("VERIFIED"))
    found = Artifacts(plan).earlier()
    assert (found.verified, found.undone) == (HISTORY_LENGTH, 0)


def test_written_twice_the_later_text_stays(plan: DeploymentPlan) -> None:
    artifacts = Artifacts(plan)
    first, second = artifacts.write("x.txt", "one, and longer"), artifacts.write("x.txt", "two")
    assert first != second
    assert second == artifacts.write("y.txt", "two")


class TestWhole:
    """A store may be killed, or full, at any moment."""

    @pytest.mark.parametrize("step", ["write_text", "replace"])
    def test_a_write_that_fails_leaves_what_was_there(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, step: str
    ) -> None:
        artifacts = Artifacts(plan)
        artifacts.write("x.json", summary("VERIFIED"))
        actual = ObjectStoragePath.write_text

        def fails(path: ObjectStoragePath, text: str, **more: Any) -> None:
            if step == "write_text":
                actual(path, text[:5], **more)
            raise OSError("no space left")

        monkeypatch.setattr(ObjectStoragePath, step, fails)
        with pytest.raises(OSError, match="no space left"):
            artifacts.write("x.json", summary("ROLLED_BACK"))
        assert artifacts.read("x.json") == summary("VERIFIED")

    def test_two_who_write_at_once_do_not_mix(self, plan: DeploymentPlan) -> None:
        """A worker that was given up runs to its end beside the next try."""
        artifacts, texts = Artifacts(plan), [str(number) * 100_000 for number in range(8)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda text: artifacts.write("x.txt", text), texts * 5))
        assert artifacts.read("x.txt") in texts

    def test_nothing_else_stays_behind(self, plan: DeploymentPlan) -> None:
        artifacts = Artifacts(plan)
        artifacts.write("x.json", "1")
        artifacts.write("x.json", "2")
        assert [path.name for path in ObjectStoragePath(artifacts.path).iterdir()] == ["x.json"]

    def test_an_object_store_is_asked_for_a_write_alone(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It may permit no deletion; and it takes an object whole."""
        monkeypatch.setenv("AIRFLOW__AIRFLOW_DEPLOY__ARTIFACT_STORE", f"memory://{plan.spec.service}")
        monkeypatch.setattr(ObjectStoragePath, "replace", pytest.fail)
        artifacts = Artifacts(plan)
        artifacts.write("x.json", "1")
        assert artifacts.read("x.json") == "1"
