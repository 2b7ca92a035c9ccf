"""How much time Airflow's hops cost a deployment whose gates answer at once.

    make bench-overhead             6 pairs of runs, about 15 minutes
    make bench-overhead N=1

A hop is Airflow's way from one task to the next. Real Airflow processes with the settings of `make up` run a real
``deploy_<service>`` DAG, and in turn a twin of it: a DAG with the same tasks, edges and trigger rules, whose tasks do
nothing. The twin takes the branches, skips and deferrals of the real one, as Airflow's event log shows them. Its
gates wait for ``bake`` too, deferred. Kubernetes, Docker and the gateway are stand-ins that answer at once;
Prometheus, PostgreSQL and git are real. `.bench/overhead.json` holds the figures.

Everything is read from outside: Airflow's REST API, the artifacts, and the writes that the Kubernetes API has seen.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import yaml

from tests.bench.backends import Docker, Gateway
from tests.bench.http_server import serve
from tests.bench.kubernetes_api import Written
from tests.bench.processes import cpu
from tests.bench.servers import USER, airflow_environment, postgres, prometheus, running
from tests.bench.shape import Event, Run, Task, Verdict, dump, shape
from tests.bench.stack import BENCH
from tests.stack.api import ENDED, AirflowApi
from tests.stack.errors import StackError
from tests.stack.layout import CHECKOUT
from tests.stack.load import quantile
from tests.stack.sample.repository import make_repository

Processes = Sequence["subprocess.Popen[bytes]"]

RESULTS = BENCH / "overhead.json"
SERVICE = "depot"
REAL, EMPTY = f"deploy_{SERVICE}", f"empty_{SERVICE}"
STABLE = f"{SERVICE}-before-us"
STAGES = (5, 25, 50, 100)
BAKE = 5
"""Seconds that a gate waits at least: the least that a spec may say."""
RATE = 20_000.0
"""Requests per second: so many that no gate waits for evidence."""
SERVED = 20.0
"""Seconds of users before the first deployment, for the baseline."""
PATIENCE = 600.0
PAGE = 100
"""As much of a list as Airflow's API gives at once."""


def hops(verdicts: Sequence[Verdict], verified: str, writes: Sequence[Written]) -> tuple[list[float], list[float]]:
    """Return the seconds from each gate's verdict to the next shift, and from the last gate's to the promotion.

    A shift is a write of the route that raises the share of one backend.

    :param verified: the task whose verdict came after the promotion.
    """
    gates = [item for item in verdicts if item.verdict == "HEALTHY" and item.task != verified]
    shifts = [after.at for before, after in pairwise(writes) if _raised(before, after)]
    shifted: list[float] = []
    promoted: list[float] = []
    for gate, until in zip(gates, [*(item.at for item in gates[1:]), float("inf")], strict=False):
        if following := [at for at in shifts if gate.at < at < until]:
            shifted.append(following[0] - gate.at)
        elif following := [item.at for item in writes if gate.at < item.at < until]:
            promoted.append(following[0] - gate.at)
    return shifted, promoted


def _raised(before: Written, after: Written) -> bool:
    return any(share > before.shares.get(name, 0.0) for name, share in after.shares.items())


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"min": round(min(values), 3), "median": round(median(values), 3), "max": round(max(values), 3)}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    levels = {f"p{level}": round(quantile(values, level / 100), 3) for level in (50, 95)}
    return {"n": len(values), **levels, "max": round(max(values), 3)}


@dataclass(frozen=True)
class Pair:
    """A deployment and the run of its twin after it: seconds from the trigger, and of CPU until the end."""

    real: float
    empty: float
    real_ended: float
    empty_ended: float
    real_cpu: float
    empty_cpu: float
    shifted: list[float]
    promoted: list[float]
    load: float


def figures(pairs: Sequence[Pair], baked: float) -> dict[str, Any]:
    """Return the seconds and their ratios.

    :param baked: seconds of every run, of the twin's too, that are bake and no hop.
    """
    real, empty = [pair.real - baked for pair in pairs], [pair.empty - baked for pair in pairs]
    return {
        "pairs": len(pairs),
        "ratio": spread([one / other for one, other in zip(real, empty, strict=True)]),
        "ratio_with_bake": spread([pair.real / pair.empty for pair in pairs]),
        "bake_s": {"each": BAKE, "subtracted": round(baked, 3)},
        "deployment_s": spread(real),
        "empty_s": spread(empty),
        "deployment_to_end_s": spread([pair.real_ended - baked for pair in pairs]),
        "empty_to_end_s": spread([pair.empty_ended - baked for pair in pairs]),
        "deployment_cpu_s": spread([pair.real_cpu for pair in pairs]),
        "empty_cpu_s": spread([pair.empty_cpu for pair in pairs]),
        "hop_s": quantiles([hop for pair in pairs for hop in pair.shifted]),
        "promotion_s": quantiles([hop for pair in pairs for hop in pair.promoted]),
        "load_1m": spread([pair.load for pair in pairs]),
        "runs": [asdict(pair) for pair in pairs],
    }


class Bench:
    """Runs the deployment and its twin.

    :param airflow: its processes.
    :param gateway: with the cluster that sees the deployment's writes.
    """

    def __init__(self, api: AirflowApi, airflow: Processes, gateway: Gateway, commit: str, folder: Path) -> None:
        self._api, self._airflow, self._gateway = api, airflow, gateway
        self._commit, self._folder = commit, folder
        self.timelines: dict[str, list[str]] = {}
        """What happened when in the latest pair."""

    def deploy(self) -> tuple[Run, str]:
        """Deploy, and return the run with the task that ended it as VERIFIED."""
        shutil.rmtree(self._folder / "artifacts", ignore_errors=True)  # a history of its own for each
        run = self._run(REAL, conf(self._commit))
        (path,) = (self._folder / "artifacts").glob("*/*/transitions_*.jsonl")
        steps = [json.loads(line) for line in path.read_text().splitlines()]
        (verified,) = (step["task"] for step in steps if step["to"] == "VERIFIED")
        said = json.loads((path.parent / f"{path.parent.name}.json").read_text())["judgements"]
        verdicts = [Verdict(task, item["verdict"], _unix(item["at"])) for task, item in said.items()]
        run.verdicts.extend(sorted(verdicts, key=lambda item: item.at))
        return run, verified

    def empty(self) -> Run:
        """Run the twin."""
        return self._run(EMPTY, {})

    def make_twin(self, tasks: Sequence[Task]) -> None:
        """Let Airflow read the twin."""
        path = self._folder / "twin.json"
        path.write_text(dump(tasks))
        source = f"from tests.bench.twin import build\n\ndag = build({EMPTY!r}, {str(path)!r})\n"
        (self._folder / "dags" / "twin.py").write_text(source)
        until(lambda: self._api.has_dag(EMPTY), f"Airflow reads {EMPTY}")

    def tasks(self) -> list[dict[str, Any]]:
        """Return the deployment's tasks as Airflow's API lists them."""
        found: list[dict[str, Any]] = self._api.get(f"dags/{REAL}/tasks")["tasks"]
        return found

    def pair(self, first: Run, verified: str) -> Pair:
        """Run both.

        :param first: the deployment that the twin was made of; ``verified``: the task that ended it as VERIFIED.
        :raises StackError: a run took another path than that one.
        """
        real, by = self.deploy()
        empty = self.empty()
        for run in (real, empty):
            if (run.counted, run.states, by) != (first.counted, first.states, verified):
                raise StackError(f"{run.run_id} took another path: {run.counted}, and not {first.counted}")
        writes = [item for item in self._gateway.cluster.writes if item.name == SERVICE and item.at > real.triggered]
        shifted, promoted = hops(real.verdicts, verified, writes)
        self.timelines = {"deployment": real.timeline, "empty": empty.timeline}
        return Pair(
            real=round(real.seconds(verified), 3),
            empty=round(empty.seconds(verified), 3),
            real_ended=round(real.ended - real.triggered, 3),
            empty_ended=round(empty.ended - empty.triggered, 3),
            real_cpu=round(real.cpu, 1),
            empty_cpu=round(empty.cpu, 1),
            shifted=[round(item, 3) for item in shifted],
            promoted=[round(item, 3) for item in promoted],
            load=os.getloadavg()[0],
        )

    def _run(self, dag_id: str, sent: dict[str, Any]) -> Run:
        before, triggered = cpu(self._airflow), time.time()
        run_id = self._api.trigger(dag_id, sent)
        until(lambda: self._api.run_state(dag_id, run_id) in ENDED, f"{dag_id} {run_id} ends")
        found = self._api.get(f"dags/{dag_id}/dagRuns/{run_id}")
        states = self._api.task_states(dag_id, run_id)
        if found["state"] != "success":
            failed = next(task for task, state in states.items() if state == "failed")
            raise StackError(f"{failed} of {dag_id} has failed: {self._api.log(dag_id, run_id, failed)[-1]}")
        spent, ended = cpu(self._airflow) - before, _unix(found["end_date"])
        run = Run(run_id, triggered, ended, spent, self._events(dag_id, run_id), states)
        if again := run.with_event("up_for_retry"):
            raise StackError(f"{again[0]} of {dag_id} was tried again: {self._api.log(dag_id, run_id, again[0])[-1]}")
        return run

    def _events(self, dag_id: str, run_id: str) -> list[Event]:
        found: list[dict[str, Any]] = []
        while True:
            query = {"dag_id": dag_id, "run_id": run_id, "limit": PAGE, "offset": len(found)}
            answer = self._api.get(f"eventLogs?{urlencode(query)}")
            found += answer["event_logs"]
            if len(found) >= answer["total_entries"]:
                break
        return [Event(item["task_id"], item["event"], _unix(item["when"])) for item in found if item["task_id"]]


def conf(commit: str) -> dict[str, Any]:
    """Return what triggers a deployment that needs no approval."""
    tests, vulnerabilities = {"passed": 127, "total": 127}, {"critical": 0, "high": 0}
    said = {"tests": tests, "coverage": 0.85, "lint_issues": 0, "vulnerabilities": vulnerabilities, "build": "success"}
    return {
        "commit": commit,
        "incident": {"id": "INC-001", "title": "Parcels wait", "severity": "critical"},
        "safety_gate": {"recommendation": "DEPLOY", **said},
        "change": {"files": 3, "lines": 41, "migrations": False, "dependencies": False, "configuration": True},
    }


def spec(repository: Path) -> dict[str, Any]:
    """Return the service's YAML as plain data: its gates answer as soon as they may."""
    return {
        "service": SERVICE,
        "namespace": SERVICE,
        "source": {"repository": f"file://{repository}"},
        "registry": "registry.test",
        "route": {"name": SERVICE},
        "criticality": "high",
        "canary": {"stages": list(STAGES), "bake": BAKE, "warm_up": 0, "max_bake": 120},
        "gates": {"error_rate": 0.01, "latency_p95": 0.5, "latency_p99": 1.0},
    }


def team(gateway: Gateway) -> None:
    """Write what the team has in its cluster before its first deployment."""
    labels = {"app": STABLE}
    pod = {"containers": [{"name": "app", "image": f"registry.test/{SERVICE}@sha256:{'0' * 64}"}]}
    template = {"metadata": {"labels": labels}, "spec": pod}
    backend = {"group": "", "kind": "Service", "name": STABLE, "port": 80, "weight": 1}
    objects: dict[str, tuple[str, dict[str, Any]]] = {
        "deployments": (STABLE, {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}),
        "services": (STABLE, {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}),
        "httproutes": (SERVICE, {"hostnames": [f"{SERVICE}.test"], "rules": [{"backendRefs": [backend]}]}),
    }
    for plural, (name, said) in objects.items():
        gateway.cluster.put(plural, {"metadata": {"name": name, "namespace": SERVICE}, "spec": said})


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until the condition holds.

    :raises StackError: it does not within ``PATIENCE`` seconds.
    """
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise StackError(
                f"waited {PATIENCE:.0f} s in vain until {what}: run it again with --keep, and see the logs."
            )
        time.sleep(0.5)


def _unix(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def bench(folder: Path, pairs: int) -> dict[str, Any]:
    """Run it in ``folder``, and return what `.bench/overhead.json` holds."""
    gateway = Gateway(SERVICE, SERVICE, RATE)
    team(gateway)
    sample = make_repository(folder / "repository")
    (folder / "dags" / "deployments").mkdir(parents=True)
    (folder / "dags" / "deployments" / f"{SERVICE}.yaml").write_text(yaml.safe_dump(spec(sample.path)))
    shutil.copyfile(CHECKOUT / "dags" / "deployments.py", folder / "dags" / "deployments.py")
    with ExitStack() as servers:
        cluster, docker, metrics = (
            servers.enter_context(serve(answer)) for answer in (gateway.cluster.answer, Docker().answer, gateway.answer)
        )
        counters = servers.enter_context(prometheus(folder, metrics))
        served, database = time.monotonic(), servers.enter_context(postgres())
        env = airflow_environment(folder, database, f"http://{cluster}", counters, f"tcp://{docker}")
        processes = servers.enter_context(running(env, folder))
        api = AirflowApi(Site.of(env), USER)
        until(lambda: api.has_dag(REAL), f"Airflow reads {REAL}")
        time.sleep(max(0.0, served + SERVED - time.monotonic()))
        return measured(Bench(api, processes, gateway, sample.good, folder), pairs)


def measured(this: Bench, pairs: int) -> dict[str, Any]:
    """Deploy once to see the path, make the twin, and measure."""
    first, verified = this.deploy()
    twin = shape(this.tasks(), first, verified, BAKE)
    this.make_twin(twin)
    this.empty()
    if not (baked := sum(task.wait or 0.0 for task in twin)):
        raise StackError("No deferred task has a verdict HEALTHY in the artifacts: the gates were not found.")
    done: list[Pair] = []
    for number in range(1, pairs + 1):
        done.append(pair := this.pair(first, verified))
        print(
            f"{number:3}  VERIFIED after {pair.real:.1f} s, the empty twin after {pair.empty:.1f} s, {baked:.0f} s of"
            f" each are bake; verdict to next shift {', '.join(f'{hop:.2f}' for hop in pair.shifted)} s",
            flush=True,
        )
    head = subprocess.run(["git", "-C", CHECKOUT, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": head.stdout.strip(),
        "tasks_run": first.counted,
        **figures(done, baked),
        "timelines": this.timelines,
    }


@dataclass(frozen=True)
class Site:
    """Where the benchmark's Airflow is."""

    airflow_url: str
    users: dict[str, str]

    @classmethod
    def of(cls, env: Mapping[str, str]) -> Site:
        passwords = Path(env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
        return cls(env["AIRFLOW__API__BASE_URL"], json.loads(passwords.read_text()))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.overhead", description="Time Airflow's hops.")
    parser.add_argument("pairs", type=int, nargs="?", default=6, help="deployments, each with a run of its twin (6)")
    parser.add_argument("--keep", action="store_true", help="keep Airflow's home with its logs")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is ended then too
    folder = Path(tempfile.mkdtemp(prefix="airflow-deploy-bench-"))
    try:
        found = bench(folder, options.pairs)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if options.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    BENCH.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({key: value for key, value in found.items() if key not in ("runs", "timelines")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
