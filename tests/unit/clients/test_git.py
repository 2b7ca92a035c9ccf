"""Only commits of allowed branches are found, their files are checked out, and no text becomes an option of Git."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from airflow_deploy.clients.git import Repository
from airflow_deploy.clients.git_command import run_git
from airflow_deploy.domain.config.git_source import Source
from airflow_deploy.domain.errors import RefusedError, TemporaryError


@dataclass(frozen=True)
class Team:
    """A team's repository with a branch that may be deployed and one that may not."""

    path: Path

    @classmethod
    def create(cls, path: Path) -> Team:
        path.mkdir()
        made = cls(path)
        made.git("init", "--quiet", "--initial-branch", "main")
        return made

    def git(self, *arguments: str) -> str:
        plain = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        who = {f"GIT_{role}_{what}": "t@example.com" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        environment = {**plain, **who, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        command = ["git", "-C", str(self.path), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, **files: str) -> str:
        for name, text in files.items():
            (self.path / name).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "change")
        return self.git("rev-parse", "HEAD")

    def source(self, *branches: str, **bounds: Any) -> Source:
        return Source(repository=f"file://{self.path}", branches=branches or ("main",), **bounds)


@pytest.fixture
def team(tmp_path: Path) -> Team:
    return Team.create(tmp_path / "team")


@pytest.fixture
def first(team: Team) -> str:
    return team.commit(Dockerfile="FROM scratch\n", kept="one\n")


@pytest.fixture
def second(team: Team, first: str) -> str:
    return team.commit(kept="two\n", added="new\n")


@pytest.fixture
def secret(team: Team, second: str) -> str:
    team.git("checkout", "--quiet", "-b", "wip")
    made = team.commit(kept="unreviewed\n")
    team.git("tag", "v1")
    team.git("checkout", "--quiet", "main")
    return made


@pytest.fixture
def repository(team: Team, secret: str) -> Iterator[Repository]:
    with Repository.fetched(team.source()) as fetched:
        yield fetched


class TestResolve:
    @pytest.mark.parametrize("digits", [6, 7, 12, 39, 40])
    def test_short_commit_is_resolved_to_the_full_one(
        self, repository: Repository, first: str, second: str, digits: int
    ) -> None:
        assert repository.resolve(first[:digits]) == first
        assert repository.resolve(second[:digits]) == second

    @pytest.mark.parametrize("digits", [7, 40])
    def test_commit_of_another_branch_is_refused(self, repository: Repository, secret: str, digits: int) -> None:
        with pytest.raises(
            RefusedError, match=f"^conf: commit {secret[:digits]} is not on main; send a commit that is$"
        ):
            repository.resolve(secret[:digits])

    def test_commit_of_a_second_allowed_branch_is_found(self, team: Team, secret: str) -> None:
        with Repository.fetched(team.source("main", "wip")) as repository:
            assert repository.resolve(secret) == secret

    def test_commit_removed_by_a_force_push_is_refused(self, team: Team, first: str, second: str) -> None:
        team.git("reset", "--quiet", "--hard", first)
        with Repository.fetched(team.source()) as repository, pytest.raises(RefusedError):
            repository.resolve(second)

    @pytest.mark.parametrize("commit", ["0" * 40, "f" * 40, "abcdef0", "f" * 64])
    def test_unknown_commit_is_refused(self, repository: Repository, commit: str) -> None:
        with pytest.raises(RefusedError, match="is not on main"):
            repository.resolve(commit)

    def test_commit_with_too_many_digits_is_refused(self, repository: Repository, second: str) -> None:
        with pytest.raises(RefusedError, match="is not on main"):
            repository.resolve(f"{second}0")

    def test_fetched_commit_outside_the_allowed_branches_is_refused(
        self, team: Team, repository: Repository, secret: str, tmp_path: Path
    ) -> None:
        """A server of static files sends whole packs, with commits of other branches."""
        (found,) = repository._folder.glob("objects/info")
        (found / "alternates").write_text(f"{team.path}/.git/objects\n")
        with run_git(repository._folder, team.source(), "cat-file", "-t", secret) as kind:
            assert kind.read() == b"commit\n"
        with pytest.raises(RefusedError, match="is not on main"):
            repository.resolve(secret)

    def test_branch_named_like_a_commit_does_not_hide_the_commit(self, team: Team, first: str, second: str) -> None:
        team.git("branch", first[:7], second)
        with Repository.fetched(team.source("main", first[:7])) as repository:
            assert repository.resolve(first[:7]) == first

    def test_ambiguous_commit_is_refused(self, team: Team) -> None:
        commits = [team.commit(number=str(number)) for number in range(17)]
        shared = next(digit for digit in "0123456789abcdef" if sum(commit[0] == digit for commit in commits) > 1)
        with (
            Repository.fetched(team.source()) as repository,
            pytest.raises(RefusedError, match=rf"^conf: commit {shared} is ambiguous: \d+ begin .* send more digits$"),
        ):
            repository.resolve(shared)

    def test_hash_of_a_file_or_folder_is_refused(self, team: Team, repository: Repository) -> None:
        for what in ("main:kept", "main^{tree}"):
            with pytest.raises(RefusedError):
                repository.resolve(team.git("rev-parse", what))

    @pytest.mark.parametrize(
        "text", ["--all", "--git-dir", "-h", "--help", "--show-toplevel", "v1", "refs/tags/v1", "@{-1}"]
    )
    def test_option_or_tag_in_place_of_a_commit_is_refused(self, repository: Repository, text: str) -> None:
        with pytest.raises(RefusedError):
            repository.resolve(text)


class TestCheckout:
    def test_checkout_writes_exactly_the_files_of_the_commit(
        self, repository: Repository, first: str, second: str, tmp_path: Path
    ) -> None:
        for commit, files in ((first, {"Dockerfile", "kept"}), (second, {"Dockerfile", "kept", "added"})):
            folder = tmp_path / commit
            folder.mkdir()
            repository.checkout(commit, folder)
            assert {path.name for path in folder.iterdir()} == files
        assert (tmp_path / first / "kept").read_text() == "one\n"
        assert (tmp_path / second / "kept").read_text() == "two\n"

    def test_checkout_writes_nothing_through_a_link(self, team: Team, first: str, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        (team.path / "link").symlink_to(outside)
        linked = team.commit()
        team.git("rm", "--quiet", "link")
        (team.path / "link").mkdir()
        (team.path / "link" / "payload").write_text("x")
        replaced = team.commit()
        folder = tmp_path / "tree"
        folder.mkdir()
        with Repository.fetched(team.source()) as repository:
            repository.checkout(linked, folder)
            assert (folder / "link").is_symlink()
            repository.checkout(replaced, folder)
        assert list(outside.iterdir()) == []

    def test_checkout_runs_no_hook_and_no_filter_of_the_repository(
        self, team: Team, first: str, tmp_path: Path
    ) -> None:
        ran = tmp_path / "ran"
        for name in ("post-checkout", "pre-commit", "reference-transaction"):
            hook = team.path / ".git" / "hooks" / name
            hook.parent.mkdir(exist_ok=True)
            hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
        team.git("config", "filter.evil.smudge", f"touch {ran}")
        commit = team.commit(**{".gitattributes": "* filter=evil\n"})
        for hook in (team.path / ".git" / "hooks").iterdir():
            hook.chmod(0o755)
        folder = tmp_path / "tree"
        folder.mkdir()
        with Repository.fetched(team.source()) as repository:
            repository.checkout(commit, folder)
        assert (folder / "kept").exists()
        assert not ran.exists()

    def test_checkout_of_an_empty_commit_leaves_no_files(self, team: Team, tmp_path: Path) -> None:
        commit = team.commit()
        folder = tmp_path / "tree"
        folder.mkdir()
        with Repository.fetched(team.source()) as repository:
            repository.checkout(commit, folder)
        assert list(folder.iterdir()) == []


class TestFetching:
    def test_fetch_removes_its_temporary_files(
        self, team: Team, first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        work = tmp_path / "work"
        work.mkdir()
        monkeypatch.setattr("tempfile.tempdir", str(work))
        with Repository.fetched(team.source()):
            assert len(list(work.iterdir())) == 1
        assert list(work.iterdir()) == []

    def test_missing_repository_is_a_temporary_error(self, tmp_path: Path) -> None:
        with (
            pytest.raises(TemporaryError, match=r"^git fetch failed: "),
            Repository.fetched(Source(repository=f"file://{tmp_path}/nowhere")),
        ):
            pass

    def test_missing_branch_is_a_temporary_error(self, team: Team, first: str) -> None:
        with pytest.raises(TemporaryError, match="git fetch failed"), Repository.fetched(team.source("release")):
            pass

    def test_fetch_error_is_one_printable_line(self, tmp_path: Path) -> None:
        with (
            pytest.raises(TemporaryError) as caught,
            Repository.fetched(Source(repository=f"file://{tmp_path}/no\x7fwhere")),
        ):
            pass
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize(
        "repository", ["--upload-pack=touch ran", "ext::sh -c touch% ran", "-oProxyCommand=touch ran"]
    )
    def test_repository_address_never_becomes_an_option_or_a_command(
        self, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        hostile = Source.model_construct(repository=repository, branches=("main",))  # past the spec's own check
        with pytest.raises(TemporaryError), Repository.fetched(hostile):
            pass
        assert not list(tmp_path.rglob("ran"))

    def test_git_variables_of_the_environment_have_no_effect(
        self, team: Team, first: str, second: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = tmp_path / "other"
        for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"):
            monkeypatch.setenv(name, str(other / name))
        folder = tmp_path / "tree"
        folder.mkdir()
        with Repository.fetched(team.source()) as repository:
            assert repository.resolve(first[:7]) == first
            repository.checkout(second, folder)
        assert (folder / "kept").read_text() == "two\n"
        assert not other.exists()
