"""Questions to people, answered over REST by real users: before the deployment, in mid-canary, before the promotion.

The service is one of little traffic: ten requests a second show no gate within ten seconds that the version is healthy.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.trail import audited, states, summary, transitions
from tests.e2e.world import RISKY, World, served
from tests.stack import StackInfo
from tests.stack.api import AirflowApi
from tests.stack.traffic import users

DESK = "desk"
BESIDE = "canary_5.ask"
TIMEOUT = 60


@pytest.fixture(scope="module")
def quiet(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    asked: dict[str, Any] = {"bake": 5, "max_bake": 15, "stages": (5, 100), "approval_timeout": TIMEOUT}
    with served(stack, DESK, tmp_path_factory.mktemp(DESK), rate=10, **asked) as world:
        yield world


@pytest.fixture
def world(quiet: World) -> World:
    """The service without the history that an earlier test's deployment has left."""
    World.end_runs(quiet.info, DESK)
    shutil.rmtree(Path(quiet.info.artifacts) / DESK, ignore_errors=True)
    return quiet


@pytest.fixture
def busy(quiet: World, tmp_path: Path) -> Iterator[Callable[[], Path]]:
    """Ten times as many users from the call on."""
    with ExitStack() as begun:
        yield lambda: begun.enter_context(users(tmp_path / "more.jsonl", rate=100, host=f"{DESK}.test"))


@pytest.fixture
def admin(stack: StackInfo) -> AirflowApi:
    """A user other than the requester, whom ``world.api`` signs in."""
    return AirflowApi(stack, "admin")


def requesters_yes(world: World, run: str, task: str) -> None:
    """Let the requester approve, and wait until that was seen not to count and the question put again."""
    assert world.api.answer(world.dag, run, task, "Approve") == 200
    world.until(lambda: [a for a in answers(world, run, task) if not a["counts"]], "the requester's yes is seen")
    world.asked(run, task, times=2)


def answers(world: World, run: str, task: str) -> list[dict[str, Any]]:
    steps = world.api.xcom(world.dag, run, task, "steps") or []
    return [answer for step in steps for answer in step["answers"]]


def told(folder: Path) -> dict[str, list[tuple[str, str | None, bool]]]:
    """Who said what, and whether it counted, as the summary and the transitions agree."""
    found = {
        item["task"]: [(a["said"], a["by"] and a["by"]["name"], a["counts"]) for a in item["answers"]]
        for item in summary(folder)["approvals"]
    }
    steps = [item for item in transitions(folder) if item["to"] == "AWAITING_APPROVAL"]
    assert [item["answers"] for item in steps] == [item["answers"] for item in summary(folder)["approvals"]]
    assert all(a["at"] >= item["at"] for item in steps for a in item["answers"])
    return found


def rolled_back(world: World, folder: Path) -> bool:
    said = summary(folder)
    weights = world.weights()
    return (weights[said["stable"]], weights[said["candidate"]]) == (100, 0)


def test_only_a_second_person_can_approve_each_question_of_a_deployment(
    world: World, admin: AirflowApi, stack: StackInfo, busy: Callable[[], Path]
) -> None:
    run = world.deploy(world.sample.good, change=RISKY)
    first = world.asked(run, "approve")
    for part in ("`INC-001`", "`Payments time out`", "`deployer`", "| complexity |", "**Confidence"):
        assert part in first["body"]
    assert AirflowApi(stack, "viewer").answer(world.dag, run, "approve", "Approve") == 403
    requesters_yes(world, run, "approve")
    assert world.tasks(run)["capture_baseline"] is None
    assert admin.answer(world.dag, run, "approve", "Approve") == 200

    beside = world.asked(run, BESIDE)
    assert "**Why a person is asked.** The gate is UNDECIDED after" in beside["body"]
    assert world.tasks(run)["canary_5.gate"] == "success"
    world.api.clear(world.dag, run, BESIDE)
    world.asked(run, BESIDE, times=2)
    assert admin.answer(world.dag, run, BESIDE, "Approve") == 200

    last = world.asked(run, "approve_promotion")
    assert "admin approved" in last["body"]
    assert max(world.weights().values()) == 100
    busy()
    assert admin.answer(world.dag, run, "approve_promotion", "Approve") == 200
    assert admin.answer(world.dag, run, "approve_promotion", "Reject") == 409
    assert world.ended(run) == "success"

    folder = audited(world, run)
    stage = ["CANARY", "CANARY_WAITING", "CANARY_EVALUATING", "AWAITING_APPROVAL"]
    end = ["PROMOTING", "PROMOTED", "VERIFYING", "VERIFIED"]
    assert states(folder) == ["INIT", "BUILDING", "AWAITING_APPROVAL", "DEPLOYING", *stage, *stage, *end]
    assert told(folder) == {
        "approve": [("Approve", "deployer", False), ("Approve", "admin", True)],
        BESIDE: [("Approve", "admin", True)],
        "approve_promotion": [("Approve", "admin", True)],
    }
    assert summary(folder)["irregular"] is None
    assert [request for request in world.requests() if request.failed] == []


def test_a_breach_withdraws_the_open_question_and_rolls_back(
    world: World, admin: AirflowApi, busy: Callable[[], Path]
) -> None:
    run = world.deploy(world.sample.bad)
    world.asked(run, BESIDE)
    busy()
    assert world.ended(run) == "failed"

    assert world.tasks(run)["watch"] == "failed"
    assert admin.answer(world.dag, run, BESIDE, "Approve") == 409
    folder = audited(world, run)
    assert states(folder)[-3:] == ["AWAITING_APPROVAL", "ROLLING_BACK", "ROLLED_BACK"]
    assert told(folder) == {BESIDE: [("withdrawn", None, True)]}
    assert "BREACHED" in summary(folder)["approvals"][0]["answers"][0]["why"]
    assert "BREACHED" in next(item["reason"] for item in transitions(folder) if item["to"] == "ROLLING_BACK")
    assert rolled_back(world, folder)


def test_an_unanswered_question_in_mid_canary_rolls_back_at_its_timeout(world: World, admin: AirflowApi) -> None:
    """The requester's yes neither counts nor gives more time."""
    run = world.deploy(world.sample.good)
    world.asked(run, BESIDE)
    requesters_yes(world, run, BESIDE)
    assert world.ended(run) == "failed"

    assert admin.answer(world.dag, run, BESIDE, "Approve") == 409
    folder = audited(world, run)
    assert told(folder) == {BESIDE: [("Approve", "deployer", False), ("silence", None, True)]}
    assert states(folder)[-3:] == ["AWAITING_APPROVAL", "ROLLING_BACK", "ROLLED_BACK"]
    assert "no answer until" in next(item["reason"] for item in transitions(folder) if item["to"] == "ROLLING_BACK")
    assert rolled_back(world, folder)


def test_a_question_marked_as_success_by_the_requester_shifts_no_traffic(world: World) -> None:
    run = world.deploy(world.sample.good)
    world.asked(run, BESIDE)
    world.api.mark(world.dag, run, BESIDE, "success")
    assert world.ended(run) == "failed"

    assert world.tasks(run)["canary_100.shift"] == "failed"
    folder = audited(world, run)
    assert states(folder).count("CANARY") == 1
    assert told(folder) == {BESIDE: []}
    assert states(folder)[-2:] == ["ROLLING_BACK", "ROLLED_BACK"]
    assert rolled_back(world, folder)


def test_a_run_failed_after_its_approval_but_before_traffic_stops_the_candidate(
    world: World, admin: AirflowApi
) -> None:
    run = world.deploy(world.sample.good, change=RISKY)
    world.asked(run, "approve")
    assert admin.answer(world.dag, run, "approve", "Approve") == 200
    world.until(lambda: world.tasks(run)["apply_manifest"] == "success", "the candidate is applied")
    world.api.end_run(world.dag, run)
    assert world.ended(run) == "failed"
    world.until(lambda: world.tasks(run)["finalize"] == "failed", "the teardown has spoken")
    folder = audited(world, run)
    assert states(folder)[2:4] == ["AWAITING_APPROVAL", "DEPLOYING"]
    assert states(folder)[-1] == "ROLLED_BACK"
    assert world.replicas(summary(folder)["candidate"]) == 0


def test_a_run_failed_during_a_question_rolls_back_and_ignores_a_late_answer(world: World, admin: AirflowApi) -> None:
    run = world.deploy(world.sample.good)
    world.asked(run, BESIDE)
    admin.end_run(world.dag, run)
    assert world.ended(run) == "failed"
    world.until(lambda: world.tasks(run)["finalize"] == "failed", "the teardown has spoken")
    folder = audited(world, run)
    assert rolled_back(world, folder)

    admin.answer(world.dag, run, BESIDE, "Approve")
    assert world.tasks(run)[BESIDE] == "failed"
    assert rolled_back(world, folder)
