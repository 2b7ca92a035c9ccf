"""Kill parts of the stack that is up, as the kernel does that runs out of memory, and bring them back.

Airflow's components have supervisors, which would start them again within a second: a supervisor is stopped for as long
as its component is to be away, and then finds it dead. All others are started as `up` started them.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.stack import airflow, control_plane, gateway, node, postgres, prometheus
from tests.stack.access import NODE
from tests.stack.control_plane import answers
from tests.stack.errors import StackError
from tests.stack.processes import Process, recorded, wait_until

_PATIENCE = 90.0
_TRIGGERERS = tuple(f"airflow-triggerer-{number}" for number in range(1, airflow.TRIGGERERS + 1))
_AIRFLOW = ("airflow-scheduler", *_TRIGGERERS, "airflow-api-server", "airflow-dag-processor")


@dataclass(frozen=True)
class Component:
    """Something that can die.

    :param kill: ends it by SIGKILL.
    :param restart: starts it again.
    :param ready: whether it does its work.
    """

    kill: Callable[[], None]
    restart: Callable[[], object]
    ready: Callable[[], bool]

    def bring_back(self) -> None:
        """Start it, and wait until it does its work.

        :raises StackError: it does not.
        """
        self.restart()
        if not wait_until(self.ready, _PATIENCE, 0.5):
            raise StackError(f"what was killed is not ready after {_PATIENCE:.0f} s")


def _kill(name: str) -> None:
    """Kill a server with what it has started: PostgreSQL does not start anew beside its orphans, nor its own zombie."""
    pid = recorded()[name].pid
    for each in [pid, *_below(pid)]:
        with suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)
    wait_until(lambda: _reaped(pid), 10)


def _reaped(pid: int) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return not Path(f"/proc/{pid}").exists()


def _server(name: str, start: Callable[[], Process], ready: Callable[[], bool]) -> Component:
    return Component(partial(_kill, name), start, ready)


def _supervised(names: Sequence[str]) -> Component:
    """Make the component of parts that have supervisors: with each of them dies what it has started."""

    killed_at = 0.0

    def kill() -> None:
        nonlocal killed_at
        for name in names:
            os.kill(recorded()[name].pid, signal.SIGSTOP)
        for pid in [pid for name in names for pid in _below(recorded()[name].pid)]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed_at = time.time()

    def restart() -> None:
        for name in names:
            os.kill(recorded()[name].pid, signal.SIGCONT)

    return Component(kill, restart, lambda: _at_work(names, killed_at))


def _at_work(names: Sequence[str], since: float) -> bool:
    """Whether each of these parts has reported for work since then."""
    jobs = {"scheduler": "SchedulerJob", "triggerer": "TriggererJob", "dag-processor": "DagProcessorJob"}
    for kind, job in jobs.items():
        wanted = sum(name.startswith(f"airflow-{kind}") for name in names)
        try:
            if wanted and not airflow.running(job, wanted, since):
                return False
        except StackError:
            return False
    return airflow.api_ready()


def _below(pid: int) -> list[int]:
    """Return all processes that descend from this one."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            stat = (entry / "stat").read_text()
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


def _kill_workers() -> None:
    """Kill the processes in which our Airflow's tasks run; those that watch over them stay."""
    for pid in _below(recorded()["airflow-scheduler"].pid):
        with suppress(OSError):
            title = Path(f"/proc/{pid}/cmdline").read_bytes()
            if title.startswith(b"airflow worker -- ") and b" LocalExecutor" not in title:
                os.kill(pid, signal.SIGKILL)


def _kubelet_ready() -> bool:
    return answers("wait", f"node/{NODE}", "--for=condition=Ready", "--timeout=1s")


COMPONENTS = {
    "scheduler": _supervised(["airflow-scheduler"]),
    "triggerer": _supervised(_TRIGGERERS),
    "worker": Component(_kill_workers, lambda: None, lambda: True),
    "api-server": _supervised(["airflow-api-server"]),
    "dag-processor": _supervised(["airflow-dag-processor"]),
    "postgres": _server(
        "postgres",
        postgres.resume,
        lambda: postgres.ready() and airflow.running("SchedulerJob") and airflow.api_ready(),
    ),
    "prometheus": _server("prometheus", prometheus.start, prometheus.ready),
    "gateway": _server("traefik", gateway.start_traefik, gateway.traefik_ready),
    "kube-apiserver": _server("apiserver", control_plane.start_apiserver, partial(answers, "get", "--raw=/readyz")),
    "kubelet": _server("kubelet", node.start_kubelet, _kubelet_ready),
    "airflow": _supervised(_AIRFLOW),
}
"""What the kill matrix kills; ``triggerer`` is all of them, and ``airflow`` is every component, with its tasks."""
