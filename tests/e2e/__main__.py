"""``python -m tests.e2e``: all end-to-end tests, in two lanes side by side on one stack.

Most of them wait most of their time, for traffic and for Airflow. Those of the payment service take turns; those that
need nothing of it are the other lane, whose output follows at the end.
"""

import os
import subprocess
import sys
import tempfile

from tests.stack.layout import CHECKOUT, INFO

ASIDE = ("test_compose.py", "test_how_to.py", "test_images.py")


def main() -> int:
    """Start the stack unless it is up, run both lanes, end it if it was started here, and give the exit code."""
    env = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}  # tests bring their own cluster
    ours = not INFO.exists()
    aside = [f"tests/e2e/{name}" for name in ASIDE]
    others = ["tests/e2e", *(f"--ignore={path}" for path in aside)]
    try:
        subprocess.run([sys.executable, "-m", "tests.stack", "up"], cwd=CHECKOUT, env=env, check=True)
        with tempfile.TemporaryFile() as output:
            other = subprocess.Popen(_pytest(*aside), cwd=CHECKOUT, env=env, stdout=output, stderr=output)
            code = subprocess.run(_pytest(*others), cwd=CHECKOUT, env=env, check=False).returncode
            other.wait()
            output.seek(0)
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
        return code or other.returncode
    finally:
        if ours:
            subprocess.run([sys.executable, "-m", "tests.stack", "down"], cwd=CHECKOUT, env=env, check=True)


def _pytest(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pytest", "-v", "--durations=5", *arguments]


if __name__ == "__main__":
    sys.exit(main())
