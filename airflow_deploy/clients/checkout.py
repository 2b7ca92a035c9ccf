"""The files of one commit: bounded before they are written, and none of them a stand-in for another file."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from airflow_deploy.domain.config.git_source import Source
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.values import printable, size_bytes

SUBMODULE = "160000"
LFS_POINTER = re.compile(rb"version https?://\S+\n(?:.*\n)*?oid sha256:[0-9a-f]{64}\n")
LFS_MAX = 1024
"""Bytes below which the format of Git LFS keeps a pointer."""


class Entry(NamedTuple):
    """One file of a commit."""

    mode: str
    size: int
    path: str


def entries(listing: IO[bytes]) -> Iterator[Entry]:
    """Yield the files that ``git ls-tree -r -l -z`` lists, without reading all of the list at once."""
    rest = b""
    while chunk := listing.read(2**16):
        *records, rest = (rest + chunk).split(b"\0")
        for record in records:
            about, _, path = record.partition(b"\t")
            mode, _, _, size = about.split()
            yield Entry(mode.decode(), 0 if size == b"-" else int(size), os.fsdecode(path))


def bounded(found: Iterator[Entry], source: Source) -> list[Entry]:
    """Return the files that may be stand-ins, which are small or submodules.

    :raises RefusedError: the files are too many, or too large.
    """
    size, small = 0, []
    for files, entry in enumerate(found, start=1):
        size += entry.size
        if files > source.max_files:
            raise RefusedError(
                f"source: the commit has more than {source.max_files} files; remove some, or raise source.max_files"
            )
        if size > size_bytes(source.max_size):
            raise RefusedError(
                f"source: the commit's files are larger than {source.max_size} together; remove large ones, or raise"
                " source.max_size"
            )
        if entry.size < LFS_MAX:
            small.append(entry)
    return small


@dataclass(frozen=True)
class Checkout:
    """A commit's files in a folder."""

    folder: Path
    small: list[Entry]
    filters: Callable[[list[str]], dict[str, str]]
    """Returns the value of Git's attribute ``filter`` of each path."""

    def refuse_stand_ins(self, context: Path, dockerfile: Path) -> None:
        """Refuse a submodule, or a pointer of Git LFS, that would be built in place of the files that it means.

        Elsewhere in the commit they do no harm.

        :raises RefusedError: one is in the build's context, or is the Dockerfile.
        """
        inside = [
            (entry, path)
            for entry in self.small
            if (path := self.folder / entry.path).is_relative_to(context) or path == dockerfile
        ]
        for entry, _ in inside:
            if entry.mode == SUBMODULE:
                raise RefusedError(
                    f"source: {printable(entry.path, 200)} is a submodule, and would be built as an empty folder;"
                    " commit its files instead, or move it out of source.context"
                )
        pointers = [entry.path for entry, path in inside if entry.mode.startswith("100") and _is_pointer(path)]
        for name, value in self.filters(pointers).items():
            if value == "lfs":
                raise RefusedError(
                    f"source: {printable(name, 200)} is kept in Git LFS, and its pointer would be built in its place;"
                    " commit the file itself, or move it out of source.context"
                )


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as file:
        return LFS_POINTER.match(file.read(LFS_MAX)) is not None
