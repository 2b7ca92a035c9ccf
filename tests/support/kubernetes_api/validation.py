"""The limits of names, labels and annotations that an API server checks."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.support.kubernetes_api.kinds import Kind, Object
from tests.support.kubernetes_api.status import bad_request, invalid

_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
_KEY = re.compile(r"([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
ANNOTATIONS = 256 * 1024
"""Bytes that all annotations of an object may have."""


def check(kind: Kind, body: Object) -> None:
    """Check what every kind has in common.

    :raises Refusal: something is not permitted.
    """
    metadata = body["metadata"]
    template = ((body.get("spec") or {}).get("template") or {}).get("metadata") or {}
    for at, owner in (("metadata", metadata), ("spec.template.metadata", template)):
        for field in ("labels", "annotations"):
            values = owner.get(field) or {}
            if wrong := [value for value in values.values() if not isinstance(value, str)]:
                raise bad_request(f"json: cannot unmarshal {wrong[0]!r} into {at}.{field} of type string")
    found = [*_names(kind, metadata), *_labels("metadata", metadata), *_labels("spec.template", template)]
    if found:
        raise invalid(kind, metadata.get("name", ""), found)


def _names(kind: Kind, metadata: Object) -> Iterator[tuple[str, str]]:
    pattern = _SERVICE_NAME if kind.name == "Service" else _NAME
    if not pattern.fullmatch(metadata["name"]):
        yield "metadata.name", f"Invalid value: {metadata['name']!r}: a lowercase RFC 1123 name is needed"
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        if not _KEY.fullmatch(key):
            yield "metadata.annotations", f"Invalid value: {key!r}: a qualified name is needed"
    if sum(len(key) + len(value.encode()) for key, value in annotations.items()) > ANNOTATIONS:
        yield "metadata.annotations", f"Too long: may not be more than {ANNOTATIONS} bytes"


def _labels(at: str, metadata: Object) -> Iterator[tuple[str, str]]:
    for key, value in (metadata.get("labels") or {}).items():
        if not _KEY.fullmatch(key):
            yield f"{at}.labels", f"Invalid value: {key!r}: a qualified name is needed"
        if not _LABEL_VALUE.fullmatch(value):
            yield f"{at}.labels", f"Invalid value: {value!r}: a label of at most 63 characters is needed"
