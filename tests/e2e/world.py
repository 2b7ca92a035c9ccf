"""Helpers of the end-to-end tests: trigger, await, and read requests, route and audit trail."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_deploy.domain.lifecycle.xcom_keys import PLAN_KEY
from tests.stack.access import kubectl
from tests.stack.api import ENDED, AirflowApi
from tests.stack.demo import conf
from tests.stack.info import StackInfo
from tests.stack.load import Request, read
from tests.stack.sample.repository import Sample
from tests.stack.service import PAYMENTS, serve
from tests.stack.traffic import users

PATIENCE = 600
"""Seconds after which a condition that did not come true is a failure."""


RISKY = {"files": 60, "lines": 2000, "migrations": True}
"""A change that lowers the confidence so far that a person is asked."""


UNKNOWN = 'sum(rate(traefik_entrypoint_requests_total{code="404"}[10s])) or vector(0)'
INCIDENT = {
    "id": "INC-404",
    "title": "Partners ask for pages that are not there",
    "severity": "high",
    "resolved_when": {"query": UNKNOWN, "op": "<", "value": 1, "for": "10s"},
}
"""An incident that lasts as long as requests to unknown paths reach the gateway."""


REFUSING = "till"
"""The service of what is refused."""
OTHERS = (
    *("airflow", "bazaar", "booth", "debut", "desk", "generated", "jetty", "kiosk", "meter", "orders", "payments"),
    *("pier", "quay", "rights", "scout", "shop", "stall", "vault", "wharf"),
)
"""Where other tests work than those of what is refused, which make sure that nothing is left anywhere: namespaces,
repositories of images, and folders of artifacts."""
SMALL = {"cpu": "100m", "memory": "64Mi"}
"""A pod's requests if several services are deployed side by side: the node has two processors."""


def dag_of(service: str) -> str:
    """Return the id of the service's DAG."""
    return f"deploy_{service}"


def free_port() -> int:
    """Return a free TCP port of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def weights_of(service: str) -> dict[str, int]:
    """Return the weights of the service's route by Service."""
    route = json.loads(kubectl("-n", service, "get", "httproute", service, "-o", "json"))
    return {ref["name"]: ref["weight"] for ref in route["spec"]["rules"][0].get("backendRefs", [])}


class World:
    """The stack, the payment service under traffic, and Airflow's API.

    :param service: the name under which it runs.
    """

    def __init__(self, info: StackInfo, sample: Sample, record: Path, service: str = PAYMENTS) -> None:
        self.info, self.sample, self._record, self.service = info, sample, record, service
        self.dag = dag_of(service)
        self.api = AirflowApi(info)
        self.api.await_read(self.dag)

    @staticmethod
    def end_runs(info: StackInfo, service: str = PAYMENTS) -> None:
        """End what an earlier test left running, so that the next one need not queue behind it."""
        api, dag = AirflowApi(info), dag_of(service)
        if api.has_dag(dag):
            for run_id in api.unfinished(dag):
                api.end_run(dag, run_id)

    def until(self, condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        """Wait until ``condition`` gives something true, and return that."""
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:.0f} s in vain until {what}")
            time.sleep(0.5)
        return found

    def wait_served(self, seconds: float) -> None:
        """Wait until users have been served for so long."""
        self.until(lambda: (r := self.requests()) and r[-1].sent - r[0].sent >= seconds, "users are served")

    def requests(self) -> list[Request]:
        """Return all requests recorded so far."""
        return read(self._record)

    def deploy(self, commit: str, **changes: Any) -> str:
        """Trigger a deployment of ``commit`` and return the run's id; ``changes`` replace fields of the conf."""
        return self.api.trigger(self.dag, {**conf(commit, "Payments time out"), **changes})

    def asked(self, run_id: str, task: str, times: int = 1) -> dict[str, Any]:
        """Wait until the task asks a person, and return the question.

        It waits for the scheduler too: if an answer comes before Airflow knows that the process that asked has
        ended, it takes the task for lost, and asks again.

        :param times: how often the question has been put by then.
        """
        log = Path(self.info.logs) / "airflow-scheduler.log"
        ended = f"task_id='{task}', run_id='{run_id}'"

        def question() -> dict[str, Any] | None:
            found = self.api.question(self.dag, run_id, task)
            if not found or found["response_received"] or self.tasks(run_id)[task] != "deferred":
                return None
            lines = log.read_text(errors="replace").splitlines()
            heard = sum("Received executor event" in line and ended in line for line in lines)
            return found if heard >= times else None

        found: dict[str, Any] = self.until(question, f"{task} asks a person", 180)
        return found

    def ended(self, run_id: str) -> str:
        """Wait until the run has ended, and return its state."""
        self.until(lambda: self.api.run_state(self.dag, run_id) in ENDED, f"{run_id} ends")
        return self.api.run_state(self.dag, run_id)

    def tasks(self, run_id: str) -> dict[str, str | None]:
        """Return the states of the run's tasks."""
        return self.api.task_states(self.dag, run_id)

    def artifacts(self, deployment_id: str) -> Path:
        """Return the deployment's folder of artifacts."""
        return Path(self.info.artifacts) / self.service / deployment_id

    def plan(self, run_id: str) -> dict[str, Any]:
        """Return the run's frozen plan; wait until there is one."""
        plan: dict[str, Any] = self.until(
            lambda: self.api.xcom(self.dag, run_id, "plan", PLAN_KEY), "the run is planned"
        )
        return plan

    def weights(self) -> dict[str, int]:
        """Return the route's weights by Service."""
        return weights_of(self.service)

    def replicas(self, version: str) -> int:
        """Return how many pods the version's Deployment wants."""
        return int(kubectl("-n", self.service, "get", "deployment", version, "-o", "jsonpath={.spec.replicas}"))

    def objects(self) -> list[str]:
        """Return the kinds and names of all declared objects in the service's namespace."""
        kinds = "deployments,services,configmaps,networkpolicies,poddisruptionbudgets,httproutes"
        return sorted(kubectl("-n", self.service, "get", kinds, "-o", "name").split())

    def images(self) -> list[str]:
        """Return the tags of the service's images in the registry."""
        answer = self.api.session.get(f"{self.info.registry_url}/v2/{self.service}/tags/list", timeout=10)
        return sorted(answer.json().get("tags") or [])


@contextmanager
def served(
    info: StackInfo, service: str, folder: Path, *, rate: float = 50.0, direct: bool = False, **declared: Any
) -> Iterator[World]:
    """Serve a service of its own under traffic for as long as the block lasts.

    :param direct: users reach its Service by themselves, without a gateway.

    :param folder: for the record of its requests; ``rate``: how many come each second.
    :param declared: what ``serve`` takes.
    """
    assert service in OTHERS, f"add {service} to OTHERS: tests that nothing is left would find its objects"
    World.end_runs(info, service)
    sample = serve(info, service, resources=SMALL, **declared)
    ip = kubectl("-n", service, "get", "service", service, "-o", "jsonpath={.spec.clusterIP}") if direct else None
    with users(folder / "requests.jsonl", rate=rate, host=f"{service}.test", cluster_ip=ip) as record:
        world = World(info, sample, record, service)
        world.wait_served(10)
        yield world
    kubectl("delete", "namespace", service, "--wait=false")
