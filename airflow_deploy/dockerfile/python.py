"""Python projects: the version is declared, the start command is a Procfile's, a script's or a main module's."""

import re
import shlex
import tomllib
from collections.abc import Mapping
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from airflow_deploy.dockerfile.recipe import Files, Language, Recipe, text_of
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.values import printable

MAINTAINED = ("3.11", "3.12", "3.13", "3.14")
"""The Python releases that still get security fixes, oldest first."""

NAMES_A_FILE = re.compile(r"^\s*(?:-[^-]|--(?!hash)|\.|/|file:)|@\s*file:|\.(?:whl|zip|tar\.gz)\b", re.M)
"""Matches a line of requirements.txt that may name another file of the repository: ``-r base.txt`` or ``./lib``."""


def _marker(files: Files) -> str | None:
    if "requirements.txt" in files:
        return "requirements.txt"
    # Any repository may have a pyproject.toml for its tools. It is a marker only if it describes a package.
    return "pyproject.toml" if "pyproject.toml" in files and _describes_package(_pyproject(files)) else None


def _describes_package(pyproject: Mapping[str, Any]) -> bool:
    return "project" in pyproject or "build-system" in pyproject


def _pyproject(files: Files) -> dict[str, Any]:
    try:
        return tomllib.loads(text_of(files, "pyproject.toml"))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise RefusedError(f"pyproject.toml: is not valid TOML; correct it: {printable(str(error), 200)}") from error


def _project(pyproject: Mapping[str, Any]) -> dict[str, Any]:
    project = pyproject.get("project", {})
    if not isinstance(project, dict):
        raise RefusedError("pyproject.toml: project is not a table; write [project]")
    return project


def _recipe(files: Files) -> Recipe:
    pyproject = _pyproject(files)
    version, version_reason = _version(text_of(files, ".python-version"), _project(pyproject))
    start, is_script, start_reason = _start(files, _project(pyproject))
    has_requirements = "requirements.txt" in files
    installed = _describes_package(pyproject) and (is_script or not has_requirements)
    # Packages that are installed before the sources are copied stay in Docker's cache. That is impossible if a line of
    # requirements.txt names a file of the sources.
    requirements_first = has_requirements and not NAMES_A_FILE.search(text_of(files, "requirements.txt"))
    values = {
        "listed": has_requirements,
        "alone": requirements_first,
        "installed": installed,
        "sources": not is_script,
        "start": start,
    }
    because = (f"{_marker(files)}: a Python project", version_reason, start_reason)
    return Recipe("python", f"python:{version}-slim-bookworm", values, because)


def _version(version_file: str, project: Mapping[str, Any]) -> tuple[str, str]:
    """Return the Python version and the reason for it."""
    if version_file.strip():
        first = version_file.split()[0]
        if not re.fullmatch(r"3\.[0-9]{1,2}(\.[0-9]{1,2})?", first):
            raise RefusedError(f".python-version: {printable(first)} is not a Python 3 version; write one such as 3.12")
        return first, f".python-version: Python {first}"
    requires = project.get("requires-python")
    if not isinstance(requires, str):
        raise RefusedError(
            "the repository names no Python version; add .python-version with one such as 3.12, or requires-python to"
            " pyproject.toml"
        )
    try:
        wanted = SpecifierSet(requires)
    except InvalidSpecifier as error:
        raise RefusedError(
            f"pyproject.toml: project.requires-python {printable(requires)} is not valid; write one such as >=3.12"
        ) from error
    # An image has the latest patch release, so 3.11 fits ">=3.11.4".
    fitting = [version for version in MAINTAINED if wanted.contains(f"{version}.99")]
    if not fitting:
        raise RefusedError(
            f"pyproject.toml: project.requires-python {printable(requires)} permits none of {', '.join(MAINTAINED)};"
            " change it, or add .python-version"
        )
    return fitting[0], f"pyproject.toml: Python {fitting[0]} is the oldest maintained one that requires-python permits"


def _start(files: Files, project: Mapping[str, Any]) -> tuple[tuple[str, ...], bool, str]:
    """Return the start command, whether it is a script of the package, and the reason for it."""
    if web := re.search(r"^web:[ \t]*(.*)$", text_of(files, "Procfile"), re.M):
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
                f"pyproject.toml: project.scripts.{printable(name)} is not a plain name; use letters, digits, . _ -"
            )
        return (name,), True, f"pyproject.toml: {name} is the only script in project.scripts"
    mains = [name for name in ("main.py", "app.py") if name in files]
    if len(mains) != 1:
        cause = "has both main.py and app.py" if mains else "has no Procfile, script, main.py or app.py"
        raise RefusedError(
            f"the repository {cause}, so its start command is unknown; add a Procfile with a line 'web: <command>'"
        )
    return ("python", mains[0]), False, f"{mains[0]}: the program"


def _words(command: str) -> tuple[str, ...]:
    """Return the words of a Procfile's command, which runs without a shell.

    :raises RefusedError: the command needs a shell, or is not valid.
    """
    if len(command) > 1000 or not re.fullmatch(r"[ -~]*", command) or re.search(r"[$`]", command):
        raise RefusedError(
            "Procfile: the web line is not a plain command of at most 1000 ASCII characters; it runs without a shell,"
            " so write values instead of '$' and '`'"
        )
    lexer = shlex.shlex(command, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = tuple(lexer)
    except ValueError as error:
        raise RefusedError("Procfile: the web line has an unclosed quote; close it") from error
    if not words or "=" in words[0] or any(re.fullmatch(r"[();<>|&]+", word) for word in words):
        raise RefusedError(
            "Procfile: the web line is not one command with its arguments; move pipes, variables and further commands"
            " into a script"
        )
    return words


PYTHON = Language(
    ("requirements.txt", "pyproject.toml with [project]"),
    _marker,
    _recipe,
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
)
