"""The place of a route, and names read from a cluster, which are input: they are validated before use."""

import re
from typing import Any, NamedTuple, NewType

from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.values import printable

ObjectName = NewType("ObjectName", str)
"""A name that a Kubernetes object can have: an RFC 1123 subdomain. It is safe as one segment of a path."""

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
OBJECT_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")
OBJECT_NAME_MAX = 253


class Place(NamedTuple):
    """Which object divides a service's traffic: its namespace, its name and the router that it belongs to."""

    namespace: str
    name: str
    router: str


def object_name(text: Any, source: str) -> ObjectName:
    """Return a name that was read from an annotation or a Lease, validated: it is input.

    :param source: what it was read from, for the error.
    :raises FencedError: no object can have that name.
    """
    if isinstance(text, str) and len(text) <= OBJECT_NAME_MAX and OBJECT_NAME.fullmatch(text):
        return ObjectName(text)
    raise FencedError(f"{source}: {printable(repr(text))} is not the name of a Kubernetes object")


def epoch_of(owner: str | None) -> int:
    """Return the epoch in ``<DEP-id>/<epoch>``; 0 if the text has none."""
    tail = (owner or "").rpartition("/")[2]
    return int(tail) if re.fullmatch("[0-9]{1,18}", tail) else 0
