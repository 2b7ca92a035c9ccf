"""What the build reads lies within the commit's own files, whatever the commit's author links to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_deploy.clients.docker import Images
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.operators.build import BuildImageOperator
from tests.support.builders import make_plan, make_spec
from tests.support.fake_docker import FakeDocker, fake_docker
from tests.unit.clients.test_git import Team


@pytest.fixture
def docker(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDocker]:
    with fake_docker() as made:
        monkeypatch.setenv("AIRFLOW__AIRFLOW_DEPLOY__DOCKER_URL", made.url)
        monkeypatch.setenv("AIRFLOW_CONN_DOCKER_DEFAULT", json.dumps({"conn_type": "docker"}))
        yield made


@pytest.fixture
def team(tmp_path: Path) -> Team:
    made = Team.create(tmp_path / "team")
    made.commit(Dockerfile="FROM scratch\n", kept="one\n")
    return made


class Built:
    """What Docker was asked to build."""

    def __init__(self, docker: FakeDocker) -> None:
        (done,) = docker.builds
        self.query, self.files = done["query"], set(done["texts"])
        self.dockerfile = done["texts"][self.query["dockerfile"]].decode()


def build(docker: FakeDocker, team: Team, commit: str, **source: Any) -> Built:
    spec = make_spec(source={"repository": f"file://{team.path}", **source})
    plan: DeploymentPlan = make_plan(spec, commit=commit, digest=None)
    operator = BuildImageOperator(task_id="build_image", plan=plan.dump())
    images = Images("docker_default")
    try:
        assert operator._build(images, plan) == docker.images[plan.image_tag]
    finally:
        images._docker.close()
    return Built(docker)


def test_the_image_is_built_from_exactly_the_commit(docker: FakeDocker, team: Team) -> None:
    old = team.git("rev-parse", "HEAD")
    team.commit(kept="two\n", later="x")
    built = build(docker, team, old)
    assert built.files == {"Dockerfile", "kept"}
    assert json.loads(built.query["labels"])["org.opencontainers.image.revision"] == old
    assert json.loads(built.query["buildargs"]) == {"COMMIT": old}
    assert old in built.query["t"]


def test_dockerfile_and_context_may_lie_in_a_folder(docker: FakeDocker, team: Team) -> None:
    (team.path / "app").mkdir()
    (team.path / "app" / "main").write_text("x")
    (team.path / "docker").mkdir()
    (team.path / "docker" / "Dockerfile.app").write_text("FROM app\n")
    built = build(docker, team, team.commit(), context="app", dockerfile="docker/Dockerfile.app")
    assert built.dockerfile == "FROM app\n"
    assert "main" in built.files
    assert "kept" not in built.files


def test_a_link_within_the_commit_is_followed(docker: FakeDocker, team: Team) -> None:
    (team.path / "Containerfile").symlink_to("Dockerfile")
    assert build(docker, team, team.commit(), dockerfile="Containerfile").dockerfile == "FROM scratch\n"


def test_a_commit_that_left_its_branch_since_it_was_planned_is_refused(docker: FakeDocker, team: Team) -> None:
    first = team.git("rev-parse", "HEAD")
    bad = team.commit(kept="bad\n")
    team.git("reset", "--quiet", "--hard", first)
    with pytest.raises(RefusedError, match=f"^conf: commit {bad} is not on main"):
        build(docker, team, bad)


def test_what_stands_for_another_file_is_refused(docker: FakeDocker, team: Team) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n"
    with pytest.raises(RefusedError, match=r"^source: kept is kept in Git LFS"):
        build(docker, team, team.commit(**{".gitattributes": "kept filter=lfs\n", "kept": pointer}))
    assert docker.builds == []


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


def _device(path: Path, outside: Path) -> dict[str, str]:
    (path / "evil").symlink_to("/dev/zero")
    return {"dockerfile": "evil"}


def _ignore_device(path: Path, outside: Path) -> dict[str, str]:
    (path / ".dockerignore").symlink_to("/dev/zero")
    return {}


def _ignore_link(path: Path, outside: Path) -> dict[str, str]:
    (path / ".dockerignore").symlink_to(outside / "secret")
    return {}


def _ignore_nothing(path: Path, outside: Path) -> dict[str, str]:
    (path / ".dockerignore").symlink_to("nowhere")
    return {}


def _ignore_in_the_context(path: Path, outside: Path) -> dict[str, str]:
    (path / "app").mkdir()
    (path / "app" / ".dockerignore").symlink_to("../../../../../../../../dev/zero")
    return {"context": "app"}


def _large(path: Path, outside: Path) -> dict[str, str]:
    (path / "evil").write_text("#" * (2**18 + 1))
    return {"dockerfile": "evil"}


def _ignore_large(path: Path, outside: Path) -> dict[str, str]:
    (path / ".dockerignore").write_text("#" * (2**18 + 1))
    return {}


def _no_text(path: Path, outside: Path) -> dict[str, str]:
    (path / "evil").write_bytes(b"\xff\xfe")
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
        _device,
        _ignore_device,
        _ignore_link,
        _ignore_nothing,
        _ignore_in_the_context,
        _large,
        _ignore_large,
        _no_text,
        _missing,
        _folder,
        _context_is_a_file,
        _context_is_missing,
    ],
)
def test_what_is_not_the_commits_own_is_refused(
    docker: FakeDocker, team: Team, tmp_path: Path, trick: Callable[[Path, Path], dict[str, str]]
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s3cr3t")
    source = trick(team.path, outside)
    with pytest.raises(RefusedError) as caught:
        build(docker, team, team.commit(), **source)
    assert "s3cr3t" not in str(caught.value)
    assert docker.builds == []
