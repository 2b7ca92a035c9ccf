"""Claim the route, shift it stage by stage, and promote: every write fenced by the owner and its epoch."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.routes import patch_route, read_route
from airflow_deploy.domain.errors import FencedError, PermanentError, RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.operators.approval import check_agreed
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.capacity import provide_capacity
from airflow_deploy.rollout.preflight import check_rollback_possible
from airflow_deploy.rollout.routers import steps_of
from airflow_deploy.rollout.shift import CanaryShift
from airflow_deploy.tasks.base import DeployOperator, push_reason, record_step
from airflow_deploy.tasks.frozen import freeze_claim


class ClaimRouteOperator(DeployOperator):
    """Become the route's owner and add the candidate to it without traffic. Without a route, make it first."""

    def execute(self, context: Context) -> str:
        """Freeze and return the owner, ``<DEP-id>/<epoch>``. Claimed twice, the first claim stands.

        :raises RefusedError: another deployment has the route, and its watch is alive. Or no rollback is possible.
        """
        plan = self.load_plan()
        owner = self._claim(connect(plan.spec.connections.kubernetes), plan)
        freeze_claim(context, plan, owner)
        return owner

    def _claim(self, cluster: KubernetesClient, plan: DeploymentPlan) -> str:
        steps = steps_of(plan.spec)
        route = steps.route_to_claim(cluster, plan)
        if route.owned_by(plan.deployment_id) and route.owner:
            if route.phase != routes.CANARY:
                raise FencedError(
                    f"route {route.name} is {route.phase} by this deployment; trigger a new run to try again"
                )
            return route.owner
        check_rollback_possible(cluster, plan)
        # Read again: a registry may take long to answer, and another deployment may have claimed the route meanwhile.
        route = steps.route_to_claim(cluster, plan)
        if route.owner and route.phase in routes.WATCHED_PHASES and lease.is_alive(cluster, plan, route.owner):
            raise RefusedError(
                f"route {route.name} is {route.phase} by {route.owner}, which is under way: wait until it has ended,"
                " and trigger a new run"
            )
        route = steps.adopt(cluster, plan, route)
        claim, patch = routes.claim(route, plan.claim())
        # The Lease first: the guard knows of every claim at every moment.
        lease.take(cluster, plan, claim.owner, route.owner)
        patch_route(cluster, route, patch)
        self.log.info("route %s: claimed by %s", route.name, claim.owner)
        return claim.owner


class ShiftCanaryOperator(DeployOperator):
    """Give the candidate ``share`` % of the route's traffic, as soon as its watch is seen to be alive.

    A service's first version has no stable to share with: its first stage gives it all, and the others find that done.

    :param agreed: ids of the judge and of the question before, one of which must have agreed.
    :param mirrored: give it copies, while users are answered by the stable.
    """

    def __init__(self, *, share: int, agreed: tuple[str, str], mirrored: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share
        self.mirrored = mirrored
        self.agreed = agreed

    def execute(self, context: Context) -> None:
        """Shift, or find it done already.

        :raises CapacityError: the pods that it needs, or those for a rollback, are not ready in time.
        :raises ProbeFailedError: before the first share, the gateway was not seen to bring a request to the candidate.
        """
        plan = self.load_plan()
        check_agreed(plan, *self.agreed)
        claim = plan.claim(self.load_claim())
        shift = CanaryShift(
            cluster=connect(plan.spec.connections.kubernetes),
            plan=plan,
            claim=claim,
            mirrored=self.mirrored,
            record=lambda reason: record_step(context, State.CANARY, reason),
        )
        try:
            shift.to_stage(self.share)
        except PermanentError as error:
            push_reason(context, str(error))
            raise
        share = shift.describe(plan.share(self.share))
        record_step(context, State.CANARY_WAITING, f"route set to {share} of traffic for {plan.candidate}")


class PromoteOperator(DeployOperator):
    """Make the candidate the stable. It has all traffic already, so nothing moves.

    :param agreed: ids of the judge and of the question before, one of which must have agreed.
    """

    def __init__(self, *, agreed: tuple[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agreed = agreed

    def execute(self, context: Context) -> None:
        """Promote, or find it done already.

        :raises CapacityError: the candidate does not have all its pods ready in time.
        """
        plan = self.load_plan()
        check_agreed(plan, *self.agreed)
        cluster, claim = connect(plan.spec.connections.kubernetes), plan.claim(self.load_claim())
        provide_capacity(cluster, plan, claim, 100, for_rollback=False)
        route = read_route(cluster, *plan.spec.place)
        patch = routes.promote(route, claim)
        record_step(context, State.PROMOTING, f"{plan.candidate} passed every stage")
        patch_route(cluster, route, patch)
        before = f"; {plan.stable} stays warm" if plan.stable else ""
        record_step(context, State.PROMOTED, f"{plan.candidate} is the stable{before}")
