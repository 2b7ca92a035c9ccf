"""A namespace in memory: the objects of one service's versions beside its route, with the fences of an API server."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from datetime import UTC, datetime
from itertools import count
from typing import Any

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.domain.errors import TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.workloads.manifests import render_version, version_objects
from tests.support.fake_cluster import FakeCluster


class FakeVersions(FakeCluster):
    """The cluster of a service that was never deployed; each object has a uid and a version, and counts its writes."""

    def __init__(self, plan: DeploymentPlan) -> None:
        super().__init__(plan)
        self.made: dict[tuple[str, str], dict[str, Any]] = {}
        self.born: dict[str, list[float]] = {}
        """When each version's pods were made."""
        self._numbers = count(1)

    def has(self, plan: DeploymentPlan) -> list[str]:
        """Return the kinds of the version's objects that are there."""
        return sorted(kind for kind, name in self.made if name == plan.candidate)

    def pods(self) -> dict[str, int]:
        """Return how many pods each Deployment of ours wants."""
        return {name: item["spec"]["replicas"] for (kind, name), item in self.made.items() if kind == "Deployment"}

    def applied(self, plan: DeploymentPlan, at: float) -> None:
        """Do what ``apply_manifest`` does."""
        Artifacts(plan).freeze(render_version(plan))
        for item in version_objects(plan):
            stamp = {"creationTimestamp": datetime.fromtimestamp(at, UTC).isoformat(), "uid": f"uid-{item['kind']}"}
            key = (item["kind"], plan.candidate)
            self.made[key] = {**item, "metadata": {**item["metadata"], **stamp}, "status": {}}
            self.wrote(*key)
        self.replicas[plan.candidate] = plan.spec.replicas
        deployment = self.made["Deployment", plan.candidate]
        deployment["spec"]["replicas"] = plan.spec.replicas
        deployment["status"] = {"replicas": plan.spec.replicas}
        self.born[plan.candidate] = [at] * plan.spec.replicas

    def claimed(self, plan: DeploymentPlan, share: int = 0) -> None:
        """Do what ``claim_route`` and one shift do."""
        _, claim = routes.claim(self.now, plan.claim())
        self.patch_route(self.now, claim)
        if share:
            self.patch_route(self.now, routes.shift(self.now, plan.claim(self.claim), share, 0.0))

    def then_verified(self, plan: DeploymentPlan) -> None:
        self.claimed(plan, 100)
        self.patch_route(self.now, routes.promote(self.now, plan.claim(self.claim)))
        self.patch_route(self.now, routes.confirm(self.now, plan.claim(self.claim)))

    def then_settled(self, plan: DeploymentPlan) -> None:
        self.patch_route(self.now, routes.rollback(self.now, plan.claim(self.claim), routes.SETTLED))
        self.scale(plan.spec.namespace, plan.candidate, 0)

    def objects(self, namespace: str, service: str) -> list[dict[str, Any]]:
        assert namespace == self.plan.spec.namespace
        self._raise("objects")
        wanted = {"app.kubernetes.io/managed-by": "airflow-deploy", "app.kubernetes.io/name": service}.items()
        listed = [item for (kind, _), item in self.made.items() if kind != "ConfigMap"]
        return [copy.deepcopy(item) for item in listed if wanted <= item["metadata"]["labels"].items()]

    def started(self, namespace: str) -> dict[str, float]:
        self._raise("started")
        return {name: min(times) for name, times in self.born.items() if times}

    def has_config_map(self, namespace: str, name: str) -> bool:
        self._raise("has_config_map")
        return ("ConfigMap", name) in self.made

    def scale(self, namespace: str, name: str, replicas: int, as_read: Mapping[str, Any] | None = None) -> None:
        live = self.made["Deployment", name]
        if as_read and as_read["metadata"]["resourceVersion"] != live["metadata"]["resourceVersion"]:
            raise TemporaryError(f"{name} has changed")
        super().scale(namespace, name, replicas)
        live["spec"]["replicas"] = live["status"]["replicas"] = replicas
        self.born[name] = self.born[name][:replicas]
        self.wrote("Deployment", name)

    def delete(self, item: Mapping[str, Any]) -> None:
        self._raise("delete")
        key = (item["kind"], item["metadata"]["name"])
        if key not in self.made:
            return
        live = self.made[key]["metadata"]
        if any(live[key] != item["metadata"].get(key, live[key]) for key in ("uid", "resourceVersion")):
            raise TemporaryError(f"{key} has changed")
        del self.made[key]

    def wrote(self, kind: str, name: str) -> None:
        """Count a write, whoever's it is."""
        self.made[kind, name]["metadata"]["resourceVersion"] = str(next(self._numbers))
