"""A pass of ``verify_deployments`` as Airflow runs it, over several promoted services on one API server."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.kubernetes import connection as connections
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.operators import verification
from airflow_deploy.operators.verification import CheckPromotedOperator, ReportOperator, RollBackPromotedOperator
from airflow_deploy.rollout import rollback
from airflow_deploy.rollout.analysis.observer import Observer
from tests.support.gateway_counters import Gateway, Load
from tests.support.judgement import START
from tests.support.kubernetes_api import KubernetesApi, Object
from tests.support.service_cluster import ServiceCluster

BAD = (Load(-float("inf")), Load(-300, errors=0.2))
"""Good for long, and bad in the last minutes before START."""
SPAN: dict[str, Any] = {"since": -1900.0, "until": 200.0}
DAG_ID = "verify_deployments"


class Fleet:
    """Promoted services on one API server, and Prometheus of all of them; the clock stands at START.

    A request is sent once.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *plans: DeploymentPlan) -> None:
        self.clusters: dict[str, ServiceCluster] = {}
        beside: ServiceCluster | None = None
        for plan in plans:
            beside = self.clusters[plan.spec.namespace] = ServiceCluster.verified(plan, beside)
        self.api = beside.api if beside else KubernetesApi()
        self.gateways = {plan.deployment_id: Gateway(plan, **SPAN) for plan in plans}
        self.live: set[str] = set()
        """Ids of the DAGs that have a running run."""
        self.now = START
        self.connections: dict[str, Exception] = {}
        """Connections that cannot be used."""
        self.purposes: list[str] = []
        """For what clients of the API server were made, in turn."""
        for module in (verification, rollback):
            monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: self.now))
        monkeypatch.setattr(connections, "_api_client", self._api_client)
        monkeypatch.setattr(verification, "Prometheus", SimpleNamespace(connect=self._prometheus))
        monkeypatch.setattr(verification, "Observer", self._observer)

    def turns_bad(self, *plans: DeploymentPlan) -> None:
        for plan in plans:
            self.gateways[plan.deployment_id] = Gateway(plan, *BAD, **SPAN)

    def of(self, plan: DeploymentPlan) -> ServiceCluster:
        return self.clusters[plan.spec.namespace]

    def weights(self, plan: DeploymentPlan) -> dict[str, int]:
        return self.of(plan).weights()

    def fail(self, plan: DeploymentPlan, resource: str, status: int = 503, **fault: Any) -> None:
        """Let the next request for a resource in the service's namespace fail."""
        self.api.fail(f"/namespaces/{plan.spec.namespace}/{resource}", status, **fault)

    def state(self) -> dict[str, list[Object]]:
        """All objects by the services' namespaces."""
        kinds = [kind.name for kind in self.api.kinds if kind.namespaced]
        return {name: [body for kind in kinds for body in self.api.all(kind, name)] for name in self.clusters}

    def _api_client(self, connection: str, purpose: str) -> Any:
        self._check_usable(connection)
        self.purposes.append(purpose)
        return self.api.client()

    def _prometheus(self, connection: str) -> Fleet:
        self._check_usable(connection)
        return self

    def _check_usable(self, connection: str) -> None:
        if connection in self.connections:
            raise self.connections[connection]

    def _observer(self, prometheus: Fleet, plan: DeploymentPlan, *, copies: bool) -> Observer:
        assert not copies  # there is no mirror any more
        assert prometheus is self
        gateway = self.gateways[plan.deployment_id]
        gateway.clock.now = self.now
        return cast("Observer", gateway)


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
