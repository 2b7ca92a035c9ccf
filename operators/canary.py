"""Claim the route, shift it stage by stage, and promote: every write fenced by the owner and its epoch."""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import Context

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.domain.errors import FencedError, PermanentError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.record import Patch
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.domain.workloads import manifests
from airflow_deploy.operators.approval import check_agreed
from airflow_deploy.rollout import lease, mirror
from airflow_deploy.rollout.adoption import adopt_service
from airflow_deploy.rollout.autoscalers import hold_autoscalers
from airflow_deploy.rollout.capacity import provide_capacity
from airflow_deploy.rollout.preflight import check_rollback_possible
from airflow_deploy.rollout.probe import probe_candidate
from airflow_deploy.tasks.base import DeployOperator, push_reason, record_step
from airflow_deploy.tasks.frozen import freeze_claim


class ClaimRouteOperator(DeployOperator):
    """Become the route's owner and add the candidate to it, with weight 0. Without a route, make it first."""

    def execute(self, context: Context) -> str:
        """Freeze and return the owner, ``<DEP-id>/<epoch>``. Claimed twice, the first claim stands.

        :raises RefusedError: another deployment has the route, and somebody looks at it. Or there would be no way back.
        """
        plan = self.load_plan()
        owner = self._claim(Cluster(plan.spec.connections.kubernetes), plan)
        freeze_claim(context, plan, owner)
        return owner

    def _claim(self, cluster: Cluster, plan: DeploymentPlan) -> str:
        route = self._route(cluster, plan)
        if route.owned_by(plan.deployment_id) and route.owner:
            if route.phase != routes.CANARY:
                raise FencedError(
                    f"route {route.name} is {route.phase} by this deployment; trigger a new run to try again"
                )
            return route.owner
        check_rollback_possible(cluster, plan)
        # Only now: a registry may take long to answer, and somebody else may have claimed it meanwhile.
        route = self._route(cluster, plan)
        if route.owner and route.phase in routes.WATCHED_PHASES and lease.is_alive(cluster, plan, route.owner):
            raise RefusedError(
                f"route {route.name} is {route.phase} by {route.owner}, which is under way: wait until it has ended,"
                " and trigger a new run"
            )
        if plan.divides_pods:
            route = adopt_service(cluster, plan, route)
        owner, patch = routes.claim(route, plan.deployment_id, plan.stable, plan.candidate)
        # First of all, so that there is no moment in which the guard does not know of a claim.
        lease.take(cluster, plan, owner, route.owner)
        cluster.patch_route(route, patch)
        self.log.info("route %s is ours: %s", route.name, owner)
        return owner

    def _route(self, cluster: Cluster, plan: DeploymentPlan) -> TeamRoute:
        """Read the route; that of a first version is made where it is not there."""
        if plan.divides_pods:
            return cluster.team_route(*plan.spec.place)
        where = plan.spec.namespace, plan.spec.route.name
        if plan.stable or cluster.route_or_absent(*where).is_there:
            return cluster.route(*where)
        self.log.info("making route %s, which nobody serves yet", plan.spec.route.name)
        return cluster.create_route(manifests.route_object(plan.spec))


WATCH_WAIT_SECONDS = 60.0
"""Seconds for which a shift waits for a look."""


class ShiftCanaryOperator(DeployOperator):
    """Give the candidate ``share`` % of the route's traffic, as soon as somebody is seen to look at it.

    A service's first version has nobody to share with: its first stage gives it all, and the others find that done.

    :param agreed: ids of the judge and of the question before, one of which must have let it.
    :param mirrored: give it copies, while users are answered by the stable.
    """

    def __init__(self, *, share: int, agreed: tuple[str, str], mirrored: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.share = share
        self.mirrored = mirrored
        self.agreed = agreed

    def execute(self, context: Context) -> None:
        """Shift, or find it done already.

        :raises CapacityError: the pods that it needs, or those for the way back, are not ready in time.
        :raises UndeliveredError: before the first share, the gateway was not seen to bring a request to the candidate.
        """
        check_agreed(context, *self.agreed)
        plan = self.load_plan()
        cluster = Cluster(plan.spec.connections.kubernetes)
        try:
            for share in self._shares(cluster, plan):
                self._give(context, cluster, plan, share)
        except PermanentError as error:
            push_reason(context, str(error))
            raise
        what = self._what(plan.share(self.share))
        declared = f"{what} of traffic {'are' if self.mirrored else 'is'} declared"
        record_step(context, State.CANARY_WAITING, f"{declared} for {plan.candidate}")

    def _shares(self, cluster: Cluster, plan: DeploymentPlan) -> tuple[int, ...]:
        """Return the shares on the way; none of them, but the last, where an earlier try has given that."""
        shares, given = plan.shares(self.share), cluster.team_route(*plan.spec.place).shifts[-1:]
        return shares[-1:] if given and given[0].share == shares[-1] else shares

    def _what(self, share: int) -> str:
        return f"copies of {share} %" if self.mirrored else f"{share} %"

    def _give(self, context: Context, cluster: Cluster, plan: DeploymentPlan, share: int) -> None:
        """Capacity before weight; only where the pods beside the stable's are the share, they come with it."""
        hold_autoscalers(cluster, plan)  # what it has grown to since: after this share it needs less, for now
        alongside = plan.divides_pods and share < 100
        provide_capacity(cluster, plan, self.load_claim(), 0 if alongside else share)
        seen = self._delivered(cluster, plan)
        route, patch = self._looked_at(cluster, plan, share)
        what = self._what(share)
        record_step(context, State.CANARY, f"{'shifting' if patch else 'keeping'} {what} to {plan.candidate}{seen}")
        cluster.patch_route(route, patch)
        if alongside:
            provide_capacity(cluster, plan, self.load_claim(), share)
            self._shift(cluster, plan, share)
        self.log.info("route %s gives %s %s", route.name, plan.candidate, what)

    def _shift(self, cluster: Cluster, plan: DeploymentPlan, share: int) -> tuple[TeamRoute, Patch]:
        """Return the route and the patch that shifts it.

        :raises FencedError: somebody else has it, or has changed it.
        """
        owner, route = self.load_claim(), cluster.team_route(*plan.spec.place)
        now = time.time()
        return route, routes.shift(route, owner, plan.stable, plan.candidate, share, now, mirrored=self.mirrored)

    def _delivered(self, cluster: Cluster, plan: DeploymentPlan) -> str:
        """Before the first share, see that the gateway delivers, and return that in words."""
        if plan.divides_pods:
            return ""
        route = cluster.team_route(*plan.spec.place)
        if route.shifts or route.owner != (owner := self.load_claim()):
            return ""
        seen = [mirror.set_up_mirror(cluster, plan, owner)] if self.mirrored else []
        seen.append(probe_candidate(cluster, plan, owner))
        self.log.info("%s", "; ".join(seen))
        return f"; {'; '.join(seen)}"

    def _looked_at(self, cluster: Cluster, plan: DeploymentPlan, share: int) -> tuple[TeamRoute, Patch]:
        """Wait until the watch has completed a look since this try began, and return the patch that shifts.

        After whatever restart: whoever raises a share knows that the brake is held.
        """
        sign = lease.LeaseRenewal(cluster, plan, self.load_claim())
        deadline = time.monotonic() + WATCH_WAIT_SECONDS
        while True:
            route, patch = self._shift(cluster, plan, share)
            if not patch or sign.seen():
                return route, patch
            if time.monotonic() >= deadline:
                raise TemporaryError(
                    f"watch has not renewed its Lease for {WATCH_WAIT_SECONDS:.0f} s; not shifting to {share} %;"
                    " check that a triggerer is running"
                )
            time.sleep(lease.LEASE_POLL_SECONDS)


class PromoteOperator(DeployOperator):
    """Make the candidate the stable. It has all traffic already, so nothing moves.

    :param agreed: ids of the judge and of the question before, one of which must have let it.
    """

    def __init__(self, *, agreed: tuple[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agreed = agreed

    def execute(self, context: Context) -> None:
        """Promote, or find it done already.

        :raises CapacityError: the candidate does not have all its pods ready in time.
        """
        check_agreed(context, *self.agreed)
        plan = self.load_plan()
        cluster = Cluster(plan.spec.connections.kubernetes)
        provide_capacity(cluster, plan, self.load_claim(), 100, way_back=False)
        route = cluster.team_route(*plan.spec.place)
        patch = routes.promote(route, self.load_claim(), plan.stable, plan.candidate)
        record_step(context, State.PROMOTING, f"{plan.candidate} passed every stage")
        cluster.patch_route(route, patch)
        before = f"; {plan.stable} stays warm" if plan.stable else ""
        record_step(context, State.PROMOTED, f"{plan.candidate} is the stable{before}")
