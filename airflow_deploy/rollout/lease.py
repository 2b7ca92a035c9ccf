"""Hold a route's Lease: a run makes it before it claims the route, and each completed look renews it."""

from __future__ import annotations

import logging
import time

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.leases import create_lease, find_lease, patch_lease
from airflow_deploy.domain.errors import FencedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing.lease import Lease, lease_name, new_lease, renewal_patch, takeover_patch

log = logging.getLogger(__name__)

LEASE_POLL_SECONDS = 0.3
"""Seconds between two readings of a Lease that should change."""


def take(cluster: KubernetesClient, plan: DeploymentPlan, owner: str, before: str | None) -> None:
    """Make the route's Lease, or take over the one that an earlier deployment has left.

    A claim takes the Lease first and then the route. So of two claims at once, the slower one could take the other's
    Lease: it is taken over only if its holder was seen on the route, or is dead.

    :param before: the route's owner, as the claim has read it.
    :raises TemporaryError: another deployment does the same in this moment, or has just done it.
    """
    lease = _read(cluster, plan)
    if lease is None:
        _make(cluster, plan, owner)
    elif lease.holder != owner:
        holder, seen = lease.holder or "", {_deployment(one) for one in (owner, before or "", "")}
        if _deployment(holder) not in seen and is_alive(cluster, plan, holder):
            raise TemporaryError(f"{holder} holds the Lease and renews it, and was not seen on the route")
        patch = takeover_patch(lease, owner, plan.spec.lease)
        try:
            patch_lease(cluster, plan.spec.namespace, _name(plan), patch)
        except FencedError as error:
            raise TemporaryError(f"the Lease was written meanwhile: {error}") from error


def renew(cluster: KubernetesClient, plan: DeploymentPlan, owner: str) -> None:
    """Renew it. If it was deleted, it is made again; if another deployment holds it, it is left alone."""
    try:
        if not patch_lease(cluster, plan.spec.namespace, _name(plan), renewal_patch(owner)):
            _make(cluster, plan, owner)
    except FencedError as error:
        log.error("cannot renew the Lease, since another deployment holds it: %s", error)


class LeaseRenewal:
    """Sees whether ``owner``, and no other deployment, has renewed the Lease since this was made."""

    def __init__(self, cluster: KubernetesClient, plan: DeploymentPlan, owner: str) -> None:
        self._cluster, self._plan, self._owner = cluster, plan, owner
        self._before = self._version()

    def seen(self) -> bool:
        """Whether it has been renewed by now."""
        now = self._version()
        return now is not None and now != self._before

    def _version(self) -> tuple[str, str] | None:
        lease = _read(self._cluster, self._plan)
        return lease.version if lease and lease.holder == self._owner else None


def is_alive(cluster: KubernetesClient, plan: DeploymentPlan, owner: str) -> bool:
    """Whether the watch of the route's owner is alive. False takes one Lease's duration to find out."""
    renewal = LeaseRenewal(cluster, plan, owner)
    lease = _read(cluster, plan)
    deadline = time.monotonic() + (lease.seconds if lease else plan.spec.lease)
    while not (seen := renewal.seen()) and time.monotonic() < deadline:
        time.sleep(LEASE_POLL_SECONDS)
    return seen


def _deployment(owner: str) -> str:
    """Return whose claim it is; that of a guard is the deployment's own."""
    return owner.rpartition("/")[0]


def _read(cluster: KubernetesClient, plan: DeploymentPlan) -> Lease | None:
    return find_lease(cluster, plan.spec.namespace, _name(plan))


def _make(cluster: KubernetesClient, plan: DeploymentPlan, owner: str) -> None:
    namespace, route, router = plan.spec.place
    create_lease(cluster, new_lease(namespace, route, owner, plan.spec.lease, router))


def _name(plan: DeploymentPlan) -> str:
    _, route, router = plan.spec.place
    return lease_name(route, router)
