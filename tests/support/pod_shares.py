"""The tasks of a run whose pods are its share, and the order in which they record the share and start the pods."""

from __future__ import annotations

import json
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.operators import apply as applying
from airflow_deploy.operators import canary
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator, ShiftCanaryOperator
from airflow_deploy.rollout import capacity, lease
from tests.support.cluster import lead_to
from tests.support.kubernetes_api import Request
from tests.support.recorded_run import Run
from tests.support.replicas_cluster import ReplicasCluster
from tests.support.world import Clock

AGREED = ("gate", "ask")


class Tasks:
    """The tasks of one run on a cluster, in which the watch is alive and each question was answered with yes."""

    def __init__(self, cluster: ReplicasCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = cluster
        lead_to(cluster.api, monkeypatch)
        for module in (canary, applying):
            monkeypatch.setattr(module, "check_agreed", lambda *_: None)
        monkeypatch.setattr(canary, "check_rollback_possible", lambda *_: None)
        monkeypatch.setattr(lease.LeaseRenewal, "seen", lambda _: True)
        clock = Clock()
        monkeypatch.setattr(capacity, "time", SimpleNamespace(monotonic=clock.time, sleep=clock.sleep))

    def apply(self) -> None:
        """Execute ``apply_manifest``."""
        plan = self.cluster.plan.dump()
        ApplyManifestOperator(task_id="apply", agreed=AGREED, plan=plan).execute(Run().at("apply"))

    def claim(self, plan: DeploymentPlan | None = None) -> str:
        """Execute ``claim_route``, of the cluster's plan or another one, and return the owner."""
        claimed = (plan or self.cluster.plan).dump()
        return str(ClaimRouteOperator(task_id="claim", plan=claimed).execute(Run().at("claim")))

    def shift(self, stage: int) -> list[str]:
        """Execute the shift to a stage, and return the reasons that it has recorded."""
        run = Run()
        ShiftCanaryOperator(task_id="shift", share=stage, agreed=AGREED, **self._owned()).execute(run.at("shift"))
        return [step["reason"] for step in run.ti.store["shift", "steps"]]

    def promote(self) -> None:
        """Execute ``promote``."""
        PromoteOperator(task_id="promote", agreed=AGREED, **self._owned()).execute(Run().at("promote"))

    def _owned(self) -> dict[str, Any]:
        return {"plan": self.cluster.plan.dump(), "claim": self.cluster.claim}


def moves(requests: Iterable[Request]) -> list[str]:
    """Return in their order which shares were recorded, and how many pods a candidate was given."""
    found: list[str] = []
    for request in requests:
        if not (request.done and request.writes and request.method == "PATCH" and isinstance(request.body, list)):
            continue
        for operation in request.body:
            if "/services/" in request.path and operation["path"].endswith("shifts"):
                found += [f"share {shift['share']}" for shift in json.loads(operation["value"])[-1:]]
            if "/deployments/" in request.path and operation["path"] == "/spec/replicas":
                found.append(f"pods {operation['value']}")
    return found
