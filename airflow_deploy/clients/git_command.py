"""One Git command: its time and what it writes are bounded, and only a known environment reaches it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from airflow_deploy.domain.config.git_source import Source
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.values import printable, size_bytes

PASSED_ON = frozenset({"GIT_SSH", "GIT_SSH_COMMAND", "GIT_ASKPASS", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH"})
SETTINGS = {
    "safe.directory": "*",
    "protocol.version": "2",
    "fetch.unpackLimit": "1",  # one pack, so that the bound on a file is the bound on a fetch
    "gc.auto": "0",
    "maintenance.auto": "false",
}
BOUNDED = """trap '' XFSZ; ulimit -f "$0" 2>/dev/null; exec git "$@\""""
"""A program of the shell. It bounds each file, in blocks of 512 bytes, and lets Git say so instead of dying of it."""
TOO_LARGE = "File too large"


class GitFailedError(TemporaryError):
    """Git ended with an error."""


@contextmanager
def run_git(folder: Path, source: Source, *arguments: str, given: bytes = b"") -> Iterator[IO[bytes]]:
    """Run Git on the bare repository in ``folder``, and yield what it wrote as a file, which may be large.

    :raises TemporaryError: it failed (``GitFailedError``), or took too long.
    :raises RefusedError: it wrote more than ``source.max_size``, or there is no Git.
    """
    settings = [part for key, value in SETTINGS.items() for part in ("-c", f"{key}={value}")]
    limit = str(size_bytes(source.max_size) // 512)
    command = ["sh", "-c", BOUNDED, limit, *settings, "--git-dir", str(folder), *arguments]
    with TemporaryFile() as output, TemporaryFile() as said:
        code = _finish(command, folder, source.timeout, arguments[0], given, (output, said))
        said.seek(0)
        why = said.read(4096).decode("utf-8", "replace").strip()  # a server says what it likes
        if code == 127:
            raise RefusedError("git is not installed where Airflow's tasks run; install it")
        if code and TOO_LARGE in why:
            raise RefusedError(
                f"source: git {arguments[0]} writes more than {source.max_size}; remove large files from the"
                " repository, or raise source.max_size"
            )
        if code:
            raise GitFailedError(f"git {arguments[0]} failed: {printable(why, 300)}")
        output.seek(0)
        yield output


def _finish(
    command: Sequence[str], folder: Path, seconds: int, name: str, given: bytes, files: tuple[IO[bytes], IO[bytes]]
) -> int:
    """Run a command to its end, or end it with all that it started, and return its exit code."""
    with TemporaryFile() as text:
        text.write(given)
        text.seek(0)
        process = subprocess.Popen(
            command, cwd=folder, env=_environment(), stdin=text, stdout=files[0], stderr=files[1],
            start_new_session=True,
        )  # fmt: skip
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired as error:
        raise TemporaryError(
            f"git {name} took longer than {seconds} s; check the server, or raise source.timeout"
        ) from error
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _environment() -> dict[str, str]:
    return {
        # What a surrounding git command (a hook) says of its own repository does not reach ours.
        **{key: value for key, value in os.environ.items() if not key.startswith("GIT_") or key in PASSED_ON},
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",  # fail instead of asking for a password
        "GIT_ALLOW_PROTOCOL": "https:ssh:file",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }
