"""HorizontalPodAutoscalers as the API server returns them, and that of a service's stable."""

from __future__ import annotations

from typing import Any, TypeVar

from airflow_deploy.domain.workloads.autoscaling import HELD_ANNOTATION, hold_patch
from tests.support.json_patch import apply_patch
from tests.support.service_cluster import ServiceCluster

C = TypeVar("C", bound=ServiceCluster)


def autoscaler(minimum: int | None = 2, maximum: int = 10, target: str = "web", **annotations: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": "web",
        "resourceVersion": "7",
        **({"annotations": annotations} if annotations else {}),
    }
    spec: dict[str, Any] = {"maxReplicas": maximum, "scaleTargetRef": {"kind": "Deployment", "name": target}}
    return {"metadata": metadata, "spec": spec if minimum is None else {**spec, "minReplicas": minimum}}


def scaled(cluster: C, by: str | None = None) -> C:
    """Let the stable have an autoscaler that would leave it one pod, and return the cluster.

    :param by: a deployment that holds it at five pods.
    """
    one = autoscaler(minimum=1, target=cluster.plan.stable)
    held = apply_patch(one, hold_patch(one, by, 5)) if by else one
    metadata = {**held["metadata"], "namespace": cluster.plan.spec.namespace}
    cluster.api.add({**held, "kind": "HorizontalPodAutoscaler", "metadata": metadata})
    return cluster


def minimum(cluster: ServiceCluster) -> tuple[int, bool]:
    """Return the minimum of the stable's autoscaler, and whether a deployment holds it."""
    found = cluster.api.get("HorizontalPodAutoscaler", cluster.plan.spec.namespace, "web")
    return found["spec"]["minReplicas"], HELD_ANNOTATION in found["metadata"].get("annotations", {})
