"""End the stack, or what is left of one: by what is found, never by what ought to be there."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.stack import cgroups, network, postgres, yours
from tests.stack.layout import ADMIN_KUBECONFIG, CLUSTER, INFO, KEPT_BY_DOWN, NETNS, STATE
from tests.stack.processes import end_all, namespace_owner


def anything_left() -> bool:
    """Whether a stack of this checkout is up, or has left something behind."""
    remains = STATE.is_dir() and any(path not in KEPT_BY_DOWN for path in STATE.iterdir())
    return remains or (_ours_or_nobodys() and (NETNS.exists() or network.link_exists()))


def tear_down() -> list[str]:
    """End every process and undo every change; gives a line for each thing that would not go.

    Harmless when nothing is up, and never touches another checkout's stack.
    """
    mine = _ours_or_nobodys()
    INFO.unlink(missing_ok=True)  # the supervisors now take a death for an end
    postgres.stop()
    problems = [f"process {pid} does not end" for pid in end_all()]
    # What the cluster does not let go of now is tried again by the next `down`, which needs to know where it is.
    kept = yours.let_go()
    problems += kept
    problems += [
        f"{mount} is still mounted"
        for mount in _mounts()
        if subprocess.run(["umount", "--lazy", mount], check=False).returncode
    ]
    if mine:
        problems += [f"{path} is still there" for path in cgroups.remove()]
        network.remove()
    for path in STATE.iterdir() if STATE.is_dir() else ():
        if path in KEPT_BY_DOWN or (kept and path in (CLUSTER, ADMIN_KUBECONFIG)):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    return problems


def _ours_or_nobodys() -> bool:
    """Whether the namespaces on this machine are ours to remove, if there are any: root alone makes them."""
    return os.geteuid() == 0 and namespace_owner() in (None, STATE)


def _mounts() -> list[Path]:
    """Mounts below the state folder, innermost first."""
    points = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    paths = [Path(point.encode().decode("unicode_escape")) for point in points]
    ours = [path for path in paths if path.is_relative_to(STATE)]
    return sorted(ours, key=lambda path: len(path.parts), reverse=True)
