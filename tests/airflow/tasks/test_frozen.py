"""Plan, claim and baseline are read from the artifact store and checked; an XCom alone changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.execution_time.context import set_current_context

from airflow_deploy.clients.artifacts import DeploymentFolder, frozen_plan, latest_plans
from airflow_deploy.domain.errors import PermanentError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.xcom_keys import (
    BASELINE_DIGEST_KEY,
    CLAIM_DIGEST_KEY,
    CLAIM_KEY,
    PLAN_DIGEST_KEY,
    PLAN_KEY,
)
from airflow_deploy.domain.names import digest
from airflow_deploy.operators.audit import RecordingOperator
from airflow_deploy.sensors.gates import WatchSensor
from airflow_deploy.tasks.base import DeployOperator
from airflow_deploy.tasks.frozen import BASELINE, BUILT, CLAIM, PLANNED, Document, read, read_plan
from tests.support.builders import DIGEST, make_plan, make_spec
from tests.support.recorded_run import Run

OWNER = "DEP-1/7"
MEASURED = {"requests": 10.0}
ELSEWHERE = "sha256:" + "ef" * 32


@pytest.fixture
def plan(store: Path) -> DeploymentPlan:
    return make_plan()


@pytest.fixture
def run(plan: DeploymentPlan) -> Run:
    """A run that came as far as its claim."""
    made = Run()
    made.planned(plan)
    made.measured(plan, MEASURED)
    made.claimed(plan, OWNER)
    return made


def file(plan: DeploymentPlan, document: Document, store: Path) -> Path:
    return store / plan.spec.service / plan.deployment_id / f"{document.name}_{plan.deployment_id}.json"


def task(run: Run) -> DeployOperator:
    made = WatchSensor(task_id="watch", deferrable=True)
    made.pre_execute(run.at("watch"))
    return made


LOADS: dict[str, Any] = {
    "plan": (DeployOperator.load_plan, BUILT),
    "claim": (DeployOperator.load_claim, CLAIM),
    "baseline": (DeployOperator.load_baseline, BASELINE),
}


@pytest.fixture(params=LOADS)
def what(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_task_reads_what_its_run_has_frozen(run: Run, plan: DeploymentPlan) -> None:
    reading = task(run)
    assert (reading.load_plan(), reading.load_claim(), reading.load_baseline()) == (plan, OWNER, MEASURED)


def test_a_task_finds_its_run_also_in_airflows_current_context(run: Run, plan: DeploymentPlan) -> None:
    with set_current_context(run.at("watch")):
        assert DeployOperator(task_id="step").load_plan() == plan


def test_the_build_freezes_the_image_beside_the_plan_that_it_was_built_from(run: Run, plan: DeploymentPlan) -> None:
    """So a build that is tried again finds the plan that it was given."""
    assert read_plan(run.context, PLANNED).digest is None
    assert read_plan(run.context, BUILT).digest == DIGEST == plan.digest


def test_a_plan_that_is_only_frozen_was_not_applied(run: Run, plan: DeploymentPlan) -> None:
    assert frozen_plan(plan.spec.service, plan.deployment_id) is None
    assert latest_plans() == []


class TestAnXComAlone:
    """A user who may edit XComs."""

    @pytest.mark.parametrize(
        ("key", "forged"),
        [
            (PLAN_KEY, make_plan(digest=ELSEWHERE).dump()),
            (PLAN_KEY, make_plan(make_spec(namespace="kube-system")).dump()),
            (PLAN_KEY, make_plan(make_spec(service="orders")).dump()),
            (CLAIM_KEY, "DEP-2/1"),
            ("return_value", make_plan(digest=ELSEWHERE).dump()),
            ("return_value", "DEP-2/1"),
        ],
    )
    @pytest.mark.parametrize("writer", ["plan", "build_image", "claim_route", "capture_baseline"])
    def test_changes_nothing(self, run: Run, plan: DeploymentPlan, key: str, forged: Any, writer: str) -> None:
        run.at(writer)
        run.ti.xcom_push(key, forged)
        reading = task(run)
        assert (reading.load_plan(), reading.load_claim(), reading.load_baseline()) == (plan, OWNER, MEASURED)

    @pytest.mark.parametrize("forged", ["ef" * 32, 5, {"a": 1}, [digest("x")], "\n\x1b[2J" * 50])
    def test_that_forges_a_digest_stops_the_task(self, run: Run, what: str, forged: Any) -> None:
        load, document = LOADS[what]
        run.at(document.writer)
        run.ti.xcom_push(document.digest_key, forged)
        with pytest.raises(PermanentError, match=f"is not what {document.writer} wrote") as caught:
            load(task(run))
        assert str(caught.value).isprintable()

    def test_that_is_another_runs_digest_stops_the_task(self, run: Run, plan: DeploymentPlan) -> None:
        other, stranger = make_plan(make_spec(namespace="kube-system"), run_id="another"), Run()
        stranger.planned(other)
        run.ti.store["build_image", PLAN_DIGEST_KEY] = stranger.ti.store["build_image", PLAN_DIGEST_KEY]
        with pytest.raises(PermanentError, match="is not what build_image wrote"):
            task(run).load_plan()


class TestTheStore:
    def test_with_another_file_stops_the_task(self, run: Run, plan: DeploymentPlan, store: Path, what: str) -> None:
        load, document = LOADS[what]
        file(plan, document, store).write_text(json.dumps({"owner": "DEP-2/1"}))
        with pytest.raises(PermanentError, match=f"{document.name}_DEP-.*is not what {document.writer} wrote"):
            load(task(run))

    @pytest.mark.parametrize("forged", [make_plan(run_id="another"), make_plan(make_spec(service="orders"))])
    def test_with_another_runs_plan_and_its_digest_stops_the_task(
        self, run: Run, plan: DeploymentPlan, forged: DeploymentPlan
    ) -> None:
        text = json.dumps(forged.dump())
        folder = DeploymentFolder(plan.spec.service, plan.deployment_id)
        run.ti.store["build_image", PLAN_DIGEST_KEY] = folder.write(f"built_{plan.deployment_id}.json", text)
        with pytest.raises(PermanentError, match="is not this run"):
            task(run).load_plan()

    def test_that_is_away_is_asked_again(self, run: Run, plan: DeploymentPlan, store: Path, what: str) -> None:
        load, document = LOADS[what]
        moved = file(plan, document, store).rename(store / "elsewhere")
        with pytest.raises(TemporaryError, match=f"artifact store: cannot read {document.name}_DEP-"):
            load(task(run))
        moved.rename(file(plan, document, store))
        load(task(run))

    @pytest.mark.parametrize("error", [OSError("away"), ConnectionError("\n\x1b[2Jaway"), RuntimeError()])
    def test_may_fail_in_its_own_way(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        def away(*_: object) -> str:
            raise error

        monkeypatch.setattr(DeploymentFolder, "read", away)
        monkeypatch.setattr(DeploymentFolder, "write", away)
        with pytest.raises(TemporaryError, match="cannot read built_DEP-") as caught:
            task(run).load_plan()
        assert str(caught.value).isprintable()
        with pytest.raises(TemporaryError, match="cannot write claim_DEP-"):
            run.claimed(plan, OWNER)

    def test_takes_a_document_before_its_digest_is_pushed(
        self, run: Run, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A digest without its file would stop every later task."""

        def away(*_: object) -> str:
            raise OSError("away")

        monkeypatch.setattr(DeploymentFolder, "write", away)
        fresh = Run()
        with pytest.raises(TemporaryError):
            fresh.planned(plan)
        assert fresh.ti.store == {}


@pytest.mark.parametrize("key", [PLAN_DIGEST_KEY, CLAIM_DIGEST_KEY, BASELINE_DIGEST_KEY])
def test_a_document_that_is_not_frozen_yet_is_missing(run: Run, key: str) -> None:
    (document,) = [each for each in (BUILT, CLAIM, BASELINE) if each.digest_key == key]
    del run.ti.store[document.writer, key]
    with pytest.raises(PermanentError, match=f"{document.writer} has not finished"):
        read(run.context, document)


class TestTheWayBack:
    """Rollback, audit and teardown also work while the store is away."""

    def latest(self, run: Run, **spec: Any) -> DeploymentPlan:
        operator = RecordingOperator(
            task_id="rollback", plans_of=["build_image", "plan"], steps_of=[], spec=make_spec(**spec).dump()
        )
        return operator.latest_plan(run.at("rollback"))

    @pytest.fixture
    def away(self, run: Run, plan: DeploymentPlan, store: Path) -> None:
        """The store has lost the plan, or does not answer."""
        for document in (PLANNED, BUILT):
            file(plan, document, store).unlink()

    @pytest.mark.parametrize("built", [True, False])
    def test_knows_the_plan_however_far_the_run_came(self, plan: DeploymentPlan, built: bool) -> None:
        short = Run()
        short.planned(plan, built=built)
        assert self.latest(short) == (plan if built else plan.model_copy(update={"digest": None}))

    def test_prefers_the_store(self, run: Run, plan: DeploymentPlan) -> None:
        run.ti.store["build_image", PLAN_KEY] = make_plan(stable="other").dump()
        assert self.latest(run) == plan

    @pytest.mark.usefixtures("away")
    def test_uses_the_copy_in_xcom_without_the_store(self, run: Run, plan: DeploymentPlan) -> None:
        assert self.latest(run) == plan

    def test_uses_the_copy_if_the_file_was_changed(self, run: Run, plan: DeploymentPlan, store: Path) -> None:
        file(plan, BUILT, store).write_text("{}")
        assert self.latest(run) == plan

    @pytest.mark.usefixtures("away")
    def test_takes_no_copy_of_another_run(self, run: Run) -> None:
        run.ti.store["build_image", PLAN_KEY] = make_plan(run_id="another").dump()
        with pytest.raises(PermanentError, match="is not this run"):
            self.latest(run)

    @pytest.mark.usefixtures("away")
    @pytest.mark.parametrize(
        "elsewhere",
        [
            {"service": "orders"},
            {"namespace": "kube-system"},
            {"route": {"name": "other"}},
            {"connections": {"kubernetes": "other"}},
        ],
        ids=lambda spec: next(iter(spec)),
    )
    def test_takes_no_copy_that_names_another_place_than_the_dag(self, run: Run, elsewhere: dict[str, Any]) -> None:
        forged = make_plan(make_spec(**elsewhere))
        run.ti.store["build_image", PLAN_KEY] = forged.dump()
        with pytest.raises((PermanentError, TemporaryError), match=r"another place|is not this run"):
            self.latest(run)

    @pytest.mark.usefixtures("away")
    @pytest.mark.parametrize("copy", ["text", {"surprise": 1}, [1]])
    def test_takes_no_copy_that_is_no_plan(self, run: Run, copy: Any) -> None:
        run.ti.store["build_image", PLAN_KEY] = copy
        with pytest.raises(TemporaryError, match="cannot read built_DEP-"):
            self.latest(run)

    @pytest.mark.usefixtures("away")
    def test_takes_no_copy_that_it_cannot_check(self, run: Run) -> None:
        operator = RecordingOperator(task_id="rollback", plans_of=["build_image", "plan"], steps_of=[])
        with pytest.raises(TemporaryError, match="cannot read"):
            operator.latest_plan(run.at("rollback"))
