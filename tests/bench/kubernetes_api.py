"""A Kubernetes API in memory: it keeps the objects that are written to it, and every Deployment is ready at once.

It knows nothing of airflow-deploy: reads, creation, JSON Patch with its tests, merge patches, server-side apply without
field ownership, dry runs, deletion, and the API's own list. Pods and EndpointSlices follow from Deployments and
Services.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from typing import Any

from tests.bench.http_server import Request, Response

KINDS = {
    "services": ("v1", "Service"),
    "configmaps": ("v1", "ConfigMap"),
    "pods": ("v1", "Pod"),
    "deployments": ("apps/v1", "Deployment"),
    "poddisruptionbudgets": ("policy/v1", "PodDisruptionBudget"),
    "networkpolicies": ("networking.k8s.io/v1", "NetworkPolicy"),
    "horizontalpodautoscalers": ("autoscaling/v2", "HorizontalPodAutoscaler"),
    "endpointslices": ("discovery.k8s.io/v1", "EndpointSlice"),
    "leases": ("coordination.k8s.io/v1", "Lease"),
    "httproutes": ("gateway.networking.k8s.io/v1", "HTTPRoute"),
}
"""What it has, by plural name: API version and kind."""
OBJECT = re.compile(
    r"/(?:api|apis)/(?P<version>.+)/namespaces/(?P<namespace>[^/]+)/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+)(?:/(?P<part>[a-z]+))?)?"
)
ROUTES = "httproutes"

Object = dict[str, Any]


class Refused(Exception):
    """The request is not done: an HTTP status, the API's reason, and the object's name."""

    def __init__(self, status: int, reason: str, name: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.name = status, reason, name

    @property
    def response(self) -> Response:
        body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": self.reason,
            "message": f"{self.reason}: {self.name}",
            "details": {"name": self.name},
            "code": self.status,
        }
        return Response.of(body, self.status)


@dataclass(frozen=True)
class Written:
    """One write of a route: when (unix seconds), and the share of its traffic in % that each backend had then."""

    at: float
    name: str
    shares: dict[str, float]


@dataclass
class KubernetesApi:
    """The objects, and every write of a route.

    :param moved: is told of each write of a route, before the write is answered.
    """

    moved: Callable[[Written], None] = lambda _: None
    writes: list[Written] = field(default_factory=list)
    _objects: dict[tuple[str, str], Object] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def answer(self, request: Request) -> Response:
        """Answer a request."""
        try:
            if listed := _api_list(request.path):
                return Response.of(listed)
            found = OBJECT.fullmatch(request.path)
            if found is None or KINDS.get(found["plural"], ("",))[0] != found["version"]:
                raise Refused(404, "NotFound", request.path)
            with self._lock:
                return self._object(request, found["plural"], found["name"], found["part"])
        except Refused as refused:
            return refused.response

    def put(self, plural: str, item: Object) -> None:
        """Write an object, as the team does."""
        with self._lock:
            self._keep(plural, item["metadata"]["name"], item)

    def pods(self) -> list[Object]:
        """Return the pods of all Deployments."""
        with self._lock:
            return [
                pod for (plural, _), item in self._objects.items() if plural == "deployments" for pod in _pods(item)
            ]

    def _object(self, request: Request, plural: str, name: str | None, part: str | None) -> Response:
        match request.method:
            case "GET" if name:
                return Response.of(self._read(plural, name))
            case "GET":
                return Response.of(self._listed(plural, request.query))
            case "POST":
                return Response.of(self._create(plural, request), 201)
            case "PATCH" if name:
                return Response.of(self._patch(plural, name, part, request))
            case "DELETE" if name:
                self._read(plural, name)
                del self._objects[plural, name]
                return Response.of({"kind": "Status", "apiVersion": "v1", "status": "Success"})
        raise Refused(405, "MethodNotAllowed", request.path)

    def _read(self, plural: str, name: str) -> Object:
        try:
            return self._objects[plural, name]
        except KeyError:
            raise Refused(404, "NotFound", name) from None

    def _listed(self, plural: str, query: Mapping[str, str]) -> Object:
        version, kind = KINDS[plural]
        wanted = _selector(query.get("labelSelector", ""))
        named = query.get("fieldSelector", "").removeprefix("metadata.name=")
        items = [
            item
            for item in self._all(plural)
            if _matches(item["metadata"].get("labels") or {}, wanted) and named in ("", item["metadata"]["name"])
        ]
        return {"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": items}

    def _all(self, plural: str) -> list[Object]:
        if plural == "pods":
            return self.pods()
        if plural == "endpointslices":
            pods = self.pods()
            return [_slice(item, pods) for (kind, _), item in self._objects.items() if kind == "services"]
        return [item for (kind, _), item in self._objects.items() if kind == plural]

    def _create(self, plural: str, request: Request) -> Object:
        item: Object = request.json
        name = item["metadata"]["name"]
        if (plural, name) in self._objects:
            raise Refused(409, "AlreadyExists", name)
        return item if "dryRun" in request.query else self._keep(plural, name, item)

    def _patch(self, plural: str, name: str, part: str | None, request: Request) -> Object:
        before = self._objects.get((plural, name), {})
        if not before and "apply-patch" not in request.content_type:
            raise Refused(404, "NotFound", name)
        sent = request.json
        after = patched(before, sent) if isinstance(sent, list) else merged(before, sent)
        if "dryRun" in request.query:
            return after
        kept = self._keep(plural, name, after)
        return {**kept, "kind": "Scale", "apiVersion": "autoscaling/v1"} if part == "scale" else kept

    def _keep(self, plural: str, name: str, item: Object) -> Object:
        version, kind = KINDS[plural]
        number = next(self._numbers)
        before = self._objects.get((plural, name), {"metadata": {}})["metadata"]
        metadata = {
            "namespace": "default",
            **item["metadata"],
            "uid": before.get("uid", f"00000000-0000-0000-0000-{number:012}"),
            "creationTimestamp": before.get("creationTimestamp", datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")),
            "generation": number,
            "resourceVersion": str(number),
        }
        kept = {**item, "apiVersion": version, "kind": kind, "metadata": metadata}
        if plural == "deployments":
            pods = kept["spec"].setdefault("replicas", 1)
            ready = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas", "updatedReplicas"), pods)
            kept["status"] = {"observedGeneration": number, **ready, "conditions": []}
        self._objects[plural, name] = kept
        if plural == ROUTES:
            self.writes.append(Written(time.time(), name, shares(kept)))
            self.moved(self.writes[-1])
        return kept


def shares(route: Mapping[str, Any]) -> dict[str, float]:
    """Return the share in % of each backend of the route's first rule."""
    rules = route["spec"].get("rules") or [{}]
    weights = {backend["name"]: backend.get("weight", 1) for backend in rules[0].get("backendRefs") or []}
    whole = sum(weights.values()) or 1
    return {name: 100 * weight / whole for name, weight in weights.items()}


def patched(before: Object, patch: Sequence[Mapping[str, Any]]) -> Object:
    """Return ``before`` after a JSON Patch (RFC 6902) of ``test``, ``add``, ``replace`` and ``remove``.

    :raises Refused: a test fails, or a path is not there.
    """
    after = deepcopy(before)
    for operation in patch:
        *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        try:
            target: Any = after
            for part in parents:
                target = target[_key(target, part)]
            if not _applied(target, last, operation):
                raise Refused(422, "Invalid", f"test failed: {operation}")
        except (LookupError, TypeError, ValueError) as error:
            raise Refused(422, "Invalid", f"no such path: {operation}") from error
    return after


def _applied(target: Any, last: str, operation: Mapping[str, Any]) -> bool:
    """Do one operation; return whether its test holds."""
    match operation["op"]:
        case "test":
            return bool(target[_key(target, last)] == operation["value"])
        case "remove":
            del target[_key(target, last)]
        case "add" if isinstance(target, list):
            target.insert(len(target) if last == "-" else int(last), deepcopy(operation["value"]))
        case "replace" | "add":
            key = _key(target, last)
            if operation["op"] == "replace":
                target[key]  # it must be there
            target[key] = deepcopy(operation["value"])
    return True


def _key(target: Any, part: str) -> Any:
    return int(part) if isinstance(target, list) else part


def merged(before: Any, patch: Any) -> Any:
    """Return ``before`` after a JSON Merge Patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    kept = dict(before) if isinstance(before, dict) else {}
    for key, value in patch.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = merged(kept.get(key), value)
    return kept


def _pods(deployment: Object) -> Iterator[Object]:
    metadata, template = deployment["metadata"], deployment["spec"]["template"]
    for number in range(deployment["spec"]["replicas"]):
        name = f"{metadata['name']}-5d4c9b7f6-{number:05}"
        owner = {"kind": "ReplicaSet", "controller": True, "name": f"{metadata['name']}-5d4c9b7f6", "uid": "0"}
        yield {
            "metadata": {
                "name": name,
                "namespace": metadata["namespace"],
                "uid": name,
                "creationTimestamp": metadata["creationTimestamp"],
                "labels": {**template["metadata"].get("labels", {}), "pod-template-hash": "5d4c9b7f6"},
                "ownerReferences": [{**owner, "apiVersion": "apps/v1"}],
            },
            "spec": template["spec"],
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
        }


def _slice(service: Object, pods: list[Object]) -> Object:
    name, wanted = service["metadata"]["name"], (service["spec"].get("selector") or {}).items()
    chosen = [pod["metadata"] for pod in pods if wanted <= pod["metadata"]["labels"].items()]
    return {
        "metadata": {"name": f"{name}-abcde", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [f"10.0.0.{number}"],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": pod["name"], "uid": pod["uid"]},
            }
            for number, pod in enumerate(chosen, start=1)
        ],
    }


def _selector(text: str) -> dict[str, str | None]:
    """Return the labels that a selector asks for; None for one that must be there only."""
    pairs = (part.partition("=") for part in text.split(",") if part)
    return {key: value if equals else None for key, equals, value in pairs}


def _matches(labels: Mapping[str, str], wanted: Mapping[str, str | None]) -> bool:
    return all(key in labels and value in (None, labels[key]) for key, value in wanted.items())


def _api_list(path: str) -> Object | None:
    """Return the API's own list, as a client asks for it that does not know the kinds."""
    versions = sorted({version for version, _ in KINDS.values()})
    groups = [version.split("/") for version in versions if "/" in version]
    resources = {f"/{'apis' if '/' in version else 'api'}/{version}": version for version in versions}
    if path == "/version":
        return {"major": "1", "minor": "33", "gitVersion": "v1.33.0"}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    if path == "/apis":
        named = [(group, {"groupVersion": f"{group}/{version}", "version": version}) for group, version in groups]
        return {
            "kind": "APIGroupList",
            "groups": [{"name": name, "versions": [one], "preferredVersion": one} for name, one in named],
        }
    if version := resources.get(path):
        verbs = ["create", "delete", "get", "list", "patch"]
        found = [(plural, kind) for plural, (of, kind) in KINDS.items() if of == version]
        return {
            "kind": "APIResourceList",
            "groupVersion": version,
            "resources": [
                {"name": plural, "singularName": "", "namespaced": True, "kind": kind, "verbs": verbs}
                for plural, kind in found
            ],
        }
    return None
