"""The kinds of objects that the server knows, and the paths under which the API has them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

from tests.support.kubernetes_api.status import Refusal, page_not_found

Object = dict[str, Any]


@dataclass(frozen=True)
class Kind:
    """One kind: ``custom`` comes from a CRD; ``has_generation`` counts the changes of its spec."""

    group: str
    version: str
    name: str
    plural: str
    namespaced: bool = True
    custom: bool = False
    has_generation: bool = False
    has_status: bool = False
    scales: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def resource(self) -> str:
        """Its plural as messages have it: ``deployments.apps``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def subresources(self) -> list[str]:
        return ["status"] * self.has_status + ["scale"] * self.scales

    @property
    def prefix(self) -> str:
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str | None = None, name: str = "") -> str:
        """Return the path of one object, or of a list."""
        place = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{self.prefix}{place}/{self.plural}" + (f"/{name}" if name else "")


def _counted(group: str, version: str, name: str, plural: str, **more: Any) -> Kind:
    return Kind(group, version, name, plural, has_generation=True, **more)


GATEWAY, TRAEFIK, RBAC = "gateway.networking.k8s.io", "traefik.io", "rbac.authorization.k8s.io"
BUILT_IN = (
    Kind("", "v1", "Namespace", "namespaces", namespaced=False, has_status=True),
    Kind("", "v1", "Service", "services", has_status=True),
    Kind("", "v1", "Pod", "pods", has_status=True),
    Kind("", "v1", "ConfigMap", "configmaps"),
    Kind("", "v1", "Secret", "secrets"),
    Kind("", "v1", "ServiceAccount", "serviceaccounts"),
    Kind("", "v1", "Event", "events"),
    _counted("apps", "v1", "Deployment", "deployments", has_status=True, scales=True),
    _counted("apps", "v1", "ReplicaSet", "replicasets", has_status=True, scales=True),
    _counted("apps", "v1", "StatefulSet", "statefulsets", has_status=True, scales=True),
    _counted("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets", has_status=True),
    Kind("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", has_status=True),
    _counted("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    Kind("coordination.k8s.io", "v1", "Lease", "leases"),
    _counted("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    Kind(RBAC, "v1", "Role", "roles"),
    Kind(RBAC, "v1", "RoleBinding", "rolebindings"),
    Kind(RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False),
    Kind(RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
)
CUSTOM = tuple(
    replace(kind, custom=True)
    for kind in (
        _counted(GATEWAY, "v1", "HTTPRoute", "httproutes", has_status=True),
        _counted(GATEWAY, "v1", "Gateway", "gateways", has_status=True),
        _counted(TRAEFIK, "v1alpha1", "TraefikService", "traefikservices"),
    )
)


@dataclass(frozen=True)
class Target:
    """What a request is about: one object or, without a name, a list."""

    kind: Kind
    namespace: str | None
    name: str | None = None
    subresource: str | None = None


class Kinds:
    """The kinds that are installed."""

    def __init__(self, kinds: Iterable[Kind] = (*BUILT_IN, *CUSTOM)) -> None:
        self._kinds = {(kind.group, kind.version, kind.plural): kind for kind in kinds}

    def __iter__(self) -> Any:
        return iter([*self._kinds.values()])

    def named(self, name: str) -> Kind:
        for kind in self._kinds.values():
            if kind.name == name:
                return kind
        raise LookupError(f"no such kind: {name}")

    def install(self, kind: Kind) -> None:
        self._kinds[kind.group, kind.version, kind.plural] = kind

    def uninstall(self, name: str) -> Kind:
        kind = self.named(name)
        return self._kinds.pop((kind.group, kind.version, kind.plural))

    def target(self, path: str) -> Target:
        """Return what the path is about.

        :raises Refusal: there is no such path.
        """
        head, *parts = [unquote(part) for part in path.strip("/").split("/")]
        if head == "api" and parts:
            group, (version, *parts) = "", parts
        elif head == "apis" and len(parts) > 1:
            group, version, *parts = parts
        else:
            raise page_not_found()
        namespace = None
        if parts[:1] == ["namespaces"] and len(parts) > 2 and parts[2:] != ["status"]:
            _, namespace, *parts = parts
        if not 1 <= len(parts) <= 3:
            raise page_not_found()
        plural, name, subresource = (*parts, None, None)[:3]
        kind = self._kinds.get((group, version, plural or ""))
        if kind is None or (namespace and not kind.namespaced) or (name and kind.namespaced and not namespace):
            raise page_not_found()
        if subresource and subresource not in kind.subresources:
            raise page_not_found() if kind.custom else Refusal(404, "NotFound", NO_RESOURCE)
        return Target(kind, namespace, name, subresource)


NO_RESOURCE = "the server could not find the requested resource"
