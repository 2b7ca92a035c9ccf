"""
Makes the payment service's git repository: the running version, the fixes to deploy, and commits not to deploy.

`base/` holds the running version; each folder under `overlays/` holds the files that one commit replaces. Authors,
dates and file modes are fixed, so every machine gets the same hashes.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
AUTHOR = "airflow-deploy sample <sample@airflow-deploy.invalid>"
FIRST_COMMIT = 1_767_225_600  # 2026-01-01 00:00:00 UTC; each commit is an hour after the one before


@dataclass(frozen=True)
class Commit:
    """One commit to make: its branch, the name of the commit it stands on, and the folder of the files it writes."""

    name: str
    branch: str
    parent: str | None
    files: str
    message: str


# What the messages do not say, as their authors do not know it: `bad` drops the zero of 12.05, so the ledger refuses
# every amount that ends in 01 to 09. With prices in steps of 5 cents, that is one payment in twenty. `late` mends
# that, but lets all payments share the width of the fraction: after the first payment in yen it fails as `bad` does.
# The others stand on branches of their own: `slow` lets every fifth payment wait for the screening; `leak` keeps each
# receipt for ever; `burn` asks for new entries again at once when there are none; `crash` notes that it has renewed its
# login in a map that was never made, and Go ends the program for that.
COMMITS = (
    Commit("running", "main", None, "base", "Take payments and book them in the ledger"),
    Commit("good", "main", "running", "overlays/good", "Keep 20 connections open: payments queued for the only one"),
    Commit("bad", "main", "good", "overlays/bad", "Take payments in yen, which have no cents"),
    Commit("late", "main", "bad", "overlays/late", "Write amounts with the digits of their currency"),
    Commit("slow", "screening", "good", "overlays/slow", "Screen payments of more than 160 for fraud"),
    Commit("leak", "receipts", "good", "overlays/leak", "Keep receipts, to print those again that get lost"),
    Commit("burn", "journal", "good", "overlays/burn", "Write a journal that no user waits for"),
    Commit("crash", "session", "good", "overlays/crash", "Keep one session with the ledger, and renew it in time"),
    Commit("experiment", "experiment", "running", "overlays/experiment", "Try: wait less for a pooled connection"),
)


@dataclass(frozen=True)
class Sample:
    """
    The repository and its full commit hashes (40 hex digits).

    :param path: a git repository with a working tree, at the head of `main`.
    :param running: what serves before the first deployment: slow under 50 requests/s (the incident), without errors.
    :param good: `running` with a bigger pool: about 20 ms.
    :param bad: `good` with a bug in its code that fails 5 % of the payments.
    :param late: `good` until the first payment in yen; then it fails 5 % of the payments. Head of `main`.
    :param slow: `good`, but a fifth of the payments takes 300 ms more. On the branch `screening`.
    :param leak: `good`, but each payment takes 48 KiB of memory for good. On the branch `receipts`.
    :param burn: `good`, but it uses all the CPU that it may. On the branch `journal`.
    :param crash: `good`, but it ends 30 s after its first payment. On the branch `session`.
    :param experiment: on the branch `experiment` only, beside `good`.
    """

    path: Path
    running: str
    good: str
    bad: str
    late: str
    slow: str
    leak: str
    burn: str
    crash: str
    experiment: str


def make_repository(folder: Path) -> Sample:
    """Make the repository in `folder`, or bring one made before back to its first state."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    _git(folder.parent, "init", "--quiet", "--template=", "--object-format=sha1", "--initial-branch=main", str(folder))
    _git(folder, "fast-import", "--quiet", "--force", stdin=b"".join(_stream()))
    _git(folder, "checkout", "--quiet", "--force", "main")
    _git(folder, "reset", "--quiet", "--hard", "main")
    return Sample(folder, *_git(folder, "rev-parse", *(f"refs/commits/{commit.name}" for commit in COMMITS)).split())


def _stream() -> Iterator[bytes]:
    """Everything as one `git fast-import` stream; marks number the commits from 1."""
    marks = {commit.name: number for number, commit in enumerate(COMMITS, start=1)}
    for commit in COMMITS:
        message = commit.message.encode() + b"\n"
        when = FIRST_COMMIT + 3600 * marks[commit.name]
        # Without the reset, a stream run again would stand its first commit on the branch as it was left.
        yield f"reset refs/heads/{commit.branch}\n".encode()
        yield f"commit refs/heads/{commit.branch}\nmark :{marks[commit.name]}\n".encode()
        yield f"committer {AUTHOR} {when} +0000\ndata {len(message)}\n".encode() + message
        if commit.parent:
            yield f"from :{marks[commit.parent]}\n".encode()
        root = HERE / commit.files
        for file in sorted(path for path in root.rglob("*") if path.is_file()):
            content = file.read_bytes()
            name = file.relative_to(root).as_posix()
            yield f"M 100644 inline {name}\ndata {len(content)}\n".encode() + content + b"\n"
        yield f"reset refs/commits/{commit.name}\nfrom :{marks[commit.name]}\n\n".encode()


def _git(folder: Path, *arguments: str, stdin: bytes = b"") -> str:
    """Run git on `folder` alone: neither the user's settings nor an outer git command (a hook) have a say."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "GIT_TERMINAL_PROMPT": "0"}
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, env=environment, input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode()
