"""Go modules: the Go version is that of go.mod, the program is the only package main."""

import re

from airflow_deploy.dockerfile.recipe import Files, Language, Recipe, text_of
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.values import printable

OLDEST_MAINTAINED = (1, 26)
"""The oldest Go release that still gets security fixes. The version in go.mod is a minimum, so this one is allowed."""


def _marker(files: Files) -> str | None:
    return "go.mod" if "go.mod" in files else None


def _recipe(files: Files) -> Recipe:
    module = text_of(files, "go.mod")
    version, version_reason = _version(module)
    package = _main_package(files)
    # Modules that are downloaded before the sources are copied stay in Docker's cache. That is impossible if they are
    # vendored, or if a replacement lies in the sources.
    download_first = "go.sum" in files and "vendor/modules.txt" not in files and not re.search(r"=>\s*\.", module)
    because = ("go.mod: a Go module", version_reason, f"{package}: the only package main, so it is the program")
    return Recipe("go", f"golang:{version}-bookworm", {"package": package, "download": download_first}, because)


def _version(module: str) -> tuple[str, str]:
    """Return the Go version and the reason for it."""
    number = r"[ \t]+(?:go)?([0-9]{1,2}\.[0-9]{1,3}(?:\.[0-9]{1,3})?)[ \t]*(?://.*)?$"
    found = re.search(rf"^toolchain{number}", module, re.M) or re.search(rf"^go{number}", module, re.M)
    if not found:
        raise RefusedError("go.mod: names no Go version; add a line such as 'go 1.26'")
    declared = found[1]
    major, minor = (int(part) for part in declared.split(".")[:2])
    if (major, minor) < OLDEST_MAINTAINED:
        oldest = ".".join(str(part) for part in OLDEST_MAINTAINED)
        return oldest, f"go.mod: Go {declared} or later; {oldest} is the oldest release that still gets security fixes"
    return declared, f"go.mod: Go {declared}"


def _main_package(files: Files) -> str:
    found: set[str] = set()
    for path, text in files.items():
        folder, _, name = path.rpartition("/")
        command = folder == "" or (folder.startswith("cmd/") and folder.count("/") == 1)
        if command and name.endswith(".go") and not name.endswith("_test.go") and _is_main(text or ""):
            found.add(f"./{folder}" if folder else ".")
    if not found:
        raise RefusedError("no Go file in the repository's root or in cmd/<name>/ has 'package main'; add the program")
    if len(found) > 1:
        packages = ", ".join(printable(package) for package in sorted(found)[:5])
        raise RefusedError(f"the repository has several packages main ({packages}); add a Dockerfile for one of them")
    (package,) = found
    if not re.fullmatch(r"\.|\./cmd/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", package):
        raise RefusedError(
            f"folder {printable(package)}: is not a plain name; rename it with letters, digits, '.', '_' and '-'"
        )
    return package


def _is_main(source: str) -> bool:
    if re.search(r"^//go:build\s+ignore\s*$", source, re.M):
        return False  # a script for `go run` beside a library
    head = re.match(r"(?:\s|\ufeff|//[^\n]*\n|/\*(?s:.*?)\*/)*package\s+(\w+)", source)
    return head is not None and head[1] == "main"


GO = Language(("go.mod",), _marker, _recipe, ("**/*_test.go",))
