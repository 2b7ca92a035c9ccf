"""Docker: build an image, push it once, and name it by digest ever after."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.sdk import conf

from airflow_deploy.clients.build_context import BuildContext
from airflow_deploy.clients.deadline import at_most
from airflow_deploy.clients.docker_answers import ABSENT, docker_errors, follow, sha256
from airflow_deploy.domain.config.git_source import BuildSpec
from airflow_deploy.domain.errors import DeployError, PermanentError, TemporaryError
from airflow_deploy.domain.values import printable, size_bytes

if TYPE_CHECKING:
    from docker import APIClient

log = logging.getLogger(__name__)

SINGLE = frozenset(
    {"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json"}
)
"""Kinds of a manifest of one image, not of a list by platform."""
CPU_PERIOD = 100_000


class Manifest(NamedTuple):
    """What a registry has under a tag."""

    digest: str
    single: bool
    """Whether it is of one image: a list could have another one for another platform."""


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
        with docker_errors("connecting to Docker"):
            self._docker: APIClient = DockerHook(docker_conn_id=connection if login else None, base_url=url).get_conn()

    def digest(self, tag: str) -> str | None:
        """Return the digest that the registry has for ``tag``; None where it has none."""
        found = self.find(tag)
        return found.digest if found else None

    def find(self, tag: str) -> Manifest | None:
        """Return what the registry has under ``tag``; None if the registry itself says that it has nothing."""
        from docker.errors import APIError

        doing = f"asking the registry for {tag}"
        with docker_errors(doing):
            try:
                found = self._docker.inspect_distribution(tag)["Descriptor"]  # type: ignore[no-untyped-call]
                return Manifest(sha256(found["digest"], doing), found.get("mediaType") in SINGLE)
            except APIError as error:
                # Docker passes on a registry's error as 404, 403 or 500, by version.
                said = str(error.explanation or "").strip()
                if ABSENT.match(said):
                    return None
                if error.status_code == 404:
                    raise TemporaryError(
                        f"{doing}: the answer 404 is not a registry's ({printable(said, 200)}); check the registry's"
                        " address and the proxies before it"
                    ) from error
                raise

    def build(
        self, context: BuildContext, tag: str, labels: dict[str, str], args: dict[str, str], limits: BuildSpec
    ) -> str:
        """Build ``context`` as ``tag``, each of Docker's lines logged as it comes, and return the image's id."""
        doing, memory = f"building {tag}", size_bytes(limits.memory)
        late = PermanentError(f"{doing} took longer than {limits.timeout} s; shorten it, or raise build.timeout")
        with docker_errors(doing), at_most(limits.timeout, late), self._quota(limits.cpu):
            stream = self._docker.build(
                path=str(context.folder), dockerfile=str(context.dockerfile), tag=tag, labels=labels, buildargs=args,
                container_limits={"memory": memory, "memswap": memory}, rm=True, forcerm=True, decode=True,
            )  # fmt: skip
            follow(stream, lambda line: line.get("stream"), doing, lambda said: _unbuilt(doing, said, limits))
            return self._id(tag, doing)

    def push(self, tag: str, seconds: int) -> str:
        """Push ``tag`` within so many seconds and return its digest, ``sha256:…``, as Docker has computed it."""
        name, _, version = tag.rpartition(":")
        found: list[str] = []
        doing = f"pushing {tag}"

        def read(line: Mapping[str, Any]) -> str | None:
            if "Digest" in (line.get("aux") or {}):
                found.append(sha256(line["aux"]["Digest"], doing))
            return None if line.get("progress") else line.get("status")

        with docker_errors(doing), at_most(seconds, _slow(doing, seconds)):
            follow(self._docker.push(name, tag=version, stream=True, decode=True), read, doing, _failed(doing))
        if not found:
            raise TemporaryError(f"{doing}: the registry gave no digest")
        return found[-1]

    def pulled_id(self, repository: str, digest: str, seconds: int) -> str:
        """Pull an image by its digest within so many seconds, and return its id.

        Docker has then verified that its layers are those which the id stands for. A manifest alone could name others.
        """
        image = f"{repository}@{digest}"
        doing = f"pulling {image}"
        try:
            with docker_errors(doing), at_most(seconds, _slow(doing, seconds)):
                stream = self._docker.pull(repository, tag=digest, stream=True, decode=True)
                follow(stream, lambda line: None, doing, _failed(doing))
                return self._id(image, doing)
        finally:
            self.remove(image)

    def remove(self, image: str) -> None:
        """Remove a name from the daemon, and the image if it has no other name. A failure is logged, and no more."""
        from docker.errors import NotFound

        try:
            self._docker.remove_image(image)
        except NotFound:
            log.debug("%s is not on the daemon", image)
        except Exception as error:
            log.warning("%s stays on the Docker daemon; remove it: %s", image, printable(str(error), 300))

    def _id(self, image: str, doing: str) -> str:
        return sha256(self._docker.inspect_image(image)["Id"], doing)  # type: ignore[no-untyped-call]

    @contextmanager
    def _quota(self, cpu: float) -> Iterator[None]:
        """Bound the CPU: docker-py does not know these parameters of the API, so each request carries them."""
        before = self._docker.params
        self._docker.params = {"cpuperiod": CPU_PERIOD, "cpuquota": int(cpu * CPU_PERIOD)}
        try:
            yield
        finally:
            self._docker.params = before


def _unbuilt(doing: str, said: str, limits: BuildSpec) -> DeployError:
    killed = f"; if the memory was short, raise build.memory ({limits.memory})" if re.search(r"\b137\b", said) else ""
    return PermanentError(f"{doing}: {said}{killed}")


def _slow(doing: str, seconds: int) -> DeployError:
    return TemporaryError(f"{doing} took longer than {seconds} s; check the registry, or raise build.timeout")


def _failed(doing: str) -> Callable[[str], DeployError]:
    return lambda said: TemporaryError(f"{doing}: {said}")
