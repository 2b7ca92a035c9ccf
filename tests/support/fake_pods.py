"""A cluster in memory without a gateway: one Service, and pods that it selects."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from airflow_deploy.clients.kubernetes.errors import REQUEST_TIMEOUT
from airflow_deploy.domain.errors import TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing.lease import new_lease
from airflow_deploy.domain.routing.service_route import ServiceRoute
from airflow_deploy.domain.routing.team_route import TeamRoute, absent_route
from tests.support.builders import make_plan, make_spec
from tests.support.fake_cluster import FakeCluster

STABLE = "payments"
LABELS = {"app": "payments"}


def planned(**changes: Any) -> DeploymentPlan:
    spec = {"router": "replicas", "metrics": "pods", "route": {"name": "payments"}, "replicas": 2}
    return make_plan(make_spec(**{**spec, **changes}), adopted={STABLE: LABELS}, stable_ready=2)


class FakePods(FakeCluster):
    """Pods divide the traffic: whatever a Deployment wants to have is ready, and served where it is selected."""

    def __init__(self, plan: DeploymentPlan) -> None:
        super().__init__(plan)
        self.body = {
            "metadata": {"name": plan.spec.route.name, "namespace": plan.spec.namespace, "resourceVersion": "1"},
            "spec": {"selector": dict(LABELS), "ports": [{"port": 80, "targetPort": "http"}]},
        }
        self.labels: dict[str, Mapping[str, str]] = {plan.stable: LABELS, plan.candidate: plan.pod_labels}
        self.withdrawn = False
        self.patch_route(self.service, self.service.adopt(plan.stable))

    @classmethod
    def at_share(cls, plan: DeploymentPlan, share: int, at: float = 0.0) -> FakePods:
        """A canary with ``share`` % of the traffic since ``at``, and the pods for it."""
        cluster = super().at_share(plan, share, at)
        assert isinstance(cluster, FakePods)
        cluster.replicas[plan.candidate] = plan.pods_for(share) if share else 0
        return cluster

    @classmethod
    def verified(cls, plan: DeploymentPlan) -> FakePods:
        """A version that was promoted and verified."""
        cluster = super().verified(plan)
        assert isinstance(cluster, FakePods)
        return cluster

    @property
    def service(self) -> ServiceRoute:
        return ServiceRoute(copy.deepcopy(self.body))

    @property
    def team(self) -> TeamRoute:
        return self.service

    def served(self) -> dict[str, int]:
        """How many pods of each Deployment users reach."""
        return {name: pods for name, pods in self._selected(self.service.selector).items() if pods}

    def route(self, namespace: str, name: str) -> Any:
        assert (namespace, name) == (self.plan.spec.namespace, self.plan.spec.route.name)
        self._raise("route")
        return self.service

    def team_route_or_absent(self, namespace: str, name: str, router: str) -> TeamRoute:
        return (
            self.team_route(namespace, name, router)
            if self.team.is_there
            else absent_route(ServiceRoute, namespace, name)
        )

    def ready(
        self,
        namespace: str,
        version: str,
        labels: Mapping[str, str] | None,
        timeout: tuple[float, float] = REQUEST_TIMEOUT,
    ) -> int:
        assert labels is not None
        return self.workloads(namespace, labels).get(version, 0)

    def workloads(self, namespace: str, labels: Mapping[str, str]) -> dict[str, int]:
        self._raise("workloads")
        gone = {self.plan.candidate} if self.withdrawn else set()
        return {name: pods for name, pods in self._selected(labels).items() if pods or name not in gone}

    def _selected(self, labels: Mapping[str, str]) -> dict[str, int]:
        return {
            name: pods for name, pods in self.replicas.items() if labels.items() <= self.labels.get(name, {}).items()
        }

    def deployed(self, namespace: str, labels: Mapping[str, str]) -> list[str]:
        self._raise("deployed")
        return [name for name, pods in self._selected(labels).items() if pods or name != self.plan.candidate]

    def make(self, item: Mapping[str, Any]) -> None:
        """Deployments alone are made, each of them once."""
        self._raise("make")
        name = item["metadata"]["name"]
        if name not in self.replicas:
            self.replicas[name] = item["spec"]["replicas"]
            self.withdrawn = False

    def join(self, namespace: str, version: str, pods: int) -> None:
        self._raise("join")
        if self.withdrawn:
            raise TemporaryError("422")
        self.replicas[version] = pods

    def withdraw(self, route: TeamRoute, version: str) -> None:
        self._raise("withdraw")
        assert isinstance(route, ServiceRoute)
        self.withdrawn = True
        self.replicas[version] = 0

    def scale(self, namespace: str, name: str, replicas: int, as_read: Mapping[str, Any] | None = None) -> None:
        super().scale(namespace, name, replicas)

    def autoscalers(self, namespace: str, service: str) -> list[dict[str, Any]]:
        assert service == self.plan.spec.route.name
        return self.all_autoscalers(namespace)

    def hold_lease(self, owner: str) -> None:
        self.delete_lease()
        namespace, name, router = self.plan.spec.place
        self._keep(new_lease(namespace, name, owner, self.plan.spec.lease, router))

    def _check_name(self, namespace: str, name: str) -> None:
        assert (namespace, name) == (self.plan.spec.namespace, f"airflow-deploy-{self.plan.spec.route.name}.pods")
