"""Only a digest that this run's own push returned is deployed, at any kill of the task and with any image there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker as docker_py
import pytest

from airflow_deploy.clients.artifacts import DeploymentFolder
from airflow_deploy.clients.git import Repository
from airflow_deploy.domain.errors import PermanentError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.operators.build import BuildImageOperator
from airflow_deploy.tasks.frozen import BUILT, read_plan
from airflow_deploy.tasks.push_record import read_push
from tests.support.builders import make_plan, make_spec
from tests.support.fake_docker import LIST, Answer, FakeDocker, Pushed, fake_docker, sha256
from tests.support.recorded_run import Run

EVIL = sha256("evil")


class KilledError(BaseException):
    """The task's process ends here."""


class World:
    """A run whose plan is frozen, and a daemon with its registry."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, daemon: FakeDocker) -> None:
        self.docker, self.plan, self.run = daemon, make_plan(digest=None), Run()
        self.tag = self.plan.image_tag
        self.run.planned(self.plan, built=False)
        self._steps, self._kill = 0, ""
        for target, name in ((docker_py.APIClient, "send"), (DeploymentFolder, "write")):
            monkeypatch.setattr(target, name, self._step(getattr(target, name)))

    def _step(self, real: Callable[..., Any]) -> Callable[..., Any]:
        """Die before the chosen step or after it; a dead task does nothing more."""

        def step(*args: Any, **kwargs: Any) -> Any:
            self._steps += 1
            if self._kill in (f"before {self._steps}", "dead"):
                self._kill = "dead"
                raise KilledError
            result = real(*args, **kwargs)
            if self._kill == f"after {self._steps}":
                self._kill = "dead"
                raise KilledError
            return result

        return step

    def build(self, kill: str = "") -> str | None:
        """Run the task; return the digest that it froze, or None if it was killed."""
        self._steps, self._kill = 0, kill
        operator = BuildImageOperator(task_id="build_image")
        operator.pre_execute(self.run.at("build_image"))
        try:
            operator.execute(self.run.at("build_image"))
        except KilledError:
            return None
        finally:
            self._kill = ""
        return read_plan(self.run.context, BUILT).digest


@pytest.fixture(params=[False, True], ids=["classic store", "containerd store"])
def world(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, store: Path) -> Iterator[World]:
    @contextmanager
    def fetched(_: Any) -> Iterator[Any]:
        yield SimpleNamespace(resolve=lambda commit: commit, checkout=checkout)

    def checkout(_: str, folder: Path) -> Any:
        (folder / "Dockerfile").write_text("FROM scratch\n")
        return SimpleNamespace(refuse_stand_ins=lambda *_: None)

    monkeypatch.setattr(Repository, "fetched", fetched)
    with fake_docker() as daemon:
        daemon.containerd = request.param
        monkeypatch.setenv("AIRFLOW__AIRFLOW_DEPLOY__DOCKER_URL", daemon.url)
        monkeypatch.setenv("AIRFLOW_CONN_DOCKER_DEFAULT", json.dumps({"conn_type": "docker"}))
        yield World(monkeypatch, daemon)


KILLS = [f"{when} {step}" for step in range(1, 13) for when in ("before", "after")]


def another_image(world: World) -> None:
    """One of another client that can push to the registry."""
    world.docker.registry[world.tag] = Pushed(sha256("evil manifest"), EVIL)


def our_image_in_a_list(world: World) -> None:
    """A list which has our image for the daemon's platform, and another one for the nodes'."""
    ours = next(iter(world.docker.images.values()), EVIL)
    world.docker.registry[world.tag] = Pushed(sha256("evil list"), ours, LIST)


class TestPush:
    def test_the_digest_of_the_push_is_frozen_and_the_image_leaves_the_daemon(self, world: World) -> None:
        assert world.build() == world.docker.registry[world.tag].digest
        assert world.docker.images == {}

    def test_a_tag_that_stands_already_is_refused_before_anything_is_built(self, world: World) -> None:
        another_image(world)
        with pytest.raises(
            RefusedError,
            match=rf"^the registry has {world.tag} already, and not from this run; .* then trigger a new run$",
        ):
            world.build()
        assert world.docker.builds == []

    def test_a_tag_that_appears_during_the_build_is_refused(self, world: World) -> None:
        def appearing() -> Iterator[dict[str, Any]]:
            another_image(world)
            yield {"stream": "x\n"}

        world.docker.build_lines = appearing
        with pytest.raises(RefusedError, match="not from this run"):
            world.build()
        assert world.docker.own == set()
        assert world.docker.images == {}

    def test_a_task_that_is_cleared_freezes_the_same_image(self, world: World) -> None:
        assert world.build() == world.build()
        assert len(world.docker.builds) == 1

    def test_what_is_pushed_over_it_later_changes_nothing(self, world: World) -> None:
        digest = world.build()
        another_image(world)
        assert world.build() == digest

    @pytest.mark.parametrize("failing", ["build", "push"])
    def test_a_failure_leaves_no_image_on_the_daemon(self, world: World, failing: str) -> None:
        if failing == "build":
            world.docker.build_lines = lambda: iter([{"error": "no"}])
        else:
            world.docker.push_lines = lambda: iter([{"error": "no"}])
        world.docker.images["other:1"] = EVIL
        with pytest.raises((PermanentError, TemporaryError)):
            world.build()
        assert world.docker.images == {"other:1": EVIL}

    def test_an_image_that_cannot_be_removed_fails_nothing(self, world: World) -> None:
        world.docker.answers["DELETE /images/"] = Answer(500, "x")
        assert world.build() == world.docker.registry[world.tag].digest

    def test_a_record_of_another_dockerfile_is_not_used(self, world: World) -> None:
        """A person corrects the YAML and clears the run."""
        world.build()
        changed = make_spec(source={"repository": world.plan.spec.source.repository, "dockerfile": "Other"})
        world.run.planned(world.plan.model_copy(update={"spec": changed}), built=False)
        with pytest.raises(RefusedError, match="not from this run"):
            world.build()

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"tag": "x"}', "[" * 5000, '{"digest": "sha256:../x"}'])
    def test_a_record_that_is_none_is_not_used(self, world: World, text: str) -> None:
        plan: DeploymentPlan = world.plan
        DeploymentFolder(plan.spec.service, plan.deployment_id).write(f"push_{plan.deployment_id}.json", text)
        assert read_push(plan).built == ()
        assert world.build() in world.docker.own


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the dead close no files
class TestKilled:
    @pytest.mark.parametrize("elsewhere", [False, True], ids=["same daemon", "another daemon"])
    @pytest.mark.parametrize("kill", KILLS)
    def test_a_task_goes_on_wherever_it_was_killed(self, world: World, kill: str, elsewhere: bool) -> None:
        assert world.build(kill) in {None, *world.docker.own}
        if elsewhere:
            world.docker.images.clear()
        assert world.build() in world.docker.own
        assert world.docker.images == {}

    def test_the_kills_above_reach_the_end(self, world: World) -> None:
        world.build()
        assert world._steps <= len(KILLS) / 2

    @pytest.mark.parametrize("attack", [another_image, our_image_in_a_list])
    @pytest.mark.parametrize("kill", KILLS)
    def test_what_another_pushes_meanwhile_is_never_deployed(
        self, world: World, kill: str, attack: Callable[[World], None]
    ) -> None:
        world.build(kill)
        attack(world)
        try:
            digest = world.build()
        except RefusedError as error:
            assert "not from this run" in str(error)  # noqa: PT017 - one of two ends that are both right
        else:
            assert digest in world.docker.own

    def test_a_push_that_ends_after_its_task_was_tried_again_is_known(self, world: World) -> None:
        """The daemon goes on for a while when its client has died."""
        kill = next(kill for kill in KILLS if world.build(kill) is None and read_push(world.plan).built)
        (first,) = read_push(world.plan).built
        assert kill.startswith("after")

        def late() -> Iterator[dict[str, Any]]:
            world.docker.registry[world.tag] = Pushed(world.docker.digest_of(first), first)
            yield {"stream": "x\n"}

        world.docker.build_lines = late
        assert world.build() == world.docker.digest_of(first)
