"""Capacity before weight: a share is given to pods that are ready, while the stable can still take everything back."""

from __future__ import annotations

import logging
import time

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.domain.errors import CapacityError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes

log = logging.getLogger(__name__)

POD_WAIT_SECONDS = 300.0
"""Seconds for which a share waits for its pods."""
POD_POLL_SECONDS = 1.0


def provide_capacity(cluster: Cluster, plan: DeploymentPlan, owner: str, share: int, *, way_back: bool = True) -> None:
    """Give the candidate the pods that ``share`` % needs, and wait until they are ready; of none, for the stable's.

    Where the route is lost meanwhile it returns at once: the write that follows says so.

    :param owner: who the route belongs to while this is worth waiting for.
    :param way_back: wait also until the stable has as many ready pods as when the run was planned.
    :raises CapacityError: they are not there in time.
    """
    namespace, deadline = plan.spec.namespace, time.monotonic() + POD_WAIT_SECONDS
    needed = {plan.candidate: plan.pods_for(share)} if share else {}
    if plan.stable and way_back:
        needed[plan.stable] = plan.stable_ready
    while True:
        route = cluster.team_route(*plan.spec.place)
        if route.owner != owner or route.phase != routes.CANARY:
            return
        failed = scale_up(cluster, plan, share) if share else None
        ready = {name: cluster.ready(namespace, name, plan.labels_of(name)) for name in needed}
        if all(ready[name] >= number for name, number in needed.items()):
            return
        seen = " and ".join(f"{ready[name]} of {number} pods of {name}" for name, number in needed.items() if number)
        if failed or time.monotonic() >= deadline:
            raise CapacityError(
                f"{share or 'more'} % of traffic is not given, since {seen} are ready"
                f" ({failed or f'after {POD_WAIT_SECONDS:.0f} s'}); look at the pods, then deploy again"
            )
        log.info("%d %% of traffic waits: %s are ready", share, seen)
        time.sleep(POD_POLL_SECONDS)


def scale_up(cluster: Cluster, plan: DeploymentPlan, share: int) -> str | None:
    """Let the candidate have the pods that ``share`` % needs; return why it never will, where that is known.

    It is never scaled down: a task that runs again must not take pods from a share that was given since.
    """
    namespace, needed = plan.spec.namespace, plan.pods_for(share)
    there = cluster.readiness(namespace, plan.candidate)
    if there.wanted < needed:
        give = cluster.join if plan.divides_pods else cluster.scale
        give(namespace, plan.candidate, needed)
        log.info("%s gets %d pods for %d %% of traffic", plan.candidate, needed, share)
    return there.failed
