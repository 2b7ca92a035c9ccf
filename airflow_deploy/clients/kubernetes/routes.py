"""Routes: the team's object that divides traffic. It is read, and changed by JSON Patch alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.record import Patch
from airflow_deploy.domain.routing.service_route import ServiceRoute
from airflow_deploy.domain.routing.team_route import TeamRoute, absent_route


class RouteKind(NamedTuple):
    """What divides traffic for one router: the class that understands it, and its kind in the cluster."""

    route: type[TeamRoute]
    kind: str


ROUTE_KINDS = {
    HttpRoute.ROUTER: RouteKind(HttpRoute, "HTTPRoute"),
    ServiceRoute.ROUTER: RouteKind(ServiceRoute, "Service"),
}
"""By router. Another router is one more entry."""

R = TypeVar("R", bound=TeamRoute)


def read_route(cluster: KubernetesClient, namespace: str, name: str, router: str = HttpRoute.ROUTER) -> TeamRoute:
    """Return the route.

    :raises NotFoundError: it does not exist.
    """
    made = ROUTE_KINDS[router]
    return made.route(cluster.get(made.kind, namespace, name))


def find_route(cluster: KubernetesClient, namespace: str, name: str, router: str = HttpRoute.ROUTER) -> TeamRoute:
    """Return the route; one that does not exist sends traffic nowhere, and its ``is_there`` is False."""
    made = ROUTE_KINDS[router]
    body = cluster.find(made.kind, namespace, name)
    return made.route(body) if body is not None else absent_route(made.route, namespace, name)


def read_http_route(cluster: KubernetesClient, namespace: str, name: str) -> HttpRoute:
    """Return an HTTPRoute.

    :raises NotFoundError: it does not exist.
    """
    return HttpRoute(cluster.get("HTTPRoute", namespace, name))


def find_http_route(cluster: KubernetesClient, namespace: str, name: str) -> HttpRoute:
    """Return an HTTPRoute; if it does not exist, its ``is_there`` is False."""
    body = cluster.find("HTTPRoute", namespace, name)
    return HttpRoute(body) if body is not None else absent_route(HttpRoute, namespace, name)


def create_route(cluster: KubernetesClient, body: Mapping[str, Any], *, dry_run: bool = False) -> HttpRoute:
    """Create an HTTPRoute.

    :param dry_run: let the server check it, and write nothing.
    """
    return HttpRoute(cluster.create(body, dry_run=dry_run))


def patch_route(cluster: KubernetesClient, route: R, patch: Patch) -> R:
    """Apply a JSON Patch as one write and return the route; an empty patch writes nothing.

    :raises ConflictError: one of its tests failed: read the route again, and be fenced by what it has become.
    """
    if not patch:
        return route
    metadata, kind = route.body["metadata"], ROUTE_KINDS[route.ROUTER].kind
    return type(route)(cluster.patch(kind, metadata["namespace"], metadata["name"], patch))


def delete_route(cluster: KubernetesClient, route: HttpRoute) -> None:
    """Delete an HTTPRoute of our own, unless it changed since it was read."""
    metadata = route.body["metadata"]
    cluster.delete("HTTPRoute", metadata["namespace"], metadata["name"], as_read=route.body)
