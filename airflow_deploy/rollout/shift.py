"""Shift a share of the traffic to the candidate: pods first, delivery seen, a watch that is alive, then one write."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.routes import patch_route, read_route
from airflow_deploy.domain.errors import TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.record import Patch
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.autoscalers import hold_autoscalers
from airflow_deploy.rollout.capacity import provide_capacity
from airflow_deploy.rollout.routers import steps_of

log = logging.getLogger(__name__)

WATCH_WAIT_SECONDS = 60.0
"""Seconds for which a shift waits for the watch to renew its Lease."""


@dataclass(frozen=True)
class CanaryShift:
    """The shifts of one task, each fenced by the owner and its epoch.

    :param mirrored: give the candidate copies, while users are answered by the stable.
    :param record: told what is shifted, right before the write.
    """

    cluster: KubernetesClient
    plan: DeploymentPlan
    claim: Claim
    mirrored: bool
    record: Callable[[str], None]

    def to_stage(self, stage: int) -> None:
        """Shift to a stage, or find it done already.

        :raises CapacityError: the pods that it needs, or those for a rollback, are not ready in time.
        :raises ProbeFailedError: before the first share, no request was seen to reach the candidate.
        :raises FencedError: another deployment has the route, or it was changed by hand.
        :raises TemporaryError: the watch does not renew its Lease, or the route changed; try again.
        """
        shares = self.plan.router.shares(stage)
        for share in shares:
            self._to_share(share, last=shares[-1])

    def _to_share(self, share: int, last: int) -> None:
        """Shift to one share on the way to the ``last``; it is passed over if an earlier try has given the last."""
        hold_autoscalers(self.cluster, self.plan)  # the stable may have grown since, and needs less after this share
        follow = self.plan.router.pods_follow(share)
        provide_capacity(self.cluster, self.plan, self.claim, 0 if follow else share)
        route, patch, seen = self._look(share)
        if share != last and route.shifts and route.shifts[-1].share == last:
            return
        verb = "shifting" if patch else "keeping"
        self.record(f"{verb} {self.describe(share)} to {self.plan.candidate}{''.join(f'; {one}' for one in seen)}")
        patch_route(self.cluster, route, patch)
        if follow:
            provide_capacity(self.cluster, self.plan, self.claim, share)
            self._read(share)  # fails if the route was lost while the pods started
        log.info("route %s: %s of traffic to %s", route.name, self.describe(share), self.plan.candidate)

    def describe(self, share: int) -> str:
        """Return a share in words."""
        return f"copies of {share} %" if self.mirrored else f"{share} %"

    def _look(self, share: int) -> tuple[TeamRoute, Patch, list[str]]:
        """Return the route, the patch that shifts it, and what was seen of the delivery before the first share.

        It waits until the watch has completed a look since the last other wait: after any restart, a share rises only
        under a watch that can roll it back. The read that it returns is the one right before the write.
        """
        seen: list[str] | None = None
        renewal, deadline = self._expect_renewal()
        while True:
            route, patch = self._read(share)
            if patch and not route.shifts and seen is None:
                seen = steps_of(self.plan.spec).confirm_delivery(
                    self.cluster, self.plan, self.claim, mirrored=self.mirrored
                )
                if seen:  # it has taken its time
                    log.info("%s", "; ".join(seen))
                    renewal, deadline = self._expect_renewal()
                    continue
            if not patch or renewal.seen():
                return route, patch, seen or []
            if time.monotonic() >= deadline:
                raise TemporaryError(
                    f"watch has not renewed its Lease for {WATCH_WAIT_SECONDS:.0f} s; not shifting to {share} %;"
                    " check that a triggerer is running"
                )
            time.sleep(lease.LEASE_POLL_SECONDS)

    def _expect_renewal(self) -> tuple[lease.LeaseRenewal, float]:
        renewal = lease.LeaseRenewal(self.cluster, self.plan, self.claim.owner)
        return renewal, time.monotonic() + WATCH_WAIT_SECONDS

    def _read(self, share: int) -> tuple[TeamRoute, Patch]:
        """Read the route, and return it with the patch that shifts it.

        :raises FencedError: another deployment has it, or it was changed by hand.
        """
        route = read_route(self.cluster, *self.claim.place)
        return route, routes.shift(route, self.claim, share, time.time(), mirrored=self.mirrored)
