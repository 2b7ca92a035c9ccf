"""The Jinja templates of a version's Kubernetes objects."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from airflow_deploy.domain.plan import DeploymentPlan


@cache
def _environment() -> Environment:
    # Every value enters by the filter tojson, which is quoted YAML too: a value can never become structure.
    return Environment(
        loader=PackageLoader("airflow_deploy", "templates"), undefined=StrictUndefined, autoescape=False  # noqa: S701 - it is YAML
    )  # fmt: skip


def render(plan: DeploymentPlan) -> str:
    """Return the YAML of all objects of the plan's version."""
    return _environment().get_template("version.yaml.j2").render(plan=plan, spec=plan.spec)


def objects(plan: DeploymentPlan) -> list[dict[str, Any]]:
    """Return the objects of the plan's version, in the order in which they are applied."""
    return [item for item in yaml.safe_load_all(render(plan)) if item]
