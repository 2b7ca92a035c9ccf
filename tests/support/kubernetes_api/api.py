"""What the server does with a request: discovery, lists and watches, reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from tests.support.kubernetes_api.journal import Request
from tests.support.kubernetes_api.kinds import Kind, Kinds, Object, Target
from tests.support.kubernetes_api.patches import APPLY, patched
from tests.support.kubernetes_api.selectors import selector
from tests.support.kubernetes_api.status import Refusal, invalid, not_found
from tests.support.kubernetes_api.store import Store
from tests.support.kubernetes_api.transport import Answer
from tests.support.kubernetes_api.views import VIEWS
from tests.support.kubernetes_api.watches import Watch
from tests.support.kubernetes_api.writes import Writes, checked

TRUE = ("1", "t", "T", "true", "TRUE", "True")
VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0", "platform": "linux/amd64"}


class Api:
    """The API of a store."""

    def __init__(self, store: Store, kinds: Kinds) -> None:
        self._store, self._kinds = store, kinds

    def answer(self, request: Request) -> Answer:
        """Carry the request out.

        :raises Refusal: it is not accepted.
        """
        if found := self._discovered(request.path.strip("/")):
            return Answer(200, found)
        target = self._kinds.target(request.path)
        key = (request.method, bool(target.name))
        if key not in METHODS or (target.subresource and request.method == "DELETE"):
            raise Refusal(405)
        return METHODS[key](self, target, request)

    def _discovered(self, path: str) -> Object | str | None:
        if path.count("/") > 2:
            return None
        groups = {key: [*kinds] for key, kinds in groupby(sorted(self._kinds, key=_place), key=_place)}
        if path in ("livez", "readyz", "healthz"):
            return "ok"
        if path == "version":
            return VERSION
        if path == "api":
            return {"kind": "APIVersions", "versions": ["v1"]}
        if path == "apis":
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(*key) for key in groups if key[0]]}
        for kinds in groups.values():
            if path == kinds[0].prefix.strip("/"):
                resources = [one for kind in kinds for one in _resources(kind)]
                return {"kind": "APIResourceList", "groupVersion": kinds[0].api_version, "resources": resources}
        return None

    def _get(self, target: Target, request: Request) -> Answer:
        body = self._store.kept(target.kind, target.namespace, target.name or "")
        if body is None:
            raise not_found(target.kind, target.name or "")
        read, _ = VIEWS[target.subresource]
        return Answer(200, read(body))

    def _list(self, target: Target, request: Request) -> Answer:
        query, kind = request.query, target.kind
        selects = selector(query.get("labelSelector", ""), query.get("fieldSelector", ""))
        if query.get("watch") in TRUE:
            seconds = float(query["timeoutSeconds"]) if query.get("timeoutSeconds") else None
            return Answer(200, Watch(self._store, target, selects, query.get("resourceVersion", ""), seconds))
        items = [body for body in self._store.all_kept(kind, target.namespace) if selects(body)]
        if not kind.custom:
            # A list of a built-in kind says once what its items are.
            items = [{key: value for key, value in item.items() if key not in ("kind", "apiVersion")} for item in items]
        head: Object = {"kind": f"{kind.name}List", "apiVersion": kind.api_version}
        return Answer(200, {**head, "metadata": {"resourceVersion": str(self._store.revision)}, "items": items})

    def _create(self, target: Target, request: Request) -> Answer:
        if target.kind.namespaced and not target.namespace:
            raise Refusal(405)
        return Answer(201, self._writes(request).create(target, checked(target, request.body)))

    def _patch(self, target: Target, request: Request) -> Answer:
        if request.content_type == APPLY:
            return self._apply(target, request)

        def change(body: Object) -> Object:
            return patched(target.kind, body, request.content_type, request.body)

        return Answer(200, self._writes(request).update(target, change))

    def _apply(self, target: Target, request: Request) -> Answer:
        if not request.query.get("fieldManager"):
            raise invalid(PATCH_OPTIONS, "", [("fieldManager", "Required value: is required for apply patch")])
        given = checked(target, request.body)
        there = self._store.kept(target.kind, target.namespace, target.name or "")
        force = request.query.get("force") in TRUE
        return Answer(200 if there else 201, self._writes(request).apply(target, given, force=force))

    def _replace(self, target: Target, request: Request) -> Answer:
        given = checked(target, request.body)
        return Answer(200, self._writes(request).update(target, lambda _: given))

    def _delete(self, target: Target, request: Request) -> Answer:
        options = request.body if isinstance(request.body, dict) else {}
        return Answer(200, self._writes(request).delete(target, options))

    def _writes(self, request: Request) -> Writes:
        agent = request.headers.get("User-Agent", "unknown").partition("/")[0]
        return Writes(self._store, request.query.get("fieldManager") or agent, request.dry_run)


METHODS: Mapping[tuple[str, bool], Callable[[Api, Target, Request], Answer]] = {
    ("GET", False): Api._list,
    ("GET", True): Api._get,
    ("POST", False): Api._create,
    ("PATCH", True): Api._patch,
    ("PUT", True): Api._replace,
    ("DELETE", True): Api._delete,
}
"""By method and whether an object is named."""


PATCH_OPTIONS = Kind("meta.k8s.io", "v1", "PatchOptions", "patchoptions")


def _place(kind: Kind) -> tuple[str, str]:
    return kind.group, kind.version


def _group(group: str, version: str) -> Object:
    served = {"groupVersion": f"{group}/{version}", "version": version}
    return {"name": group, "versions": [served], "preferredVersion": served}


def _resources(kind: Kind) -> list[dict[str, Any]]:
    head = {"singularName": kind.name.lower(), "namespaced": kind.namespaced, "kind": kind.name}
    subresources = [{**head, "name": f"{kind.plural}/{sub}", "verbs": VERBS} for sub in kind.subresources]
    return [{**head, "name": kind.plural, "verbs": VERBS}, *subresources]
