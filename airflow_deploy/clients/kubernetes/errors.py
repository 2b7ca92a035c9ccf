"""What the API server answers, or does not answer, as typed errors.

    DeployError
    ├── PermanentError
    │   ├── NotFoundError       404, and the server names the object
    │   └── InvalidError        400, 405, 422: the object or the request is not accepted
    └── TemporaryError
        ├── ConflictError       409, or a patch's test failed: another client wrote first
        │   ├── AlreadyExistsError
        │   └── PatchTestError
        ├── ForbiddenError      401, 403
        └── UnavailableError    no answer, 429, 5xx, or a 404 that names no object

An API server that restarts answers 401, 403 and a bare 404 to every request for a second. So these are temporary, and
an object is gone only if the server names it. ``plan`` alone, before anything is written, treats them as refusals.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_deploy.domain.errors import DeployError, PermanentError, RefusedError, TemporaryError
from airflow_deploy.domain.values import printable

if TYPE_CHECKING:
    from kubernetes.client import ApiException

Timeout = tuple[float, float]

REQUEST_TIMEOUT: Timeout = (3.0, 10.0)
"""Seconds to connect and to wait for an answer."""
PROMPT_TIMEOUT: Timeout = (1.0, 3.0)
"""The same, for requests that repeat by themselves: a look, the Lease's renewal, the brake.

A server that hangs must not cost so much time that the Lease expires or more users are harmed.
"""
QUICK_TIMEOUT: Timeout = (1.0, 1.0)
"""The same, for a question whose answer is not worth a longer wait."""


class NotFoundError(PermanentError):
    """The server says that this object does not exist. ``name`` is the object's."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name = name


class InvalidError(PermanentError):
    """The server does not accept the object or the request."""


class ConflictError(TemporaryError):
    """Another client wrote the object first; read it again."""


class AlreadyExistsError(ConflictError):
    """An object of that name exists. A quota that two clients write at once answers 409 as well, and is not this."""


class PatchTestError(ConflictError):
    """A test of a JSON Patch failed: the object is not as the patch expects it."""


class ForbiddenError(TemporaryError):
    """The credentials are not accepted, or lack a right."""


class UnavailableError(TemporaryError):
    """The server does not answer, fails, is starting, or does not serve this API."""


class UnknownApiError(UnavailableError):
    """A 404 that names no object: the server does not serve this kind, or not yet."""


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the client library's errors into ours.

    :param doing: what was tried, for the sentence: ``reading HTTPRoute shop/payments``.
    """
    from kubernetes.client import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        raise _translate(doing, error) from error
    except (HTTPError, OSError) as error:
        why = str(getattr(error, "reason", None) or error)
        raise UnavailableError(f"{doing}: the API server does not answer ({printable(why, 200)})") from error
    except AttributeError as error:
        # If TLS fails, the library stumbles over the answer that it does not have.
        if not isinstance(failed := error.__context__, ApiException):
            raise
        why = printable(str(failed.reason), 200)
        raise UnavailableError(f"{doing}: the API server does not answer ({why})") from error


NOT_ACCEPTED = (ForbiddenError, InvalidError, NotFoundError, UnknownApiError)
"""Answers that mean no, from a server that is not just starting."""


@contextmanager
def refusing(namespace: str) -> Iterator[None]:
    """Turn a server's no into a refusal. For ``plan`` alone: nothing is written yet, so the run may end at once.

    :raises RefusedError: the server said no.
    """
    try:
        yield
    except NOT_ACCEPTED as error:
        raise RefusedError(
            f"{error}; apply what `airflow-deploy rbac {namespace}` prints, and check the Kubernetes connection and"
            " that the cluster has the Gateway API"
        ) from error


@contextmanager
def usable_connection(connection: str) -> Iterator[None]:
    """Turn a kubeconfig that cannot be used into a refusal."""
    from kubernetes.config import ConfigException

    try:
        yield
    except ConfigException as error:
        raise RefusedError(
            f"the Kubernetes connection {connection} is not usable ({printable(str(error), 200)}); correct it"
        ) from error


def _translate(doing: str, error: ApiException) -> DeployError:
    status = _status(error)
    details = status.get("details")
    details = details if isinstance(details, dict) else {}
    said = status.get("message") or error.body or error.reason
    text = f"{doing}: HTTP {error.status} {printable(str(said), 500)}"
    if error.status == 404:
        name = details.get("name")
        if status.get("reason") == "NotFound" and isinstance(name, str) and name:
            return NotFoundError(text, name)
        return UnknownApiError(text)
    if error.status == 409:
        return (AlreadyExistsError if status.get("reason") == "AlreadyExists" else ConflictError)(text)
    if error.status == 422:
        # A patch whose test failed has no causes; an object that is not accepted names each field in them.
        return InvalidError(text) if details.get("causes") else PatchTestError(text)
    if error.status in (401, 403):
        return ForbiddenError(text)
    return InvalidError(text) if error.status in (400, 405, 413, 415) else UnavailableError(text)


def _status(error: ApiException) -> Mapping[str, Any]:
    """Return the ``Status`` object in the answer; empty if it has none: a proxy, or a server that is starting."""
    try:
        status = json.loads(error.body)
    except (ValueError, TypeError, RecursionError):
        return {}
    return status if isinstance(status, dict) else {}
