"""The objects of our versions and mirrors, and what else of a namespace concerns them: listed and deleted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_deploy.clients.kubernetes.client import Item, KubernetesClient
from airflow_deploy.clients.kubernetes.errors import AlreadyExistsError, NotFoundError
from airflow_deploy.domain.labels import MANAGED_BY, MANAGER, NAME
from airflow_deploy.domain.routing.record import Patch
from airflow_deploy.domain.workloads import autoscaling
from airflow_deploy.domain.workloads.mirror import MIRROR_LABELS

VERSION_KINDS = (
    "Deployment",
    "Service",
    "ConfigMap",
    "PodDisruptionBudget",
    "HorizontalPodAutoscaler",
    "NetworkPolicy",
)
"""The kinds that a version consists of, in the order in which they are deleted.

The Deployment is first: its deletion is fenced by its resourceVersion, which changes with its pods. The rest can be
listed, and deleted by the next pass.
"""
MIRROR_KINDS = ("TraefikService", "Service")
"""The kinds of a mirror, in the order in which they are deleted: as long as its Service exists, it can be found."""


def list_versions(cluster: KubernetesClient, namespace: str, service: str) -> list[Item]:
    """Return what airflow-deploy made for the service, without ConfigMaps: their content need not be readable."""
    labels = {MANAGED_BY: MANAGER, NAME: service}
    kinds = [kind for kind in VERSION_KINDS if kind != "ConfigMap"]
    return [item for kind in kinds for item in cluster.list(kind, namespace, labels=labels)]


def create_once(cluster: KubernetesClient, item: Mapping[str, Any]) -> None:
    """Create one of our own objects; if it exists, it stays as it is."""
    try:
        cluster.create(item)
    except AlreadyExistsError:
        return


def delete_object(cluster: KubernetesClient, item: Mapping[str, Any]) -> None:
    """Delete one of our own objects, unless it changed since it was read.

    :param item: the object as it was read; without uid and resourceVersion there is no fence.
    """
    metadata = item["metadata"]
    cluster.delete(item["kind"], metadata["namespace"], metadata["name"], as_read=item)


def list_mirrors(cluster: KubernetesClient, namespace: str) -> list[Item]:
    """Return the Services of the namespace's mirrors."""
    return cluster.list("Service", namespace, labels=MIRROR_LABELS)


def delete_mirror(cluster: KubernetesClient, service: Mapping[str, Any]) -> None:
    """Delete a mirror: its ``service`` and the other object of that name. Both carry a finalizer until then."""
    metadata = service["metadata"]
    for kind in MIRROR_KINDS:
        try:
            cluster.patch(
                kind,
                metadata["namespace"],
                metadata["name"],
                [{"op": "add", "path": "/metadata/finalizers", "value": []}],
            )
        except NotFoundError:
            continue
        cluster.delete(kind, metadata["namespace"], metadata["name"])


def list_selectors(cluster: KubernetesClient, namespace: str) -> list[dict[str, str]]:
    """Return the selectors of the namespace's Services; those without one are left out."""
    found = (item["spec"].get("selector") for item in cluster.list("Service", namespace))
    return [selector for selector in found if selector]


def deployments_with(cluster: KubernetesClient, namespace: str, labels: Mapping[str, str]) -> list[str]:
    """Return the Deployments whose pods have these labels, without versions of ours that were stopped."""
    return [
        item["metadata"]["name"]
        for item in cluster.list("Deployment", namespace)
        if labels.items() <= (item["spec"]["template"]["metadata"].get("labels") or {}).items()
        and (item["spec"].get("replicas", 1) or (item["metadata"].get("labels") or {}).get(MANAGED_BY) != MANAGER)
    ]


def list_autoscalers(cluster: KubernetesClient, namespace: str) -> list[Item]:
    """Return the namespace's HorizontalPodAutoscalers."""
    return cluster.list("HorizontalPodAutoscaler", namespace)


def autoscalers_behind(cluster: KubernetesClient, namespace: str, service: str) -> list[Item]:
    """Return those that scale the Deployments behind the Service ``service``."""
    if not (found := list_autoscalers(cluster, namespace)):
        return []
    services = cluster.list("Service", namespace, name=service)
    return autoscaling.autoscalers_of(services, cluster.list("Deployment", namespace), found)


def patch_autoscaler(
    cluster: KubernetesClient, item: Mapping[str, Any], patch: Patch, *, dry_run: bool = False
) -> None:
    """Apply a JSON Patch to a HorizontalPodAutoscaler as one write; an empty patch writes nothing.

    :raises ConflictError: another client wrote it since it was read.
    """
    if patch:
        metadata = item["metadata"]
        cluster.patch("HorizontalPodAutoscaler", metadata["namespace"], metadata["name"], patch, dry_run=dry_run)


def apply_all(cluster: KubernetesClient, objects: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> None:
    """Server-side apply objects of our own, in their order."""
    for item in objects:
        cluster.apply(item, dry_run=dry_run)
