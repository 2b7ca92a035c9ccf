"""Parts of the spec: the Git repository of the service, what of it may be deployed, and the bounds of its build."""

import re
from typing import Annotated

from pydantic import Field, StringConstraints, field_validator

from airflow_deploy.domain.values import DURATION, LIST, Model, Size

RelativePath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._][A-Za-z0-9._/-]*$", max_length=200)]


def _no_parent(path: str) -> str:
    if ".." in path.split("/"):
        raise ValueError("leads out of the repository; remove the '..'")
    return path


class Source(Model):
    """The Git repository of the service, and the branches that may be deployed."""

    repository: Annotated[str, StringConstraints(pattern=r"^(https|ssh|file)://[^\s\x00-\x1f]+$", max_length=500)]
    """URL of the Git repository: https, ssh or file, without a login."""
    branches: Annotated[tuple[str, ...], Field(min_length=1, max_length=20), LIST] = ("main",)
    """Branches whose commits may be deployed."""
    dockerfile: RelativePath = "Dockerfile"
    """Path of the Dockerfile in the repository."""
    context: RelativePath = "."
    """Path of the build context in the repository."""
    timeout: Annotated[int, Field(ge=5, le=3600), DURATION] = 120
    """Longest time of one Git command, such as a fetch."""
    max_size: Size = "1Gi"
    """Most bytes of a commit's files together, and of what one fetch brings."""
    max_files: Annotated[int, Field(ge=1, le=1_000_000)] = 100_000
    """Most files of a commit."""

    @field_validator("repository")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        login, at, _ = url.split("/")[2].rpartition("@")
        if at and (":" in login or not url.startswith("ssh://")):
            raise ValueError(
                "contains a login, which logs and labels would show; remove it and use a Git credential helper"
            )
        return url

    _within = field_validator("dockerfile", "context")(_no_parent)

    @field_validator("branches")
    @classmethod
    def _plain_branches(cls, branches: tuple[str, ...]) -> tuple[str, ...]:
        for branch in branches:
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,99}", branch) or ".." in branch or branch.endswith("/"):
                raise ValueError("one of the branches is not a plain name; write names such as main or release/1.2")
        return branches


class BuildSpec(Model):
    """The bounds of the image's build on the Docker daemon."""

    timeout: Annotated[int, Field(ge=10, le=6 * 3600), DURATION] = 1200
    """Longest time of the build, and of the push after it."""
    memory: Size = "2Gi"
    """Memory of each step of the build; it gets no swap."""
    cpu: Annotated[float, Field(ge=0.1, le=256)] = 2
    """CPUs that a step of the build may use."""
