"""The users: the load generator as a process beside the stack."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.stack.cluster import Cluster
from tests.stack.layout import CHECKOUT, MARKER, STATE
from tests.stack.processes import environment, in_netns


@contextmanager
def users(
    record: Path,
    rate: float = 50.0,
    host: str = "payments.test",
    amount: int | None = None,
    cluster_ip: str | None = None,
    *,
    at_random: bool = False,
) -> Iterator[Path]:
    """Send the service of ``host`` payments for as long as the block lasts; what became of each is in ``record``.

    :param amount: of every payment, in cents; None for amounts as users pay them.
    :param cluster_ip: of a Service that they connect to from the node, anew for each request: connections are what a
        Service divides.
    :param at_random: they come independently of each other, and not evenly.
    """
    record.parent.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    url = f"http://{cluster_ip}" if cluster_ip else Cluster.load().gateway_url
    command = [sys.executable, "-m", "tests.stack.load", "--url", f"{url}/payments"]
    command += ["--anywhere", "--host", host, "--rate", f"{rate:g}", "--record", str(record)]
    command += [] if amount is None else ["--amount", str(amount)]
    command += ["--at-random"] if at_random else []
    command = in_netns([*command, "--close"]) if cluster_ip else command
    # Marked, so that `down` finds it if the demo was killed.
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment({MARKER: str(STATE)}), start_new_session=True)
    try:
        yield record
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)
