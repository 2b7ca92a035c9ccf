"""Copy requests to the candidate before it answers users, and take the mirror away again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.routes import find_http_route, read_http_route
from airflow_deploy.clients.kubernetes.versions import apply_all, delete_mirror, list_mirrors
from airflow_deploy.domain.errors import ProbeFailedError
from airflow_deploy.domain.labels import NAME
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.workloads.mirror import deployment_of, mirror_objects
from airflow_deploy.rollout.routers import probe as testers

log = logging.getLogger(__name__)

GATEWAY_DELAY_SECONDS = 5.0
"""Seconds in which a gateway has surely heard that no route names the mirror any more."""
MIRROR_REQUIREMENTS = (
    "a Gateway at route.url that mirrors by the filter RequestMirror, or Traefik with its CRDs and"
    " providers.kubernetescrd with allowEmptyServices, and the rights that airflow-deploy rbac prints"
)


def set_up_mirror(cluster: KubernetesClient, plan: DeploymentPlan, claim: Claim) -> str:
    """Make the mirror, see that the stable answers through it, and return in words what was seen.

    Only testers' requests are at risk meanwhile. There is no pod to copy to yet: a gateway that answers no request then
    would answer no user once the candidate has lost its pods.

    :param claim: that of the team's route.
    :raises ProbeFailedError: the gateway answers otherwise.
    :raises FencedError: another deployment has the route; RefusedError: the cluster does not let us make it.
    """
    by_filter = read_http_route(cluster, plan.spec.namespace, plan.spec.route.name).mirrors_by_filter
    apply_all(cluster, mirror_objects(plan, copied=False, by_filter=by_filter))
    try:
        seen = testers.probe_mirror(cluster, plan, claim)
    except ProbeFailedError as error:
        raise ProbeFailedError(
            f"nothing is mirrored: {error}; shadow needs {MIRROR_REQUIREMENTS}; or remove shadow"
        ) from error
    apply_all(cluster, mirror_objects(plan, copied=True, by_filter=by_filter))
    return seen


def delete_mirrors(
    cluster: KubernetesClient, namespace: str, service: str, route: str, over: Callable[[str], bool]
) -> list[str]:
    """Delete the mirrors of the service's deployments that are over, unless the route names them; return their names.

    :param over: whether a deployment is, by its id.
    """
    there = [item for item in list_mirrors(cluster, namespace) if item["metadata"]["labels"].get(NAME) == service]
    ended = [item for item in there if over(deployment_of(item))]
    if not ended:
        return []
    team = find_http_route(cluster, namespace, route)
    # While it may still shift, it may name the mirror the moment after it was read.
    ended = [item for item in ended if not (team.owned_by(deployment_of(item)) and team.phase == routes.CANARY)]
    ended = [item for item in ended if not team.mentions(item["metadata"]["name"])]
    if ended:
        time.sleep(GATEWAY_DELAY_SECONDS)
    for item in ended:
        delete_mirror(cluster, item)
        log.info("deleted mirror %s", item["metadata"]["name"])
    return [item["metadata"]["name"] for item in ended]
