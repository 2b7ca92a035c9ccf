"""The versions of a service as its deployments leave them, on the API server of tests and in the artifacts."""

from __future__ import annotations

from functools import partial

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.kubernetes.versions import VERSION_KINDS
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.workloads.manifests import render_version
from airflow_deploy.rollout.cleanup import CleanupResult, clean_up, survey
from tests.support.fleet import planned, verified
from tests.support.judgement import START
from tests.support.kubernetes_api import Object
from tests.support.service_cluster import ServiceCluster

WINDOW = 3600
"""Seconds of a service's rollback window."""
ALL = sorted(VERSION_KINDS)
"""The kinds of a version that is whole."""


def apply_version(cluster: ServiceCluster, plan: DeploymentPlan) -> None:
    """Record a candidate and make its objects, as ``apply_manifest`` does."""
    Artifacts(plan).freeze(render_version(plan))
    cluster.apply(plan)


def claim_route(cluster: ServiceCluster, plan: DeploymentPlan, share: int = 0) -> None:
    """Do what ``claim_route`` and one shift do."""
    _, claim = routes.claim(cluster.team, plan.claim())
    cluster.write(claim)
    if share:
        cluster.write(routes.shift(cluster.team, plan.claim(cluster.claim), share, 0.0))


def verify(cluster: ServiceCluster, plan: DeploymentPlan) -> None:
    """Let a version be claimed, promoted and verified."""
    claim_route(cluster, plan, 100)
    cluster.write(routes.promote(cluster.team, plan.claim(cluster.claim)))
    cluster.write(routes.confirm(cluster.team, plan.claim(cluster.claim)))


def settle(cluster: ServiceCluster, plan: DeploymentPlan) -> None:
    """Let a run be rolled back and over."""
    cluster.write(routes.rollback(cluster.team, plan.claim(cluster.claim), routes.SETTLED))
    cluster.replicas[plan.candidate] = 0


def kinds_of(cluster: ServiceCluster, plan: DeploymentPlan) -> list[str]:
    """Return the kinds of the version's objects that are there."""
    return [kind for kind in ALL if cluster.api.find(kind, plan.spec.namespace, plan.candidate)]


def touch(cluster: ServiceCluster, kind: str, plan: DeploymentPlan) -> None:
    """Write one of a version's objects as any other client may, so that it has another resourceVersion."""

    def change(body: Object) -> None:
        body["metadata"].setdefault("annotations", {})["example.com/touched"] = "yes"

    cluster.api.edit(kind, plan.spec.namespace, plan.candidate, change)


def send_all_to(cluster: ServiceCluster, name: str) -> None:
    """Give a version the traffic as a person does, without a note in the record."""
    refs = [{"kind": "Service", "name": name, "port": 80, "weight": 100}]
    cluster.edit(lambda body: body["spec"]["rules"][0].update(backendRefs=refs))


class DeployedService:
    """One service and its deployments, an hour or more apart."""

    def __init__(self, name: str = "payments", keep: int = 1) -> None:
        self.name, self.keep = name, keep
        self.plans: list[DeploymentPlan] = []
        self.now = START
        self.cluster = ServiceCluster(self.planned())
        self.cluster.api.clock = lambda: self.now

    def planned(self) -> DeploymentPlan:
        """Return the plan of the next deployment."""
        number = len(self.plans)
        rollback = {"window": WINDOW, "keep": self.keep}
        plan = planned(self.name, 100 * number, rollback=rollback, scaling={"max": 4})
        stable = self.cluster.now.stable() if self.plans else self.name
        return plan.model_copy(update={"commit": f"{number:040x}", "stable": stable})

    def apply(self) -> DeploymentPlan:
        """Let one more candidate be applied, and no more."""
        self.plans.append(plan := self.planned())
        apply_version(self.cluster, plan)
        return plan

    def deploy(self, *, held: bool = True) -> DeploymentPlan:
        """Let one more deployment come to its end: verified or, if it did not hold, rolled back."""
        plan = self.apply()
        if held:
            verify(self.cluster, plan)
            verified(plan, at=self.now)
        else:
            claim_route(self.cluster, plan, 50)
            settle(self.cluster, plan)
        return plan

    def clean_up(self, after: float = 0.0) -> CleanupResult:
        """Run one pass ``after`` so many seconds more."""
        self.now += after
        return clean_up(survey(self.cluster.client, self.plans[-1]), self.now)

    def start(self, plan: DeploymentPlan, *at: float) -> None:
        """Let a version have new pods, as ``kubectl scale`` does; each is created at one of these unix seconds."""
        self.cluster.replicas[plan.candidate] = 0
        for number, moment in enumerate(at, 1):
            self.cluster.api.clock = partial(float, moment)
            self.cluster.replicas[plan.candidate] = number
        self.cluster.api.clock = lambda: self.now

    def pods(self) -> dict[str, int]:
        """Return how many pods each Deployment wants that is not the team's own."""
        return {name: pods for name, pods in self.cluster.replicas.items() if name != self.name}

    def pods_of(self, plan: DeploymentPlan) -> int:
        """Return how many pods a version wants."""
        return self.cluster.replicas[plan.candidate]

    def has(self, plan: DeploymentPlan) -> list[str]:
        """Return the kinds of the version's objects that are there."""
        return kinds_of(self.cluster, plan)

    def state(self) -> list[Object]:
        """Return everything on the server but Leases, to compare it later."""
        api = self.cluster.api
        return [body for kind in api.kinds if kind.name != "Lease" for body in api.all(kind.name)]
