"""How a repository without a Dockerfile becomes an image: the language it is written in, and what its template needs.

All of it is decided from the names of the repository's files and the texts of a few of them. The repository is
hostile input: what of it reaches a Dockerfile is validated here and quoted there. What cannot be told is refused,
never guessed.

A new language is one entry in ``LANGUAGES`` and one template, ``dockerfile.<name>.j2``.
"""

import re
import shlex
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.values import printable

Files = Mapping[str, str | None]
"""A repository's files by path (POSIX, relative); the text where ``is_read`` asks for it, else None."""

GO_OLDEST = (1, 26)
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""The oldest Go, and the Pythons, that still get security fixes. What a repository declares is the least it needs."""

READ_FILES = re.compile(
    r"go\.mod|pyproject\.toml|\.python-version|requirements\.txt|Procfile|([^/]+|cmd/[^/]+/[^/]+)\.go"
)
LISTED_FOLDERS = re.compile(r"cmd(/[^/]+)?|vendor")
IGNORED = (".git", ".github", ".gitlab", ".idea", ".vscode", ".dockerignore", "Dockerfile*", "**/.env", "**/.env.*")
"""What no image needs: history, other tools' settings, and the files in which people keep secrets."""


@dataclass(frozen=True)
class Recipe:
    """What a Dockerfile is made from.

    :param language: a key of ``LANGUAGES``.
    :param base: the image to build in, by exact tag.
    :param values: the template's values; all of them validated.
    :param because: one sentence per decision, naming the file that decided.
    """

    language: str
    base: str
    values: Mapping[str, Any]
    because: tuple[str, ...]


@dataclass(frozen=True)
class Language:
    """One entry of the table.

    :param markers: the files that show a repository to be written in it.
    :param marked: returns the one of them that a repository has; None where it has none.
    :param recipe: returns what the template needs.
    :param ignored: the lines that its .dockerignore has beyond ``IGNORED``.
    """

    markers: tuple[str, ...]
    marked: Callable[[Files], str | None]
    recipe: Callable[[Files], Recipe]
    ignored: tuple[str, ...]


def is_read(path: str) -> bool:
    """Whether the decisions need the text of the file at ``path``, and not only its name."""
    return READ_FILES.fullmatch(path) is not None


def is_listed(folder: str) -> bool:
    """Whether the decisions ask for the files of ``folder``, a path below the root; the root's own always count."""
    return LISTED_FOLDERS.fullmatch(folder) is not None


def detect(files: Files) -> Recipe:
    """Return the recipe for the repository's language.

    :raises RefusedError: it has none of the known languages, or several; or something else cannot be told.
    """
    found = {name: marker for name, language in LANGUAGES.items() if (marker := language.marked(files))}
    if not found:
        known = "; ".join(f"{name} by {' or '.join(language.markers)}" for name, language in LANGUAGES.items())
        raise RefusedError(f"the repository's language cannot be told ({known}); add that file, or a Dockerfile")
    if len(found) > 1:
        seen = " and ".join(f"{marker} ({name})" for name, marker in found.items())
        raise RefusedError(f"the repository has {seen}; name the folder of one of them, or add a Dockerfile")
    return LANGUAGES[next(iter(found))].recipe(files)


def dockerignore(language: str) -> str:
    """Return the text of the .dockerignore that matches a language's Dockerfile."""
    return "\n".join((*IGNORED, *LANGUAGES[language].ignored)) + "\n"


def pinned(base: str, digest: str | None) -> str:
    """Return ``base``, by digest as well where one is given.

    :param digest: ``sha256:`` and 64 hex digits.
    :raises RefusedError: it is not.
    """
    if digest is None:
        return base
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise RefusedError(f"digest: {printable(digest)} is no image digest; write sha256: and 64 hex digits")
    return f"{base}@{digest}"


def _text(files: Files, path: str) -> str:
    return files.get(path) or ""


# --- Go


def _go_marked(files: Files) -> str | None:
    return "go.mod" if "go.mod" in files else None


def _go(files: Files) -> Recipe:
    module = _text(files, "go.mod")
    version, why = _go_version(module)
    package = _main_package(files)
    # Downloaded before the sources are copied, modules stay in Docker's cache; a replacement in the tree needs them.
    alone = "go.sum" in files and "vendor/modules.txt" not in files and not re.search(r"=>\s*\.", module)
    because = ("go.mod: a Go module", why, f"{package}: the only package main, so it is the program")
    return Recipe("go", f"golang:{version}-bookworm", {"package": package, "download": alone}, because)


def _go_version(module: str) -> tuple[str, str]:
    number = r"[ \t]+(?:go)?([0-9]{1,2}\.[0-9]{1,3}(?:\.[0-9]{1,3})?)[ \t]*(?://.*)?$"
    found = re.search(rf"^toolchain{number}", module, re.M) or re.search(rf"^go{number}", module, re.M)
    if not found:
        raise RefusedError("go.mod: says no Go version; add a line such as 'go 1.26'")
    said = found[1]
    major, minor = (int(part) for part in said.split(".")[:2])
    if (major, minor) < GO_OLDEST:
        oldest = ".".join(str(part) for part in GO_OLDEST)
        return oldest, f"go.mod: Go {said} at least; {oldest} is the oldest that still gets fixes"
    return said, f"go.mod: Go {said}"


def _main_package(files: Files) -> str:
    found: set[str] = set()
    for path, text in files.items():
        folder, _, name = path.rpartition("/")
        command = folder == "" or (folder.startswith("cmd/") and folder.count("/") == 1)
        if command and name.endswith(".go") and not name.endswith("_test.go") and _is_main(text or ""):
            found.add(f"./{folder}" if folder else ".")
    if not found:
        raise RefusedError("no Go file in the repository's root or in cmd/<name>/ says 'package main'; add the program")
    if len(found) > 1:
        seen = ", ".join(printable(package) for package in sorted(found)[:5])
        raise RefusedError(f"several packages main ({seen}): which one serves cannot be told; add a Dockerfile")
    (package,) = found
    if not re.fullmatch(r"\.|\./cmd/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", package):
        raise RefusedError(f"folder {printable(package)}: has an odd name; use letters, digits, '.', '_' and '-'")
    return package


def _is_main(source: str) -> bool:
    if re.search(r"^//go:build\s+ignore\s*$", source, re.M):
        return False  # a script for `go run`, beside a library
    head = re.match(r"(?:\s|\ufeff|//[^\n]*\n|/\*(?s:.*?)\*/)*package\s+(\w+)", source)
    return head is not None and head[1] == "main"


# --- Python


NAMES_A_FILE = re.compile(r"^\s*(?:-[^-]|--(?!hash)|\.|/|file:)|@\s*file:|\.(?:whl|zip|tar\.gz)\b", re.M)
"""A line of requirements.txt that may refer to another file of the repository, such as ``-r base.txt`` or ``./lib``."""


def _python_marked(files: Files) -> str | None:
    if "requirements.txt" in files:
        return "requirements.txt"
    # Any repository may have one for its tools: only one that describes a package makes it a Python project.
    return "pyproject.toml" if "pyproject.toml" in files and _describes_package(_pyproject(files)) else None


def _describes_package(pyproject: Mapping[str, Any]) -> bool:
    return "project" in pyproject or "build-system" in pyproject


def _pyproject(files: Files) -> dict[str, Any]:
    try:
        return tomllib.loads(_text(files, "pyproject.toml"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RefusedError(f"pyproject.toml: is not valid TOML; {printable(str(error), 200)}") from error


def _project(pyproject: Mapping[str, Any]) -> dict[str, Any]:
    project = pyproject.get("project", {})
    if not isinstance(project, dict):
        raise RefusedError("pyproject.toml: project is not a table; write [project]")
    return project


def _python(files: Files) -> Recipe:
    pyproject = _pyproject(files)
    version, why_version = _python_version(_text(files, ".python-version"), _project(pyproject))
    start, script, why_start = _python_start(files, _project(pyproject))
    listed = "requirements.txt" in files
    installed = _describes_package(pyproject) and (script or not listed)
    # Installed before the sources are copied, packages stay in Docker's cache; a line that names a file needs them.
    alone = listed and not NAMES_A_FILE.search(_text(files, "requirements.txt"))
    values = {"listed": listed, "alone": alone, "installed": installed, "sources": not script, "start": start}
    marker = _python_marked(files)
    because = (f"{marker}: a Python project", why_version, why_start)
    return Recipe("python", f"python:{version}-slim-bookworm", values, because)


def _python_version(said: str, project: Mapping[str, Any]) -> tuple[str, str]:
    if said.strip():
        first = said.split()[0]
        if not re.fullmatch(r"3\.[0-9]{1,2}(\.[0-9]{1,2})?", first):
            raise RefusedError(f".python-version: {printable(first)} is no version of Python 3; write one such as 3.12")
        return first, f".python-version: Python {first}"
    requires = project.get("requires-python")
    if not isinstance(requires, str):
        raise RefusedError(
            "the Python version cannot be told; add .python-version with one such as 3.12, or requires-python to"
            " pyproject.toml"
        )
    try:
        wanted = SpecifierSet(requires)
    except InvalidSpecifier as error:
        raise RefusedError(
            f"pyproject.toml: project.requires-python {printable(requires)} is not valid; write one such as >=3.12"
        ) from error
    # The latest patch is in the image: 3.11 meets ">=3.11.4".
    fitting = [version for version in PYTHONS if wanted.contains(f"{version}.99")]
    if not fitting:
        raise RefusedError(
            f"pyproject.toml: project.requires-python {printable(requires)} fits none of {', '.join(PYTHONS)};"
            " change it, or add .python-version"
        )
    return fitting[0], f"pyproject.toml: Python {fitting[0]} is the oldest maintained one that requires-python permits"


def _python_start(files: Files, project: Mapping[str, Any]) -> tuple[tuple[str, ...], bool, str]:
    """Return the command, whether it is a script of the package, and why."""
    if web := re.search(r"^web:[ \t]*(.*)$", _text(files, "Procfile"), re.M):
        return _words(web[1]), False, "Procfile: its web line is the start command"
    scripts = project.get("scripts")
    if isinstance(scripts, dict) and scripts:
        if len(scripts) > 1:
            raise RefusedError(
                "pyproject.toml: project.scripts has several scripts; add a Procfile with the line 'web: <one of them>'"
            )
        (name,) = scripts
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name):
            raise RefusedError(
                f"pyproject.toml: project.scripts.{printable(name)} has an odd name; use letters, digits, '.', '_', '-'"
            )
        return (name,), True, f"pyproject.toml: {name} is the only one of project.scripts"
    mains = [name for name in ("main.py", "app.py") if name in files]
    if len(mains) != 1:
        seen = "main.py and app.py are both there" if mains else "there is no Procfile, script, main.py or app.py"
        raise RefusedError(f"the start command cannot be told: {seen}; add a Procfile with a line 'web: <command>'")
    return ("python", mains[0]), False, f"{mains[0]}: the program"


def _words(command: str) -> tuple[str, ...]:
    """Split a Procfile's command into words; no shell will read it."""
    if len(command) > 1000 or not re.fullmatch(r"[ -~]*", command) or re.search(r"[$`]", command):
        raise RefusedError(
            "Procfile: the web line is not a plain command of at most 1000 ASCII characters; no shell expands '$' or"
            " '`' in an image's start command, so write the values themselves"
        )
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = tuple(lexer)
    except ValueError as error:
        raise RefusedError("Procfile: the web line has a quote that is not closed; close it") from error
    if not words or "=" in words[0] or any(re.fullmatch(r"[();<>|&]+", word) for word in words):
        raise RefusedError(
            "Procfile: the web line must be one command with its arguments; put pipes, variables and several commands"
            " into a script"
        )
    return words


LANGUAGES: Mapping[str, Language] = {
    "go": Language(("go.mod",), _go_marked, _go, ("**/*_test.go",)),
    "python": Language(
        ("requirements.txt", "pyproject.toml with [project]"),
        _python_marked,
        _python,
        (
            "**/__pycache__",
            "**/*.pyc",
            ".venv",
            "venv",
            ".tox",
            ".mypy_cache",
            ".pytest_cache",
            ".ruff_cache",
            "*.egg-info",
        ),
    ),
}
"""Every language that a Dockerfile can be made for."""
