"""What surrounds ``plan``: the API server of tests, a repository with the commit, and metrics for every query."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import Context

from airflow_deploy.clients.git import Repository
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.operators.plan import PlanDeploymentOperator
from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.tasks.base import recorded_steps
from airflow_deploy.tasks.frozen import PLANNED, read_plan
from tests.support.builders import COMMIT, CONF, make_spec
from tests.support.cluster import lead_to
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster


class PlanObserver:
    """Prometheus, which accepts every query unless it is told otherwise."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None

    def check(self) -> None:
        """Every limit is an edge."""

    def number(self, query: str) -> float | None:
        if self.refusal:
            raise self.refusal
        return None


class Planning:
    """One run of ``plan`` on a cluster."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cluster: ServiceCluster) -> None:
        self.run = Run()
        self.observer = PlanObserver()
        self._monkeypatch = monkeypatch
        self.use(cluster)
        monkeypatch.setattr(Repository, "fetched", self.fetched)
        monkeypatch.setattr(Observer, "connect", lambda _: self.observer)

    def use(self, cluster: ServiceCluster) -> ServiceCluster:
        """Plan on another cluster from now on, and return it."""
        self.cluster = cluster
        lead_to(cluster.api, self._monkeypatch)
        return cluster

    @staticmethod
    @contextmanager
    def fetched(_: Any) -> Iterator[Any]:
        yield SimpleNamespace(resolve=lambda commit: COMMIT)

    def plan(self, conf: dict[str, Any] | None = None, run_after: float = 1_795_417_200, **spec: Any) -> DeploymentPlan:
        """Execute ``plan``, and return what it has frozen."""
        dag_run = SimpleNamespace(
            conf=conf or CONF,
            dag_id="deploy_payments",
            run_id="manual__1",
            triggering_user_name="ada",
            run_after=datetime.fromtimestamp(run_after, UTC),
        )
        context = cast("Context", {**self.run.at("plan"), "dag_run": dag_run})
        PlanDeploymentOperator(task_id="plan", spec=make_spec(**spec).dump()).execute(context)
        return read_plan(context, PLANNED)

    def steps(self) -> list[State]:
        """Return the states that ``plan`` has recorded."""
        return [step.to for step in recorded_steps(self.run.context, ["plan"])]
