"""Reads the files of a repository's folder, which is hostile input, within fixed bounds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.values import printable

READ_FILES = re.compile(
    r"go\.mod|pyproject\.toml|\.python-version|requirements\.txt|Procfile|([^/]+|cmd/[^/]+/[^/]+)\.go"
)
"""Paths of the files whose text a language needs; of all others it needs the name alone."""
LISTED_FOLDERS = re.compile(r"cmd(/[^/]+)?|vendor")
"""Paths of the folders below the root whose files a language needs."""

MAX_FILES = 5_000
"""Largest number of entries in all folders that are listed."""
MAX_FILE_BYTES = 1024 * 1024
"""Largest size of a file that is read as a whole. A larger one is refused."""
HEAD_BYTES = 16 * 1024
"""Bytes that are read of a Go file, whose head is enough."""


def read_folder(folder: Path) -> dict[str, str | None]:
    """Return the files of a repository that languages need, as ``recipe.Files``.

    Links to folders are not followed; links to files are, if they stay within ``folder``.

    :raises RefusedError: the folder or a file in it cannot be read, or is larger than the bounds.
    """
    root = folder.resolve()
    if not root.is_dir():
        raise RefusedError(f"{printable(str(folder))}: is not a folder; name the folder of the service's code")
    files: dict[str, str | None] = {}
    try:
        for path in _walk(root):
            name = path.relative_to(root).as_posix()
            files[name] = _read(path, name) if READ_FILES.fullmatch(name) else None
    except OSError as error:
        path_text = printable(str(error.filename or folder))
        raise RefusedError(
            f"{path_text}: cannot be read ({error.strerror}); correct its permissions, or name another folder"
        ) from error
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
                        f"{printable(str(root))}: has more than {MAX_FILES} files; name the folder of one service"
                    )
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    if LISTED_FOLDERS.fullmatch(path.relative_to(root).as_posix()):
                        folders.append(path)
                elif _is_file_within(path, root):
                    yield path


def _is_file_within(path: Path, root: Path) -> bool:
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError):  # the link is broken, or leads to itself
        return False
    return target.is_relative_to(root) and target.is_file()


def _read(path: Path, name: str) -> str:
    with path.open("rb") as file:
        if name.endswith(".go"):
            return file.read(HEAD_BYTES).decode("utf-8", "replace")
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise RefusedError(f"{printable(name)}: is larger than {MAX_FILE_BYTES} bytes; shorten it, or add a Dockerfile")
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise RefusedError(f"{printable(name)}: is not UTF-8; save it as UTF-8") from error
