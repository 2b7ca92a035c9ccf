"""``make demo``: an incident, a fix that holds and one that does not, under live traffic, seen from the terminal."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.stack.access import kubectl
from tests.stack.api import ENDED, AirflowApi
from tests.stack.errors import StackError
from tests.stack.info import StackInfo
from tests.stack.load import Record, Request, summarise
from tests.stack.sample.repository import Sample
from tests.stack.service import serve
from tests.stack.traffic import users

DAG = "deploy_payments"
BEFORE = 30
"""Seconds of traffic before the first deployment: the incident as users have it, and the baseline."""
QUIET = 10.0
"""Seconds after which a live view that has nothing new to say says that it still looks."""


@dataclass(frozen=True)
class Result:
    """One deployment as its users and its audit trail have it. Times are ISO 8601 in UTC.

    ``harmed`` are the candidate's failed answers, ``lost`` all other failed requests, ``seconds`` the run's duration.
    """

    deployment_id: str
    run_id: str
    state: str
    seconds: float
    requests: int
    harmed: int
    lost: int
    first_exposed_at: str | None
    verdict_at: str | None
    restored_at: str | None
    artifacts: list[str]


def conf(commit: str, title: str) -> dict[str, Any]:
    """Return what the safety gate sends with a fix."""
    return {
        "commit": commit,
        "incident": {"id": "INC-001", "title": title, "severity": "critical"},
        "safety_gate": {
            "recommendation": "DEPLOY",
            "tests": {"passed": 127, "total": 127},
            "coverage": 0.85,
            "lint_issues": 0,
            "vulnerabilities": {"critical": 0, "high": 0},
            "build": "success",
        },
        "change": {"files": 3, "lines": 41, "migrations": False, "dependencies": False, "configuration": True},
    }


class Demo:
    """Deploys with a live view.

    :param say: prints one line.
    """

    def __init__(self, info: StackInfo, record: Path, say: Callable[[str], None]) -> None:
        self._info, self._say = info, say
        self._api = AirflowApi(info)
        self._record = Record(record)
        self._requests: list[Request] = []

    def wait_ready(self, seconds: float) -> None:
        """Wait until Airflow has the DAG and users have been served for ``seconds``.

        :raises StackError: Airflow does not read the DAG.
        """
        self._api.await_read(DAG)
        for run_id in self._api.unfinished(DAG):  # an earlier demo was interrupted
            self._api.end_run(DAG, run_id)
        while not self._served() or self._requests[-1].sent - self._requests[0].sent < seconds:
            time.sleep(0.5)
        latency = _latency(self._requests)
        self._say(f"  users: {len(self._requests)} requests so far, half of them take longer than {latency:.2f} s")

    def deploy(self, commit: str, title: str) -> Result:
        """Deploy ``commit`` by one REST call, show what happens, and return what came of it."""
        began = time.time()
        run_id = self._api.trigger(DAG, conf(commit, title))
        self._say(f"  POST /api/v2/dags/{DAG}/dagRuns  ->  {self._api.page(DAG, run_id)}")
        shown, shown_at = "", 0.0
        while (state := self._api.run_state(DAG, run_id)) not in ENDED:
            line = self._line(run_id, state)
            now = time.monotonic()
            if line.split("|")[0] != shown.split("|")[0] or now - shown_at > QUIET:
                self._say(f"  {time.time() - began:5.0f} s  {line}  | {self._users(began)}")
                shown, shown_at = line, now
            time.sleep(1)
        self._say(f"  {time.time() - began:5.0f} s  run {state}  | {self._users(began)}")
        return self._result(run_id, began, time.time())

    def _served(self) -> list[Request]:
        self._requests += self._record.new()
        return self._requests

    def _users(self, since: float) -> str:
        served = [request for request in self._served() if request.sent >= since]
        return f"users: {len(served)} requests, {sum(request.failed for request in served)} failed"

    def _line(self, run_id: str, state: str) -> str:
        tasks = self._api.task_states(DAG, run_id)
        active = [task for task, value in tasks.items() if value in ("running", "deferred")]
        stage = next((task for task in active if task.startswith("canary_")), next(iter(active), state))
        watch = self._last_look(run_id, "watch" if "watch" in active else stage)
        return f"{stage:20} {watch}"

    def _last_look(self, run_id: str, task: str) -> str:
        told = (line.removeprefix("::group::") for line in self._api.log(DAG, run_id, task))
        looks = [line.removeprefix("look: ") for line in told if line.startswith("look: ")]
        if not looks:
            return ""
        head, _, numbers = looks[-1].partition(", ")
        return f"{head} | {numbers.split(' | ')[0]}"

    def _result(self, run_id: str, began: float, ended: float) -> Result:
        folder = self._api.xcom(DAG, run_id, "audit")
        if not folder:
            raise StackError(f"the run left no artifacts; look at {self._api.page(DAG, run_id)}")
        artifacts = Path(str(folder).removeprefix("file://"))
        summary = json.loads((artifacts / f"{artifacts.name}.json").read_text())
        served = [request for request in self._served() if began <= request.sent < ended]
        candidate = [request for request in served if request.version == summary["candidate"]]
        restored = summary["verdict_at"] and max((request.sent for request in candidate), default=None)
        return Result(
            deployment_id=summary["deployment_id"],
            run_id=run_id,
            state=summary["state"],
            seconds=round(ended - began, 1),
            requests=len(served),
            harmed=sum(request.failed for request in candidate),
            lost=sum(request.failed for request in served if request.version != summary["candidate"]),
            first_exposed_at=_iso(min((request.sent for request in candidate), default=None)),
            verdict_at=summary["verdict_at"],
            # The later of the two: the write that returned the traffic, and the last request that still got through.
            restored_at=max(filter(None, (summary["restored_at"], _iso(restored)))) if restored else None,
            artifacts=[str(path) for path in sorted(artifacts.rglob("*")) if path.is_file()],
        )


def _latency(requests: list[Request]) -> float:
    return max(summary.latency[0.5] for summary in summarise(requests).values())


def _iso(at: float | None) -> str | None:
    return None if at is None else datetime.fromtimestamp(at, UTC).isoformat()


def _between(earlier: str | None, later: str | None) -> str:
    if not earlier or not later:
        return "-"
    return f"{(datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds():.1f} s"


def table(results: dict[str, Result], api: AirflowApi) -> Table:
    """Return the summary as a person reads it."""
    shown = Table(title="What happened", title_justify="left")
    shown.add_column("")
    rows: dict[str, Callable[[Result], str]] = {
        "state": lambda r: r.state,
        "duration": lambda r: f"{r.seconds:.0f} s",
        "requests served": lambda r: str(r.requests),
        "users harmed by the candidate": lambda r: str(r.harmed),
        "requests lost otherwise": lambda r: str(r.lost),
        "first user to verdict": lambda r: _between(r.first_exposed_at, r.verdict_at),
        "verdict to traffic restored": lambda r: _between(r.verdict_at, r.restored_at),
        "artifacts": lambda r: str(Path(r.artifacts[0]).parent) if r.artifacts else "-",
        "in Airflow": lambda r: api.page(DAG, r.run_id),
    }
    for name in results:
        shown.add_column(name, overflow="fold")
    for label, cell in rows.items():
        shown.add_row(label, *(cell(result) for result in results.values()))
    return shown


def run(info: StackInfo, say: Callable[[str], None]) -> dict[str, Result]:
    """Serve, harm, fix, and try a fix that is none; return both results."""
    say("The payment service as its team runs it: its image is built, pushed, and brought up behind its route")
    sample: Sample = serve(info)
    say("Users arrive, 50 requests a second, however slow the answers are. The pool is too small: this is the incident")
    with users(Path(info.demo) / "requests.jsonl") as record:
        demo = Demo(info, record, say)
        demo.wait_ready(BEFORE)
        say("A good fix: a larger pool")
        good = demo.deploy(sample.good, "Payments time out")
        say("A bad fix: it fails one payment in twenty")
        bad = demo.deploy(sample.bad, "Payments in yen are refused")
    return {"good fix": good, "bad fix": bad}


def main() -> int:
    """Run the demo on the stack that is up."""
    console = Console(width=None if sys.stdout.isatty() else 150, highlight=False)
    began = time.monotonic()
    try:
        info = StackInfo.load()
        results = run(info, lambda line: console.print(line, markup=False, soft_wrap=True))
    except StackError as error:
        console.print(f"error: {error}", style="red", markup=False)
        return 1
    summary = Path(info.demo) / "summary.json"
    summary.write_text(json.dumps([asdict(result) for result in results.values()], indent=2) + "\n")
    console.print()
    console.print(table(results, AirflowApi(info)))
    route = kubectl("-n", "payments", "get", "httproute", "payments", "-o", "jsonpath={.spec.rules[0].backendRefs}")
    console.print(f"The route now: {route}", markup=False, soft_wrap=True)
    console.print(f"The same as JSON: {summary}  ({time.monotonic() - began:.0f} s)", markup=False, soft_wrap=True)
    held = [result.state for result in results.values()] == ["VERIFIED", "ROLLED_BACK"]
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
