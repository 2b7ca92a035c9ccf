"""The package's Jinja templates. Values enter through the filter ``quoted``, so they never become structure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template


def template(name: str, quoted: Callable[[Any], str]) -> Template:
    """Return the template ``name``.

    :param quoted: the filter, which returns a value as a literal of the template's language.
    """
    environment = Environment(
        loader=PackageLoader("airflow_deploy", "templates"),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - autoescape is for HTML, and no template is HTML
        keep_trailing_newline=True,
    )
    environment.filters["quoted"] = quoted
    return environment.get_template(name)
