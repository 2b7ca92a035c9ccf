"""Preflight names each obstacle in one sentence with its remedy, before anything is started or installed."""

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.stack import cgroups, go_modules, preflight, processes
from tests.stack.errors import StackError


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture(autouse=True)
def _able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a machine without obstacles."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(preflight, "namespace_owner", lambda: None)
    monkeypatch.setattr(preflight, "DOCKER_SOCKET", Path("/srv/x/.stack/run/docker.sock"))
    monkeypatch.setattr(preflight, "CHECKOUT", Path("/srv/x"))
    monkeypatch.setattr(cgroups, "missing", list)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 50 * 2**30))
    monkeypatch.setattr(go_modules, "go_is_needed", lambda: False)
    monkeypatch.setattr(preflight, "airflow_port", _free_port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Break = Callable[[pytest.MonkeyPatch], None]

OBSTACLES: dict[str, tuple[Break, str]] = {
    "not-root": (lambda patch: patch.setattr(os, "geteuid", lambda: 1000), r"needs root: call it by sudo\.$"),
    "another-stack": (
        lambda patch: patch.setattr(preflight, "namespace_owner", lambda: Path("/srv/other/.stack")),
        r"^The stack of another checkout, /srv/other, is up: run `make down` there first\.$",
    ),
    "long-path": (
        lambda patch: patch.setattr(preflight, "DOCKER_SOCKET", Path("/" + "x" * 119)),
        r"move the checkout to a path 20 bytes shorter\.$",
    ),
    "no-cgroups": (
        lambda patch: patch.setattr(cgroups, "missing", lambda: ["memory"]),
        r"^The cgroup controllers memory are not mounted here",
    ),
    "full-disk": (
        lambda patch: patch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 2**30)),
        r"has 1\.0 GB free and the stack needs 5: make room\.$",
    ),
}


@pytest.mark.parametrize("name", OBSTACLES)
def test_preflight_names_each_obstacle_and_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    obstruct, sentence = OBSTACLES[name]
    obstruct(monkeypatch)
    with pytest.raises(StackError, match=sentence):
        preflight.check()


def test_preflight_needs_go_only_to_compile_kubernetes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    preflight.check()
    monkeypatch.setattr(go_modules, "go_is_needed", lambda: True)
    with pytest.raises(StackError, match="no `go` in PATH: install Go"):
        preflight.check()


def test_preflight_names_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        monkeypatch.setattr(preflight, "airflow_port", lambda: port)
        with pytest.raises(StackError, match=rf"^Port {port}, for Airflow, is taken.*set AIRFLOW_PORT"):
            preflight.check()


def test_process_with_a_reused_pid_is_not_alive() -> None:
    """A process is identified by its id and its start time: another one with the same id must not be ended."""
    assert not processes.Process("etcd", os.getpid(), -1).alive()
