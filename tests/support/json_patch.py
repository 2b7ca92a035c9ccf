"""JSON Patch (RFC 6902) as the API server applies it: all or nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jsonpatch
from jsonpointer import JsonPointerException


class PatchRefused(Exception):
    """A test failed, or a path does not exist: nothing was written."""


def apply_patch(document: Mapping[str, Any], patch: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the document after the patch.

    :raises PatchRefused: it cannot be applied.
    """
    try:
        result: dict[str, Any] = jsonpatch.apply_patch(dict(document), list(patch))
    except (jsonpatch.JsonPatchException, JsonPointerException) as error:
        raise PatchRefused(str(error)) from error
    return result
