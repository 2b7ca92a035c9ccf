"""Whole deployments through Airflow's REST API, on real Kubernetes, under traffic."""

import json
from pathlib import Path
from typing import Any

from airflow_deploy.domain.evidence import digest
from tests.e2e.world import World


def transitions(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / f"transitions_{folder.name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def states(folder: Path) -> list[str]:
    return [item["to"] for item in transitions(folder)]


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{folder.name}.json").read_text())
    return found


def check_consistent(folder: Path) -> None:
    """The four artifacts agree with each other, and every digest with the evidence that it stands for."""
    path = transitions(folder)
    assert [item["from"] for item in path] == [None, *(item["to"] for item in path[:-1])]
    assert summary(folder)["state"] == path[-1]["to"]
    for judgement in summary(folder)["judgements"].values():
        assert digest((folder / judgement["evidence"]).read_text()) == judgement["evidence_sha256"]
    digests = {judgement["evidence_sha256"] for judgement in summary(folder)["judgements"].values()}
    assert {item["evidence"] for item in path if item["evidence"]} <= digests
    assert json.loads((folder / f"confidence_{folder.name}.json").read_text())["score_confidence"]["score"] >= 80
    assert summary(folder)["image"] in (folder / f"manifest_{folder.name}.yaml").read_text()


def test_a_good_fix_is_verified_and_no_request_is_lost(world: World) -> None:
    run = world.deploy(world.sample.good)
    assert world.ended(run) == "success"

    folder = audited(world, run)
    assert states(folder)[-4:] == ["PROMOTING", "PROMOTED", "VERIFYING", "VERIFIED"]
    assert states(folder).count("CANARY") == 4
    check_consistent(folder)
    candidate = summary(folder)["candidate"]
    assert world.weights() == {"payments": 0, candidate: 100}
    assert [request for request in world.requests() if request.failed] == []
    assert any(request.version == candidate for request in world.requests())
    assert world.tasks(run)["rollback"] == "skipped"


def test_a_bad_fix_is_taken_back_by_itself(world: World) -> None:
    run = world.deploy(world.sample.bad)
    assert world.ended(run) == "failed"

    folder = audited(world, run)
    assert states(folder)[-2:] == ["ROLLING_BACK", "ROLLED_BACK"]
    check_consistent(folder)
    said = summary(folder)
    assert said["judgements"]["watch"]["verdict"] == "BREACHED"
    assert said["verdict_at"] <= said["restored_at"]
    candidate = said["candidate"]
    assert world.weights() == {"payments": 100, candidate: 0}
    # Whoever was harmed was harmed by the candidate: the way back itself lost nothing.
    assert {request.version for request in world.requests() if request.failed} == {candidate}
    assert world.tasks(run)["rollback"] == "success"


def test_a_person_who_fails_the_run_in_mid_canary_gets_the_traffic_restored(world: World) -> None:
    run = world.deploy(world.sample.good)
    candidate = world.until(lambda: [name for name, weight in world.weights().items() if name != "payments" and weight],
                            "the candidate has traffic")[0]  # fmt: skip
    world.api.end_run("deploy_payments", run)

    world.until(lambda: world.weights() == {"payments": 100, candidate: 0}, "the traffic is restored", 60)
    assert world.ended(run) == "failed"
    world.until(lambda: world.tasks(run)["settle"] == "failed", "the teardown has spoken", 60)
    folder = audited(world, run)
    assert states(folder)[-2:] == ["ROLLING_BACK", "ROLLED_BACK"]
    assert [request for request in world.requests() if request.failed] == []


def test_a_person_who_clears_a_gate_in_mid_canary_gets_the_deployment_finished(world: World) -> None:
    run = world.deploy(world.sample.good)
    world.until(lambda: world.tasks(run)["canary_25.gate"] == "deferred", "the gate looks")
    world.api.clear("deploy_payments", run, "canary_25.gate")

    assert world.ended(run) == "success"
    folder = audited(world, run)
    assert states(folder)[-1] == "VERIFIED"
    check_consistent(folder)
    assert world.weights() == {"payments": 0, summary(folder)["candidate"]: 100}
    assert [request for request in world.requests() if request.failed] == []


RISKY = {"files": 60, "lines": 2000, "migrations": True}
"""A change that lowers the confidence to where a person is asked."""


def test_a_no_from_a_person_or_the_safety_gate_deploys_nothing(world: World) -> None:
    before = world.objects()
    asked = world.deploy(world.sample.good, change=RISKY)
    world.until(lambda: world.tasks(asked)["approve"] == "deferred", "a person is asked")
    assert world.api.answer("deploy_payments", asked, "approve", "Reject") == 200
    assert world.ended(asked) == "failed"
    vetoed = world.deploy(world.sample.good, safety_gate={"recommendation": "HOLD", "tests": {"passed": 1, "total": 1}})
    assert world.ended(vetoed) == "failed"

    folders = [audited(world, run) for run in (asked, vetoed)]
    assert states(folders[0]) == ["INIT", "BUILDING", "AWAITING_APPROVAL", "REJECTED"]
    assert states(folders[1]) == ["INIT", "BUILDING", "REJECTED"]
    assert "safety_gate.recommendation is HOLD" in summary(folders[1])["reason"]
    assert world.objects() == before
    assert world.weights() == {"payments": 100}


def audited(world: World, run: str) -> Path:
    """Wait until the run has left its artifacts, and return their folder."""
    return world.artifacts(world.until(lambda: _deployment(world, run), "the audit is written", 60))


def _deployment(world: World, run: str) -> str | None:
    candidates = Path(world.info.artifacts).glob("payments/*/DEP-*.json")
    return next((path.stem for path in candidates if json.loads(path.read_text())["run_id"] == run), None)
