"""A fetch is light and bounded, and so is a checkout; a commit of which a part is kept elsewhere is refused."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path

import pytest

from airflow_deploy.clients import git_command
from airflow_deploy.clients.git import Repository
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from tests.unit.clients.test_git import Team

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d' * 32}\nsize 12345\n"


@pytest.fixture
def team(tmp_path: Path) -> Team:
    made = Team.create(tmp_path / "team")
    made.commit(Dockerfile="FROM scratch\n", kept="one\n")
    return made


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "tree").mkdir()
    return tmp_path / "tree"


def checked(team: Team, tree: Path, context: str = ".", dockerfile: str = "Dockerfile") -> None:
    """Check out the latest commit, and refuse what stands for other files."""
    commit = team.git("rev-parse", "HEAD")
    with Repository.fetched(team.source()) as repository:
        repository.checkout(repository.resolve(commit), tree).refuse_stand_ins(tree / context, tree / dockerfile)


class TestServers:
    """Each kind of server gives the same files; those that can send less do."""

    @pytest.fixture(params=["filters", "no filters", "not this filter", "old protocol"])
    def server(self, request: pytest.FixtureRequest, team: Team, monkeypatch: pytest.MonkeyPatch) -> str:
        if request.param in ("filters", "not this filter"):
            team.git("config", "uploadpack.allowFilter", "true")
        if request.param == "not this filter":
            team.git("config", "uploadpackfilter.tree.allow", "false")
        if request.param == "old protocol":
            monkeypatch.setitem(git_command.SETTINGS, "protocol.version", "0")
        return str(request.param)

    def test_an_older_commit_is_found_and_checked_out(self, server: str, team: Team, tree: Path) -> None:
        old = team.git("rev-parse", "HEAD")
        team.commit(kept="two\n", later="x")
        with Repository.fetched(team.source()) as repository:
            assert repository.resolve(old[:7]) == old
            repository.checkout(old, tree)
        assert {path.name: path.read_text() for path in tree.iterdir()} == {
            "Dockerfile": "FROM scratch\n",
            "kept": "one\n",
        }

    def test_a_server_with_filters_sends_commits_alone_and_the_files_of_one(self, team: Team, tree: Path) -> None:
        team.git("config", "uploadpack.allowFilter", "true")
        commits = [team.commit(kept=f"{number}\n" * 1000) for number in range(5)]
        with Repository.fetched(team.source()) as repository:
            assert self.objects(repository._folder) == {"commit": 6}
            repository.checkout(commits[2], tree)
            assert self.objects(repository._snapshot) == {"commit": 1, "tree": 1, "blob": 2}

    @staticmethod
    def objects(folder: Path) -> dict[str, int]:
        listed = subprocess.run(
            ["git", "--git-dir", folder, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype)"],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        return {kind: listed.count(kind) for kind in listed}


class TestBounds:
    def test_more_files_than_permitted_are_refused_and_none_is_written(self, team: Team, tree: Path) -> None:
        commit = team.commit(third="3\n")
        sentence = "source: the commit has more than 2 files; remove some, or raise source.max_files"
        with (
            Repository.fetched(team.source(max_files=2)) as repository,
            pytest.raises(RefusedError, match=f"^{re.escape(sentence)}$"),
        ):
            repository.checkout(commit, tree)
        assert list(tree.iterdir()) == []
        with Repository.fetched(team.source(max_files=3)) as repository:
            repository.checkout(commit, tree)

    def test_files_larger_than_permitted_are_refused_and_none_is_written(self, team: Team, tree: Path) -> None:
        """They are small as Git sends them."""
        commit = team.commit(a="0" * 600_000, b="1" * 600_000)
        with (
            Repository.fetched(team.source(max_size="1Mi")) as repository,
            pytest.raises(RefusedError, match=r"^source: the commit's files are larger than 1Mi together; remove .*"),
        ):
            repository.checkout(commit, tree)
        assert list(tree.iterdir()) == []
        with Repository.fetched(team.source(max_size="2Mi")) as repository:
            repository.checkout(commit, tree)

    def test_a_fetch_larger_than_permitted_is_refused(self, team: Team, tree: Path) -> None:
        (team.path / "random").write_bytes(os.urandom(2 * 2**20))
        commit = team.commit()
        with (
            pytest.raises(
                RefusedError, match=r"^source: git fetch writes more than 1Mi; .* or raise source\.max_size$"
            ),
            Repository.fetched(team.source(max_size="1Mi")) as repository,
        ):
            repository.checkout(commit, tree)

    def test_a_list_of_files_without_end_is_refused(self, team: Team, tree: Path) -> None:
        """A tree that contains itself many times: few objects, and more files than any disk has room for."""
        tree_id = team.git("rev-parse", "HEAD^{tree}")
        for _ in range(7):
            listing = "".join(f"040000 tree {tree_id}\t{number}\n" for number in range(10))
            made = subprocess.run(
                ["git", "-C", team.path, "mktree"], input=listing, capture_output=True, text=True, check=True
            )
            tree_id = made.stdout.strip()
        commit = team.git("commit-tree", tree_id, "-p", "HEAD", "-m", "bomb")
        team.git("reset", "--quiet", "--soft", commit)
        with (
            pytest.raises(RefusedError, match=r"^source: (git ls-tree writes|the commit has) more than"),
            Repository.fetched(team.source(max_size="16Mi")) as repository,
        ):
            repository.checkout(commit, tree)
        assert list(tree.iterdir()) == []

    def test_a_server_that_never_ends_is_left_in_time_with_all_that_git_started(
        self, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Git starts other programs, which would go on."""
        fake = tmp_path / "bin" / "git"
        fake.parent.mkdir()
        fake.write_text(f"#!/bin/sh\nsleep 300 & echo $! > {tmp_path}/pid\nwait\n")
        fake.chmod(0o755)
        monkeypatch.setenv("PATH", f"{fake.parent}:{os.environ['PATH']}")
        source = team.source().model_copy(update={"timeout": 1})
        began = time.monotonic()
        with (
            pytest.raises(TemporaryError, match=r"^git init took longer than 1 s; .* or raise source\.timeout$"),
            Repository.fetched(source),
        ):
            pass
        assert time.monotonic() - began < 10
        child = int((tmp_path / "pid").read_text())
        deadline = time.monotonic() + 5
        while (status := Path(f"/proc/{child}/stat")).exists() and time.monotonic() < deadline:
            if status.read_text().split()[2] == "Z":
                break
            time.sleep(0.05)
        else:
            assert not status.exists()

    def test_without_git_the_sentence_says_so(
        self, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "sh").symlink_to("/bin/sh")
        monkeypatch.setenv("PATH", str(tmp_path / "bin"))
        with (
            pytest.raises(RefusedError, match=r"^git is not installed .* install it$"),
            Repository.fetched(team.source()),
        ):
            pass


class TestStandIns:
    def submodule(self, team: Team, at: str) -> None:
        head = team.git("rev-parse", "HEAD")
        team.git("update-index", "--add", "--cacheinfo", f"160000,{head},{at}")
        team.git("commit", "--quiet", "--message", "submodule")

    def test_a_submodule_is_refused(self, team: Team, tree: Path) -> None:
        self.submodule(team, "vendor/lib")
        with pytest.raises(
            RefusedError, match=r"^source: vendor/lib is a submodule, and would .* empty folder; commit"
        ):
            checked(team, tree)

    def test_a_submodule_outside_the_context_does_no_harm(self, team: Team, tree: Path) -> None:
        (team.path / "app").mkdir()
        (team.path / "app" / "main").write_text("x")
        team.commit()
        self.submodule(team, "application")
        checked(team, tree, context="app")

    def test_a_pointer_of_git_lfs_is_refused(self, team: Team, tree: Path) -> None:
        team.commit(**{".gitattributes": "*.bin filter=lfs diff=lfs merge=lfs -text\n", "model.bin": POINTER})
        with pytest.raises(
            RefusedError, match=r"^source: model\.bin is kept in Git LFS, and its pointer .*; commit the"
        ):
            checked(team, tree)

    def test_a_pointer_in_a_folder_with_attributes_of_its_own_is_refused(self, team: Team, tree: Path) -> None:
        (team.path / "data").mkdir()
        (team.path / "data" / ".gitattributes").write_text("* filter=lfs\n")
        (team.path / "data" / "a b\n").write_text(POINTER.replace("oid", "ext-0-x sha256:00\noid"))
        team.commit()
        with pytest.raises(RefusedError, match=r"^source: data/a b\\n is kept in Git LFS"):
            checked(team, tree)

    def test_a_dockerfile_that_is_a_pointer_is_refused(self, team: Team, tree: Path) -> None:
        (team.path / "app").mkdir()
        (team.path / "app" / "main").write_text("x")
        team.commit(**{".gitattributes": "Dockerfile filter=lfs\n", "Dockerfile": POINTER})
        with pytest.raises(RefusedError, match=r"^source: Dockerfile is kept in Git LFS"):
            checked(team, tree, context="app")

    @pytest.mark.parametrize(
        ("attributes", "text"),
        [("", POINTER), ("* -filter\n", POINTER), ("* filter=lfs\n", "version 1\n"), ("* filter=lfs\n", "")],
        ids=["a sample", "not filtered", "the file itself", "empty"],
    )
    def test_what_is_no_pointer_is_built(self, team: Team, tree: Path, attributes: str, text: str) -> None:
        team.commit(**{".gitattributes": attributes, "sample": text})
        checked(team, tree)
        assert (tree / "sample").read_text() == text

    def test_a_pointer_outside_the_context_does_no_harm(self, team: Team, tree: Path) -> None:
        (team.path / "app").mkdir()
        (team.path / "app" / "main").write_text("x")
        team.commit(**{".gitattributes": "*.bin filter=lfs\n", "model.bin": POINTER})
        checked(team, tree, context="app")
