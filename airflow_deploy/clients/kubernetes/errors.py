"""What a cluster answers, or does not answer, as errors of ours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_deploy.domain.errors import DeployError, PermanentError, RefusedError, TemporaryError
from airflow_deploy.domain.routing.record import ANNOTATION_ERRORS
from airflow_deploy.domain.values import printable

if TYPE_CHECKING:
    from kubernetes.client import ApiException

Timeout = tuple[float, float]

REQUEST_TIMEOUT: Timeout = (3.0, 10.0)
"""Seconds to connect and to wait for an answer."""
PROMPT_TIMEOUT: Timeout = (1.0, 3.0)
"""The same, for what comes again by itself: a look, the Lease's renewal, the brake.

What is never answered must not cost so much time that the Lease runs out, or that users are harmed meanwhile.
"""
QUICK_TIMEOUT: Timeout = (1.0, 1.0)
"""The same, for a question whose answer is not worth a longer wait."""


class ignore_not_found:
    """Lets be what the cluster does not have (404): there is nothing to do to it, or to return."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        """Keep that error from whoever asked, and no other."""
        from kubernetes.client import ApiException

        return isinstance(error, ApiException) and error.status == 404


def exists_already(error: ApiException) -> bool:
    """Whether nothing was made because it is there. A quota that is written by two at once answers 409 as well."""
    try:
        return bool(error.status == 409 and json.loads(error.body)["reason"] == "AlreadyExists")
    except ANNOTATION_ERRORS:
        return False


@contextmanager
def errors(doing: str, invalid: type[DeployError] = PermanentError) -> Iterator[None]:
    """Turn the client's errors into ours.

    :param invalid: what a 422 means here: a failed ``test`` of a patch, or an object that is not accepted.
    """
    from kubernetes.client import ApiException
    from kubernetes.config import ConfigException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        text = f"{doing}: the cluster answers {error.status} {printable(str(error.body or error.reason), 500)}"
        if error.status == 422:
            raise invalid(text) from error
        if error.status == 400:
            raise PermanentError(text) from error
        if error.status in (401, 403, 404, 405):
            raise RefusedError(text) from error
        raise TemporaryError(text) from error
    except (HTTPError, OSError) as error:
        why = str(getattr(error, "reason", None) or error)
        raise TemporaryError(f"{doing}: the cluster does not answer ({printable(why, 200)})") from error
    except AttributeError as error:
        # Where TLS fails, the client stumbles over the answer that it does not have.
        if not isinstance(failed := error.__context__, ApiException):
            raise
        raise TemporaryError(f"{doing}: the cluster does not answer ({printable(str(failed.reason), 200)})") from error
    except ConfigException as error:
        raise RefusedError(
            f"{doing}: the Kubernetes connection is not usable ({printable(str(error), 200)})"
        ) from error
