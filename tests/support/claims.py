"""Rollbacks as the watch, the guard and the scheduled verification do them."""

from __future__ import annotations

import json

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.record import Patch
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.rollout.rollback import rollback


def guard_patch(route: TeamRoute, verdict: str = "guard") -> Patch:
    """What the guard writes to a route whose watch is silent."""
    return routes.rollback(route, Claim.of(route), routes.BRAKED, verdict, new_epoch=True)


def undo_patch(route: TeamRoute, claim: Claim, verdict: str = "worse") -> Patch:
    """What the scheduled verification writes to the route of a promotion that breaches."""
    return routes.rollback(route, claim, routes.SETTLED, verdict, new_epoch=True)


def verdict(reason: str = "worse", at: float = 0.0) -> FinalVerdict:
    return FinalVerdict("BREACHED", reason, at)


def roll_back(cluster: KubernetesClient, plan: DeploymentPlan, phase: str, reason: str | None = None) -> bool:
    """Roll a run's traffic back, and return whether it had the route."""
    return rollback(cluster, plan.claim(), verdict(reason) if reason else None, phase).returned


def undo(cluster: KubernetesClient, plan: DeploymentPlan, reason: str = "worse") -> bool:
    """Roll a verified promotion back, as the scheduled verification does."""
    return rollback(cluster, plan.claim(), verdict(reason), routes.SETTLED, new_epoch=True).returned


def recorded_reason(route: TeamRoute) -> str:
    """The reason of the verdict that is left on the route."""
    return str(json.loads(route.final_verdict or "")["reason"])
