"""Who manages which field: ``managedFields``, and server-side apply, which goes by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.support.kubernetes_api.kinds import Kind, Object
from tests.support.kubernetes_api.status import bad_request, conflict
from tests.support.kubernetes_api.trees import Path, grow, harvest, leaves, merge, plant, prune

TRACKED = ("labels", "annotations", "finalizers", "ownerReferences")
"""The metadata that has managers."""


@dataclass(frozen=True)
class Writer:
    """Who writes, and when."""

    manager: str
    at: str
    subresource: str | None = None


def fields(kind: Kind, body: Object) -> dict[Path, Any]:
    """Return the value of each field that has managers."""
    content = {key: value for key, value in body.items() if key not in ("apiVersion", "kind", "metadata")}
    metadata = {key: value for key, value in body["metadata"].items() if key in TRACKED}
    tree = plant({**content, **({"metadata": metadata} if metadata else {})}, keyed=not kind.custom)
    return dict(leaves(tree))


def updated(kind: Kind, old: Object | None, new: Object, writer: Writer) -> list[Object]:
    """Return the managers after an update: what has changed is the writer's alone."""
    before, after = fields(kind, old) if old else {}, fields(kind, new)
    changed = {path for path, value in after.items() if path not in before or before[path] != value}
    entries = _entries(new)
    lost = changed | (before.keys() - after.keys())
    for entry in entries.values():
        entry["paths"] = {path for path in entry["paths"] if not any(path[: len(one)] == one for one in lost)}
    mine = _entry(entries, kind, writer, "Update")
    mine["paths"] |= changed
    if changed:
        mine["time"] = writer.at
    return _dumped(entries)


def applied(kind: Kind, live: Object | None, given: Object, writer: Writer, *, force: bool) -> Object:
    """Return the object after ``given`` was applied to it.

    :raises Refusal: another manager has set a field otherwise, and it is not forced.
    """
    name = given["metadata"]["name"]
    if given["metadata"].get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    live = live or {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {}}
    wanted, there = fields(kind, given), fields(kind, live)
    entries = _entries(live)
    mine = _entry(entries, kind, writer, "Apply")
    others = [entry for entry in entries.values() if entry is not mine]
    taken = {path for path, value in wanted.items() if path in there and there[path] != value}
    if not force:
        _check_conflicts(kind, name, taken, others)
    for entry in others:
        entry["paths"] -= taken
    kept: set[Path] = set().union(*(entry["paths"] for entry in others))
    dropped = mine["paths"] - wanted.keys() - kept
    tree = merge(plant(live, keyed=not kind.custom), plant(given, keyed=not kind.custom))
    prune(tree, dropped)
    result: Object = harvest(tree)
    if mine["paths"] != set(wanted) or taken:
        mine["time"] = writer.at
    mine["paths"] = set(wanted)
    result["metadata"]["managedFields"] = _dumped(entries)
    return result


def _check_conflicts(kind: Kind, name: str, taken: set[Path], others: list[Object]) -> None:
    found = [(entry, sorted(entry["paths"] & taken)) for entry in others]
    causes = [
        {
            "reason": "FieldManagerConflict",
            "message": f'conflict with "{entry["manager"]}" using {entry["apiVersion"]}',
            "field": "." + ".".join(part[2:] for part in path),
        }
        for entry, paths in found
        for path in paths
    ]
    if causes:
        number = f"{len(causes)} conflict{'s' if len(causes) > 1 else ''}"
        said = ", ".join(f"{cause['message']}: {cause['field']}" for cause in causes)
        refusal = conflict(kind, name, causes=causes)
        refusal.message = f"Apply failed with {number}: {said}"
        raise refusal


Entries = dict[tuple[str, str, str | None], Object]


def _entries(body: Object) -> Entries:
    return {
        (entry.get("manager", ""), entry.get("operation", "Update"), entry.get("subresource")): {
            **entry,
            "paths": {path for path, _ in leaves(entry.get("fieldsV1") or {}) if path},
        }
        for entry in body["metadata"].get("managedFields") or []
    }


def _entry(entries: Entries, kind: Kind, writer: Writer, operation: str) -> Object:
    head: Object = {"manager": writer.manager, "operation": operation, "apiVersion": kind.api_version}
    head |= {"time": writer.at, "fieldsType": "FieldsV1", "paths": set()}
    if writer.subresource:
        head["subresource"] = writer.subresource
    return entries.setdefault((writer.manager, operation, writer.subresource), head)


def _dumped(entries: Entries) -> list[Object]:
    return [
        {**{key: value for key, value in entry.items() if key != "paths"}, "fieldsV1": grow(entry["paths"])}
        for entry in entries.values()
        if entry["paths"]
    ]
