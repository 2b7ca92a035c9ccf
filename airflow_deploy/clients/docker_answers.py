"""What Docker answers, its own words and what it passes on of a registry: validated, logged, and told as errors."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from airflow_deploy.domain.errors import DeployError, PermanentError, TemporaryError
from airflow_deploy.domain.values import printable

log = logging.getLogger(__name__)

SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
ABSENT = re.compile(r"(errors:\n)?(manifest unknown|name unknown|unknown: (artifact|repository) \S+ not found)\b")
"""A registry's own error, as Docker passes it on: the code in words, then the text. Harbor has a code of its own."""
LOGGED_LINES = 10_000
"""Lines of one build or push that are logged: a build can print for as long as it runs."""


def sha256(value: Any, doing: str) -> str:
    """Return a digest or an id that is one: it becomes a part of names."""
    if not isinstance(value, str) or not SHA256.fullmatch(value):
        raise TemporaryError(f"{doing}: Docker answers {printable(repr(value))} in place of a SHA-256")
    return value


def follow(
    stream: Iterator[Mapping[str, Any]],
    text_of: Callable[[Mapping[str, Any]], str | None],
    doing: str,
    failure: Callable[[str], DeployError],
) -> None:
    """Read a stream of Docker's to its end: log its lines by ``text_of``, and raise its error by ``failure``."""
    logged = 0
    for line in stream:
        if "error" in line:
            raise failure(printable(str(line["error"]), 500))
        if logged <= LOGGED_LINES and (text := (text_of(line) or "").strip()):
            logged += 1
            log.info("%s", printable(text, 300) if logged <= LOGGED_LINES else f"{doing}: no more lines are logged")


@contextmanager
def docker_errors(doing: str) -> Iterator[None]:
    """Raise what the Docker client raises, and what it trips over, as an error of ours that begins with ``doing``."""
    from airflow.sdk.exceptions import AirflowException
    from docker.errors import APIError, DockerException
    from requests import RequestException

    try:
        yield
    except APIError as error:
        kind = PermanentError if error.is_client_error() else TemporaryError
        raise kind(f"{doing}: {printable(str(error), 300)}") from error
    except re.error as error:
        raise PermanentError(f"{doing}: .dockerignore has an invalid pattern ({error}); correct it") from error
    except (DockerException, RequestException, OSError, AirflowException) as error:
        raise TemporaryError(f"{doing}: Docker does not answer ({printable(str(error), 200)})") from error
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise TemporaryError(f"{doing}: Docker's answer is not one ({printable(str(error), 200)})") from error
