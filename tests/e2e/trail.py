"""A deployment's artifacts, as tests read them."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_deploy.domain.names import digest
from airflow_deploy.rollout.analysis.replay import replay_file
from tests.e2e.world import World


def transitions(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / f"transitions_{folder.name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def unix(moment: str) -> float:
    """Return the unix seconds of a moment in the artifacts."""
    return datetime.fromisoformat(moment).timestamp()


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
    check_replays(folder)
    digests = {judgement["evidence_sha256"] for judgement in summary(folder)["judgements"].values()}
    assert {item["evidence"] for item in path if item["evidence"]} <= digests
    assert json.loads((folder / f"confidence_{folder.name}.json").read_text())["score_confidence"]["score"] >= 80
    assert summary(folder)["image"] in (folder / f"manifest_{folder.name}.yaml").read_text()


def check_replays(folder: Path) -> None:
    """Every verdict follows from the evidence that was kept of it."""
    for path in folder.glob("evidence_*/*.jsonl"):
        judged = replay_file(path)
        assert judged.differences == [], path
        assert judged.lines >= 1  # a gate that the brake has closed before its first look has the head alone


def audited(world: World, run: str) -> Path:
    """Wait until the run has left its artifacts, and return their folder."""
    folder = folder_of(world, run)
    check_replays(folder)
    return folder


def folder_of(world: World, run: str) -> Path:
    """Wait until the run has written its artifacts, and return their folder."""
    return world.artifacts(world.until(lambda: _deployment(world, run), "the audit is written", 60))


def _deployment(world: World, run: str) -> str | None:
    candidates = Path(world.info.artifacts).glob(f"{world.service}/*/DEP-*.json")
    return next((path.stem for path in candidates if json.loads(path.read_text())["run_id"] == run), None)
