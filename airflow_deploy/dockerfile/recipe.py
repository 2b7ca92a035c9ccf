"""The types that languages share: a repository's files, a recipe, and a language."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Files = Mapping[str, str | None]
"""A repository's files by path (POSIX, relative): the text of the files that are read, None for all others."""


@dataclass(frozen=True)
class Recipe:
    """The content of a Dockerfile.

    :param language: name of the language, which is also that of the template.
    :param base: the image to build in, by exact tag.
    :param values: the template's values, all of them validated.
    :param because: one sentence for each decision, with the file behind it.
    """

    language: str
    base: str
    values: Mapping[str, Any]
    because: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """One language.

    :param markers: the files that identify the language, for error messages.
    :param marked: returns the marker that a repository has; None if it has none.
    :param recipe: returns the recipe for a repository. It raises RefusedError if a decision is open.
    :param ignored: the lines of its .dockerignore beyond those of every language.
    """

    markers: tuple[str, ...]
    marked: Callable[[Files], str | None]
    recipe: Callable[[Files], Recipe]
    ignored: tuple[str, ...]


def text_of(files: Files, path: str) -> str:
    """Return the text of the file at ``path``; empty if there is none."""
    return files.get(path) or ""
