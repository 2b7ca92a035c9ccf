"""``python -m tests.e2e [--lint] [PATH…]``: all end-to-end tests, in lanes side by side on one stack.

Most of them wait most of their time, for traffic and for Airflow. What is in one lane takes turns, and each lane has
services of its own. The first lane's output is shown as it comes, and the others' follows at the end. The tests of the
paths need no stack: they begin before it and end after it, for they yield to all that runs beside them. Style and types
are checked while the stack comes up.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO

from tests.stack.layout import CHECKOUT, INFO

ASIDE = (
    (
        "test_application_metrics.py",
        "test_compose.py",
        "test_first.py",
        "test_first_pods.py",
        "test_how_to.py",
        "test_images.py",
        "test_judgement.py",
    ),
    (
        "test_capacity.py",
        "test_replicas.py",
        "test_rights.py",
        "test_rules.py",
        "test_shadow.py",
        "test_testers.py",
        "test_versions.py",
    ),
)
"""The files of each lane but the first, which has all others: those that deploy the demo's service must take turns.
More lanes only take the processors from each other."""
ALONE = ("test_guard.py", "test_chaos.py")
"""Tests that kill the servers which all others need; they run last."""
YIELDING = ("nice", "-n", "15")
"""Before a command that yields to what runs beside it. Not by its autogroup's weight: a test that waits for a process
of its own then starves for minutes."""
ENV = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
"""Tests bring their own cluster."""


class Lane:
    """A process whose output is kept until it is asked for.

    :param opened: ends the process, if it still runs, and drops its output.
    :param yields: whether it yields to all that runs beside it.
    """

    def __init__(self, opened: ExitStack, command: Sequence[str], *, yields: bool = False) -> None:
        self._output: IO[bytes] = opened.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - it is one
        self._process = subprocess.Popen(
            [*(YIELDING if yields else ()), *command],
            cwd=CHECKOUT,
            env=ENV,
            stdout=self._output,
            stderr=self._output,
        )
        opened.callback(self._end)

    def finish(self) -> int:
        """Wait for its end, show what it has said, and return its exit code."""
        code = abs(self._process.wait())
        self._output.seek(0)
        sys.stdout.buffer.write(self._output.read())
        sys.stdout.flush()
        return code

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()


def main(paths: list[str], *, lint: bool) -> int:
    """Start the stack unless it is up, run all lanes, end it if it was started here, and give the exit code.

    :param paths: of more tests; they are measured for coverage.
    :param lint: whether to check style, types and layers first.
    """
    others = ["tests/e2e", *(f"--ignore=tests/e2e/{name}" for names in (*ASIDE, ALONE) for name in names)]
    with ExitStack() as opened:
        checks = Lane(opened, ["make", "--no-print-directory", "lint"]) if lint else None
        measured = ("--cov", "--cov-report=", "--cov-fail-under=0")  # the floor is held below
        unit = Lane(opened, _pytest("-q", *measured, *paths), yields=True) if paths else None
        with _stack():
            if checks and (code := checks.finish()):
                return code
            lanes = [Lane(opened, _verbose(*(f"tests/e2e/{name}" for name in names))) for names in ASIDE]
            codes = [_run(_verbose(*others)), *(lane.finish() for lane in lanes)]
            codes.append(_run(_verbose(*(f"tests/e2e/{name}" for name in ALONE))))
        if unit:
            codes += [unit.finish(), _run([sys.executable, "-m", "tests.coverage"])]
        return max(codes)


@contextmanager
def _stack() -> Iterator[None]:
    """Have the stack up for as long as the block lasts."""
    ours = not INFO.exists()
    try:
        subprocess.run([sys.executable, "-m", "tests.stack", "up"], cwd=CHECKOUT, env=ENV, check=True)
        yield
    finally:
        if ours:
            subprocess.run([sys.executable, "-m", "tests.stack", "down"], cwd=CHECKOUT, env=ENV, check=True)


def _run(command: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    return abs(subprocess.run(command, cwd=CHECKOUT, env=ENV, check=False).returncode)


def _verbose(*arguments: str) -> list[str]:
    return _pytest("-v", "--durations=5", *arguments)


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.e2e", description="Run the end-to-end tests in lanes.")
    parser.add_argument("--lint", action="store_true", help="check style, types and layers while the stack comes up")
    parser.add_argument("paths", nargs="*", metavar="PATH", help="more tests, run beside")
    arguments = parser.parse_args()
    sys.exit(main(arguments.paths, lint=arguments.lint))
