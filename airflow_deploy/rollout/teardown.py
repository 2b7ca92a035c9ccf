"""The end of a run: its traffic first, its pods after that, and then all that was held for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.pods import deployment_exists, scale_deployment
from airflow_deploy.clients.kubernetes.routes import find_route
from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.rollout.autoscalers import release_autoscalers
from airflow_deploy.rollout.history import promoted_deployment
from airflow_deploy.rollout.rollback import RollbackOutcome, outcome_of, rollback
from airflow_deploy.rollout.routers import steps_of
from airflow_deploy.rollout.routers.mirror import delete_mirrors

log = logging.getLogger(__name__)

Over = Callable[[str], bool]
"""Whether a deployment, given by its id, is over."""


def roll_back_and_stop(cluster: KubernetesClient, plan: DeploymentPlan, why: str = "") -> RollbackOutcome:
    """Return the traffic to the stable, then end the candidate's pods. It may run twice, and beside the watch's brake.

    Behind a gateway, the pods wait until the gateway is seen to send them no more requests.

    :param why: the reason, if the route has no verdict.
    :raises FencedError: the candidate has traffic that is not ours to take.
    """
    claim = plan.claim()
    returned = rollback(cluster, claim, None, routes.SETTLED).returned
    route = find_route(cluster, *claim.place)
    if route.owned_by(plan.deployment_id) and route.phase == routes.VERIFIED:
        return RollbackOutcome(returned=False, verified=True, reason=f"{plan.candidate} is verified and stays")
    if route.serves(plan.candidate):
        owner = route.owner or "no deployment"
        raise FencedError(f"{owner} owns route {route.name}, and {plan.candidate} has traffic")
    there = deployment_exists(cluster, plan.spec.namespace, plan.candidate)
    # A candidate that a later deployment names is its warm previous version. So may be one that was verified, even if
    # a later deployment that failed left other names on the route.
    overtaken = (
        there
        and not returned
        and (route.names(plan.candidate) or bool(promoted_deployment(plan.spec.service, plan.deployment_id)))
    )
    unseen = None
    if stopped := there and not overtaken:
        if returned:
            unseen = steps_of(plan.spec).wait_until_drained(plan)
        scale_deployment(cluster, plan.spec.namespace, plan.candidate, 0)
        log.info("stopped %s", plan.candidate)
    outcome = outcome_of(route, claim, why, had_route=returned)
    reason = f"{outcome.reason}; {unseen}" if unseen else outcome.reason
    log.info("%s", reason)
    return replace(outcome, stopped=stopped, overtaken=overtaken, reason=reason)


def release(
    cluster: KubernetesClient,
    plan: DeploymentPlan,
    *,
    autoscalers_of: Over | None = None,
    testers_of: Over | None = None,
    mirrors_of: Over | None = None,
) -> list[str]:
    """Give up what runs of the plan's service hold, and return in words what was given up.

    Each kind is released for the deployments for which its argument says so; None leaves it as it is.

    :param autoscalers_of: give the stable's autoscalers their own minimum back.
    :param testers_of: delete the testers' route.
    :param mirrors_of: delete mirrors that no route names. A namespace that has one cannot be deleted.
    """
    namespace, route = plan.spec.namespace, plan.spec.route.name
    released: list[str] = []
    if testers_of:
        testers = steps_of(plan.spec).delete_testers_route(cluster, plan.spec, testers_of)
        released += [f"deleted route {testers}"] if testers else []
    if mirrors_of:
        mirrors = delete_mirrors(cluster, namespace, plan.spec.service, route, mirrors_of)
        released += [f"deleted mirror {name}" for name in mirrors]
    if autoscalers_of:
        scalers = release_autoscalers(cluster, namespace, autoscalers_of)
        released += [f"gave {name} its minimum back" for name in scalers]
    return released
