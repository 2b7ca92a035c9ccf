"""A cgroup of our own in every hierarchy, so that our processes are known by their place.

It has three children: `servers`, which every process that the stack starts enters and no child of it can leave,
`kubepods` for the kubelet's pods, and `docker` for builds. A stack on a cluster of the user's own, which need not be
root's, has none. Works with both versions of cgroups: v1 has one mounted
hierarchy per controller, v2 a single one.
"""

import contextlib
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from tests.stack.layout import CGROUP, embedded

NEEDED = ("cpu", "memory", "pids")


def hierarchies() -> list[Path]:
    """Mount points of every cgroup hierarchy that the host has."""
    return [Path(mount[1]) for mount in _mounts()]


def missing() -> list[str]:
    """Controllers that a kubelet cannot do without and this machine does not offer."""
    offered: set[str] = set()
    for mount in _mounts():
        if mount[2] == "cgroup":
            offered.update(mount[3].split(","))
        else:
            offered.update((Path(mount[1]) / "cgroup.controllers").read_text().split())
    return [controller for controller in NEEDED if controller not in offered]


def entering(argv: Sequence[str | Path]) -> list[str]:
    """The same command, in our cgroup from its first moment on.

    A process may overwrite its environment with its title, close its files and open a session: it stays in here. One
    hierarchy is enough to know it by.
    """
    if not embedded():
        return [str(word) for word in argv]
    return ["sh", "-c", f'echo $$ > {shlex.quote(str(_servers()))}/cgroup.procs && exec "$@"', "sh", *map(str, argv)]


def create() -> None:
    """Make our cgroup everywhere: the kubelet refuses a root that some hierarchy lacks."""
    for hierarchy in hierarchies():
        ours = hierarchy / CGROUP
        ours.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            # On v1 a new cpuset is empty, and an empty one takes no process.
            if (ours / name).exists() and (hierarchy / name).exists():
                (ours / name).write_text((hierarchy / name).read_text())
    _servers().mkdir(exist_ok=True)


def members() -> list[int]:
    """Every process in our cgroup or below it."""
    found = []
    for hierarchy in hierarchies():
        for folder in _folders(hierarchy / CGROUP):
            with contextlib.suppress(OSError):
                found += [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]
    return found


def remove(seconds: float = 5) -> list[Path]:
    """Remove our cgroup from every hierarchy; gives those that would not go.

    The kernel lets go of a dead process's cgroup a moment after the process.
    """
    deadline = time.monotonic() + seconds
    while left := [hierarchy / CGROUP for hierarchy in hierarchies() if (hierarchy / CGROUP).is_dir()]:
        for root in left:
            for folder in _folders(root):
                with contextlib.suppress(OSError):
                    folder.rmdir()
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return left


def _folders(root: Path) -> list[Path]:
    """Return it and all below it, what is inside before what it is inside of; any may go meanwhile, as its pod ends."""
    return [Path(folder) for folder, _, _ in os.walk(root, topdown=False)]


def _servers() -> Path:
    """The cgroup of the stack's own processes: on v1 below the hierarchy that counts processes."""
    counting = [mount[1] for mount in _mounts() if mount[2] == "cgroup" and "pids" in mount[3].split(",")]
    unified = [mount[1] for mount in _mounts() if mount[2] == "cgroup2"]
    return Path([*counting, *unified][0]) / CGROUP / "servers"


def _mounts() -> list[list[str]]:
    """Fields of /proc/mounts for each hierarchy: device, mount point, type, options."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [fields for fields in lines if fields[2] in ("cgroup", "cgroup2")]
