"""Copies of objects: they are JSON, which is copied several times faster than ``copy.deepcopy`` does it."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


def copied(value: T) -> T:
    """Return a copy of a JSON value that shares no map and no list with it."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}  # type: ignore[return-value]
    if isinstance(value, list):
        return [copied(item) for item in value]  # type: ignore[return-value]
    return value
