"""Refusals as an API server words them: a ``Status`` object with a reason, a code and details."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.support.kubernetes_api.kinds import Kind

PATCH_REFUSED = "the server rejected our request due to an error in our request"
MODIFIED = "the object has been modified; please apply your changes to the latest version and try again"
GENERAL: dict[int, tuple[str, str]] = {
    400: ("BadRequest", "the server rejected our request for an unknown reason"),
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden"),
    404: ("NotFound", "the server could not find the requested resource"),
    405: ("MethodNotAllowed", "the server does not allow this method on the requested resource"),
    409: ("Conflict", "the server reported a conflict"),
    410: ("Expired", "The resourceVersion for the provided watch is too old."),
    415: ("UnsupportedMediaType", "the body of the request was in an unknown format"),
    422: ("Invalid", PATCH_REFUSED),
    429: ("TooManyRequests", "Too many requests, please try again later."),
    500: ("InternalError", "Internal error occurred"),
    503: ("ServiceUnavailable", "apiserver is shutting down"),
    504: ("Timeout", "Timeout: request did not complete within the allotted timeout"),
}
"""Reason and message of each code, unless more is known."""


class Refusal(Exception):
    """An answer that is not 2xx. ``text`` replaces the Status if the server says something else."""

    def __init__(
        self,
        code: int,
        reason: str = "",
        message: str = "",
        details: dict[str, Any] | None = None,
        *,
        text: str | None = None,
    ) -> None:
        known = GENERAL.get(code, ("Unknown", "unknown"))
        self.code, self.reason, self.message = code, reason or known[0], message or known[1]
        self.details, self.text = details or {}, text
        super().__init__(f"{code} {self.reason}: {self.message}")

    @property
    def body(self) -> dict[str, Any] | str:
        if self.text is not None:
            return self.text
        details = {"details": self.details} if self.details else {}
        head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message}
        return {**head, "reason": self.reason, **details, "code": self.code}


def page_not_found() -> Refusal:
    """Say that the path is unknown; no object is named."""
    return Refusal(404, text="404 page not found\n")


def details(kind: Kind, name: str, causes: Iterable[dict[str, str]] = ()) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "group": kind.group, "kind": kind.plural, "causes": list(causes)}
    return {key: value for key, value in found.items() if value}


def not_found(kind: Kind, name: str) -> Refusal:
    return Refusal(404, "NotFound", f'{kind.resource} "{name}" not found', details(kind, name))


def already_exists(kind: Kind, name: str) -> Refusal:
    return Refusal(409, "AlreadyExists", f'{kind.resource} "{name}" already exists', details(kind, name))


def conflict(kind: Kind, name: str, why: str = MODIFIED, causes: Iterable[dict[str, str]] = ()) -> Refusal:
    message = f'Operation cannot be fulfilled on {kind.resource} "{name}": {why}'
    return Refusal(409, "Conflict", message, details(kind, name, causes))


def forbidden(kind: Kind, name: str | None, why: str = "") -> Refusal:
    subject = f'{kind.resource} "{name}"' if name else kind.resource
    return Refusal(403, "Forbidden", f"{subject} is forbidden: {why or 'not allowed'}", details(kind, name or ""))


def invalid(kind: Kind, name: str, found: Iterable[tuple[str, str]]) -> Refusal:
    """Refuse an object by its fields: pairs of a field and what is wrong with it."""
    causes = [{"reason": "FieldValueInvalid", "message": why, "field": field} for field, why in found]
    text = ", ".join(f"{cause['field']}: {cause['message']}" for cause in causes)
    resource = f"{kind.name}.{kind.group}" if kind.group else kind.name
    named = {**details(kind, name, causes), "kind": kind.name}
    return Refusal(422, "Invalid", f'{resource} "{name}" is invalid: {text}', named)


def bad_request(why: str) -> Refusal:
    return Refusal(400, "BadRequest", why)


def patch_refused() -> Refusal:
    """Refuse a JSON Patch of which a test failed, or a path is missing. What failed is not said."""
    return Refusal(422, "Invalid", PATCH_REFUSED)
