"""Objects as trees of fields, the way server-side apply sees them: maps and keyed lists merge, the rest is atomic.

A node is keyed by ``f:name`` of a map, or by ``k:{"name":"app"}`` of a keyed list, as ``fieldsV1`` is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from tests.support.kubernetes_api.copies import copied

Path = tuple[str, ...]
Tree = dict[str, Any]

LIST_KEYS: Mapping[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "ownerReferences": ("uid",),
    "conditions": ("type",),
    "ports": ("containerPort", "port", "protocol"),
}
"""By which fields the items of a list are told apart; those that an item lacks are left out."""
ATOMIC = frozenset({"selector", "podSelector", "namespaceSelector", "nodeSelector", "scaleTargetRef", "targetRef"})
"""Maps that are replaced as a whole."""


class Atom(NamedTuple):
    """A value without fields of its own."""

    value: Any


def plant(value: Any, field: str = "", *, keyed: bool = True) -> Any:
    """Return the tree of a value; lists of kinds from CRDs (not ``keyed``) are atomic."""
    if isinstance(value, dict) and field not in ATOMIC:
        return {f"f:{key}": plant(item, key, keyed=keyed) for key, item in value.items()}
    if keyed and isinstance(value, list) and value and (keys := [_key(item, field) for item in value]) and all(keys):
        return {str(key): plant(item, keyed=keyed) for key, item in zip(keys, value, strict=True)}
    return Atom(copied(value))


def _key(item: Any, field: str) -> str | None:
    names = [name for name in LIST_KEYS.get(field, ()) if isinstance(item, dict) and name in item]
    found = {name: item[name] for name in names}
    if field == "ports" and names:
        found.setdefault("protocol", "TCP")
    return "k:" + json.dumps(found, separators=(",", ":")) if found else None


def harvest(tree: Any) -> Any:
    """Return the value of a tree."""
    if isinstance(tree, Atom):
        return copied(tree.value)
    if tree and all(key.startswith("k:") for key in tree):
        return [harvest(item) for item in tree.values()]
    return {key[2:]: harvest(item) for key, item in tree.items()}


def merge(under: Any, over: Any) -> Any:
    """Return ``under`` with the fields of ``over``."""
    if isinstance(under, Atom) or isinstance(over, Atom):
        return over
    both = {key: merge(under[key], item) if key in under else item for key, item in over.items()}
    return {**under, **both}


def without_nulls(tree: Any) -> Any:
    """Drop what a strategic merge patch has set to null."""
    if isinstance(tree, Atom):
        return tree
    return {key: without_nulls(item) for key, item in tree.items() if item != Atom(None)}


def leaves(tree: Any, at: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the path and the value of each field that has no fields of its own."""
    if isinstance(tree, dict) and tree:
        for key, item in tree.items():
            yield from leaves(item, (*at, key))
    else:
        yield at, tree


def prune(tree: Tree, paths: Iterable[Path]) -> None:
    """Remove these fields, and the maps and lists that are empty by that."""
    for path in paths:
        nodes = [tree]
        for key in path[:-1]:
            child = nodes[-1].get(key)
            if not isinstance(child, dict):
                break
            nodes.append(child)
        else:
            for node, key in zip(reversed(nodes), reversed(path), strict=True):
                if node is nodes[-1] or node.get(key) == {}:
                    node.pop(key, None)


def grow(paths: Iterable[Path]) -> Tree:
    """Return ``fieldsV1`` of these paths."""
    root: Tree = {}
    for path in sorted(paths):
        node = root
        for key in path:
            node = node.setdefault(key, {})
    return root
