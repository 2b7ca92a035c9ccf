"""Every process of the stack is found and ended, even if it hides its environment."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import cgroups, processes
from tests.stack.layout import CGROUP, MARKER


@pytest.fixture(autouse=True)
def _beside_a_cluster_of_the_users_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cgroup and a network namespace, which are root's alone."""
    for module in (cgroups, processes):
        monkeypatch.setattr(module, "embedded", lambda: False)
    for name in ("STATE", "LOG", "PIDS"):
        monkeypatch.setattr(processes, name, tmp_path / name.lower())


def start(script: str) -> int:
    """Spawn a script that prints a process id, and return that."""
    server = processes.spawn("server", ["sh", "-c", script])
    assert processes.wait_until(lambda: server.log.exists() and server.log.read_text().endswith("\n"), 10)
    return int(server.log.read_text())


def alive(pid: int) -> bool:
    return processes._started(pid) is not None


@pytest.mark.parametrize(
    "script",
    [
        "sleep 600 & echo $!; wait",
        "setsid sleep 600 & echo $!; wait",
        f"env -u {MARKER} sleep 600 & echo $!; wait",
    ],
    ids=["child", "child-in-its-own-session", "child-without-the-marker"],
)
def test_every_child_of_a_server_is_ended(script: str) -> None:
    child = start(script)
    assert processes.end_all() == []
    assert not alive(child)


def test_foreign_process_is_not_ended() -> None:
    start("echo $$; sleep 600")
    with subprocess.Popen(["sleep", "600"]) as other:
        assert processes.end_all() == []
        assert alive(other.pid)
        other.kill()


def test_cgroup_removed_during_the_search_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod's cgroup may be removed after its parent was listed."""
    for number, name in enumerate(("", "kubepods", "kubepods/ending", "servers")):
        (folder := tmp_path / CGROUP / name).mkdir()
        (folder / "cgroup.procs").write_text(f"{number}\n")
    monkeypatch.setattr(cgroups, "hierarchies", lambda: [tmp_path])
    scandir = os.scandir

    def ends_first(path: Path | str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("ending"):
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", ends_first)
    assert sorted(cgroups.members()) == [0, 1, 3]
