"""The package from outside: its public names, its version and its declared dependencies."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from inspect import getmembers, isclass
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import airflow_deploy
from airflow_deploy.domain import errors
from tests.stack.layout import CHECKOUT


@cache
def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    return found


def loaded_by(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


class TestPublicNames:
    @pytest.mark.parametrize("name", airflow_deploy.__all__)
    def test_each_public_name_can_be_imported(self, name: str) -> None:
        value = getattr(airflow_deploy, name)
        assert getattr(value, "__name__", name) == name
        assert name in dir(airflow_deploy)

    def test_every_error_is_a_public_name(self) -> None:
        found = {name for name, kind in getmembers(errors, isclass) if issubclass(kind, errors.DeployError)}
        assert found == {name for name in airflow_deploy.__all__ if name in vars(errors)}

    def test_unknown_name_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="module 'airflow_deploy' has no attribute 'deploiments'"):
            getattr(airflow_deploy, "deploiments")  # noqa: B009 - mypy knows that it does not exist

    def test_package_import_loads_no_large_library(self) -> None:
        large = {"airflow", "kubernetes", "numpy", "pydantic", "requests"}
        assert not large & loaded_by("import airflow_deploy; dir(airflow_deploy)")

    def test_safety_gate_imports_neither_airflow_nor_kubernetes(self) -> None:
        assert not {"airflow", "kubernetes", "numpy"} & loaded_by("from airflow_deploy import deploy_from_safety_gate")


def test_version_is_that_of_the_distribution_and_the_changelog() -> None:
    assert airflow_deploy.__version__ == project()["version"]
    latest = next(line for line in (CHECKOUT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## "))
    assert latest.split()[1] == project()["version"]


def imported_modules() -> Iterator[str]:
    for folder in ("airflow_deploy", "operators", "sensors"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    yield from (alias.name for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    yield from (f"{node.module}.{alias.name}" for alias in node.names)


installed = cache(packages_distributions)


def distribution_of(module: str) -> str:
    """The distribution to install for a module; a provider's has the name of its package."""
    package, *path = module.split(".")
    if package != "airflow":
        (name,) = set(installed()[package])
        return str(canonicalize_name(name))
    for end in range(len(path), 1, -1):
        name = "-".join(("apache-airflow", *path[:end])).replace("_", "-")
        try:
            return str(canonicalize_name(distribution(name).name))
        except PackageNotFoundError:
            continue
    return "apache-airflow"


def test_declared_dependencies_are_exactly_the_imported_ones() -> None:
    foreign = {
        name for name in imported_modules() if name.split(".")[0] not in {*sys.stdlib_module_names, "airflow_deploy"}
    }
    declared = {canonicalize_name(Requirement(text).name) for text in project()["dependencies"]}
    assert {distribution_of(name) for name in foreign} == declared


def test_each_dependency_has_a_lower_bound_that_the_lock_meets() -> None:
    for requirement in map(Requirement, project()["dependencies"]):
        assert any(bound.operator == ">=" for bound in requirement.specifier), requirement
        assert requirement.specifier.contains(distribution(requirement.name).version), requirement
