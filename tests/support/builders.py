"""Builders: a valid spec, a valid conf, and the plan that follows from both."""

from __future__ import annotations

import copy
from typing import Any

from airflow_deploy.domain.config.request import DeployRequest, parse_request
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.config.spec_file import parse_spec
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "sha256:" + "ab" * 32

SPEC: dict[str, Any] = {
    "service": "payments",
    "namespace": "shop",
    "source": {"repository": "https://git.example.com/shop/payments.git"},
    "registry": "registry.example.com:5000/shop",
    "route": {"name": "payments-route"},
}

CONF: dict[str, Any] = {
    "commit": "abc123def456",
    "incident": {
        "id": "INC-001",
        "title": "Payments time out",
        "severity": "critical",
        "resolved_when": {"query": "sum(rate(errors[1m]))", "op": "<", "value": 0.01, "for": "5m"},
    },
    "safety_gate": {
        "recommendation": "DEPLOY",
        "tests": {"passed": 127, "total": 127},
        "coverage": 0.85,
        "lint_issues": 0,
        "vulnerabilities": {"critical": 0, "high": 0},
        "build": "success",
    },
    "change": {"files": 3, "lines": 41, "migrations": False, "dependencies": False, "configuration": True},
    "emergency": {"reason": "customers cannot pay"},
}
"""A full example."""

CARDS = {"bad": 'refused_total{version="$version"}', "total": 'cards_total{version="$version"}', "limit": 0.02}
QUEUE = {"gauge": 'max(queue_depth{pod=~"$version-.*"})', "limit": 100}
"""Two gates of a team's own: of counters, and of a gauge."""

Path = tuple[str | int, ...]

MISSING = object()


def changed(base: dict[str, Any], path: Path, value: Any) -> dict[str, Any]:
    """Return a copy of ``base`` with another value at ``path``, or without it if the value is ``MISSING``."""
    result = copy.deepcopy(base)
    target: Any = result
    for key in path[:-1]:
        target = target[key]
    if value is MISSING:
        del target[path[-1]]
    else:
        target[path[-1]] = value
    return result


def make_spec(**changes: Any) -> DeploymentSpec:
    return parse_spec({**copy.deepcopy(SPEC), **changes}, "payments.yaml")


def make_request(path: Path = (), value: Any = None) -> DeployRequest:
    return parse_request(changed(CONF, path, value) if path else CONF)


def make_plan(
    spec: DeploymentSpec | None = None, request: DeployRequest | None = None, **changes: Any
) -> DeploymentPlan:
    fields: dict[str, Any] = {
        "dag_id": "deploy_payments",
        "run_id": "manual__2026-11-23T07:00:00+00:00",
        "requester": "ada",
        "created": 1_795_417_200,
        "spec": spec or make_spec(),
        "request": request or make_request(),
        "commit": COMMIT,
        "stable": "payments",
        "stable_port": 80,
        "digest": DIGEST,
    }
    return DeploymentPlan(**{**fields, **changes})
