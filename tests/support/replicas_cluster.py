"""A cluster without a gateway: the team's Service selects pods, and the candidate's pods are its share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from airflow_deploy.domain.labels import WITHDRAWN
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing.service_route import ServiceRoute
from tests.support.builders import make_plan, make_spec
from tests.support.service_cluster import ServiceCluster

Self = TypeVar("Self", bound="ReplicasCluster")

STABLE = "payments"
LABELS = {"app": "payments"}


def planned(**changes: Any) -> DeploymentPlan:
    """Return the plan of a deployment beside the team's own Deployment of two pods."""
    spec = {"router": "replicas", "metrics": "pods", "route": {"name": "payments"}, "replicas": 2}
    return make_plan(make_spec(**{**spec, **changes}), adopted={STABLE: LABELS}, stable_ready=2)


class ReplicasCluster(ServiceCluster):
    """A cluster with one service whose traffic is divided by pods."""

    def _set_up(self, rules: int) -> None:
        plan = self.plan
        ports = [{"port": 80, "targetPort": "http"}]
        self._add("Service", plan.spec.route.name, {"selector": dict(LABELS), "ports": ports})
        if plan.stable:
            self.add_version(STABLE, replicas=2, labels=LABELS, service=False)
        self.write(self.service.adopt(plan.stable))

    def pods_at(self, share: int) -> int:
        """How many pods the candidate has for a share of the traffic."""
        return self.plan.pods_for(share) if share else 0

    @property
    def service(self) -> ServiceRoute:
        """The team's Service."""
        route = self.team
        assert isinstance(route, ServiceRoute)
        return route

    def unclaimed(self: Self) -> Self:
        """Let the Service be as the team has made it, and no request be noted."""
        self.edit(lambda body: body["metadata"].pop("annotations"))
        self.api.requests.clear()
        return self

    def select(self: Self, labels: Mapping[str, str]) -> Self:
        """Let the Service select other pods, as any other client may."""
        return self.edit(lambda body: body["spec"].update(selector=dict(labels)))

    @property
    def withdrawn(self) -> bool:
        """Whether the candidate's pods were taken away for good."""
        found = self.api.get("Deployment", self.plan.spec.namespace, self.plan.candidate)
        return bool(found["metadata"]["annotations"][WITHDRAWN] == "yes")

    def served(self) -> dict[str, int]:
        """How many pods of each Deployment users reach."""
        selected = self.service.selector.items()
        found = {
            item["metadata"]["name"]: len(self.workloads.pods(item["metadata"]["name"]))
            for item in self.api.all("Deployment", self.plan.spec.namespace)
            if selected <= item["spec"]["template"]["metadata"]["labels"].items()
        }
        return {name: pods for name, pods in found.items() if pods}
