"""Docker: build an image, push it once, and name it by digest ever after."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import conf

from airflow_deploy.domain.errors import DeployError, PermanentError, TemporaryError
from airflow_deploy.domain.values import printable

if TYPE_CHECKING:
    from docker import APIClient

log = logging.getLogger(__name__)


class Images:
    """The Docker daemon of ``[airflow_deploy] docker_url``, logged in to the registry by an Airflow connection."""

    def __init__(self, connection: str) -> None:
        from airflow.providers.docker.hooks.docker import DockerHook
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        url = conf.get("airflow_deploy", "docker_url", fallback="unix:///var/run/docker.sock")
        try:
            login = BaseHook.get_connection(connection).login
        except AirflowNotFoundException:
            login = None  # a registry that asks for no login needs no connection
        with _errors("connecting to Docker"):
            self._docker: APIClient = DockerHook(docker_conn_id=connection if login else None, base_url=url).get_conn()

    def digest(self, tag: str) -> str | None:
        """Return the digest that the registry has for ``tag``; None where it has none."""
        from docker.errors import APIError, NotFound

        with _errors(f"asking the registry for {tag}"):
            try:
                return str(self._docker.inspect_distribution(tag)["Descriptor"]["digest"])  # type: ignore[no-untyped-call]
            except NotFound:
                return None
            except APIError as error:
                # Docker passes on a registry's "manifest unknown" as 404, 403 or 500, by version.
                if re.search(r"manifest unknown|name unknown|not found", str(error), re.IGNORECASE):
                    return None
                raise

    def build(self, context: Path, dockerfile: str, tag: str, labels: dict[str, str], args: dict[str, str]) -> None:
        """Build ``context`` as ``tag``, each of Docker's lines logged as it comes."""
        with _errors(f"building {tag}"):
            stream = self._docker.build(
                path=str(context), dockerfile=dockerfile, tag=tag, labels=labels, buildargs=args, rm=True, forcerm=True,
                decode=True,
            )  # fmt: skip
            _follow(stream, lambda line: line.get("stream"), f"building {tag}", PermanentError)

    def push(self, tag: str) -> str:
        """Push ``tag`` and return its digest, ``sha256:…``."""
        name, _, version = tag.rpartition(":")
        found: list[str] = []

        def read(line: Mapping[str, Any]) -> str | None:
            if "Digest" in (line.get("aux") or {}):
                found.append(line["aux"]["Digest"])
            return None if line.get("progress") else line.get("status")

        with _errors(f"pushing {tag}"):
            _follow(
                self._docker.push(name, tag=version, stream=True, decode=True), read, f"pushing {tag}", TemporaryError
            )
        if not found:
            raise TemporaryError(f"pushing {tag}: the registry gave no digest")
        return found[-1]


def _follow(
    stream: Iterator[Mapping[str, Any]],
    text_of: Callable[[Mapping[str, Any]], str | None],
    doing: str,
    kind: type[DeployError],
) -> None:
    for line in stream:
        if "error" in line:
            raise kind(f"{doing}: {printable(str(line['error']), 500)}")
        if text := (text_of(line) or "").strip():
            log.info("%s", printable(text, 300))


@contextmanager
def _errors(doing: str) -> Iterator[None]:
    from airflow.sdk.exceptions import AirflowException
    from docker.errors import APIError, DockerException
    from requests import RequestException

    try:
        yield
    except APIError as error:
        kind = PermanentError if error.is_client_error() else TemporaryError
        raise kind(f"{doing}: {printable(str(error), 300)}") from error
    except (DockerException, RequestException, OSError, AirflowException) as error:
        raise TemporaryError(f"{doing}: Docker does not answer ({printable(str(error), 200)})") from error
