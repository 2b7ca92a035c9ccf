"""``python -m tests.e2e [PATH…]``: all end-to-end tests, in two lanes side by side on one stack.

Most of them wait most of their time, for traffic and for Airflow. Those of the payment service take turns; those that
need nothing of it are the other lane, whose output follows at the end. The tests of the paths come first in it, and
yield to all that runs beside them.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import IO

from tests.stack.layout import CHECKOUT, INFO

ASIDE = ("test_compose.py", "test_how_to.py", "test_images.py", "test_judgement.py")


def main(paths: list[str]) -> int:
    """Start the stack unless it is up, run both lanes, end it if it was started here, and give the exit code.

    :param paths: of more tests.
    """
    env = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}  # tests bring their own cluster
    ours = not INFO.exists()
    aside = [f"tests/e2e/{name}" for name in ASIDE]
    others = ["tests/e2e", *(f"--ignore={path}" for path in aside)]
    more = [["nice", "-n", "15", *_pytest("-q", *paths)]] if paths else []
    try:
        subprocess.run([sys.executable, "-m", "tests.stack", "up"], cwd=CHECKOUT, env=env, check=True)
        with tempfile.TemporaryFile() as output, ThreadPoolExecutor(1) as thread:
            other = thread.submit(_run, [*more, _verbose(*aside)], env, output)
            code = _run([_verbose(*others)], env)
            code = other.result() or code
            output.seek(0)
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
        return code
    finally:
        if ours:
            subprocess.run([sys.executable, "-m", "tests.stack", "down"], cwd=CHECKOUT, env=env, check=True)


def _run(commands: Iterable[list[str]], env: Mapping[str, str], output: IO[bytes] | None = None) -> int:
    """Run one command after the other, whatever becomes of them, and return the largest exit code."""
    return max(
        abs(subprocess.run(command, cwd=CHECKOUT, env=env, stdout=output, stderr=output, check=False).returncode)
        for command in commands
    )


def _verbose(*arguments: str) -> list[str]:
    return _pytest("-v", "--durations=5", *arguments)


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", *arguments]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
