"""The Kubernetes objects that are applied, from Jinja templates: versions, routes, and the rights to apply them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import yaml

from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.templates import template
from airflow_deploy.domain.values import printable


def quoted(value: Any) -> str:
    """Return ``value`` as JSON that is valid YAML too. YAML has no surrogate pairs, which JSON uses beyond U+FFFF."""

    def whole(pair: re.Match[str]) -> str:
        character: str = json.loads('"' + pair[0] + '"')
        return f"\\U{ord(character):08x}"

    return re.sub(r"\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}", whole, json.dumps(value))


def render_version(plan: DeploymentPlan) -> str:
    """Return the YAML of all objects of the plan's candidate."""
    return template("version.yaml.j2", quoted).render(plan=plan, spec=plan.spec)


def version_objects(plan: DeploymentPlan) -> list[dict[str, Any]]:
    """Return the objects of the plan's candidate, in the order in which they are applied."""
    return [item for item in yaml.safe_load_all(render_version(plan)) if item]


def route_object(spec: DeploymentSpec) -> dict[str, Any]:
    """Return the HTTPRoute that a service's first deployment creates. It has no backends yet."""
    body: dict[str, Any] = yaml.safe_load(template("route.yaml.j2", quoted).render(spec=spec))
    return body


def render_rbac(namespace: str, accounts: Sequence[str]) -> str:
    """Return the YAML of the Role that deployments to ``namespace`` need, and of its RoleBinding.

    :param accounts: the ServiceAccounts that are bound, as ``namespace:name``.
    :raises RefusedError: one of them is not of this form.
    """
    for account in accounts:
        if not all(account.partition(":")):
            raise RefusedError(f"{printable(account)} is not a ServiceAccount; write it as NAMESPACE:NAME")
    named = [account.split(":", 1) for account in accounts]
    return template("rbac.yaml.j2", quoted).render(namespace=namespace, accounts=named)


def render_guard(image: str, home: str, namespaces: Sequence[str], *, replicas: bool = False) -> str:
    """Return the YAML of the guard: two pods, and the least rights that they need.

    :param image: an image that contains airflow-deploy.
    :param home: the namespace of the guard itself.
    :param namespaces: the namespaces of the services that it guards; empty for all.
    :param replicas: whether some of these services use ``router: replicas``, which needs more rights.
    """
    return template("guard.yaml.j2", quoted).render(image=image, home=home, namespaces=namespaces, replicas=replicas)
