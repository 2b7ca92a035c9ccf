"""What the build reads lies within the commit's own files, whatever the commit's author links to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from airflow_deploy.clients.docker import Images
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.operators.build import BuildImageOperator
from tests.support.builders import DIGEST, make_plan, make_spec
from tests.unit.clients.test_git import Team


class Builder:
    """Stands for Docker: remembers what it was asked to build, and pushes it."""

    def __init__(self) -> None:
        self.built: list[dict[str, Any]] = []

    def build(self, context: Path, dockerfile: str, tag: str, labels: dict[str, str], args: dict[str, str]) -> None:
        files = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
        text = Path(dockerfile).read_text()
        self.built.append({"files": files, "dockerfile": text, "tag": tag, "labels": labels, "args": args})

    def push(self, tag: str) -> str:
        assert [item["tag"] for item in self.built] == [tag]
        return DIGEST


@pytest.fixture
def team(tmp_path: Path) -> Team:
    path = tmp_path / "team"
    path.mkdir()
    made = Team(path)
    made.git("init", "--quiet", "--initial-branch", "main")
    made.commit(Dockerfile="FROM scratch\n", kept="one\n")
    return made


def build(team: Team, commit: str, **source: str) -> Builder:
    spec = make_spec(source={"repository": f"file://{team.path}", **source})
    plan: DeploymentPlan = make_plan(spec, commit=commit, digest=None)
    builder = Builder()
    operator = BuildImageOperator(task_id="build_image", plan=plan.dump())
    assert operator._build(cast("Images", builder), plan) == DIGEST
    return builder


def test_the_image_is_built_from_exactly_the_commit(team: Team) -> None:
    old = team.git("rev-parse", "HEAD")
    team.commit(kept="two\n", later="x")
    (built,) = build(team, old).built
    assert built["files"] == {"Dockerfile", "kept"}
    assert built["labels"]["org.opencontainers.image.revision"] == old
    assert built["args"] == {"COMMIT": old}
    assert old in built["tag"]


def test_dockerfile_and_context_may_lie_in_a_folder(team: Team) -> None:
    (team.path / "app").mkdir()
    (team.path / "app" / "main").write_text("x")
    (team.path / "docker").mkdir()
    (team.path / "docker" / "Dockerfile.app").write_text("FROM app\n")
    (built,) = build(team, team.commit(), context="app", dockerfile="docker/Dockerfile.app").built
    assert (built["files"], built["dockerfile"]) == ({"main"}, "FROM app\n")


def test_a_link_within_the_commit_is_followed(team: Team) -> None:
    (team.path / "Containerfile").symlink_to("Dockerfile")
    (built,) = build(team, team.commit(), dockerfile="Containerfile").built
    assert built["dockerfile"] == "FROM scratch\n"


def _dockerfile_link(path: Path, outside: Path) -> dict[str, str]:
    (path / "evil").symlink_to(outside / "secret")
    return {"dockerfile": "evil"}


def _context_link(path: Path, outside: Path) -> dict[str, str]:
    (path / "evil").symlink_to(outside)
    return {"context": "evil"}


def _folder_link(path: Path, outside: Path) -> dict[str, str]:
    (path / "evil").symlink_to(outside)
    return {"dockerfile": "evil/secret"}


def _relative_link(path: Path, outside: Path) -> dict[str, str]:
    (path / "evil").symlink_to("../../../../../../../../etc/passwd")
    return {"dockerfile": "evil"}


def _loop(path: Path, outside: Path) -> dict[str, str]:
    (path / "evil").symlink_to("evil")
    return {"dockerfile": "evil"}


def _missing(path: Path, outside: Path) -> dict[str, str]:
    return {"dockerfile": "nowhere/Dockerfile"}


def _folder(path: Path, outside: Path) -> dict[str, str]:
    return {"dockerfile": "."}


def _context_is_a_file(path: Path, outside: Path) -> dict[str, str]:
    return {"context": "kept"}


def _context_is_missing(path: Path, outside: Path) -> dict[str, str]:
    return {"context": "nowhere"}


@pytest.mark.parametrize(
    "trick",
    [
        _dockerfile_link,
        _context_link,
        _folder_link,
        _relative_link,
        _loop,
        _missing,
        _folder,
        _context_is_a_file,
        _context_is_missing,
    ],
)
def test_what_is_not_the_commits_own_is_refused(
    team: Team, tmp_path: Path, trick: Callable[[Path, Path], dict[str, str]]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s3cr3t")
    source = trick(team.path, outside)
    with pytest.raises(RefusedError) as caught:
        build(team, team.commit(), **source)
    assert "s3cr3t" not in str(caught.value)
