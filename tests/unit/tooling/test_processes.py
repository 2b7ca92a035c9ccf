"""What the stack started is found again and ended, also where it hides what it inherited."""

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
    ids=["a child", "one in a session of its own", "one that shows nobody its environment"],
)
def test_every_child_of_a_server_is_ended(script: str) -> None:
    child = start(script)
    assert processes.end_all() == []
    assert not alive(child)


def test_what_is_somebody_elses_is_left_alone() -> None:
    start("echo $$; sleep 600")
    with subprocess.Popen(["sleep", "600"]) as other:
        assert processes.end_all() == []
        assert alive(other.pid)
        other.kill()


def test_a_cgroup_that_goes_while_it_is_looked_for_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod's cgroup is there when its parent is listed, and gone when it is its turn."""
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
