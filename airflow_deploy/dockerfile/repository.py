"""Reads a repository's folder, which is hostile input, and renders the Dockerfile that fits it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from airflow_deploy.dockerfile.languages import Recipe, detect, dockerignore, is_listed, is_read, pinned
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.templates import template
from airflow_deploy.domain.values import printable

MAX_FILES = 5_000
"""Bound of one reading, in entries of all folders that are looked into."""
MAX_FILE_BYTES = 1024 * 1024
HEAD_BYTES = 16 * 1024
"""Bounds of one file that is read: a declaration is read whole or refused; of a Go file its head is enough."""

PIP = ["python", "-m", "pip", "--python", "/venv/bin/python", "install", "--no-cache-dir"]
"""The base image's pip, which fills the venv without being in it."""


@dataclass(frozen=True)
class Generated:
    """A Dockerfile, the .dockerignore that it counts on, and the reasons for both, one sentence each."""

    dockerfile: str
    dockerignore: str
    because: tuple[str, ...]


def generate(folder: Path, digest: str | None = None) -> Generated:
    """Return the Dockerfile of the repository in ``folder``.

    :param digest: pins the base image, ``sha256:…``.
    :raises RefusedError: naming what is missing where something cannot be told.
    """
    recipe = detect(read_folder(folder))
    return Generated(render_dockerfile(recipe, digest), dockerignore(recipe.language), recipe.because)


def render_dockerfile(recipe: Recipe, digest: str | None = None) -> str:
    """Return the text of a recipe's Dockerfile."""
    text = template(f"dockerfile.{recipe.language}.j2", json.dumps)
    return text.render(base=pinned(recipe.base, digest), pip=PIP, **recipe.values)


def read_folder(folder: Path) -> dict[str, str | None]:
    """Return the files that decisions rest on by path, with the texts of those that are read.

    No link to a folder is followed, and one to a file only where it stays within ``folder``.

    :raises RefusedError: it cannot be read, or is larger than the bounds.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise RefusedError(f"{printable(str(folder))}: is no folder; name the one that holds the service's code")
    files: dict[str, str | None] = {}
    try:
        for path in _walk(root):
            name = path.relative_to(root).as_posix()
            files[name] = _read(path, name) if is_read(name) else None
    except OSError as error:
        where = printable(str(error.filename or folder))
        raise RefusedError(f"{where}: cannot be read ({error.strerror}); permit it, or name another folder") from error
    return files


def _walk(root: Path) -> Iterator[Path]:
    seen = 0
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                seen += 1
                if seen > MAX_FILES:
                    raise RefusedError(
                        f"{printable(str(root))}: holds more than {MAX_FILES} files; name the folder of one service"
                    )
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    if is_listed(path.relative_to(root).as_posix()):
                        folders.append(path)
                elif _is_file_within(path, root):
                    yield path


def _is_file_within(path: Path, root: Path) -> bool:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # it leads nowhere, or to itself
        return False
    return target.is_relative_to(root) and target.is_file()


def _read(path: Path, name: str) -> str:
    with path.open("rb") as file:
        if name.endswith(".go"):
            return file.read(HEAD_BYTES).decode("utf-8", "replace")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise RefusedError(f"{printable(name)}: is larger than {MAX_FILE_BYTES} bytes; add a Dockerfile instead")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise RefusedError(f"{printable(name)}: is not UTF-8; save it as UTF-8") from error
