"""The package's Jinja templates. Every value enters by the filter ``quoted``: it can never become structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str, quoted: Callable[[Any], str]) -> Template:
    """Return a template; ``quoted`` writes a value as a literal of the language that the template is in."""
    environment = Environment(
        loader=PackageLoader("airflow_deploy", "templates"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - it escapes HTML, and none of them is
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = quoted
    return environment.get_template(name)
