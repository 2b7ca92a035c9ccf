"""The provider info is valid for Airflow and names existing code."""

from __future__ import annotations

import importlib
import json
from importlib.metadata import entry_points, metadata
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest
from airflow.sdk import BaseHook, BaseOperatorLink

from airflow_deploy.provider import get_provider_info

CORE = Path(airflow.__file__).parent


def schema(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((CORE / name).read_text())
    return loaded


@pytest.mark.parametrize("name", ["provider_info.schema.json"])
def test_provider_info_fits_airflows_schema(name: str) -> None:
    jsonschema.validate(get_provider_info(), schema(name))


def test_entry_point_returns_the_provider_info() -> None:
    (found,) = [e for e in entry_points(group="apache_airflow_provider") if e.value.startswith("airflow_deploy.")]
    assert found.load()() == get_provider_info()


def test_package_name_is_that_of_the_distribution() -> None:
    assert metadata(get_provider_info()["package-name"])["Name"] == "airflow-deploy"


def test_each_hook_class_exists_and_knows_its_connection_type() -> None:
    for connection in get_provider_info()["connection-types"]:
        module, _, name = connection["hook-class-name"].rpartition(".")
        hook = getattr(importlib.import_module(module), name)
        assert issubclass(hook, BaseHook)
        assert hook.conn_type == connection["connection-type"]
        assert hook.hook_name == connection["hook-name"]
        assert hook.default_conn_name == f"{connection['connection-type']}_default"
        assert callable(hook.test_connection)


def test_each_extra_link_exists() -> None:
    for path in get_provider_info()["extra-links"]:
        module, _, name = path.rpartition(".")
        assert issubclass(getattr(importlib.import_module(module), name), BaseOperatorLink)


def test_each_option_has_a_default_or_says_that_it_has_none() -> None:
    for section in get_provider_info()["config"].values():
        for option in section["options"].values():
            assert {"description", "version_added", "type", "example", "default"} == set(option)
            assert option["description"].endswith(".")
