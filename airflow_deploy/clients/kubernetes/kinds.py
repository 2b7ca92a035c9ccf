"""Every kind of object that is read or written, and its path in the API. Another kind is one more entry."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote

from airflow_deploy.domain.errors import PermanentError
from airflow_deploy.domain.object_names import OBJECT_NAME, OBJECT_NAME_MAX
from airflow_deploy.domain.values import printable


class Kind(NamedTuple):
    """API group with its version (``v1`` for the core group), and the plural in paths."""

    api: str
    plural: str


KINDS = {
    "ConfigMap": Kind("v1", "configmaps"),
    "Deployment": Kind("apps/v1", "deployments"),
    "EndpointSlice": Kind("discovery.k8s.io/v1", "endpointslices"),
    "HTTPRoute": Kind("gateway.networking.k8s.io/v1", "httproutes"),
    "HorizontalPodAutoscaler": Kind("autoscaling/v2", "horizontalpodautoscalers"),
    "Lease": Kind("coordination.k8s.io/v1", "leases"),
    "NetworkPolicy": Kind("networking.k8s.io/v1", "networkpolicies"),
    "Pod": Kind("v1", "pods"),
    "PodDisruptionBudget": Kind("policy/v1", "poddisruptionbudgets"),
    "Service": Kind("v1", "services"),
    "TraefikService": Kind("traefik.io/v1alpha1", "traefikservices"),
}


def path_of(kind: str, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
    """Return the path of an object, or of all objects of a kind.

    :param namespace: None for those of all namespaces.
    :raises PermanentError: namespace or name is not a name that Kubernetes permits.
    """
    api, plural = KINDS[kind]
    parts = ["api" if api == "v1" else "apis", *api.split("/")]
    parts += [plural] if namespace is None else ["namespaces", _checked(kind, namespace), plural]
    parts += [_checked(kind, name)] if name is not None else []
    parts += [subresource] if subresource else []
    return "/" + "/".join(quote(part, safe="") for part in parts)


def _checked(kind: str, name: str) -> str:
    if len(name) > OBJECT_NAME_MAX or not OBJECT_NAME.fullmatch(name):
        raise PermanentError(f"{kind}: {printable(name)} is not a valid Kubernetes name; nothing was requested")
    return name
