"""The Jinja templates of a version's Kubernetes objects."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from airflow_deploy.domain.plan import DeploymentPlan


@cache
def _environment() -> Environment:
    # Every value enters by the filter ``quoted``: it can never become structure.
    environment = Environment(
        loader=PackageLoader("airflow_deploy", "templates"), undefined=StrictUndefined, autoescape=False  # noqa: S701
    )  # fmt: skip
    environment.filters["quoted"] = quoted
    return environment


def quoted(value: Any) -> str:
    """Return ``value`` as JSON that is YAML as well: YAML knows no surrogate pairs, which JSON writes beyond U+FFFF."""

    def whole(pair: re.Match[str]) -> str:
        character: str = json.loads('"' + pair[0] + '"')
        return f"\\U{ord(character):08x}"

    return re.sub(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}", whole, json.dumps(value))


def render(plan: DeploymentPlan) -> str:
    """Return the YAML of all objects of the plan's version."""
    return _environment().get_template("version.yaml.j2").render(plan=plan, spec=plan.spec)


def objects(plan: DeploymentPlan) -> list[dict[str, Any]]:
    """Return the objects of the plan's version, in the order in which they are applied."""
    return [item for item in yaml.safe_load_all(render(plan)) if item]
