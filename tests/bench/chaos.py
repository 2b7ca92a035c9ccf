"""The kill matrix: each component is killed while nine deployments are each in another state, and all must settle.

    make chaos                              all components and the API server's faults, about an hour
    make chaos ROWS="triggerer scheduler"   these rows; `api-faults` is the last one

What must happen in each cell is written down in `tests/bench/matrix.py`. It needs the servers of `make up` for itself.
The rows go to `.bench/chaos.json` as they come, and those of earlier calls stay there. It exits with 1 if a cell is
broken.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import requests

from airflow_deploy.domain.lifecycle.states import ENDS
from tests.bench.held import Fleet, Say, fleet
from tests.bench.matrix import DEATHS, Row, load, table
from tests.bench.stack import BENCH, measure
from tests.stack.errors import StackError
from tests.stack.failures import COMPONENTS
from tests.stack.faults import sometimes
from tests.stack.info import StackInfo

RESULTS = BENCH / "chaos.json"
API_FAULTS = "api-faults"
DEPLOYMENTS = 20
SHARE = 0.2
SEED = 6


def run_row(held: Fleet, component: str, say: Say) -> list[Row]:
    """Kill one component while every service is in its state, and say what became of each.

    If a state is not reached, it is done once more: a small machine may have been late.

    :raises StackError: a service does not come to its state, or the component does not come back.
    """
    try:
        return _kill_row(held, component, say)
    except (StackError, requests.RequestException) as error:
        say(f"{component}: once more, for {error}")
        return _kill_row(held, component, say)


def _kill_row(held: Fleet, component: str, say: Say) -> list[Row]:
    held.reset()
    held.hold(say)
    say(f"killing {component}: {DEATHS[component].why}")
    killed_at = time.time()
    COMPONENTS[component].kill()
    held.release()
    time.sleep(DEATHS[component].away)  # what is measured: how long it is dead
    COMPONENTS[component].bring_back()
    say(f"{component} is back after {time.time() - killed_at:.0f} s")
    held.wait_ended(say)
    return [held.outcome(one, component, killed_at) for one in held.held]


def run_api_faults(held: Fleet, say: Say) -> dict[str, Any]:
    """Deploy often while every fifth call to the API server fails, and count how the deployments end."""
    held.reset()
    held.release()
    held.proxy.counts.clear()
    held.proxy.fault = sometimes(SHARE, SEED)
    began, left = time.time(), DEPLOYMENTS
    ended: list[Row] = []
    try:
        while left:
            chosen = [one for one in held.held if one.state != "BUILDING"][:left]
            left -= len(chosen)
            for one in chosen:
                held.deploy(one)
            held.wait_ended(say, chosen)
            ended += [held.outcome(one, API_FAULTS, began) for one in chosen]
            held.proxy.fault, fault = None, held.proxy.fault
            held.reset()
            held.release()
            held.proxy.fault = fault
    finally:
        held.proxy.fault = None
    return {
        "deployments": len(ended),
        "share": SHARE,
        "seed": SEED,
        "ended": {state: n for state in [*ENDS, "never"] if (n := sum(row.ended == state for row in ended))},
        "settled": sum(row.ended in ENDS and row.route_whole and not row.orphans and row.audit_legal for row in ended),
        "calls": dict(held.proxy.counts),
    }


def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    return found


def _keep(rows: Sequence[Row]) -> None:
    written = _read()
    again = {row.component for row in rows}
    kept = [row for row in written["rows"] if row["component"] not in again]
    RESULTS.write_text(json.dumps({**written, "rows": kept + [row.dump() for row in rows]}, indent=2) + "\n")


def run(info: StackInfo, components: Sequence[str]) -> int:
    """Run these rows, print what happens, and return how many cells are broken."""
    BENCH.mkdir(exist_ok=True)
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.0f} s  {line}", flush=True)

    broken = 0
    with fleet(info, BENCH / "chaos") as held:
        say("all services are up")
        for component in components:
            if component == API_FAULTS:
                found = run_api_faults(held, say)
                broken += found["deployments"] - found["settled"]
                RESULTS.write_text(json.dumps({**_read(), "api_faults": found}, indent=2) + "\n")
                say(f"faults of the API server: {found}")
                continue
            rows = run_row(held, component, say)
            _keep(rows)
            for row in rows:
                say(f"{row.component} x {row.state}: {row.ended}; {'; '.join(row.broken) or 'as it must be'}")
                broken += bool(row.broken)
    print("\n".join(["", *table([load(row) for row in _read()["rows"]])]))
    return broken


def main() -> int:
    """Run it on the stack that is up."""
    rows = [*DEATHS, API_FAULTS]
    parser = argparse.ArgumentParser(prog="python -m tests.bench.chaos", description="Kill what deployments stand on.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(rows)} (all)")
    chosen = parser.parse_args().rows or rows
    if unknown := [row for row in chosen if row not in rows]:
        parser.error(f"no such row: {', '.join(unknown)}")
    return measure(partial(run, components=chosen))


if __name__ == "__main__":
    sys.exit(main())
