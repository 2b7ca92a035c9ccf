"""Bring traffic and workloads to a whole state, traffic first. Rollback and teardown share it."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.clients.kubernetes.errors import QUICK_TIMEOUT
from airflow_deploy.domain.errors import DeployError, FencedError, NotFinalizedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.rollout.draining import wait_until_drained
from airflow_deploy.rollout.history import promoted_deployment

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RollbackResult:
    """What was found and done.

    ``acted`` is False where this deployment had left nothing to undo; ``verified`` is True where its candidate was
    verified before and stays, and ``overtaken`` where a later deployment has the route and names it as its own stable.
    """

    acted: bool
    reason: str
    verified: bool = False
    overtaken: bool = False


def return_traffic(cluster: Cluster, plan: DeploymentPlan, phase: str, word: str | None = None) -> bool:
    """Give the stable all traffic and enter ``phase``; return whether this deployment had the route.

    From a service's first version, which has no stable, all traffic is taken.

    A route that another deployment has claimed since is that one's to care for, and a verified promotion is not undone
    by what its run does afterwards (a person clears it, say): nothing is touched. Nor is anything by a brake that comes
    after the rollback.

    :param word: why; it is left on the route.
    :raises FencedError: somebody has made a rule that does not name the stable: what comes by it stays the candidate's,
        all else is returned.
    :raises TemporaryError: the stable has no ready pod that could take the traffic, or the route changed between
        reading and writing; try again.
    """
    route = _route(cluster, plan)
    if not route.owned_by(plan.deployment_id) or route.owner is None or route.phase == routes.VERIFIED:
        return False
    if route.phase == routes.SETTLED and phase == routes.BRAKED:
        return True
    stays = route.has_foreign_rule(plan.stable, plan.candidate)
    if route.phase != routes.SETTLED and (stays or plan.divides_pods):
        # Whoever finds it settled takes its traffic and its pods for gone: until they are, it is braked. The guard
        # completes what is.
        route = _return(cluster, plan, route, routes.BRAKED, word)
    if stays:
        raise FencedError(
            f"route {route.name} has a rule that sends requests to {plan.candidate} and does not name {plan.stable};"
            " somebody changed its backends"
        )
    _return(cluster, plan, route, phase, word)
    return True


def _return(cluster: Cluster, plan: DeploymentPlan, route: TeamRoute, phase: str, word: str | None) -> TeamRoute:
    patch = routes.restore(route, route.owner or "", plan.stable, plan.candidate, phase, word)
    if plan.stable and route.serves(plan.candidate) and not can_serve(cluster, plan):
        raise TemporaryError(
            f"{plan.stable} has no ready pod that could take back the traffic of {plan.candidate}; a person should"
            " start it: nothing is changed until it has one"
        )
    written = cluster.patch_route(route, patch)
    cluster.withdraw(written, plan.candidate)
    return written


def _route(cluster: Cluster, plan: DeploymentPlan) -> TeamRoute:
    """Read the route; somebody may have deleted it, and that of a first version may not be there yet."""
    return cluster.team_route_or_absent(*plan.spec.place)


def can_serve(cluster: Cluster, plan: DeploymentPlan) -> bool:
    """Whether the stable has a ready pod. Where the cluster does not say so at once, nobody waits: it is taken to."""
    try:
        return cluster.ready(plan.spec.namespace, plan.stable, plan.labels_of(plan.stable), QUICK_TIMEOUT) > 0
    except DeployError as error:
        log.warning("whether %s has a ready pod is not known: %s", plan.stable, error)
        return True


def roll_back_promotion(cluster: Cluster, plan: DeploymentPlan, word: str) -> bool:
    """Give all traffic of a verified promotion back to the version before it; return whether that is so now.

    Where another deployment is under way, or was verified since, nothing is touched.

    :param word: why; it is left on the route.
    :raises NotSettledError: the version before it has no pod that could take the traffic, or was stopped for good.
    :raises RefusedError: somebody changed the route so that several Services share its traffic.
    :raises TemporaryError: the route changed between reading and writing; read again.
    """
    route = cluster.team_route(*plan.spec.place)
    if route.owned_by(plan.deployment_id) and route.phase == routes.SETTLED:
        cluster.withdraw(route, plan.candidate)
        return True  # by an earlier try
    if not routes.at_rest(route, plan.deployment_id, plan.candidate):
        return False
    if plan.stable and route.stopped == plan.stable:
        raise NotFinalizedError(
            f"{plan.candidate} must be taken back, and the window in which {plan.stable} is kept for that is over;"
            " nothing was changed: deploy another fix"
        )
    if plan.stable and not cluster.ready(plan.spec.namespace, plan.stable, plan.labels_of(plan.stable)):
        raise NotFinalizedError(
            f"{plan.candidate} must be taken back, and {plan.stable} has no ready pod that could take its traffic;"
            " nothing was changed: start it, or deploy another fix"
        )
    patch = routes.reclaim(route, plan.deployment_id, plan.stable, plan.candidate, word)
    cluster.withdraw(cluster.patch_route(route, patch), plan.candidate)
    return True


def finish_rollback(cluster: Cluster, plan: DeploymentPlan) -> RollbackResult:
    """Return the traffic to the stable, then stop the candidate's pods. It may run twice, and beside the watch's brake.

    Where a gateway divides the traffic, the pods wait until it is seen to send them no more requests.

    :raises FencedError: somebody changed the route so that the candidate has traffic that cannot be taken back here.
    """
    had_route = return_traffic(cluster, plan, routes.SETTLED)
    route = _route(cluster, plan)
    if route.owned_by(plan.deployment_id) and route.phase == routes.VERIFIED:
        return RollbackResult(acted=False, verified=True, reason=f"{plan.candidate} is verified and stays")
    if route.serves(plan.candidate):
        raise FencedError(f"{route.owner or 'nobody'} owns route {route.name}, and {plan.candidate} has traffic")
    there = cluster.exists(plan.spec.namespace, plan.candidate)
    # Where a later deployment names it, it is that one's warm previous version. What was verified may be so too,
    # whatever a later deployment that came to nothing has left on the route.
    mine = not had_route and there
    overtaken = mine and (
        route.names(plan.candidate) or bool(promoted_deployment(plan.spec.service, plan.deployment_id))
    )
    unseen = None
    if stop := there and not overtaken:
        if had_route and not plan.divides_pods:
            unseen = wait_until_drained(plan)
        cluster.scale(plan.spec.namespace, plan.candidate, 0)
    returned = (
        plan.after_rollback
        if route.is_there or not plan.stable
        else f"route {route.name} is gone, so nobody has traffic"
    )
    reason = returned + (f", {plan.candidate} is stopped" if stop else "") + (f"; {unseen}" if unseen else "")
    log.info("settled: %s", reason)
    return RollbackResult(acted=had_route or stop, reason=reason, overtaken=overtaken)


def abandon_route(cluster: Cluster, plan: DeploymentPlan) -> None:
    """Say on the route that this deployment touches it no more: watch and gates end, and the run with them."""
    route = _route(cluster, plan)
    if route.owned_by(plan.deployment_id) and route.owner:
        cluster.patch_route(route, routes.abandon(route, route.owner))
