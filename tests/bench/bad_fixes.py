"""Harm done by a bad fix on the real stack: one real deployment after the other, counted by what their users had of it.

    make bench-bad-fixes            30 deployments, about 25 minutes, on the stack that is up
    make bench-bad-fixes N=2

The bad fix fails one payment in twenty; users send 50 a second, and the canary is the demo's. In the end, a healthy
release is timed. `.bench/bad_fixes.json` holds the figures, and `.bench/bad_fixes/` each deployment's artifacts.
"""

import argparse
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from tests.bench.stack import BENCH, measure
from tests.e2e.trail import audited, summary, transitions, unix
from tests.e2e.world import World
from tests.stack.errors import StackError
from tests.stack.info import StackInfo
from tests.stack.service import serve
from tests.stack.traffic import users

KEPT = BENCH / "bad_fixes"
RESAMPLES = 10_000


@dataclass(frozen=True)
class Row:
    """One deployment of the bad fix. Times are in seconds.

    :param harmed: the candidate's failed answers; ``lost``: all other requests that failed.
    :param answered: all of the candidate's answers.
    :param exposed: from its first to its last answer.
    :param verdict: from its first answer to the verdict; ``restored``: from there to its last answer.
    """

    deployment_id: str
    state: str
    harmed: int
    lost: int
    answered: int
    exposed: float
    verdict: float
    restored: float


@dataclass(frozen=True)
class Healthy:
    """One deployment of a healthy release. Times are in seconds.

    :param failed: requests that failed while it went on.
    :param promoted: from when its objects are written to its promotion; ``from_trigger``: from the REST call.
    :param verified: from the REST call to the end of the run.
    """

    deployment_id: str
    state: str
    failed: int
    promoted: float
    from_trigger: float
    verified: float


@dataclass(frozen=True)
class Figures:
    """One measure over all deployments; ``interval`` holds the mean with 95 % confidence, by the bootstrap."""

    mean: float
    interval: tuple[float, float]
    median: float
    max: float


def figures(values: Sequence[float]) -> Figures:
    """Sum up one measure."""
    chance = random.Random(0)
    means = sorted(statistics.fmean(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    interval = means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]
    return Figures(statistics.fmean(values), interval, statistics.median(values), max(values))


class Bench:
    """Deploys, and takes each deployment out of the service's history: it would lower the next one's confidence."""

    def __init__(self, world: World) -> None:
        self._world = world

    def bad(self) -> Row:
        """Deploy the bad fix.

        :raises StackError: it was not rolled back.
        """
        began, folder = self._deploy(self._world.sample.bad)
        said = summary(folder)
        if said["state"] != "ROLLED_BACK" or not said["verdict_at"]:
            raise StackError(f"{folder}: the bad fix is {said['state']}: {said['reason']}")
        served = [request for request in self._world.requests() if request.sent >= began]
        candidate = [request for request in served if request.version == said["candidate"]]
        first, last = min(request.sent for request in candidate), max(r.sent + r.latency for r in candidate)
        verdict = unix(said["verdict_at"])
        return Row(
            deployment_id=said["deployment_id"],
            state=said["state"],
            harmed=sum(request.failed for request in candidate),
            lost=sum(request.failed for request in served if request.version != said["candidate"]),
            answered=len(candidate),
            exposed=round(last - first, 2),
            verdict=round(verdict - first, 2),
            restored=round(last - verdict, 2),
        )

    def healthy(self) -> Healthy:
        """Deploy a version as good as the one that serves."""
        began, folder = self._deploy(self._world.sample.good)
        ended, said = time.time(), summary(folder)
        at = {step["to"]: unix(step["at"]) for step in transitions(folder)}
        if "PROMOTED" not in at:
            raise StackError(f"{folder}: the healthy release is {said['state']}: {said['reason']}")
        return Healthy(
            deployment_id=said["deployment_id"],
            state=said["state"],
            failed=sum(request.failed for request in self._world.requests() if request.sent >= began),
            promoted=round(at["PROMOTED"] - at["DEPLOYING"], 1),
            from_trigger=round(at["PROMOTED"] - began, 1),
            verified=round(ended - began, 1),
        )

    def _deploy(self, commit: str) -> tuple[float, Path]:
        began = time.time()
        run = self._world.deploy(commit)
        self._world.ended(run)
        folder = audited(self._world, run)
        kept = KEPT / folder.name
        shutil.copytree(folder, kept)
        shutil.rmtree(folder.parent)
        return began, kept


MEASURES: dict[str, tuple[str, Callable[[Row], float]]] = {
    "harmed": ("users harmed", lambda row: row.harmed),
    "lost": ("requests lost otherwise", lambda row: row.lost),
    "exposed": ("first to last answer by the bad fix, s", lambda row: row.exposed),
    "verdict": ("first answer to verdict, s", lambda row: row.verdict),
    "restored": ("verdict to last answer, s", lambda row: row.restored),
}


def run(info: StackInfo, deployments: int) -> None:
    """Measure, print and write."""
    shutil.rmtree(KEPT, ignore_errors=True)
    KEPT.mkdir(parents=True)
    World.end_runs(info)
    sample = serve(info, commit="good")
    rows: list[Row] = []
    with users(KEPT / "requests.jsonl") as record:
        world = World(info, sample, record)
        world.wait_served(30)
        bench = Bench(world)
        for number in range(1, deployments + 1):
            row = bench.bad()
            rows.append(row)
            print(
                f"{number:3}  {row.harmed} of {row.answered} harmed, {row.lost} lost otherwise,"
                f" verdict after {row.verdict:.1f} s, last answer {row.restored:.1f} s later",
                flush=True,
            )
        healthy = bench.healthy()
    found = {name: figures([value(row) for row in rows]) for name, (_, value) in MEASURES.items()}
    for name, (label, _) in MEASURES.items():
        item = found[name]
        low, high = item.interval
        print(f"{label:40} {item.mean:7.2f}  [{low:.2f}, {high:.2f}]  median {item.median:.2f}  max {item.max:.2f}")
    print(
        f"healthy: {healthy.state}, promoted {healthy.promoted:.0f} s after its objects were written,"
        f" {healthy.from_trigger:.0f} s after the trigger; {healthy.failed} requests failed"
    )
    written = {
        "deployments": [asdict(row) for row in rows],
        "figures": {name: asdict(item) for name, item in found.items()},
        "healthy": asdict(healthy),
    }
    (BENCH / "bad_fixes.json").write_text(json.dumps(written, indent=2) + "\n")


def main() -> int:
    """Run it on the stack that is up."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bad_fixes", description="Deploy the bad fix, often.")
    parser.add_argument("deployments", type=int, nargs="?", default=30)
    return measure(partial(run, deployments=parser.parse_args().deployments))


if __name__ == "__main__":
    sys.exit(main())
