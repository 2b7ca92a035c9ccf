"""Starting, recognising and ending the stack's processes.

A pid alone proves nothing after a crash: it may have been reused. A process is known by its pid *and*
its start time; strays are known by what they inherit (our cgroup, our network namespace, the marker in their
environment, a session that one of ours leads), so that nothing survives whose parent died before it could write a
record.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.stack import cgroups
from tests.stack.layout import ADDRESS, LOG, MARKER, NETNS, NODE_ADDRESS, RUN, STATE, embedded

PIDS = RUN / "pid"


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return a child's environment: the caller's, made fit for servers on this machine.

    It may cache bytecode even if the caller's environment forbids it (half of Airflow's start is compiling otherwise).
    It finds Debian's system programs, and reaches our addresses without the proxy that the caller may need for others.
    """
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    sbin = "/usr/local/sbin:/usr/sbin:/sbin"
    direct = ",".join(filter(None, (inherited.get("NO_PROXY"), "localhost", "127.0.0.1", ADDRESS, NODE_ADDRESS)))
    ours = {"PATH": f"{inherited.get('PATH', '/usr/bin:/bin')}:{sbin}", "NO_PROXY": direct, "no_proxy": direct}
    return {**inherited, **ours, **(extra or {})}


def in_netns(argv: Sequence[str]) -> list[str]:
    """The same command, inside the stack's network namespace."""
    return ["nsenter", f"--net={NETNS}", *argv]


@dataclass(frozen=True)
class Process:
    """One process of the stack, told apart from a later one with the same pid by its start time (clock ticks)."""

    name: str
    pid: int
    started: int

    @property
    def log(self) -> Path:
        return LOG / f"{self.name}.log"

    def alive(self) -> bool:
        return _started(self.pid) == self.started

    def log_tail(self, lines: int = 20) -> str:
        """The end of its log, for a person to read."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def spawn(name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Process:
    """Start a server in a session of its own, its output in the part's log, its pid on record."""
    LOG.mkdir(parents=True, exist_ok=True)
    PIDS.mkdir(parents=True, exist_ok=True)
    with (LOG / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            cgroups.entering(argv),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**environment(env), MARKER: str(STATE)},
            cwd="/",
            start_new_session=True,
        )
    _children.append(child)
    process = Process(name, child.pid, _started(child.pid) or 0)
    (PIDS / f"{name}.json").write_text(json.dumps({"pid": process.pid, "started": process.started}))
    return process


def end(process: Process) -> None:
    """End one server and remove it from the record, so that health checks leave it out."""
    (PIDS / f"{process.name}.json").unlink(missing_ok=True)
    if process.alive():
        os.kill(process.pid, signal.SIGTERM)
        wait_until(lambda: not process.alive(), 20)


def recorded() -> dict[str, Process]:
    """Every process that `spawn` put on record, by name, alive or not."""
    found = {}
    for path in sorted(PIDS.glob("*.json")):
        # Half-written by an `up` that was killed: the strays' scan finds that process.
        with contextlib.suppress(ValueError, KeyError):
            record = json.loads(path.read_text())
            found[path.stem] = Process(path.stem, record["pid"], record["started"])
    return found


def wait_until(condition: Callable[[], bool], seconds: float, interval: float = 0.1) -> bool:
    """Poll until the condition holds or the time is over; says which."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def namespace_owner() -> Path | None:
    """The state folder of the stack that has processes in the network namespace; None if there are none."""
    inside = _in_namespace()
    for pid in inside:
        for word in _read(pid, "environ").split(b"\0"):
            if word.startswith(MARKER.encode() + b"="):
                return Path(os.fsdecode(word.partition(b"=")[2]))
    return None


def end_all(seconds: float = 20) -> list[int]:
    """Kill every process of the stack, at once and again until none is left; gives the pids that would not die.

    Nothing is asked to stop gently: the state is thrown away with the processes.
    """
    survivors: list[int] = []

    def gone() -> bool:
        survivors[:] = _ours()
        for pid in survivors:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for child in _children:
            child.poll()  # a zombie would hold its namespaces open
        return not survivors

    wait_until(gone, seconds)
    return survivors


_children: list[subprocess.Popen[bytes]] = []


def _ours() -> list[int]:
    marker = f"{MARKER}={STATE}".encode()
    spared = _ancestry()
    candidates = {process.pid for process in recorded().values() if process.alive()}
    if embedded() and namespace_owner() in (None, STATE):
        candidates |= {*_in_namespace(), *cgroups.members()}
    candidates |= {pid for pid in _pids() if marker in _read(pid, "environ").split(b"\0")}
    # Only root can read the environment of an Airflow process that has held a token.
    candidates |= {pid for pid in _pids() if _session(pid) in candidates}
    return sorted(pid for pid in candidates - spared if _started(pid) is not None)


def _in_namespace() -> list[int]:
    try:
        wanted = f"net:[{NETNS.stat().st_ino}]"
    except FileNotFoundError:
        return []
    return [pid for pid in _pids() if _namespace(pid) == wanted]


def _session(pid: int) -> int | None:
    """Who leads the session of a process: what we spawn leads one of its own, which its children are born into."""
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return ""


def _ancestry() -> set[int]:
    """Give this process and those that called it: `down` must not saw off its own branch."""
    pids, pid = set(), os.getpid()
    while pid > 0:
        pids.add(pid)
        stat = _read(pid, "stat")
        pid = int(stat.rpartition(b")")[2].split()[1]) if stat else 0
    return pids


def _pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _started(pid: int) -> int | None:
    """A living process's start time in clock ticks after boot; None for a dead one, or a zombie."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return int(fields[19]) if fields and fields[0] not in (b"Z", b"X") else None


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
