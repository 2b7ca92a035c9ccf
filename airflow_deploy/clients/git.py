"""The team's Git repository: which commit is meant, and its files."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from airflow_deploy.clients.checkout import Checkout, bounded, entries
from airflow_deploy.clients.git_command import GitFailedError, run_git
from airflow_deploy.domain.config.git_source import Source
from airflow_deploy.domain.errors import RefusedError

log = logging.getLogger(__name__)


class Repository:
    """The commits of the allowed branches, in a temporary folder that ``fetched`` removes."""

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder, self._source = folder, source
        self._snapshot = folder / "snapshot"

    @classmethod
    @contextmanager
    def fetched(cls, source: Source) -> Iterator[Repository]:
        """Fetch the allowed branches, and nothing else: a commit of another branch does not exist here.

        :raises TemporaryError: the repository cannot be fetched.
        :raises RefusedError: it is too large.
        """
        with tempfile.TemporaryDirectory(prefix="airflow-deploy-") as folder:
            repository = cls(Path(folder), source)
            repository._init(repository._folder)
            # Commits alone, without their files. A server that cannot leave them out sends all, or refuses.
            repository._fetch(repository._folder, "--filter=tree:0", *repository._branches)
            yield repository

    def resolve(self, commit: str) -> str:
        """Return the full hash of ``commit`` (6 to 64 hex digits, already validated).

        It is looked up among the commits of the allowed branches: what a caller sends never becomes an argument or a
        revision of Git's, and an object that merely came along with the others is not found.

        :raises RefusedError: no allowed branch contains it, or several commits begin like that.
        """
        with run_git(self._folder, self._source, "rev-list", "--branches") as commits:
            found = [full for line in commits if (full := line.decode("ascii").strip()).startswith(commit)]
        if len(found) > 1:
            raise RefusedError(f"conf: commit {commit} is ambiguous: {len(found)} begin like that; send more digits")
        if not found:
            branches = " or ".join(self._source.branches)
            raise RefusedError(f"conf: commit {commit} is not on {branches}; send a commit that is")
        return found[0]

    def checkout(self, commit: str, folder: Path) -> Checkout:
        """Write exactly the files of ``commit`` into ``folder``.

        :param commit: a full hash that ``resolve`` has returned.
        :raises TemporaryError: the commit cannot be fetched.
        :raises RefusedError: its files are too many or too large; none is written then.
        """
        if not self._snapshot.exists():
            self._snapshot.mkdir()
            self._init(self._snapshot)
        # One commit with its files. A server of an old kind gives branches only: then all that they contain.
        self._fetch(self._snapshot, "--depth=1", commit)
        with self._in_snapshot("ls-tree", "-r", "-l", "-z", commit) as listing:
            small = bounded(entries(listing), self._source)
        with self._in_snapshot("read-tree", commit):
            pass
        with self._in_snapshot("--work-tree", str(folder), "checkout-index", "--all", "--force"):
            pass
        return Checkout(folder, small, self._filters)

    @property
    def _branches(self) -> list[str]:
        return [f"+refs/heads/{branch}:refs/heads/{branch}" for branch in self._source.branches]

    def _init(self, folder: Path) -> None:
        with run_git(folder, self._source, "init", "--quiet", "--bare", "--template=", "."):
            pass

    def _fetch(self, folder: Path, option: str, *wanted: str) -> None:
        fetch = partial(run_git, folder, self._source, "fetch", "--quiet", "--no-tags")
        try:
            with fetch(option, "--", self._source.repository, *wanted):
                return
        except GitFailedError as error:
            log.info("a fetch with %s failed, fetching all of the branches: %s", option, error)
        with fetch("--no-filter", "--", self._source.repository, *self._branches):
            return

    def _in_snapshot(self, *arguments: str, given: bytes = b"") -> AbstractContextManager[IO[bytes]]:
        return run_git(self._snapshot, self._source, *arguments, given=given)

    def _filters(self, paths: list[str]) -> dict[str, str]:
        """Return the value of the attribute ``filter`` of each path, by .gitattributes of the commit."""
        given = b"".join(os.fsencode(path) + b"\0" for path in paths)
        with self._in_snapshot("check-attr", "--cached", "--stdin", "-z", "filter", given=given) as output:
            fields = os.fsdecode(output.read()).split("\0")
        return dict(zip(fields[::3], fields[2::3], strict=False))
