"""The steps for a gateway: the weights of an HTTPRoute divide the traffic."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.errors import NOT_ACCEPTED
from airflow_deploy.clients.kubernetes.pods import ready_endpoints, scale_deployment
from airflow_deploy.clients.kubernetes.routes import create_route, find_http_route, read_http_route
from airflow_deploy.clients.kubernetes.versions import apply_all
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.http_route import DEFAULT_PORT, HttpRoute
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.domain.workloads import manifests
from airflow_deploy.domain.workloads.mirror import mirror_objects
from airflow_deploy.rollout.routers import draining, mirror, probe
from airflow_deploy.rollout.routers.base import RouterSteps

log = logging.getLogger(__name__)


class GatewaySteps(RouterSteps):
    """Of an HTTPRoute whose backends are the versions' own Services."""

    def find_stable(self, cluster: KubernetesClient, spec: DeploymentSpec, route: TeamRoute) -> dict[str, Any]:
        """Return the Service that serves, its port, and how many pods are ready behind it."""
        there = HttpRoute(route.body)
        if not (stable := _stable(cluster, spec, there)):
            return {"stable": "", "stable_port": DEFAULT_PORT, "stable_ready": 0}
        ready = ready_endpoints(cluster, spec.namespace, stable)
        return {"stable": stable, "stable_port": there.port_of(stable), "stable_ready": ready}

    def check_plan(self, cluster: KubernetesClient, plan: DeploymentPlan, route: TeamRoute) -> None:
        """Check that the gateway can mirror, if the plan asks for it."""
        if plan.spec.shadow:
            _check_shadow(cluster, plan, HttpRoute(route.body))

    def route_to_claim(self, cluster: KubernetesClient, plan: DeploymentPlan) -> TeamRoute:
        """Return the HTTPRoute; that of a first version is made if it is not there."""
        name = plan.spec.namespace, plan.spec.route.name
        if plan.stable or find_http_route(cluster, *name).is_there:
            return read_http_route(cluster, *name)
        log.info("making route %s, by which no version is served yet", plan.spec.route.name)
        return create_route(cluster, manifests.route_object(plan.spec))

    def adopt(self, cluster: KubernetesClient, plan: DeploymentPlan, route: TeamRoute) -> TeamRoute:
        """Return the route: it knows versions by their Services."""
        return route

    def scale(self, cluster: KubernetesClient, namespace: str, version: str, pods: int) -> None:
        """Set the number: pods of a version without weight get no request."""
        scale_deployment(cluster, namespace, version, pods)

    def confirm_delivery(
        self, cluster: KubernetesClient, plan: DeploymentPlan, claim: Claim, *, mirrored: bool
    ) -> list[str]:
        """Send requests of our own through the testers' route."""
        seen = [mirror.set_up_mirror(cluster, plan, claim)] if mirrored else []
        return [*seen, probe.probe_candidate(cluster, plan, claim)]

    def wait_until_drained(self, plan: DeploymentPlan) -> str | None:
        """Wait until the gateway's counters show no request."""
        return draining.wait_until_drained(plan)

    def delete_testers_route(
        self, cluster: KubernetesClient, spec: DeploymentSpec, over: Callable[[str], bool]
    ) -> str | None:
        """Delete it."""
        return probe.delete_testers_route(cluster, spec.namespace, spec.route.name, over)


def _stable(cluster: KubernetesClient, spec: DeploymentSpec, route: HttpRoute) -> str:
    """Return the Service that serves now; an empty name if none does, and none could.

    :raises RefusedError: it is not clear which one serves, or no first version could.
    """
    if not route.is_there:
        if not spec.route.gateway:
            raise RefusedError(
                f"route: there is no HTTPRoute {route.name}; correct route.name, or set route.gateway and"
                " route.hostnames, and the first deployment makes it"
            )
        create_route(cluster, manifests.route_object(spec), dry_run=True)
        return ""
    if serving := route.serving():
        return serving
    # A Service that could serve has lost its traffic by hand: which one shall serve is not for us to decide.
    if any(ready_endpoints(cluster, spec.namespace, name) for name in route.named):
        return route.stable()
    route.vacant()
    return ""


def _check_shadow(cluster: KubernetesClient, plan: DeploymentPlan, route: HttpRoute) -> None:
    if not plan.stable:
        raise RefusedError(
            "shadow: no version serves yet whose requests could be copied; remove shadow for this deployment"
        )
    if route.filters(plan.stable):
        raise RefusedError(
            f"shadow: route {route.name} has filters at the backend {plan.stable}, which a mirror does not apply; move"
            " them to the rule, or remove shadow"
        )
    try:
        apply_all(cluster, mirror_objects(plan, copied=False, by_filter=route.mirrors_by_filter), dry_run=True)
    except NOT_ACCEPTED as error:
        raise RefusedError(f"shadow: {error}; shadow needs {mirror.MIRROR_REQUIREMENTS}; or remove shadow") from error
