"""Bring traffic and workloads to a whole state, traffic first. Rollback and teardown share it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from airflow_deploy.clients.cluster import Cluster
from airflow_deploy.domain import route as routes
from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.plan import DeploymentPlan

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settled:
    """What was found and done. ``acted`` is False where this deployment had left nothing to undo."""

    acted: bool
    reason: str


def return_traffic(cluster: Cluster, plan: DeploymentPlan, phase: str) -> bool:
    """Give the stable all traffic and enter ``phase``; return whether this deployment had the route.

    A route that another deployment has claimed since is that one's to care for: nothing is touched.

    :raises FencedError: the route changed between reading and writing; read again.
    """
    route = cluster.route(plan.spec.namespace, plan.spec.route.name)
    if not route.owned_by(plan.deployment_id) or route.owner is None:
        return False
    cluster.patch_route(route, routes.restore(route, route.owner, plan.stable, plan.candidate, phase))
    return True


def settle(cluster: Cluster, plan: DeploymentPlan) -> Settled:
    """Return the traffic to the stable, then stop the candidate's pods.

    It may run twice, and beside the watch's brake: a write that lost the race is read again and decided anew.

    :raises FencedError: the route's backends are no longer ours to write.
    """
    try:
        had_route = return_traffic(cluster, plan, routes.SETTLED)
    except FencedError:
        had_route = return_traffic(cluster, plan, routes.SETTLED)
    there = cluster.exists(plan.spec.namespace, plan.candidate)
    if there:
        route = cluster.route(plan.spec.namespace, plan.spec.route.name)
        if route.serves(plan.candidate):
            return Settled(had_route, f"{route.owner} has given {plan.candidate} traffic since; it is left to that one")
        cluster.scale(plan.spec.namespace, plan.candidate, 0)
    reason = f"{plan.stable} has all traffic" + (f", {plan.candidate} is stopped" if there else "")
    log.info("settled: %s", reason)
    return Settled(had_route or there, reason)
