"""A small reader of JSON Patch (RFC 6902), as far as we write it: all or nothing, as the API server applies it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any


class PatchRefused(Exception):
    """A test failed, or a path does not exist: nothing was written."""


def apply_patch(document: Mapping[str, Any], patch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = copy.deepcopy(dict(document))
    for operation in patch:
        _apply(result, operation)
    return result


def _apply(document: Any, operation: Mapping[str, Any]) -> None:
    *parents, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    target = document
    for part in parents:
        target = target[_existing(target, part)]
    if operation["op"] == "test":
        if target[_existing(target, last)] != operation["value"]:
            raise PatchRefused(f"test failed: {operation}")
    elif operation["op"] == "remove":
        del target[_existing(target, last)]
    elif operation["op"] == "replace":
        target[_existing(target, last)] = copy.deepcopy(operation["value"])
    elif operation["op"] == "add" and last == "-":
        target.append(copy.deepcopy(operation["value"]))
    elif operation["op"] == "add" and isinstance(target, dict):
        target[last] = copy.deepcopy(operation["value"])
    else:
        raise AssertionError(f"not needed so far: {operation}")


def _existing(target: Any, part: str) -> Any:
    key: Any = int(part) if isinstance(target, list) else part
    if not (0 <= key < len(target) if isinstance(target, list) else key in target):
        raise PatchRefused(f"no such path: {part}")
    return key
