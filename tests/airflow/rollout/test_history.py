"""What goes on being verified is told by the artifacts alone, whatever else lies in their store."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.rollout.history import promoted_deployment, promoted_deployments
from tests.support.builders import make_plan, make_spec
from tests.support.judgement import GOOD_BASELINE

CREATED = 1_795_417_200
NOW = CREATED + 4000.0
DAY = 86_400


def deployment(number: int = 0, service: str = "payments", **spec: Any) -> DeploymentPlan:
    """The ``number``-th deployment of a service; one starts every minute."""
    spec_of = make_spec(service=service, **spec)
    return make_plan(spec_of, dag_id=f"deploy_{service}", run_id=f"run-{number}", created=CREATED + 60 * number)


def summary(plan: DeploymentPlan, state: str = "VERIFIED", at: float = NOW - 600) -> dict[str, Any]:
    return {
        "deployment_id": plan.deployment_id,
        "state": state,
        "ended_at": datetime.fromtimestamp(at, UTC).isoformat(),
        "plan": plan.dump(),
        "baseline": GOOD_BASELINE.dump(),
    }


def ended(plan: DeploymentPlan, state: str = "VERIFIED", at: float = NOW - 600) -> DeploymentPlan:
    leave(plan, json.dumps(summary(plan, state, at), indent=2))
    return plan


def leave(plan: DeploymentPlan, text: str) -> None:
    Artifacts(plan).write(f"{plan.deployment_id}.json", text)


def found(at: float = NOW) -> list[str]:
    return [item.plan.deployment_id for item in promoted_deployments(at)]


@pytest.mark.usefixtures("store")
class TestWindow:
    def test_a_verified_deployment_is_read_as_it_was_frozen(self) -> None:
        plan = ended(deployment())
        (item,) = promoted_deployments(NOW)
        assert (item.plan, item.baseline, item.verified_at) == (plan, GOOD_BASELINE, NOW - 600)
        assert item.until == NOW - 600 + DAY

    @pytest.mark.parametrize(("after", "within"), [(-1, False), (0, True), (DAY - 1, True), (DAY, False)])
    def test_begins_with_the_verification_and_ends_with_the_window(self, after: float, within: bool) -> None:
        ended(deployment(), at=NOW)
        assert bool(promoted_deployments(NOW + after)) is within

    @pytest.mark.parametrize(("window", "seconds"), [("60s", 60), (3600, 3600), ("7d", 7 * DAY)])
    def test_is_the_frozen_specs(self, window: str | int, seconds: int) -> None:
        ended(deployment(rollback={"window": window}), at=NOW)
        assert found(NOW + seconds - 1)
        assert not found(NOW + seconds)

    def test_counts_from_the_end_of_the_run_and_not_from_its_trigger(self) -> None:
        """A run may wait for a person for days."""
        plan = ended(deployment(approval_timeout="7d", rollback={"window": "1h"}), at=CREATED + 5 * DAY)
        assert found(CREATED + 5 * DAY + 3599) == [plan.deployment_id]

    @pytest.mark.parametrize("state", ["REJECTED", "ROLLED_BACK", "FAILED", "PROMOTED", "ROLLING_BACK"])
    def test_what_ended_otherwise_is_not_looked_at(self, state: str) -> None:
        ended(deployment(), state)
        assert found() == []


@pytest.mark.usefixtures("store")
class TestWhichOfAService:
    def test_the_newest_verified_one(self) -> None:
        ended(deployment(0), at=NOW - 900)
        newest = ended(deployment(1))
        assert found() == [newest.deployment_id]

    @pytest.mark.parametrize("state", ["REJECTED", "ROLLED_BACK", "FAILED"])
    def test_behind_newer_ones_that_came_to_nothing(self, state: str) -> None:
        verified = ended(deployment(0))
        for number in range(1, 40):
            ended(deployment(number), state)
        assert found() == [verified.deployment_id]

    def test_an_older_one_is_not_taken_up_where_the_newest_has_left_its_window(self) -> None:
        """The newest is what serves: what was before it is nobody's to take back."""
        ended(deployment(0, rollback={"window": "7d"}))
        ended(deployment(1, rollback={"window": "60s"}))
        assert found() == []

    def test_an_older_one_is_not_taken_up_where_the_newest_tells_too_little(self) -> None:
        ended(deployment(0))
        newest = deployment(1)
        told = summary(newest)
        del told["plan"]
        leave(newest, json.dumps(told))
        assert found() == []

    @pytest.mark.parametrize("key", ["first_exposed_at", "mirrored_at"])
    def test_behind_newer_ones_it_knows_until_when_users_or_copies_met_them(self, key: str) -> None:
        ended(deployment(0), at=NOW - 900)
        for number, (seen, at) in enumerate([(True, NOW - 500), (True, NOW - 300), (False, NOW - 100)], 1):
            newer = deployment(number)
            exposed = "2026-11-23T07:00:00+00:00" if seen else None
            leave(newer, json.dumps({**summary(newer, "ROLLED_BACK", at), key: exposed}))
        (item,) = promoted_deployments(NOW)
        assert item.disturbed_until == NOW - 300

    @pytest.mark.parametrize("garbage", [None, 5, "yesterday", "0001-01-01T00:00:00", []])
    def test_behind_a_newer_one_that_tells_no_time(self, garbage: Any) -> None:
        ended(deployment(0))
        newer = deployment(1)
        told = {**summary(newer, "ROLLED_BACK"), "first_exposed_at": "2026-11-23T07:00:00+00:00", "ended_at": garbage}
        leave(newer, json.dumps(told))
        (item,) = promoted_deployments(NOW)
        assert item.disturbed_until == 0

    def test_what_came_before_it_does_not_disturb_it(self) -> None:
        older = deployment(0)
        told = {**summary(older, "ROLLED_BACK"), "first_exposed_at": "2026-11-23T07:00:00+00:00"}
        leave(older, json.dumps(told))
        ended(deployment(1))
        (item,) = promoted_deployments(NOW)
        assert item.disturbed_until == 0

    def test_behind_the_folder_of_a_live_run(self, store: Path) -> None:
        verified, live = ended(deployment(0)), deployment(1)
        Artifacts(live).write(f"evidence_{live.deployment_id}/watch-1.jsonl", "{}\n")
        assert found() == [verified.deployment_id]

    def test_each_service_has_its_own(self) -> None:
        services = ["a", "b", "payments", "payments-eu"]
        plans = [ended(deployment(number, service)) for number, service in enumerate(services)]
        assert found() == [plan.deployment_id for plan in plans]


def cut(share: float) -> Callable[[dict[str, Any]], str]:
    return lambda said: json.dumps(said)[: int(share * len(json.dumps(said)))]


def but(**changes: Any) -> Callable[[dict[str, Any]], str]:
    return lambda said: json.dumps({**said, **changes})


GARBAGE: dict[str, Callable[[dict[str, Any]], str]] = {
    "empty": lambda _: "",
    "half": cut(0.5),
    "all but the end": cut(0.99),
    "a list": lambda said: json.dumps([said]),
    "null": lambda _: "null",
    "a text": lambda _: '"VERIFIED"',
    "a number": lambda _: "5",
    "nested without end": lambda _: "[" * 200_000,
    "no JSON": lambda _: "<html>",
    "another state": but(state=["VERIFIED"]),
    "no time": but(ended_at=None),
    "no date": but(ended_at="yesterday"),
    "a number for a date": but(ended_at=5),
    "the first of all days": but(ended_at="0001-01-01T00:00:00"),
    "no plan": but(plan=None),
    "a plan of another version": but(plan={"service": "payments"}),
    "a plan with an unknown key": lambda said: json.dumps({**said, "plan": {**said["plan"], "more": 1}}),
    "no baseline": but(baseline=None),
    "a baseline of another shape": but(baseline={"within": []}),
    "a baseline without its edges": but(baseline={"requests": 1, "errors": 0, "timed": 1}),
    "an edge that is no number": but(baseline={"requests": 1, "errors": 0, "timed": 1, "within": {"x": 1}}),
}


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("spoil", list(GARBAGE.values()), ids=list(GARBAGE))
class TestGarbage:
    def test_is_passed_over_and_takes_no_other_service_along(self, spoil: Callable[[dict[str, Any]], str]) -> None:
        spoilt = deployment(1)
        leave(spoilt, spoil(summary(spoilt)))
        orders = ended(deployment(0, "orders"))
        assert found() == [orders.deployment_id]

    def test_is_no_deployment_to_take_back(self, spoil: Callable[[dict[str, Any]], str]) -> None:
        spoilt = deployment()
        leave(spoilt, spoil(summary(spoilt)))
        assert promoted_deployment("payments", spoilt.deployment_id) is None


class TestStore:
    def test_without_any_deployment_there_is_nothing(self, store: Path) -> None:
        assert found() == []
        store.mkdir()
        assert found() == []
        (store / "payments").mkdir()
        assert found() == []

    def test_files_and_folders_of_others_are_passed_over(self, store: Path) -> None:
        verified = ended(deployment())
        (store / "README").write_text("not a service")
        (store / "payments" / "zzz.json").write_text("not a deployment")
        (store / "payments" / "~backup").mkdir()
        (store / "lost+found").mkdir()
        assert found() == [verified.deployment_id]

    def test_one_that_is_not_there_is_none(self, store: Path) -> None:
        assert promoted_deployment("payments", "DEP-1-00000000") is None
        ended(deployment())
        assert promoted_deployment("payments", "DEP-1-00000000") is None
        assert promoted_deployment("orders", "DEP-1-00000000") is None

    @pytest.mark.usefixtures("store")
    def test_one_is_read_also_after_its_window(self) -> None:
        """Its task was begun within it."""
        plan = ended(deployment(rollback={"window": "60s"}))
        again = promoted_deployment("payments", plan.deployment_id)
        assert again is not None
        assert again.plan == plan

    def test_a_store_that_is_away_is_said(self, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing to verify, and no way to know, are different things: the task fails, and is tried again."""
        plan = ended(deployment())

        def away(*_: object, **__: object) -> str:
            raise OSError("the store is away")

        monkeypatch.setattr("airflow.sdk.ObjectStoragePath.read_text", away)
        with pytest.raises(OSError, match="the store is away"):
            found()
        with pytest.raises(OSError, match="the store is away"):
            promoted_deployment("payments", plan.deployment_id)
