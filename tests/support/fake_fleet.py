"""Several promoted services on one cluster, and a pass of the verification as Airflow runs it."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.artifacts import Artifacts, store
from airflow_deploy.clients.kubernetes.errors import REQUEST_TIMEOUT
from airflow_deploy.domain.errors import IllegalTransitionError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing.record import Patch
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.operators import verification
from airflow_deploy.operators.audit import AuditOperator
from airflow_deploy.operators.verification import CheckPromotedOperator, ReportOperator, RollBackPromotedOperator
from airflow_deploy.rollout import rollback
from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.tasks.base import record_step
from tests.airflow.analysis.test_recheck import WITHOUT_CONDITION, Gateway, Load
from tests.airflow.operators.test_operators import STAGE, TASKS, Run
from tests.support.builders import make_plan, make_spec
from tests.support.fake_cluster import FakeCluster
from tests.support.judgement import GOOD_BASELINE, START

S = State
BAD = (Load(-float("inf")), Load(-300, errors=0.2))
"""Good for long, and bad in the last minutes before START."""
SPAN: dict[str, Any] = {"since": -1900.0, "until": 200.0}
AGE = 3600.0
"""Seconds before START at which each was verified."""
DAG_ID = "verify_deployments"


def planned(service: str = "payments", number: int = 0, **spec: Any) -> DeploymentPlan:
    """One deployment of one service, which has a namespace and a route of its own."""
    return make_plan(
        make_spec(service=service, namespace=service, route={"name": f"{service}-route"}, **spec),
        WITHOUT_CONDITION,
        dag_id=f"deploy_{service}",
        run_id=f"run-{number}",
        created=int(START - 7200) + number,
        stable=service,
    )


def verified(plan: DeploymentPlan, *, at: float = START - AGE, lost: State | None = None) -> Path:
    """Leave the artifacts of a deployment that was verified, as its own run writes them.

    :param lost: a state whose task a person has marked as done.
    """
    run = Run()
    path = {
        "plan": [S.INIT],
        "build_image": [S.BUILDING],
        "shift": [S.DEPLOYING, *STAGE],
        "promote": [S.PROMOTING, S.PROMOTED],
        "verify": [S.VERIFYING, S.VERIFIED],
    }
    for task, states in path.items():
        for state in states:
            if state != lost:
                record_step(run.at(task), state, f"{task} says {state}", at=datetime.fromtimestamp(at, UTC))
    run.planned(plan)
    run.measured(plan, GOOD_BASELINE.dump())
    audit = AuditOperator(task_id="audit", plans_of=["build_image", "plan"], steps_of=TASKS)
    with suppress(IllegalTransitionError):
        audit.execute(run.at("audit"))
    return folder(plan)


def folder(plan: DeploymentPlan) -> Path:
    return Path(str(store()).removeprefix("file://")) / plan.spec.service / plan.deployment_id


def summary(plan: DeploymentPlan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Artifacts(plan).read(f"{plan.deployment_id}.json"))
    return found


def transitions(plan: DeploymentPlan) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Artifacts(plan).read(f"transitions_{plan.deployment_id}.jsonl").splitlines()]


class Fleet:
    """Stands for the cluster and for Prometheus of all services; the clock stands at START."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *plans: DeploymentPlan) -> None:
        self.clusters = {plan.spec.namespace: FakeCluster.verified(plan) for plan in plans}
        self.gateways = {plan.deployment_id: Gateway(plan, **SPAN) for plan in plans}
        self.live: set[str] = set()
        """Ids of the DAGs that have a running run."""
        self.now = START
        self.connections: dict[str, Exception] = {}
        """Connections that cannot be used."""
        self.purposes: list[str] = []
        """What was connected for, in turn."""
        for module in (verification, rollback):
            monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: self.now))
        monkeypatch.setattr(verification, "Cluster", self._connect)
        monkeypatch.setattr(verification, "Prometheus", SimpleNamespace(connect=self._connect))
        monkeypatch.setattr(verification, "Observer", self._observer)

    def turns_bad(self, *plans: DeploymentPlan) -> None:
        for plan in plans:
            self.gateways[plan.deployment_id] = Gateway(plan, *BAD, **SPAN)

    def of(self, plan: DeploymentPlan) -> FakeCluster:
        return self.clusters[plan.spec.namespace]

    def weights(self, plan: DeploymentPlan) -> dict[str, int]:
        return self.of(plan).weights()

    def state(self) -> dict[str, Any]:
        """All that anybody could have changed."""
        return {name: (copy.deepcopy(one.body), dict(one.replicas)) for name, one in self.clusters.items()}

    def _connect(self, connection: str, purpose: str = "") -> Fleet:
        if connection in self.connections:
            raise self.connections[connection]
        self.purposes.append(purpose)
        return self

    def _observer(self, prometheus: Fleet, plan: DeploymentPlan, *, copies: bool) -> Observer:
        assert not copies  # there is no mirror any more
        assert prometheus is self
        gateway = self.gateways[plan.deployment_id]
        gateway.clock.now = self.now
        return cast("Observer", gateway)

    def team_route(self, namespace: str, name: str, router: str) -> TeamRoute:
        return self.clusters[namespace].team_route(namespace, name, router)

    def team_route_or_absent(self, namespace: str, name: str, router: str) -> TeamRoute:
        return self.clusters[namespace].team_route_or_absent(namespace, name, router)

    def withdraw(self, route: TeamRoute, version: str) -> None:
        self.clusters[route.body["metadata"]["namespace"]].withdraw(route, version)

    def patch_route(self, route: TeamRoute, patch: Patch) -> TeamRoute:
        return self.clusters[route.body["metadata"]["namespace"]].patch_route(route, patch)

    def ready(
        self,
        namespace: str,
        version: str,
        labels: Mapping[str, str] | None,
        timeout: tuple[float, float] = REQUEST_TIMEOUT,
    ) -> int:
        return self.clusters[namespace].ready(namespace, version, labels, timeout)

    def exists(self, namespace: str, name: str) -> bool:
        return self.clusters[namespace].exists(namespace, name)

    def scale(self, namespace: str, name: str, replicas: int) -> None:
        self.clusters[namespace].scale(namespace, name, replicas)


@dataclass
class Pass:
    """One run of the DAG. Its XComs are JSON, as Airflow's."""

    fleet: Fleet
    limit: int = 3
    try_number: int = 1
    said: list[str] = field(default_factory=list)
    """What ``roll_back`` returned, one for each that was taken back."""
    skipped: list[str] = field(default_factory=list)

    @property
    def context(self) -> Context:
        return cast("Context", {"ti": self})

    dag_id = DAG_ID
    task_id = "roll_back"

    def get_dr_count(self, dag_id: str, *, states: list[str]) -> int:
        assert states == ["running"]
        return int(dag_id in self.fleet.live)

    def xcom_pull(self, *, task_ids: list[str]) -> list[str | None]:
        assert task_ids == ["roll_back"]
        return [*self.said] or [None]

    def check(self) -> list[dict[str, Any]]:
        found = CheckPromotedOperator(task_id="check", limit=self.limit).execute(self.context)
        targets: list[dict[str, Any]] = json.loads(json.dumps(found, allow_nan=False))
        return targets

    def take_back(self, target: Mapping[str, Any]) -> str:
        return RollBackPromotedOperator(task_id="roll_back", target=copy.deepcopy(dict(target))).execute(self.context)

    def report(self) -> None:
        ReportOperator(task_id="report", rolled_back="roll_back").execute(self.context)

    def run(self) -> list[str]:
        """Check, take back, and report; return the services that were taken back."""
        targets = self.check()
        for target in targets:
            try:
                self.said.append(self.take_back(target))
            except AirflowSkipException as error:
                self.skipped.append(str(error))
        if not self.said:
            self.report()
        return [target["service"] for target in targets]
