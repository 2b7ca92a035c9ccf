"""What the patches of each content type do to an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jsonpatch
from jsonpointer import JsonPointerException

from tests.support.kubernetes_api.copies import copied
from tests.support.kubernetes_api.kinds import Kind, Object
from tests.support.kubernetes_api.status import Refusal, bad_request, patch_refused
from tests.support.kubernetes_api.trees import harvest, merge, plant, without_nulls

APPLY = "application/apply-patch+yaml"
JSON, MERGE, STRATEGIC = (f"application/{name}+json" for name in ("json-patch", "merge-patch", "strategic-merge-patch"))


def _json_patch(body: Object, patch: Any) -> Any:
    if not isinstance(patch, list):
        raise bad_request("error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch")
    try:
        return jsonpatch.apply_patch(body, patch)
    except jsonpatch.InvalidJsonPatch as error:
        raise bad_request(f"error decoding patch: {error}") from error
    except (jsonpatch.JsonPatchException, JsonPointerException, KeyError, TypeError) as error:
        raise patch_refused() from error


def _merge_patch(body: Object, patch: Any) -> Any:
    return merged(body, patch)


def _strategic(body: Object, patch: Any) -> Any:
    return harvest(without_nulls(merge(plant(body), plant(patch))))


APPLIED: Mapping[str, Callable[[Object, Any], Any]] = {
    JSON: _json_patch,
    MERGE: _merge_patch,
    STRATEGIC: _strategic,
}


def patched(kind: Kind, body: Object, content_type: str, patch: Any) -> Object:
    """Return the object after the patch.

    :raises Refusal: it cannot be applied, or is of a type that the kind does not take.
    """
    types = [one for one in (JSON, MERGE, STRATEGIC) if one != STRATEGIC or not kind.custom]
    if content_type not in types:
        accepted = ", ".join([*types, APPLY])
        why = f"the body of the request was in an unknown format - accepted media types include: {accepted}"
        raise Refusal(415, "UnsupportedMediaType", why)
    if content_type != JSON and not isinstance(patch, dict):
        raise bad_request("error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}")
    result = APPLIED[content_type](copied(body), copied(patch))
    if not isinstance(result, dict) or not isinstance(result.get("metadata"), dict):
        raise bad_request("the patch leaves no object")
    return result


def merged(value: Any, patch: Any) -> Any:
    """Return the value after a JSON merge patch (RFC 7386)."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, item in patch.items():
        if item is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), item)
    return result
