"""The mirror sends copies of requests to the candidate and drops its answers; the stable answers users.

It is a second Service with the candidate's pods, to which a filter of the route copies. Traefik has no such filter, so
there a TraefikService of ours answers as the stable and copies. A route that names a missing mirror serves no request
at all, so a finalizer keeps both objects until no route names them.
"""

from collections.abc import Mapping
from typing import Any

from airflow_deploy.domain.labels import DEPLOYMENT, MANAGED_BY, MANAGER, NAME, VERSION
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.names import mirror_name

FINALIZER = f"{MANAGER}/mirror"
MIRROR_LABELS = {MANAGED_BY: MANAGER, "app.kubernetes.io/component": "mirror"}
CRD = "traefik.io/v1alpha1"


def mirror_objects(plan: DeploymentPlan, *, copied: bool, by_filter: bool = False) -> list[dict[str, Any]]:
    """Return the mirror's objects.

    :param copied: whether there is a pod that gets the copies.
    :param by_filter: whether a filter of the route copies to it.
    """
    name = mirror_name(plan.candidate)
    # The route gives the mirror as many requests as are to be copied.
    port = {"kind": "Service", "port": plan.stable_port}
    mirroring = {**port, "name": plan.stable, "mirrors": [{**port, "name": name, "percent": 100}]}
    ports = [{"name": "http", "port": plan.stable_port, "targetPort": "http", "protocol": "TCP"}]
    service = _object(
        plan, "v1", "Service", {"selector": {VERSION: plan.candidate if copied else name}, "ports": ports}
    )
    return [service] if by_filter else [service, _object(plan, CRD, "TraefikService", {"mirroring": mirroring})]


def _object(plan: DeploymentPlan, version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {
            "name": mirror_name(plan.candidate),
            "namespace": plan.spec.namespace,
            "labels": {**MIRROR_LABELS, NAME: plan.spec.service},
            "annotations": {DEPLOYMENT: plan.deployment_id},
            "finalizers": [FINALIZER],
        },
        "spec": spec,
    }


def deployment_of(service: Mapping[str, Any]) -> str:
    """Return the ``DEP-…`` of the deployment whose mirror a Service belongs to."""
    return str((service["metadata"].get("annotations") or {}).get(DEPLOYMENT, ""))
