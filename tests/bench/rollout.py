"""What shifts, promotions and rollbacks cost users: requests lost, and how long a verdict takes to reach the last one.

    make bench-rollout              27 rollbacks under 200 requests/s, about 15 minutes, on the servers of `make up`
    make bench-rollout N=1          7 of them

A whole DAG run takes a minute or two, most of it waiting for evidence. So two deployments are whole runs: one that is
promoted and rolled back by the verification, and one that is rolled back at 5 %. All others drive the same operators
and the same brake from here (`tests/bench/driven.py`). Rollbacks after a promotion are always those of a whole run of
`verify_deployments`. Pods take five seconds to start, and end gracefully. `.bench/rollout.json` holds the figures.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.bench.stack import BENCH, measure
from tests.e2e.test_verification import pay_in_yen, verified_by_hand, verify
from tests.e2e.trail import summary, transitions, unix
from tests.e2e.world import World
from tests.stack.airflow import environment, install_deployments
from tests.stack.demo import conf
from tests.stack.errors import StackError
from tests.stack.info import StackInfo
from tests.stack.layout import DAGS
from tests.stack.load import Record, Request, quantile
from tests.stack.service import serve
from tests.stack.traffic import users

if TYPE_CHECKING:
    from tests.bench.driven import Driven

RESULTS = BENCH / "rollout.json"
SERVICE = "depot"
RATE = 200.0
START = "5s"
STAGES = (5, 25, 50, 100)
DWELL = 2.0
"""Seconds of users at each share and after each step, so that what it loses is seen before the next one begins."""
HARM = 60
"""Failed requests after which the verification is asked."""
PASSES = 3
"""How often at most."""


@dataclass(frozen=True)
class Moment:
    """Something began that may lose requests: ``start`` of pods, ``shift``, ``promotion`` or ``rollback``."""

    kind: str
    at: float


@dataclass(frozen=True)
class Rollback:
    """One rollback. Times are in seconds from the verdict.

    :param at: the share in %, or ``promoted``.
    :param by: ``brake`` from here, or a whole ``dag``.
    :param ours: until the API server had answered our write.
    :param restored: until the candidate's last answer was there.
    """

    at: str
    by: str
    ours: float
    restored: float


@dataclass
class Bench:
    """Does and remembers."""

    world: World
    record: Record
    spec: dict[str, Any]
    seen: list[Request] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    rollbacks: list[Rollback] = field(default_factory=list)
    faulty: set[str] = field(default_factory=set)
    """Candidates that fail by themselves."""

    def requests(self) -> list[Request]:
        """Return all requests so far."""
        self.seen += self.record.new()
        return self.seen

    def begin(self, kind: str, at: float | None = None) -> None:
        self.moments.append(Moment(kind, at or time.time()))

    def driven(self, commit: str, shares: Sequence[int]) -> "Driven":
        """Bring a version up and shift it through ``shares``."""
        from tests.bench.driven import Driven

        self.forget()
        deployment = Driven(self.spec, conf(commit, "Parcels wait"))
        self.begin("start")
        deployment.ready()
        for share in shares:
            self.begin("shift")
            deployment.shift(share)
            time.sleep(DWELL)
        return deployment

    def brake(self, shares: Sequence[int]) -> None:
        """Roll a version back at the last one of ``shares``, as the watch and the rollback do."""
        deployment = self.driven(self.world.sample.good, shares)
        self.begin("rollback")
        verdict, answered = deployment.brake()
        deployment.roll_back()
        self.note(f"{shares[-1]}", "brake", _name(deployment), verdict, answered)

    def promoted(self) -> None:
        """Promote a version that turns bad then, and let the verification roll it back."""
        deployment = self.driven(self.world.sample.late, STAGES)
        self.begin("promotion")
        deployment.promote()
        time.sleep(DWELL)
        deployment.verified()
        self.verification(_name(deployment))

    def whole(self, commit: str) -> str:
        """Deploy by one REST call, and return the candidate's name once the run has ended."""
        self.forget()
        run = self.world.deploy(commit)
        self.world.ended(run)
        (folder,) = (path for path in self._artifacts().glob("DEP-*") if summary(path)["run_id"] == run)
        said, steps = summary(folder), transitions(folder)
        kinds = {"DEPLOYING": "start", "CANARY": "shift", "PROMOTING": "promotion", "ROLLING_BACK": "rollback"}
        for step in steps:
            if kind := kinds.get(step["to"]):
                self.begin(kind, unix(step["at"]))
        self.faulty.add(said["candidate"])
        if said["state"] == "ROLLED_BACK":
            share = sum(step["to"] == "CANARY" for step in steps)
            at = f"{STAGES[share - 1]}"
            self.note(at, "dag", said["candidate"], unix(said["verdict_at"]), unix(said["restored_at"]))
        elif said["state"] != "VERIFIED":
            raise StackError(f"{folder}: it is {said['state']}: {said['reason']}")
        return str(said["candidate"])

    def verification(self, candidate: str) -> None:
        """Let the promoted version turn bad, and the verification look: whole runs of its DAG.

        A look in the first seconds after the version was verified finds no counts yet.
        """
        self.faulty.add(candidate)
        pay_in_yen(self.world)
        since = time.time()
        self.world.until(lambda: self._failed(candidate, since) >= HARM, "users are harmed", 60)
        self.begin("rollback")
        (folder,) = (path for path in self._artifacts().glob("DEP-*") if summary(path)["candidate"] == candidate)
        for _ in range(PASSES):
            verify(self.world)
            if (said := summary(folder))["state"] == "ROLLED_BACK":
                break
        if said["state"] != "ROLLED_BACK":
            raise StackError(f"{folder}: the verification left it {said['state']}")
        self.note("promoted", "dag", candidate, unix(said["verdict_at"]), unix(said["restored_at"]))

    def note(self, at: str, by: str, candidate: str, verdict: float, answered: float) -> None:
        """Record and print one rollback once the candidate's last answer is there."""
        self.world.until(lambda: self._quiet(candidate, answered), f"{candidate} answers no more requests", 60)
        last = max(r.sent + r.latency for r in self.requests() if r.version == candidate)
        done = Rollback(at, by, ours=round(answered - verdict, 3), restored=round(last - verdict, 3))
        self.rollbacks.append(done)
        RESULTS.write_text(json.dumps(figures(self), indent=2) + "\n")
        share = at if at == "promoted" else f"{at} %"
        print(
            f"{len(self.rollbacks):3}  {share:>8} by {by:5}  last answer {done.restored:.2f} s after the verdict,"
            f" {done.ours:.2f} s of it ours; lost so far: {dict(self.lost()) or 0}",
            flush=True,
        )

    def lost(self) -> Counter[str]:
        """Count the requests that failed though no version was at fault, by what had begun last."""
        found: Counter[str] = Counter()
        for request in self.requests():
            if request.failed and not (request.status and request.version in self.faulty):
                ended = request.sent + request.latency
                found[next((m.kind for m in reversed(self.moments) if m.at <= ended), "before")] += 1
        return found

    def forget(self) -> None:
        """Take earlier deployments out of the service's history: they would lower the confidence."""
        shutil.rmtree(self._artifacts(), ignore_errors=True)

    def _artifacts(self) -> Path:
        return Path(self.world.info.artifacts) / SERVICE

    def _quiet(self, candidate: str, since: float) -> bool:
        """Whether others alone have answered for ``DWELL`` seconds since the write, and since its last answer."""
        ended = [(request.sent + request.latency, request.version) for request in self.requests()]
        last = max(at for at, version in ended if version == candidate)
        return ended[-1][0] - max(last, since) >= DWELL

    def _failed(self, candidate: str, since: float) -> int:
        return sum(r.failed for r in self.requests() if r.version == candidate and r.sent >= since)


def _name(deployment: "Driven") -> str:
    from airflow_deploy.domain.lifecycle.plan import DeploymentPlan

    return DeploymentPlan.load(deployment.plan).candidate


def figures(bench: Bench) -> dict[str, Any]:
    """Return what `.bench/rollout.json` holds."""
    lost = bench.lost()
    restored, ours = ([getattr(item, name) for item in bench.rollbacks] for name in ("restored", "ours"))
    return {
        "rate": RATE,
        "done": dict(Counter(moment.kind for moment in bench.moments)),
        "requests": len(bench.requests()),
        "lost": {kind: lost[kind] for kind in ("shift", "promotion", "rollback", "start", "before")},
        "restored_s": {
            "n": len(restored),
            "p50": quantile(restored, 0.5),
            "p95": quantile(restored, 0.95),
            "max": max(restored),
            "ours": statistics.fmean(ours) / statistics.fmean(restored) if statistics.fmean(restored) > 0 else 1.0,
        },
        "rollbacks": [asdict(item) for item in bench.rollbacks],
    }


def run(info: StackInfo, times: int) -> None:
    """Measure, print and write."""
    # Before Airflow is imported: it reads its environment only then.
    os.environ.update(environment() | {"AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"})
    World.end_runs(info, SERVICE)
    sample = serve(
        info, SERVICE, commit="good", bake=5, max_bake=120, stages=STAGES, config={"CURRENCY": "EUR", "START": START}
    )
    spec = yaml.safe_load((DAGS / "deployments" / f"{SERVICE}.yaml").read_text())
    BENCH.mkdir(exist_ok=True)
    with users(BENCH / "rollout.requests.jsonl", rate=RATE, host=f"{SERVICE}.test") as record:
        world = World(info, sample, record, SERVICE)
        world.wait_served(20)
        bench = Bench(world, Record(record), spec)
        try:
            verified_by_hand(world, limit=3)
            for _ in range(times):
                for number in range(1, len(STAGES) + 1):
                    bench.brake(STAGES[:number])
                bench.promoted()
            bench.whole(sample.bad)
            bench.verification(bench.whole(sample.late))
        finally:
            bench.forget()
            install_deployments([])
    show(figures(bench), bench.rollbacks)


def show(written: dict[str, Any], rollbacks: Sequence[Rollback]) -> None:
    """Print the tables of docs/benchmarks.md."""
    print("\n| | done | requests lost |\n|---|--:|--:|")
    for kind, lost in written["lost"].items():
        print(f"| {kind} | {written['done'].get(kind, '')} | {lost} |")
    print("\n| rolled back at | by | n | p50, s | p95, s | largest, s | ours, p95, s |\n|---|---|--:|--:|--:|--:|--:|")
    groups = dict.fromkeys((item.at, item.by) for item in rollbacks)
    for at, by in [*groups, ("all", "")]:
        chosen = [item for item in rollbacks if at == "all" or (item.at, item.by) == (at, by)]
        times = [item.restored for item in chosen]
        ours = quantile([item.ours for item in chosen], 0.95)
        cells = [f"{quantile(times, 0.5):.2f}", f"{quantile(times, 0.95):.2f}", f"{max(times):.2f}", f"{ours:.2f}"]
        print(f"| {at} | {by} | {len(chosen)} | {' | '.join(cells)} |")


def main() -> int:
    """Run it on the stack that is up."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.rollout", description="Shift and roll back, often.")
    parser.add_argument("times", type=int, nargs="?", default=5, help="rollbacks at each share that are driven (5)")
    return measure(partial(run, times=parser.parse_args().times))


if __name__ == "__main__":
    sys.exit(main())
