"""Capacity before weight: a share is given to pods that are ready, while the stable could still take all traffic."""

from __future__ import annotations

import logging
import time

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.pods import deployment_readiness, ready_pods
from airflow_deploy.clients.kubernetes.routes import read_route
from airflow_deploy.domain.errors import CapacityError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.rollout.routers import steps_of

log = logging.getLogger(__name__)

POD_WAIT_SECONDS = 300.0
"""Seconds for which a share waits for its pods."""
POD_POLL_SECONDS = 1.0


def provide_capacity(
    cluster: KubernetesClient, plan: DeploymentPlan, claim: Claim, share: int, *, for_rollback: bool = True
) -> None:
    """Give the candidate the pods that ``share`` % needs, and wait until they are ready; at 0, for the stable's only.

    It reads the route only if pods are missing. If the route is lost meanwhile it returns at once, and the write that
    follows says so.

    :param claim: that of the route, while this is worth waiting for.
    :param for_rollback: wait also until the stable has as many ready pods as when the run was planned.
    :raises CapacityError: they are not ready in time.
    """
    deadline = time.monotonic() + POD_WAIT_SECONDS
    needed = {plan.candidate: plan.pods_for(share)} if share else {}
    if plan.stable and for_rollback:
        needed[plan.stable] = plan.stable_ready
    while True:
        there = deployment_readiness(cluster, plan.spec.namespace, plan.candidate) if share else None
        short = there is not None and there.wanted < needed[plan.candidate]
        ready = _ready(cluster, plan, needed)
        if not short and not _missing(ready, needed):
            return
        route = read_route(cluster, *claim.place)
        if route.owner != claim.owner or route.phase != routes.CANARY:
            return
        if short:
            _scale(cluster, plan, share)
            ready = _ready(cluster, plan, needed)
            if not _missing(ready, needed):
                return
        failed = there.failed if there else None
        seen = " and ".join(f"{ready[name]} of {number} pods of {name}" for name, number in needed.items() if number)
        if failed or time.monotonic() >= deadline:
            raise CapacityError(
                f"not shifting to {f'{share} %' if share else 'more traffic'}: {seen} are ready"
                f" ({failed or f'after {POD_WAIT_SECONDS:.0f} s'}); see why the others are not, then deploy again"
            )
        log.info("waiting for pods before shifting to %d %%: %s are ready", share, seen)
        time.sleep(POD_POLL_SECONDS)


def _ready(cluster: KubernetesClient, plan: DeploymentPlan, names: dict[str, int]) -> dict[str, int]:
    return {name: ready_pods(cluster, plan.spec.namespace, name, plan.labels_of(name)) for name in names}


def _missing(ready: dict[str, int], needed: dict[str, int]) -> bool:
    return any(ready[name] < number for name, number in needed.items())


def scale_up(cluster: KubernetesClient, plan: DeploymentPlan, share: int) -> None:
    """Let the candidate have the pods that ``share`` % needs.

    It is never scaled down: a task that runs again must not take pods from a share that was given since.
    """
    if deployment_readiness(cluster, plan.spec.namespace, plan.candidate).wanted < plan.pods_for(share):
        _scale(cluster, plan, share)


def _scale(cluster: KubernetesClient, plan: DeploymentPlan, share: int) -> None:
    pods = plan.pods_for(share)
    steps_of(plan.spec).scale(cluster, plan.spec.namespace, plan.candidate, pods)
    log.info("scaling %s to %d pods for %d %% of traffic", plan.candidate, pods, share)
