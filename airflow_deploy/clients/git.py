"""The team's Git repository: which commit is meant, and its files."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from airflow_deploy.domain.config.git_source import Source
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.values import printable

GIT_TIMEOUT = 120
"""Seconds that one Git command may take."""
PASSED_ON = frozenset({"GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"})


class Repository:
    """A bare copy of the allowed branches, in a temporary folder that ``fetched`` removes."""

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder, self._source = folder, source

    @classmethod
    @contextmanager
    def fetched(cls, source: Source) -> Iterator[Repository]:
        """Fetch the allowed branches, and nothing else: a commit of another branch does not exist here.

        :raises TemporaryError: the repository cannot be fetched.
        """
        with tempfile.TemporaryDirectory(prefix="airflow-deploy-") as folder:
            repository = cls(Path(folder), source)
            repository._git("init", "--quiet", "--bare", ".")
            refs = [f"+refs/heads/{branch}:refs/heads/{branch}" for branch in source.branches]
            repository._git("fetch", "--quiet", "--no-tags", "--", source.repository, *refs)
            yield repository

    def resolve(self, commit: str) -> str:
        """Return the full hash of ``commit`` (6 to 64 hex digits, already validated).

        It is looked up among the commits of the allowed branches: what a caller sends never becomes an argument or a
        revision of Git's, and an object that merely came along with the others is not found.

        :raises RefusedError: no allowed branch contains it, or several commits begin like that.
        """
        found = [full for full in self._git("rev-list", "--branches").split() if full.startswith(commit)]
        if len(found) > 1:
            raise RefusedError(f"conf: commit {commit} is ambiguous: {len(found)} begin like that; send more digits")
        if not found:
            branches = " or ".join(self._source.branches)
            raise RefusedError(f"conf: commit {commit} is not on {branches}; send a commit that is")
        return found[0]

    def checkout(self, commit: str, folder: Path) -> None:
        """Write exactly the files of ``commit`` (a full hash) into ``folder``."""
        self._git("read-tree", commit)
        self._git("--work-tree", str(folder), "checkout-index", "--all", "--force")

    def _git(self, *arguments: str) -> str:
        environment = {
            # What a surrounding git command (a hook) says of its own repository does not reach ours.
            **{key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key in PASSED_ON},
            "GIT_TERMINAL_PROMPT": "0",  # fail instead of asking for a password
            "GIT_ALLOW_PROTOCOL": "https:ssh:file",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_LFS_SKIP_SMUDGE": "1",
        }
        command = ["git", "-c", "safe.directory=*", "--git-dir", str(self._folder), *arguments]
        try:
            done = subprocess.run(
                command,
                cwd=self._folder,
                env=environment,
                capture_output=True,
                encoding="utf-8",
                errors="replace",  # a server says what it likes
                timeout=GIT_TIMEOUT,
                check=False,
            )
        except FileNotFoundError as error:
            raise RefusedError("git is not installed where Airflow's tasks run; install it") from error
        except subprocess.TimeoutExpired as error:
            raise TemporaryError(f"git {arguments[0]} took longer than {GIT_TIMEOUT} s") from error
        if done.returncode:
            raise TemporaryError(f"git {arguments[0]} failed: {printable(done.stderr.strip(), 300)}")
        return done.stdout
