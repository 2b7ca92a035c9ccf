"""The users: the load generator as a process beside the stack."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.stack.cluster import Cluster
from tests.stack.layout import CHECKOUT, MARKER, STATE
from tests.stack.processes import environment


@contextmanager
def users(record: Path, rate: float = 50.0, host: str = "payments.test", amount: int | None = None) -> Iterator[Path]:
    """Send the service of ``host`` payments for as long as the block lasts; what became of each is in ``record``.

    :param amount: of every payment, in cents; None for amounts as users pay them.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "tests.stack.load", "--url", f"{Cluster.load().gateway_url}/payments"]
    command += ["--anywhere", "--host", host, "--rate", f"{rate:g}", "--record", str(record)]
    command += [] if amount is None else ["--amount", str(amount)]
    # Marked, so that `down` finds it where the demo was killed.
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment({MARKER: str(STATE)}), start_new_session=True)
    try:
        yield record
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
