"""The subresources: how each is read of an object, and written to it."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.kubernetes_api.kinds import Kind, Object
from tests.support.kubernetes_api.status import invalid


def _whole(kind: Kind, old: Object, new: Object) -> Object:
    if not kind.has_status:
        return new
    status = {"status": old["status"]} if "status" in old else {}
    return {**{key: value for key, value in new.items() if key != "status"}, **status}


def _with_status(kind: Kind, old: Object, new: Object) -> Object:
    return {**old, "status": new.get("status") or {}}


def _scale(body: Object) -> Object:
    metadata = body["metadata"]
    keys = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    labels = ((body.get("spec") or {}).get("selector") or {}).get("matchLabels") or {}
    status = {"replicas": (body.get("status") or {}).get("replicas", 0)}
    if labels:
        status["selector"] = ",".join(f"{key}={labels[key]}" for key in sorted(labels))
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {key: metadata[key] for key in keys if key in metadata},
        "spec": {"replicas": body["spec"].get("replicas", 0)},
        "status": status,
    }


def _with_scale(kind: Kind, old: Object, new: Object) -> Object:
    replicas = (new.get("spec") or {}).get("replicas", 0)
    if not isinstance(replicas, int) or replicas < 0:
        raise invalid(kind, old["metadata"]["name"], [("spec.replicas", f"Invalid value: {replicas!r}")])
    return {**old, "spec": {**old["spec"], "replicas": replicas}}


def _as_it_is(body: Object) -> Object:
    return body


Read = Callable[[Object], Object]
Write = Callable[[Kind, Object, Object], Object]

VIEWS: dict[str | None, tuple[Read, Write]] = {
    None: (_as_it_is, _whole),
    "status": (_as_it_is, _with_status),
    "scale": (_scale, _with_scale),
}
"""By subresource, how it is read of an object, and how it is written to it."""
