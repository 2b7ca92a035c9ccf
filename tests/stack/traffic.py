"""The users: the load generator as a process inside the stack's network namespace."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.stack.layout import CHECKOUT
from tests.stack.processes import in_netns


@contextmanager
def users(record: Path, rate: float = 50.0) -> Iterator[Path]:
    """Send the payment service requests for as long as the block lasts; what became of each is in ``record``."""
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.stack.load", "--url", "http://127.0.0.1:8000/payments"]
    command += ["--host", "payments.test", "--rate", f"{rate:g}", "--record", str(record)]
    process = subprocess.Popen(in_netns(command), cwd=CHECKOUT, start_new_session=True)
    try:
        yield record
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
