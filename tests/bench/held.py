"""Services whose deployments are held, each in another state, so that one kill meets all of them.

Nothing of the product is changed for that. A build lasts as long as its Dockerfile says, and a start as long as the
sample is told to prepare itself. Shares wait for evidence that little traffic does not give, and then for a person.
Promotion and rollback are held in the middle of their write: the API server is reached through a proxy, which keeps
that call. The verification waits for an incident that is over when we say so.
"""

import json
import math
import shutil
import subprocess
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker
import requests
import yaml

from airflow_deploy.domain.lifecycle.approval import APPROVE, REJECT
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.lifecycle.xcom_keys import PLAN_KEY
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.rollout.analysis.replay import replay_file
from tests.bench.matrix import STATES, Row
from tests.e2e.trail import summary, transitions, unix
from tests.e2e.world import INCIDENT, RISKY, dag_of
from tests.stack.access import PKI, SERVER, kubectl
from tests.stack.api import ENDED, AirflowApi
from tests.stack.demo import conf
from tests.stack.errors import StackError
from tests.stack.faults import Call, Proxy, proxy
from tests.stack.info import StackInfo
from tests.stack.layout import DAGS
from tests.stack.load import Record, Request
from tests.stack.processes import wait_until
from tests.stack.sample.repository import Sample
from tests.stack.service import serve
from tests.stack.traffic import users

CONNECTION = "chaos"
PATIENCE = 600.0
"""Seconds until every service is in its state."""
ENDING = 420.0
"""Seconds after which a run that has not ended never will."""
RATE = 10.0
BUILD = 90
"""Seconds that the slow build takes."""
START = "90s"
"""What the slow version takes to start."""
LIMITS = {"error_rate": 0.5, "latency_p95": 10.0, "latency_p99": 10.0, "cpu_saturation": 10, "request_rate": 10}
"""The versions are good, and the machine is small: what is tested is not the judgement."""


LATE = ("BUILDING", "DEPLOYING")
"""States that last for a time only, and so are entered when all others are."""
WRITING = ("PROMOTING", "ROLLING_BACK")
Say = Callable[[str], None]


@dataclass
class Held:
    """One service, and its deployment.

    :param state: in which it is held.
    :param share: the first share of the traffic in %.
    :param asked: what is answered to a person's questions; None leaves them open.
    """

    state: str
    service: str
    share: int
    sample: Sample
    record: Record
    requests: list[Request] = field(default_factory=list)
    run: str = ""
    plan: DeploymentPlan | None = None
    asked: str | None = None
    ended_at: float | None = None

    @property
    def dag(self) -> str:
        """The id of its DAG."""
        return dag_of(self.service)

    @property
    def candidate(self) -> str:
        """The candidate's name; empty before there is a plan."""
        return self.plan.candidate if self.plan else ""


def share_of(state: str) -> int:
    """Return the first share of the service that is held in ``state``."""
    return int(state.split()[1]) if state.startswith("CANARY") else 100


def name_of(state: str) -> str:
    """Return the name of the service that is held in ``state``."""
    return "-".join(["held", *state.lower().replace("%", "").replace("_", " ").split()])


class Fleet:
    """All of them, with one answerer, one proxy, and one eye on the Leases."""

    def __init__(self, info: StackInfo, proxied: Proxy, held: Sequence[Held]) -> None:
        self.info, self.proxy, self.held = info, proxied, held
        self.api, self._person = AirflowApi(info), AirflowApi(info, "admin")
        self.leases: dict[str, list[float]] = {one.service: [] for one in held}
        self._token = yaml.safe_load(Path(info.admin_kubeconfig).read_text())["users"][0]["user"]["token"]
        self._incident = False
        self._docker = docker.DockerClient(base_url=info.docker_url)
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(work, every), daemon=True)
            for work, every in ((self._answer, 2.0), (self._look_at_leases, 0.5), (self._ask_for_nothing, 0.1))
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End what runs beside."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def reset(self) -> None:
        """End what an earlier row has left: runs, pods without traffic, and a history that would lower confidence."""
        self.proxy.release()
        for one in self.held:
            for run in self.api.unfinished(one.dag):
                self.api.end_run(one.dag, run)
        wait_until(lambda: not any(self.api.unfinished(one.dag) for one in self.held), 120, 1)
        for one in self.held:
            there = self.weights(one)
            for name in [name for name, pods in self._deployments(one).items() if pods and not there.get(name)]:
                kubectl("-n", one.service, "scale", f"deployment/{name}", "--replicas=0")
            shutil.rmtree(Path(self.info.artifacts) / one.service, ignore_errors=True)
            one.run, one.plan, one.asked, one.ended_at, one.requests = "", None, None, None, []
            one.record.new()
            self.leases[one.service].clear()

    def hold(self, say: Say) -> None:
        """Deploy all, and return when each is in its state.

        :raises StackError: one does not come to it.
        """
        late, writing = ([one for one in self.held if one.state in group] for group in (LATE, WRITING))
        self._incident = True
        self.proxy.hold(writes)
        for one in self.held:
            if one not in late:
                self.deploy(one)
        self._until_held([one for one in self.held if one not in [*late, *writing]], say)
        self._until(writing, lambda one: self._tasks(one).get("approve_promotion") == "deferred", say)
        for one in reversed(late):  # a start takes longer to come to than a build
            self.deploy(one)
            self._until_held([one], say)
        for one in writing:
            one.asked = APPROVE if one.state == "PROMOTING" else REJECT
        self._until_held(writing, say)
        if gone := [one.state for one in self.held if not self._is_held(one)]:
            raise StackError(f"no longer in its state: {', '.join(gone)}")

    def deploy(self, one: Held) -> None:
        """Trigger the deployment that its state needs."""
        commit = one.sample.good
        changes: dict[str, Any] = {}
        if one.state == "BUILDING":
            commit = slow_build(one.sample)
        if one.state == "VERIFYING":
            changes = {"incident": INCIDENT}
        if one.state in ("CANARY 100 %", "PROMOTING", "ROLLING_BACK"):  # a person is asked before the promotion
            changes = {"change": RISKY}
        one.run = self.api.trigger(one.dag, {**conf(commit, "Payments time out"), **changes})

    def release(self) -> None:
        """Hold nothing any more."""
        self._incident = False
        self.proxy.release()
        for one in self.held:
            one.asked = one.asked or APPROVE

    def wait_ended(self, say: Say, held: Sequence[Held] = ()) -> None:
        """Wait until all of these runs have ended, or never will."""
        chosen = held or self.held

        def all_ended() -> bool:
            for one in [one for one in chosen if one.ended_at is None]:
                with suppress(requests.RequestException):
                    if self.api.run_state(one.dag, one.run) in ENDED:
                        one.ended_at = time.time()
                        say(f"{one.state} has ended")
            return all(one.ended_at for one in chosen)

        wait_until(all_ended, ENDING, 1)

    def weights(self, one: Held) -> dict[str, int]:
        """Return the route's weights by Service."""
        body = self._kubernetes(f"gateway.networking.k8s.io/v1/namespaces/{one.service}/httproutes/{one.service}")
        return {ref["name"]: ref.get("weight", 1) for ref in body["spec"]["rules"][0]["backendRefs"]}

    def outcome(self, one: Held, component: str, killed_at: float) -> Row:
        """Say what became of one deployment."""
        folder, planned = self._artifacts(one), self.api.xcom(one.dag, one.run, "plan", PLAN_KEY)
        one.plan = DeploymentPlan.load(planned) if planned else None
        said = summary(folder) if folder else {}
        ended = str(said.get("state", "none"))
        serving = [name for name, weight in self.weights(one).items() if weight]
        one.requests += one.record.new()
        answers = [request.sent + request.latency for request in one.requests if request.version == one.candidate]
        stable = one.plan.stable if one.plan else ""
        return Row(
            component=component,
            state=one.state,
            ended=ended if one.ended_at else "never",
            route_whole=serving == [one.candidate if ended == "VERIFIED" else stable],
            orphans=tuple(self._orphans(one, {*serving, stable})),
            audit_legal=folder is not None and said["irregular"] is None and _replays(folder),
            unwatched_s=unwatched(answers, self.leases[one.service], _verified_at(folder) if folder else None),
            seconds=round((one.ended_at or time.time()) - killed_at, 1),
            lost=sum(request.failed for request in one.requests if request.sent >= killed_at),
        )

    def _repeat(self, work: Callable[[], None], every: float) -> None:
        while not self._over.wait(every):
            with suppress(requests.RequestException, KeyError, ValueError):
                work()

    def _answer(self) -> None:
        """Answer as a person does, a moment after the question is put."""
        for one in self.held:
            if not one.run or one.ended_at:
                continue
            tasks = self._person.task_states(one.dag, one.run)
            for task in [name for name, state in tasks.items() if state == "deferred" and _asks(name)]:
                # Whether it is deployed at all is always answered: that is not where it is held.
                said = APPROVE if task == "approve" else one.asked
                question = self._person.question(one.dag, one.run, task)
                put = question and datetime.fromisoformat(question["created_at"])
                if said and put and not question["response_received"] and (datetime.now(UTC) - put).seconds >= 3:
                    self._person.answer(one.dag, one.run, task, said)

    def _look_at_leases(self) -> None:
        label = "labelSelector=app.kubernetes.io/managed-by=airflow-deploy"
        for item in self._kubernetes(f"coordination.k8s.io/v1/leases?{label}")["items"]:
            seen = self.leases.get(item["metadata"]["namespace"])
            renewed = datetime.fromisoformat(item["spec"]["renewTime"]).timestamp()
            if seen is not None and (not seen or seen[-1] != renewed):
                seen.append(renewed)

    def _ask_for_nothing(self) -> None:
        """Be the partners of the incident, as long as it is one."""
        if self._incident:
            requests.get(self.info.gateway_url, headers={"Host": "partners.test"}, timeout=2)

    def _until_held(self, held: Sequence[Held], say: Say) -> None:
        self._until(held, self._is_held, say)
        for one in held:
            one.plan = self._plan(one)

    def _until(self, held: Sequence[Held], there: Callable[[Held], bool], say: Say) -> None:
        waiting, began = list(held), time.monotonic()

        def none_waits() -> bool:
            for one in [one for one in waiting if there(one)]:
                waiting.remove(one)
                say(f"{one.service} is there after {time.monotonic() - began:.0f} s")
            return not waiting or any(self._tasks(one).get("finalize") for one in waiting)

        wait_until(none_waits, PATIENCE, 2)
        if waiting:
            told = ", ".join(f"{one.state}: {self._active(one)}" for one in waiting)
            raise StackError(f"not in their states after {time.monotonic() - began:.0f} s: {told}")

    def _is_held(self, one: Held) -> bool:
        if one.state in WRITING:
            return any(f"/httproutes/{one.service}" in call.path for call in self.proxy.held)
        tasks = self._tasks(one)
        if one.state == "BUILDING":
            return tasks["build_image"] == "running" and bool(self._docker.containers.list())
        if one.state == "DEPLOYING":
            return tasks["wait_ready"] == "deferred"
        if one.state == "VERIFYING":
            return tasks["verify"] == "deferred"
        stage = f"canary_{one.share}"
        waiting = any(tasks.get(name) == "deferred" for name in (f"{stage}.gate", f"{stage}.ask", "approve_promotion"))
        return waiting and self.weights(one).get(self._plan(one).candidate) == one.share

    def _kubernetes(self, path: str) -> dict[str, Any]:
        """Read from the API server as its administrator; kubectl would take much of a small machine's time."""
        headers = {"Authorization": f"Bearer {self._token}"}
        answer = requests.get(f"{SERVER}/apis/{path}", headers=headers, verify=str(PKI / "ca.crt"), timeout=5)
        answer.raise_for_status()
        found: dict[str, Any] = answer.json()
        return found

    def _deployments(self, one: Held) -> dict[str, int]:
        """Return how many pods each Deployment wants."""
        listed = self._kubernetes(f"apps/v1/namespaces/{one.service}/deployments")["items"]
        return {item["metadata"]["name"]: item["spec"]["replicas"] for item in listed}

    def _plan(self, one: Held) -> DeploymentPlan:
        return DeploymentPlan.load(self.api.xcom(one.dag, one.run, "plan", PLAN_KEY))

    def _active(self, one: Held) -> str:
        tasks = self._tasks(one)
        return ", ".join(
            f"{name} {state}" for name, state in tasks.items() if state not in (None, "success", "skipped")
        )

    def _tasks(self, one: Held) -> dict[str, str | None]:
        return self.api.task_states(one.dag, one.run)

    def _artifacts(self, one: Held) -> Path | None:
        for path in (Path(self.info.artifacts) / one.service).glob("*/DEP-*.json"):
            if summary(path.parent)["run_id"] == one.run:
                return path.parent
        return None

    def _orphans(self, one: Held, needed: set[str]) -> list[str]:
        found = [name for name, pods in self._deployments(one).items() if pods]
        builds = [str(item.name) for item in self._docker.containers.list()] if one.state == "BUILDING" else []
        return [name for name in found if name not in needed] + builds


def unwatched(answers: Sequence[float], looks: Sequence[float], until: float | None) -> float | None:
    """Return how long ago the last look was, at most, when the candidate answered a user.

    :param answers: when it did; ``looks``: when looks were completed, in their order; both in unix seconds.
    :param until: when it was verified, and so needed no looks any more.
    :returns: None if it had no user since the first look; infinite if it had one and no look was ever completed.
    """
    if not looks and any(until is None or at <= until for at in answers):
        return math.inf
    gaps = [
        at - looks[index - 1] for at in answers if (index := bisect_right(looks, at)) and (until is None or at <= until)
    ]
    return round(max(gaps), 1) if gaps else None


def _asks(task: str) -> bool:
    return task.endswith(".ask") or task in ("approve", "approve_promotion")


def writes(call: Call) -> bool:
    """Whether this is the write of a promotion, or of a rollback, of the services that are held in it."""
    phase = {name_of("PROMOTING"): routes.PROMOTED, name_of("ROLLING_BACK"): routes.SETTLED}
    service = call.path.partition("?")[0].rpartition("/")[2]
    return call.method == "PATCH" and "/httproutes/" in call.path and f'"{phase.get(service)}"'.encode() in call.body


def _replays(folder: Path) -> bool:
    """Whether every verdict follows from the evidence that was kept of it."""
    return not any(replay_file(path).differences for path in folder.glob("evidence_*/*.jsonl"))


def _verified_at(folder: Path) -> float | None:
    return next((unix(step["at"]) for step in transitions(folder) if step["to"] == State.VERIFIED), None)


def slow_build(sample: Sample) -> str:
    """Commit a Dockerfile that takes long, every time anew, and return the commit."""
    dockerfile = (sample.path / "Dockerfile").read_text()
    git = ["git", "-C", str(sample.path), "-c", "user.name=held", "-c", "user.email=held@airflow-deploy.invalid"]

    def run(*arguments: str) -> str:
        return subprocess.run([*git, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    run("checkout", "--quiet", "--force", "-B", "slow", sample.good)
    slow = f"RUN : {time.time()}; sleep {BUILD}\n\nFROM scratch\n"
    (sample.path / "Dockerfile").write_text(dockerfile.replace("\nFROM scratch\n", slow, 1))
    run("commit", "--quiet", "--all", "--message=Build slowly")
    return run("rev-parse", "HEAD")


@contextmanager
def fleet(info: StackInfo, records: Path) -> Iterator[Fleet]:
    """Serve one service for each state, under a little traffic, and remove them in the end."""
    admin = AirflowApi(info, "admin")
    kubeconfig = Path(info.state) / "chaos.kubeconfig"
    with ExitStack() as opened:
        proxied = opened.enter_context(proxy(kubeconfig))
        connection = {"connection_id": CONNECTION, "conn_type": "kubernetes"}
        admin.request("DELETE", f"connections/{CONNECTION}")
        extra = json.dumps({"kube_config_path": str(kubeconfig)})
        admin.request("POST", "connections", **connection, extra=extra).raise_for_status()
        first, *others = STATES
        samples = {first: _serve(info, first)}  # alone: it may have to import the base image
        with ThreadPoolExecutor(3) as threads:
            samples |= dict(zip(others, threads.map(lambda state: _serve(info, state), others), strict=True))
        api = AirflowApi(info)
        api.await_read(dag_of(name_of(STATES[-1])))  # all DAGs come from one file
        held = []
        for state in STATES:
            service = name_of(state)
            path = records / f"{service}.requests.jsonl"
            opened.enter_context(users(path, rate=RATE, host=f"{service}.test"))
            held.append(Held(state, service, share_of(state), samples[state], Record(path)))
        one = Fleet(info, proxied, held)
        try:
            if not wait_until(lambda: all(_served(one) for one in held), 60, 1):
                raise StackError("not every service answers its users")
            yield one
        finally:
            one.close()
            for service in map(name_of, STATES):
                (DAGS / "deployments" / f"{service}.yaml").unlink()
                shutil.rmtree(Path(info.artifacts) / service, ignore_errors=True)
                kubectl("delete", "namespace", service, "--wait=false", "--ignore-not-found")


def _served(one: Held) -> bool:
    """Whether the service has had users for some seconds: what is planned needs their counts."""
    one.requests += one.record.new()
    return len(one.requests) > 10 * RATE


def _serve(info: StackInfo, state: str) -> Sample:
    service, share = name_of(state), share_of(state)
    sample = serve(
        info,
        service,
        commit="good",
        criticality="low",
        stages=(100,) if share == 100 else (share, 100),
        bake=10,
        max_bake=300 if state == "VERIFYING" else 60,
        gates=LIMITS,
        replicas=1,
        resources={"cpu": "60m", "memory": "48Mi"},
        branches=["main", "slow"] if state == "BUILDING" else ["main"],
        config={"CURRENCY": "EUR", **({"START": START} if state == "DEPLOYING" else {})},
        connections={"kubernetes": CONNECTION},
    )
    kubectl("-n", service, "scale", f"deployment/{service}", "--replicas=1")
    return sample
