"""Creates, updates and deletes, with the checks that come before them. Nothing is written by a dry run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.support.kubernetes_api import validation
from tests.support.kubernetes_api.copies import copied
from tests.support.kubernetes_api.kinds import Kind, Object, Target
from tests.support.kubernetes_api.managers import Writer, applied, updated
from tests.support.kubernetes_api.status import (
    Refusal,
    already_exists,
    bad_request,
    conflict,
    details,
    forbidden,
    invalid,
    not_found,
)
from tests.support.kubernetes_api.store import Store
from tests.support.kubernetes_api.views import VIEWS

SERVERS_OWN = ("name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp", "resourceVersion")
"""The metadata that no update changes."""
TIMES = ("creationTimestamp", "deletionTimestamp")
"""Of these, those that a test may set."""
DEFAULTS: dict[str, Object] = {"Deployment": {"replicas": 1}, "HorizontalPodAutoscaler": {"minReplicas": 1}}
"""Of each kind's spec."""


@dataclass(frozen=True)
class Writes:
    """Writes to a store by one manager.

    :param dry: check everything, and write nothing.
    """

    store: Store
    manager: str
    dry: bool = False

    def create(self, target: Target, body: Object) -> Object:
        """Make an object as it is given; it has no status yet."""
        kind, metadata = target.kind, body["metadata"]
        if metadata.get("resourceVersion"):
            raise Refusal(500, message="resourceVersion should not be set on objects to be created")
        if "name" not in metadata and metadata.get("generateName"):
            metadata["name"] = f"{metadata['generateName']}{self.store.revision:05d}"
        if not metadata.get("name"):
            raise invalid(kind, "", [("metadata.name", "Required value: name or generateName is required")])
        if self.store.get(kind, target.namespace, metadata["name"]):
            raise already_exists(kind, metadata["name"])
        if kind.has_status:
            body = {key: value for key, value in body.items() if key != "status"}
        return self._created(kind, body)

    def put(self, kind: Kind, body: Object) -> Object:
        """Make an object with all that is given, its status, managers and creation included."""
        given = body["metadata"]
        made = self.store.fresh(kind, _defaulted(kind, body))
        made["metadata"] |= {key: given[key] for key in ("uid", "creationTimestamp", "generation") if key in given}
        made["metadata"].setdefault("managedFields", updated(kind, None, made, self._writer()))
        return self.store.write(kind, made)

    def edit(self, target: Target, change: Callable[[Object], Object]) -> Object:
        """Write all of the object in one, its status and times included."""
        kind, name = target.kind, target.name or ""
        old = self.store.get(kind, target.namespace, name)
        if old is None:
            raise not_found(kind, name)
        changed = change(copied(old))
        times = {key: changed["metadata"][key] for key in TIMES if key in changed["metadata"]}
        new = _identified(kind, old, changed)
        new["metadata"] |= times
        new["metadata"]["managedFields"] = updated(kind, old, new, self._writer())
        return self._kept(kind, old, new)

    def _created(self, kind: Kind, body: Object, managers: list[Object] | None = None) -> Object:
        made = self.store.fresh(kind, _defaulted(kind, body))
        validation.check(kind, made)
        made["metadata"]["managedFields"] = managers or updated(kind, None, made, self._writer())
        return made if self.dry else self.store.write(kind, made)

    def update(self, target: Target, change: Callable[[Object], Object]) -> Object:
        """Write what ``change`` makes of the object, or of its subresource; what is the same is not written."""
        kind, name = target.kind, target.name or ""
        old = self.store.get(kind, target.namespace, name)
        if old is None:
            raise not_found(kind, name)
        read, write = VIEWS[target.subresource]
        view = read(old)
        changed = change(copied(view))
        _check_fence(kind, old, changed["metadata"])
        new = _identified(kind, old, write(kind, old, changed))
        new["metadata"]["managedFields"] = updated(kind, old, new, self._writer(target.subresource))
        return read(self._kept(kind, old, new))

    def apply(self, target: Target, given: Object, *, force: bool) -> Object:
        """Apply the object on the server's side; it is made if it is not there."""
        kind, name = target.kind, target.name or ""
        old = self.store.get(kind, target.namespace, name)
        if target.subresource == "scale":
            raise Refusal(415, message="apply is not supported for scale by this server")
        if target.subresource is None and kind.has_status:
            given = {key: value for key, value in given.items() if key != "status"}
        new = applied(kind, old, given, self._writer(target.subresource), force=force)
        if old is None:
            if given["metadata"].get("uid") or given["metadata"].get("resourceVersion"):
                raise conflict(kind, name)
            return self._created(kind, new, new["metadata"]["managedFields"])
        _check_fence(kind, old, given["metadata"])
        return self._kept(kind, old, _identified(kind, old, new))

    def delete(self, target: Target, options: Object) -> Object:
        """Delete the object, or mark it as deleted until its finalizers are gone."""
        kind, name = target.kind, target.name or ""
        if (old := self.store.get(kind, target.namespace, name)) is None:
            raise not_found(kind, name)
        metadata = old["metadata"]
        for key, said in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
            wanted = (options.get("preconditions") or {}).get(key)
            if wanted not in (None, metadata[key]):
                why = f"the {said} in the precondition ({wanted}) does not match the {said} in record ({metadata[key]})"
                raise conflict(kind, name, f"{why}. The object might have been deleted and then recreated")
        if metadata.get("finalizers"):
            ends = {"deletionTimestamp": self.store.now(), "deletionGracePeriodSeconds": 0}
            return self._kept(kind, old, {**old, "metadata": {**ends, **metadata}})
        if not self.dry:
            self.store.remove(kind, target.namespace, name)
        success: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}
        return {**success, "details": {**details(kind, name), "uid": metadata["uid"]}}

    def _kept(self, kind: Kind, old: Object, new: Object) -> Object:
        """Check the object and, if it is not the same, write it."""
        validation.check(kind, new)
        if _same(old, new):
            return old
        if kind.has_generation and old.get("spec") != new.get("spec"):
            generation = old["metadata"]["generation"] + 1
            new = {**new, "metadata": {**new["metadata"], "generation": generation}}
        return new if self.dry else self.store.write(kind, new)

    def _writer(self, subresource: str | None = None) -> Writer:
        return Writer(self.manager, self.store.now(), subresource)


def checked(target: Target, body: Any) -> Object:
    """Return a body that belongs to the path.

    :raises Refusal: it is about something else.
    """
    kind = target.kind
    if not isinstance(body, dict) or not isinstance(body.get("metadata", {}), dict):
        raise bad_request("the request's body is no object")
    if kind.custom and not (body.get("kind") and body.get("apiVersion")):
        raise bad_request("Object 'Kind' is missing")
    given: Object = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {}, **body}
    if target.subresource != "scale" and (given["apiVersion"], given["kind"]) != (kind.api_version, kind.name):
        found = f"{given['kind']} ({given['apiVersion']})"
        raise bad_request(f"{found} does not match the expected {kind.name} ({kind.api_version})")
    metadata = given["metadata"] = copied(given["metadata"])
    if target.namespace and metadata.setdefault("namespace", target.namespace) != target.namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if target.name and metadata.setdefault("name", target.name) != target.name:
        said = f"({metadata['name']}) does not match the name on the URL ({target.name})"
        raise bad_request(f"the name of the object {said}")
    return given


def _defaulted(kind: Kind, body: Object) -> Object:
    if kind.name not in DEFAULTS:
        return copied(body)
    return copied({**body, "spec": {**DEFAULTS[kind.name], **(body.get("spec") or {})}})


def _check_fence(kind: Kind, old: Object, given: Object) -> None:
    """Refuse a write of what was read before another client's write."""
    for key in ("resourceVersion", "uid"):
        if given.get(key) not in (None, "", old["metadata"][key]):
            raise conflict(kind, old["metadata"]["name"])


def _identified(kind: Kind, old: Object, new: Object) -> Object:
    """Return the object with its identity: an update changes neither that nor what only the server sets."""
    before, metadata = old["metadata"], new["metadata"]
    for key in ("name", "namespace"):
        if metadata.get(key, before.get(key)) != before.get(key):
            raise invalid(kind, before["name"], [(f"metadata.{key}", "Invalid value: field is immutable")])
    added = set(metadata.get("finalizers") or []) - set(before.get("finalizers") or [])
    if added and before.get("deletionTimestamp"):
        why = f"no new finalizers can be added if the object is being deleted, found {sorted(added)}"
        raise forbidden(kind, before["name"], why)
    kept = {key: before[key] for key in SERVERS_OWN if key in before}
    metadata.setdefault("managedFields", before.get("managedFields", []))
    others = {key: value for key, value in metadata.items() if key not in SERVERS_OWN}
    head = {"apiVersion": old["apiVersion"], "kind": old["kind"]}
    return _defaulted(kind, {**new, **head, "metadata": {**others, **kept}})


def _same(old: Object, new: Object) -> bool:
    """Whether nothing but times of managers has changed."""

    def bare(body: Object) -> Object:
        managers = [{**entry, "time": ""} for entry in body["metadata"].get("managedFields") or []]
        return {**body, "metadata": {**body["metadata"], "managedFields": managers}}

    return bare(old) == bare(new)
