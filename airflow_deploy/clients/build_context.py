"""What Docker reads of a checkout: the context, the Dockerfile and .dockerignore, each of the commit's own files."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from airflow_deploy.domain.config.git_source import Source
from airflow_deploy.domain.errors import RefusedError

MAX_TEXT = 2**18
"""Most bytes of the Dockerfile and of .dockerignore. docker-py sends one from outside the context in the URL."""


class BuildContext(NamedTuple):
    """The folder that is sent to Docker, and the Dockerfile, which may lie elsewhere in the checkout."""

    folder: Path
    dockerfile: Path


def find_context(tree: Path, source: Source, commit: str) -> BuildContext:
    """Return what is built of the checkout in ``tree``, a resolved path.

    Links within the checkout are followed. The archive that docker-py makes of the context has links as links.

    :raises RefusedError: it is not there, leads out of the checkout, or is no text of a usual size.
    """
    folder, dockerfile = _within(tree, source.context), _within(tree, source.dockerfile)
    if not (folder and folder.is_dir() and dockerfile and dockerfile.is_file()):
        raise RefusedError(
            f"source: commit {commit[:12]} has no file {source.dockerfile} or no folder {source.context};"
            " add it (`airflow-deploy dockerfile . > Dockerfile` writes one), or correct source.dockerfile or"
            " source.context"
        )
    _check_text(dockerfile, source.dockerfile)
    # docker-py opens any kind of file: a link to /dev/zero would fill the memory.
    ignore = folder / ".dockerignore"
    if ignore.is_symlink() or ignore.exists():
        target = _within(tree, str(ignore.relative_to(tree)))
        if not (target and target.is_file()):
            raise RefusedError(
                f"source: .dockerignore in {source.context} is not a file of the commit; replace it by a regular file"
            )
        _check_text(target, ".dockerignore")
    return BuildContext(folder, dockerfile)


def _within(tree: Path, name: str) -> Path | None:
    """Return the path of ``name``; None if a link, which the commit's author decides, leads out of the checkout."""
    try:
        path = (tree / name).resolve()
    except (OSError, RuntimeError):  # a link to itself
        return None
    return path if path.is_relative_to(tree) else None


def _check_text(file: Path, name: str) -> None:
    if file.stat().st_size > MAX_TEXT:
        raise RefusedError(f"source: {name} is larger than 256 KiB; shorten it")
    try:
        file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise RefusedError(f"source: {name} is not UTF-8; convert it") from error
