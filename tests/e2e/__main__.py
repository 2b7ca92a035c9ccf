"""``python -m tests.e2e [PATH…]``: all end-to-end tests, in lanes side by side on one stack.

Most of them wait most of their time, for traffic and for Airflow. What is in one lane takes turns, and each lane has
services of its own. The first lane's output is shown as it comes, and the others' follows at the end. The tests of the
paths are one more lane, which yields to all that runs beside it.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
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
"""What kills the servers that all others need, and so comes after them."""


def main(paths: list[str]) -> int:
    """Start the stack unless it is up, run all lanes, end it if it was started here, and give the exit code.

    :param paths: of more tests.
    """
    env = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}  # tests bring their own cluster
    ours = not INFO.exists()
    lanes = [_verbose(*(f"tests/e2e/{name}" for name in names)) for names in ASIDE]
    others = ["tests/e2e", *(f"--ignore=tests/e2e/{name}" for names in (*ASIDE, ALONE) for name in names)]
    if paths:
        lanes.append(["nice", "-n", "15", *_pytest("-q", *paths)])
    try:
        subprocess.run([sys.executable, "-m", "tests.stack", "up"], cwd=CHECKOUT, env=env, check=True)
        with ExitStack() as opened, ThreadPoolExecutor(len(lanes)) as threads:
            outputs = [opened.enter_context(tempfile.TemporaryFile()) for _ in lanes]
            asides = [threads.submit(_run, lane, env, output) for lane, output in zip(lanes, outputs, strict=True)]
            code = max(_run(_verbose(*others), env), *(aside.result() for aside in asides))
            for output in outputs:
                output.seek(0)
                sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
        return max(code, _run(_verbose(*(f"tests/e2e/{name}" for name in ALONE)), env))
    finally:
        if ours:
            subprocess.run([sys.executable, "-m", "tests.stack", "down"], cwd=CHECKOUT, env=env, check=True)


def _run(command: list[str], env: Mapping[str, str], output: IO[bytes] | None = None) -> int:
    """Run the command and return its exit code."""
    return abs(subprocess.run(command, cwd=CHECKOUT, env=env, stdout=output, stderr=output, check=False).returncode)


def _verbose(*arguments: str) -> list[str]:
    return _pytest("-v", "--durations=5", *arguments)


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
