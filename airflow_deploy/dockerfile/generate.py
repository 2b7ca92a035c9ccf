"""Generates the Dockerfile and the .dockerignore of a repository that has none."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from airflow_deploy.dockerfile.detect import detect, dockerignore
from airflow_deploy.dockerfile.recipe import Recipe
from airflow_deploy.dockerfile.repository import read_folder
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.templates import template
from airflow_deploy.domain.values import printable

PIP = ["python", "-m", "pip", "--python", "/venv/bin/python", "install", "--no-cache-dir"]
"""The command of the base image's pip, which installs into the venv from outside."""


@dataclass(frozen=True)
class Generated:
    """A Dockerfile and its .dockerignore.

    :param because: the reasons, one sentence for each decision.
    """

    dockerfile: str
    dockerignore: str
    because: tuple[str, ...]


def generate(folder: Path, digest: str | None = None) -> Generated:
    """Return the Dockerfile for the repository in ``folder``.

    :param digest: ``sha256:…``, to which the base image is pinned; None for its tag alone.
    :raises RefusedError: the repository leaves a decision open; the message names the file that is missing or wrong.
    """
    recipe = detect(read_folder(folder))
    return Generated(render_dockerfile(recipe, digest), dockerignore(recipe.language), recipe.because)


def render_dockerfile(recipe: Recipe, digest: str | None = None) -> str:
    """Return the text of the Dockerfile for ``recipe``; see ``generate`` for ``digest``."""
    text = template(f"dockerfile.{recipe.language}.j2", json.dumps)
    return text.render(base=pinned(recipe.base, digest), pip=PIP, **recipe.values)


def pinned(base: str, digest: str | None) -> str:
    """Return the image ``base``, pinned to ``digest`` if there is one.

    :param digest: ``sha256:`` and 64 hex digits.
    :raises RefusedError: the digest is not valid.
    """
    if digest is None:
        return base
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise RefusedError(f"digest: {printable(digest)} is not an image digest; write sha256: and 64 hex digits")
    return f"{base}@{digest}"
