"""Leases beside routes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.errors import NotFoundError, PatchTestError
from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.routing.lease import LEASE_LABELS, Lease
from airflow_deploy.domain.routing.record import Patch


def find_lease(cluster: KubernetesClient, namespace: str, name: str) -> Lease | None:
    """Return a Lease, None if it does not exist."""
    body = cluster.find("Lease", namespace, name)
    return Lease(body) if body is not None else None


def list_leases(cluster: KubernetesClient, namespace: str | None) -> list[Lease]:
    """Return the Leases of all our routes, in one namespace or in all."""
    return [Lease(item) for item in cluster.list("Lease", namespace, labels=LEASE_LABELS)]


def create_lease(cluster: KubernetesClient, body: Mapping[str, Any]) -> None:
    """Create a Lease.

    :raises AlreadyExistsError: another client created it first.
    """
    cluster.create(body)


def patch_lease(cluster: KubernetesClient, namespace: str, name: str, patch: Patch) -> bool:
    """Apply a JSON Patch as one write; return False if the Lease does not exist.

    :raises FencedError: one of its tests failed: another deployment holds it.
    """
    try:
        cluster.patch("Lease", namespace, name, patch)
    except NotFoundError:
        return False
    except PatchTestError as error:
        raise FencedError(str(error)) from error
    return True
