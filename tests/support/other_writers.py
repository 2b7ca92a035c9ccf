"""What others write to a deployment's route: the next deployment, and a person."""

from __future__ import annotations

from typing import TypeVar

from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from tests.support.kubernetes_api import Object
from tests.support.service_cluster import ServiceCluster

C = TypeVar("C", bound=ServiceCluster)


def newer(plan: DeploymentPlan) -> DeploymentPlan:
    """The next deployment, which found this one's candidate as its stable."""
    later = {"run_id": "the-next", "created": plan.created + 60, "commit": "f" * 40}
    return plan.model_copy(update={**later, "stable": plan.candidate})


def claimed_by_the_next(cluster: ServiceCluster, share: int = 0) -> DeploymentPlan:
    """Let the next deployment claim the route of a verified one."""
    following = newer(cluster.plan)
    _, claim = routes.claim(cluster.now, following.claim())
    cluster.write(claim)
    if share:
        cluster.write(routes.shift(cluster.now, following.claim(cluster.claim), share, 0.0))
    return following


def with_a_rule_for_the_candidate_alone(cluster: C) -> C:
    """Let a person add a rule that sends requests to the candidate and does not name the stable."""
    ref = {"kind": "Service", "name": cluster.plan.candidate, "port": 80, "weight": 1}

    def change(body: Object) -> None:
        body["spec"]["rules"].append({"backendRefs": [ref]})

    return cluster.edit(change)
