"""Keep one server running: start it, and when it dies, end what it left behind and start it again.

Airflow's scheduler, triggerer and dag-processor die when their database is away for a while; its scheduler leaves
workers behind that would run beside their own retries. Called as ``python supervisor.py MARK COMMAND…``: until the file
MARK exists the stack is still starting, and a death is a failure to report rather than one to repair.

A script of the standard library alone, so that five of them cost next to nothing.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PAUSE_SECONDS = 1


def main(mark: Path, command: list[str]) -> int:
    """Run the command again and again; gives its exit code if it dies before the mark is there."""
    while True:
        child = subprocess.Popen(command, start_new_session=True)
        code = child.wait()
        _end_session(child.pid)
        if not mark.exists():
            return code or 1
        print(f"supervisor: ended with {code}; starting again in {_PAUSE_SECONDS} s", flush=True)
        time.sleep(_PAUSE_SECONDS)


def _end_session(leader: int) -> None:
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ProcessLookupError):
            if entry.name.isdigit() and os.getsid(int(entry.name)) == leader:
                os.kill(int(entry.name), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
