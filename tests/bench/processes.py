"""Processes of a benchmark: each in a session of its own, and all of it ended afterwards."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil


@contextmanager
def process(
    argv: Sequence[str | Path],
    env: Mapping[str, str],
    folder: Path,
    *,
    name: str | None = None,
    user: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a session of its own; end all of it afterwards.

    :param folder: for its log, which is called ``name``, or as the program.
    :param user: who runs it; None for the caller.
    """
    with (folder / f"{name or Path(argv[0]).name}-{time.time():.3f}.log").open("wb") as log:
        child = subprocess.Popen(
            argv,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
            user=user,
            group=user,
            extra_groups=user and [],
        )
        try:
            yield child
        finally:
            running = child.poll() is None
            everything = (
                [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)] if running else []
            )
            for each in everything:
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGKILL)
            child.wait()


def cpu(children: Iterable[subprocess.Popen[bytes]]) -> float:
    """Return the CPU seconds of processes so far, and of all that they have started, ended or not."""
    seconds = 0.0
    for each in [process for child in children for process in _family(child)]:
        with suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds


def _family(child: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Return the process and all that it has started and is still there; nothing if it has ended."""
    if child.poll() is not None:
        return []
    return [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
