"""One cluster as the use cases see it: routes, Leases, pods and versions, all through the one client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from airflow_deploy.clients.kubernetes import leases, pods, routes, versions
from airflow_deploy.clients.kubernetes.client import Item, KubernetesClient
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.errors import REQUEST_TIMEOUT, Timeout
from airflow_deploy.clients.kubernetes.pods import PodParts, Readiness
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.lease import Lease
from airflow_deploy.domain.routing.record import Patch
from airflow_deploy.domain.routing.team_route import TeamRoute

R = TypeVar("R", bound=TeamRoute)


class Cluster:
    """One cluster, as the Airflow connection ``connection`` reaches it.

    Every method raises the errors of ``clients.kubernetes.errors``. The functions behind them say more.

    :param purpose: clients of one purpose share their connections; with a purpose, a request is sent once.
    :param timeout: of each request, unless a call gives its own.
    """

    def __init__(self, connection: str, purpose: str = "", timeout: Timeout = REQUEST_TIMEOUT) -> None:
        self._client = connect(connection, purpose, timeout)

    @classmethod
    def reached_by(cls, client: KubernetesClient) -> Cluster:
        """Return the cluster that a client reaches without Airflow: the guard's."""
        cluster = cls.__new__(cls)
        cluster._client = client
        return cluster

    # Routes

    def route(self, namespace: str, name: str) -> HttpRoute:
        """Return an HTTPRoute."""
        return routes.read_http_route(self._client, namespace, name)

    def route_or_absent(self, namespace: str, name: str) -> HttpRoute:
        """Return an HTTPRoute; if it does not exist, its ``is_there`` is False."""
        return routes.find_http_route(self._client, namespace, name)

    def team_route(self, namespace: str, name: str, router: str) -> TeamRoute:
        """Return what divides a service's traffic."""
        return routes.read_route(self._client, namespace, name, router)

    def team_route_or_absent(self, namespace: str, name: str, router: str) -> TeamRoute:
        """Return what divides a service's traffic; if it does not exist, its ``is_there`` is False."""
        return routes.find_route(self._client, namespace, name, router)

    def create_route(self, body: Mapping[str, Any], *, dry_run: bool = False) -> HttpRoute:
        """Create an HTTPRoute."""
        return routes.create_route(self._client, body, dry_run=dry_run)

    def patch_route(self, route: R, patch: Patch) -> R:
        """Write the route by one JSON Patch; an empty patch writes nothing."""
        return routes.patch_route(self._client, route, patch)

    def delete_route(self, route: HttpRoute) -> None:
        """Delete an HTTPRoute of our own, unless it changed since it was read."""
        routes.delete_route(self._client, route)

    # Leases

    def lease(self, namespace: str, name: str) -> Lease | None:
        """Return a Lease, None if it does not exist."""
        return leases.find_lease(self._client, namespace, name)

    def leases(self, namespace: str | None) -> list[Lease]:
        """Return the Leases of all our routes, in one namespace or in all."""
        return leases.list_leases(self._client, namespace)

    def create_lease(self, namespace: str, body: Mapping[str, Any]) -> None:
        """Create a Lease."""
        leases.create_lease(self._client, {**body, "metadata": {**body["metadata"], "namespace": namespace}})

    def patch_lease(self, namespace: str, name: str, patch: Patch) -> bool:
        """Write a Lease by one JSON Patch; return False if it does not exist."""
        return leases.patch_lease(self._client, namespace, name, patch)

    # Pods

    def ready(
        self, namespace: str, version: str, labels: Mapping[str, str] | None, timeout: Timeout | None = None
    ) -> int:
        """Return how many pods of a version can serve a request now."""
        return pods.ready_pods(self._client, namespace, version, labels, timeout)

    def ready_endpoints(self, namespace: str, service: str, timeout: Timeout | None = None) -> int:
        """Return to how many pods a Service can send a request now."""
        return pods.ready_endpoints(self._client, namespace, service, timeout)

    def workloads(self, namespace: str, labels: Mapping[str, str], timeout: Timeout | None = None) -> dict[str, int]:
        """Return the number of ready pods with these labels by the name of their Deployment."""
        return pods.workloads(self._client, namespace, labels, timeout)

    def started(self, namespace: str) -> dict[str, float]:
        """Return when the oldest pod of each version was created, in unix seconds."""
        return pods.started_at(self._client, namespace)

    def readiness(self, namespace: str, name: str) -> Readiness:
        """Return how far a Deployment has come."""
        return pods.readiness(self._client, namespace, name)

    def exists(self, namespace: str, name: str) -> bool:
        """Whether a Deployment exists."""
        return pods.deployment_exists(self._client, namespace, name)

    def scale(self, namespace: str, name: str, replicas: int, as_read: Mapping[str, Any] | None = None) -> None:
        """Set the number of a Deployment's pods; with ``as_read``, only if it has not changed since."""
        pods.scale(self._client, namespace, name, replicas, as_read)

    def join(self, namespace: str, version: str, number: int) -> None:
        """Give a version whose pods are its share so many of them, unless they were withdrawn."""
        pods.start_pods(self._client, namespace, version, number)

    def withdraw(self, route: TeamRoute, version: str) -> None:
        """Take the version's pods away for good if they are its share; with a gateway, do nothing."""
        pods.withdraw_pods(self._client, route, version)

    def parts_of(self, namespace: str, service: str) -> PodParts:
        """Return what the pods behind a Service need to start."""
        return pods.parts_of(self._client, namespace, service)

    def has_config_map(self, namespace: str, name: str) -> bool:
        """Whether a ConfigMap exists, asked without the right to read its content."""
        return pods.config_map_exists(self._client, namespace, name)

    # Versions

    def apply(self, objects: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> None:
        """Server-side apply objects of our own, in their order."""
        for item in objects:
            self._client.apply(item, dry_run=dry_run)

    def make(self, item: Mapping[str, Any]) -> None:
        """Create one of our own objects; if it exists, it stays as it is."""
        versions.create_once(self._client, item)

    def objects(self, namespace: str, service: str) -> list[Item]:
        """Return what airflow-deploy made for a service, without ConfigMaps."""
        return versions.list_versions(self._client, namespace, service)

    def delete(self, item: Mapping[str, Any]) -> None:
        """Delete one of our own objects, unless it changed since it was read."""
        versions.delete_object(self._client, item)

    def mirrors(self, namespace: str) -> list[Item]:
        """Return the Services of the namespace's mirrors."""
        return versions.list_mirrors(self._client, namespace)

    def delete_mirror(self, service: Mapping[str, Any]) -> None:
        """Delete a mirror: its ``service`` and the other object of that name."""
        versions.delete_mirror(self._client, service)

    def selectors(self, namespace: str) -> list[dict[str, str]]:
        """Return the selectors of the namespace's Services."""
        return versions.list_selectors(self._client, namespace)

    def deployed(self, namespace: str, labels: Mapping[str, str]) -> list[str]:
        """Return the Deployments whose pods have these labels."""
        return versions.deployments_with(self._client, namespace, labels)

    def all_autoscalers(self, namespace: str) -> list[Item]:
        """Return the namespace's HorizontalPodAutoscalers."""
        return versions.list_autoscalers(self._client, namespace)

    def autoscalers(self, namespace: str, service: str) -> list[Item]:
        """Return those that scale the Deployments behind a Service."""
        return versions.autoscalers_behind(self._client, namespace, service)

    def patch_autoscaler(self, item: Mapping[str, Any], patch: Patch, *, dry_run: bool = False) -> None:
        """Write a HorizontalPodAutoscaler by one JSON Patch; an empty patch writes nothing."""
        versions.patch_autoscaler(self._client, item, patch, dry_run=dry_run)
