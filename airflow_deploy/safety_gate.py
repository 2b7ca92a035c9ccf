"""The call of the step before us: the safety gate has judged a fix, and hands it over for deployment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_deploy.clients.airflow_rest.api import AirflowApi
from airflow_deploy.clients.airflow_rest.runs import DeploymentRun, check_conf
from airflow_deploy.domain.lifecycle.result import DeployResult

WAIT = 4 * 3600.0
"""Seconds to wait by default: four stages of half an hour each at most, and an approval of an hour."""


def deploy_from_safety_gate(
    incident_id: str,
    safety_gate_result: Mapping[str, Any],
    commit_hash: str,
    *,
    service: str,
    title: str,
    severity: str,
    change: Mapping[str, Any],
    resolved_when: Mapping[str, Any] | None = None,
    emergency: str | None = None,
    wait: bool = False,
    timeout: float = WAIT,
    url: str | None = None,
    token: str | None = None,
) -> DeployResult:
    """Trigger the deployment of a fix over Airflow's REST API.

    All of it is checked before any call, so a fix that the safety gate does not recommend reaches nobody::

        result = deploy_from_safety_gate(
            "INC-001", {"recommendation": "DEPLOY", "tests": {"passed": 127, "total": 127}}, "abc1234",
            service="payments", title="Payments time out", severity="critical",
            change={"files": 3, "lines": 41}, wait=True,
        )
        if result.state == "VERIFIED": ...

    :param safety_gate_result: what the conf calls ``safety_gate``: recommendation, tests, coverage and so on.
    :param commit_hash: 6 to 64 hex digits, on a branch that the service's YAML allows.
    :param service: as in its YAML; the DAG is ``deploy_<service>``.
    :param title: of the incident, one line.
    :param severity: of the incident: critical, high, medium or low.
    :param change: files, lines, and whether there are migrations, dependencies, configuration.
    :param resolved_when: the incident's own end: query, op, value, for.
    :param emergency: why this cannot wait; it is recorded and opens no gate.
    :param wait: whether to return only when the deployment is over.
    :param timeout: seconds to wait at most; the deployment goes on, and the result's ``ended`` is False.
    :param url: of Airflow, by default ``AIRFLOW_DEPLOY_URL``.
    :param token: by default ``AIRFLOW_DEPLOY_TOKEN``, or one for ``AIRFLOW_DEPLOY_USER`` and its password.
    :raises RefusedError: one sentence that names the field and the remedy; nothing was triggered.
    :raises TemporaryError: Airflow does not answer.
    """
    incident: dict[str, Any] = {"id": incident_id, "title": title, "severity": severity}
    if resolved_when is not None:
        incident["resolved_when"] = _plain(resolved_when)
    conf: dict[str, Any] = {
        "commit": commit_hash,
        "incident": incident,
        "safety_gate": _plain(safety_gate_result),
        "change": _plain(change),
    }
    if emergency is not None:
        conf["emergency"] = {"reason": emergency}
    check_conf(conf)
    run = DeploymentRun.start(AirflowApi.from_environment(url, token), service, conf)
    return run.result(run.wait(timeout) if wait else None)


def _plain(value: Any) -> Any:
    """Return a mapping as the dict that JSON needs; what is none is named by the check that follows."""
    return dict(value) if isinstance(value, Mapping) else value
