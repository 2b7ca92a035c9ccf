"""Checks before anything is started or installed: one sentence for each obstacle, with its remedy."""

import os
import re
import shutil
import socket
import subprocess

from tests.stack import cgroups, go_modules
from tests.stack.errors import StackError
from tests.stack.layout import CHECKOUT, DOCKER_SOCKET, STATE, airflow_port
from tests.stack.processes import namespace_owner

_FREE_GIGABYTES = 5
_SOCKET_PATH_LIMIT = 100
"""The kernel allows 107 bytes for a Unix socket's path; PostgreSQL's is 7 longer, and containerd appends to its own."""


def check() -> None:
    """Raise the first problem that a start would run into.

    :raises StackError: with a sentence for the person who called.
    """
    for problem in (check_root, _neighbour, _path, _controllers, _disk, _go, _port):
        problem()


def check_airflow_alone() -> None:
    """The same for a start on a cluster of the user's own.

    :raises StackError: with a sentence for the person who called.
    """
    for problem in (_path, _port):
        problem()


def check_root() -> None:
    """Raise if the caller is not root, who alone may even look."""
    if os.geteuid() != 0:
        raise StackError("The stack makes namespaces and runs containers, which needs root: call it by sudo.")


def _neighbour() -> None:
    owner = namespace_owner()
    if owner not in (None, STATE):
        raise StackError(f"The stack of another checkout, {owner.parent}, is up: run `make down` there first.")


def _path() -> None:
    length = len(os.fsencode(DOCKER_SOCKET))
    if length > _SOCKET_PATH_LIMIT:
        over = length - _SOCKET_PATH_LIMIT
        raise StackError(f"{DOCKER_SOCKET} is too long for a socket: move the checkout to a path {over} bytes shorter.")
    if CHECKOUT.is_relative_to("/run") or CHECKOUT.is_relative_to("/var/run"):
        raise StackError("The stack hides /run from its servers: move the checkout elsewhere.")


def _controllers() -> None:
    if missing := cgroups.missing():
        names = ", ".join(missing)
        raise StackError(
            f"The cgroup controllers {names} are not mounted here: boot with them, or mount /sys/fs/cgroup."
        )


def _disk() -> None:
    free = shutil.disk_usage(CHECKOUT).free / 2**30
    if free < _FREE_GIGABYTES:
        raise StackError(f"{CHECKOUT} has {free:.1f} GB free and the stack needs {_FREE_GIGABYTES}: make room.")


def _go() -> None:
    if go_modules.go_is_needed() and not shutil.which("go"):
        raise StackError("Kubernetes is to be compiled and there is no `go` in PATH: install Go 1.26 from go.dev/dl.")


def _port() -> None:
    port = airflow_port()
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise StackError(
                f"Port {port}, for Airflow, is taken{_holder(port)}: stop that, or set AIRFLOW_PORT to another one."
            ) from None


def _holder(port: int) -> str:
    if not shutil.which("ss"):
        return ""
    argv = ["ss", "--no-header", "--listening", "--tcp", "--numeric", "--processes", f"sport = :{port}"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    found = re.search(r'\("([^"]+)",pid=(\d+)', shown)
    return f" by {found.group(1)} (pid {found.group(2)})" if found else ""
