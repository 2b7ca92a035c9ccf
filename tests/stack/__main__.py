"""``python -m tests.stack up|down|status``: the servers behind `make up`, `make down`, `make status` and the tests."""

import argparse
import fcntl
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from tests.stack import preflight, yours
from tests.stack.errors import StackError
from tests.stack.graph import bring_up
from tests.stack.info import StackInfo
from tests.stack.layout import CONFIG, INFO, KEPT_BY_DOWN, LOCK, LOG, RUN, STATE, embedded
from tests.stack.parts import AIRFLOW, CLUSTER
from tests.stack.processes import recorded
from tests.stack.teardown import anything_left, tear_down


def main() -> int:
    """Parse the command line, do it, and give the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.stack",
        description="Real servers for tests and the demo, all of them on this machine and in namespaces of their own.",
        epilog="Everything is kept in .stack/ of the checkout; AIRFLOW_PORT moves Airflow from port 8080. KUBECONFIG"
        " names a cluster of yours to use, and nothing but Airflow is started then: PROMETHEUS_URL and REGISTRY say"
        " what only you know, DOCKER_HOST, GATEWAY and GATEWAY_URL what is not as usual.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="up|down|status")
    commands.add_parser("up", help="start everything and return when it is ready; harmless if it is up")
    commands.add_parser("down", help="end everything and leave nothing behind but artifacts, logs and demo results")
    status = commands.add_parser("status", help="print addresses, logins, and which part is up")
    status.add_argument("--json", action="store_true", help="print it as one JSON object")
    arguments = parser.parse_args()
    try:
        if arguments.command == "up":
            return up()
        if arguments.command == "down":
            return down()
        return show_status(as_json=arguments.json)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def up() -> int:
    """Start the stack, unless it is up; cleans up after itself if that fails."""
    if INFO.exists() and all(process.alive() for process in recorded().values()):
        yours.check_same()
        print("The stack is up already.")
        return show_status(as_json=False)
    own = not yours.asked_for()
    if own:
        preflight.check_root()
    began = time.monotonic()
    with _alone():
        if anything_left():
            _say("cleaning up what an earlier start left behind")
            _tear_down()
        (preflight.check if own else preflight.check_airflow_alone)()
        _forget_logs()
        try:
            for folder in (CONFIG, RUN):
                folder.mkdir(parents=True, exist_ok=True)
            if own:
                bring_up([*CLUSTER, *AIRFLOW], _say)
            else:
                yours.adopt()
                _say(f"using the cluster at {yours.server()}")
                bring_up(AIRFLOW, _say, there={part.name for part in CLUSTER})
            StackInfo.current().save()
        except BaseException as error:
            # A second Ctrl-C must not leave half a stack behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            _say("giving up, and cleaning up" if isinstance(error, StackError) else "interrupted: cleaning up")
            tear_down()
            raise
    _say(f"up in {time.monotonic() - began:.1f} s\n")
    return show_status(as_json=False)


def down() -> int:
    """End the stack, or what is left of one."""
    if embedded():
        preflight.check_root()
    began = time.monotonic()
    with _alone():
        if not anything_left():
            print("The stack is not up.")
            return 0
        _tear_down()
    _say(f"down in {time.monotonic() - began:.1f} s; kept: {', '.join(path.name for path in KEPT_BY_DOWN)}")
    return 0


def show_status(as_json: bool) -> int:
    """Print where everything is, and which part is alive; gives 1 if any is not."""
    info = StackInfo.load()
    parts = {name: process.alive() for name, process in recorded().items()}
    if as_json:
        print(json.dumps(asdict(info) | {"parts": parts}, indent=2))
        return 0 if all(parts.values()) else 1
    users = "".join(f"\n               {user} / {password}" for user, password in info.users.items())
    kubernetes = f"export KUBECONFIG={info.admin_kubeconfig}" if info.netns else f"{yours.server()}   (yours)"
    registry = f"; {info.registry_url}/v2/ from here" if info.registry_url else ""
    inside = f"\nInside         nsenter --net=/run/netns/{info.netns} …" if info.netns else ""
    print(f"""Airflow        {info.airflow_url}{users}
Gateway        {info.gateway_url}   (an HTTPRoute's hostname goes into the Host header)
Prometheus     {info.prometheus_url}
Kubernetes     {kubernetes}
Docker         export DOCKER_HOST={info.docker_url}
Registry       {info.registry} in images' names{registry}{inside}
Logs           {info.logs}
Parts          {", ".join(name for name, alive in parts.items() if alive)}""")
    if dead := [name for name, alive in parts.items() if not alive]:
        print(f"DEAD           {', '.join(dead)}   (`up` starts everything anew)")
    return 1 if dead else 0


def _tear_down() -> None:
    if problems := tear_down():
        raise StackError("not everything is gone:\n" + "\n".join(problems))


@contextmanager
def _alone() -> Iterator[None]:
    """Only one `up` or `down` at a time; the lock ends with the process that holds it."""
    STATE.mkdir(exist_ok=True)
    with LOCK.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StackError("Another `up` or `down` is at work on this checkout: wait for it, or end it.") from None
        yield


def _forget_logs() -> None:
    """Logs stay after `down` for those who ask why; the next start begins new ones."""
    shutil.rmtree(LOG, ignore_errors=True)
    LOG.mkdir(parents=True)


def _say(line: str) -> None:
    print(f"{line}\n", end="", flush=True)  # one write, for the parts speak from threads of their own


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
