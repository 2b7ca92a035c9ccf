"""The call of the step before us: the safety gate has judged a fix, and hands it over for deployment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, TypedDict, Unpack, get_args

from airflow_deploy.clients.airflow_rest.api import AirflowApi
from airflow_deploy.clients.airflow_rest.runs import DeploymentRun, check_conf
from airflow_deploy.domain.config.request import Change, Emergency, ResolvedWhen, SafetyGate
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.result import DeployResult
from airflow_deploy.domain.values import Model

WAIT_SECONDS = 4 * 3600.0
"""How long to wait by default: four stages of at most half an hour each, and an approval of an hour."""

REQUIRED = ("service", "title", "severity", "change")
OPTIONAL = ("resolved_when", "emergency")
"""What describes the fix, beside its commit: the caller gives it, or else the safety gate's result holds it."""

VALUES = (str, bytes, int, float, list, tuple, set, frozenset, type(None))
"""What is a value of its own, and no object that holds the fields of one."""


class Settings(TypedDict, total=False):
    """The keyword arguments of ``Orchestrator`` and of both calls; it describes them."""

    service: str | None
    title: str | None
    severity: str | None
    change: Any
    resolved_when: Any
    emergency: str | None
    wait: bool
    timeout: float
    url: str | None
    token: str | None


@dataclass(frozen=True, kw_only=True)
class Orchestrator:
    """Holds what the deployments of one caller have in common, such as the service and where Airflow is.

    :param service: as in its YAML; the DAG is ``deploy_<service>``.
    :param title: of the incident, one line.
    :param severity: of the incident: critical, high, medium or low.
    :param change: files, lines, and whether there are migrations, dependencies, configuration.
    :param resolved_when: when the incident counts as resolved: query, op, value, for.
    :param emergency: why this cannot wait; it is recorded and opens no gate.
    :param wait: whether to return only when the deployment is over.
    :param timeout: seconds to wait at most; the deployment goes on, and the result's ``ended`` is False.
    :param url: of Airflow, by default ``AIRFLOW_DEPLOY_URL``.
    :param token: by default ``AIRFLOW_DEPLOY_TOKEN``, or one for ``AIRFLOW_DEPLOY_USER`` and its password.
    """

    service: str | None = None
    title: str | None = None
    severity: str | None = None
    change: Any = None
    resolved_when: Any = None
    emergency: str | None = None
    wait: bool = False
    timeout: float = WAIT_SECONDS
    url: str | None = None
    token: str | None = field(default=None, repr=False)

    def deploy_from_safety_gate(
        self, incident_id: str, safety_gate_result: Any, commit_hash: str, **settings: Unpack[Settings]
    ) -> DeployResult:
        """Trigger the deployment of a fix over Airflow's REST API.

        A setting of this call counts before the orchestrator's own, and that before the safety gate's result. All of it
        is checked before any request is sent, so a fix that the safety gate does not recommend triggers nothing.

        :param incident_id: such as INC-001.
        :param safety_gate_result: a mapping, or an object with attributes such as a dataclass or a pydantic model. It
            holds what the conf calls ``safety_gate`` (recommendation, tests, coverage ...), and whichever of service,
            title, severity, change, resolved_when and emergency is not given otherwise. Further attributes of an object
            are not sent; further keys of a mapping are refused.
        :param commit_hash: 6 to 64 hex digits, on a branch that the service's YAML allows.
        :raises RefusedError: one sentence that names the fields and the remedy; nothing was triggered.
        :raises TemporaryError: Airflow does not answer.
        """
        given: dict[str, Any] = {name: value for name, value in settings.items() if value is not None}
        return replace(self, **given)._deploy(incident_id, safety_gate_result, commit_hash)

    def _deploy(self, incident_id: str, safety_gate_result: Any, commit_hash: str) -> DeployResult:
        gate = _as_json(safety_gate_result, SafetyGate, also=(*REQUIRED, *OPTIONAL))
        facts = {name: self._fact(name, gate) for name in (*REQUIRED, *OPTIONAL)}
        _check_complete(facts, gate)
        incident = {"id": incident_id, "title": facts["title"], "severity": facts["severity"]}
        if facts["resolved_when"] is not None:
            incident["resolved_when"] = _as_json(facts["resolved_when"], ResolvedWhen)
        change = _as_json(facts["change"], Change)
        conf = {"commit": commit_hash, "incident": incident, "safety_gate": gate, "change": change}
        if (emergency := facts["emergency"]) is not None:
            conf["emergency"] = {"reason": emergency} if isinstance(emergency, str) else _as_json(emergency, Emergency)
        check_conf(conf)
        run = DeploymentRun.start(AirflowApi.from_environment(self.url, self.token), str(facts["service"]), conf)
        return run.result(run.wait(self.timeout) if self.wait else None)

    def _fact(self, name: str, gate: Any) -> Any:
        """Return what is set, or else what the safety gate's result says; the conf has another place for it."""
        stated = gate.pop(name, None) if isinstance(gate, dict) else None
        own = getattr(self, name)
        return _as_json(stated if own is None else own)


def deploy_from_safety_gate(
    incident_id: str, safety_gate_result: Any, commit_hash: str, **settings: Unpack[Settings]
) -> DeployResult:
    """Trigger the deployment of a fix over Airflow's REST API.

    The safety gate's result says what is deployed and how it was tested. What it does not say is given as a keyword
    argument, or held by an ``Orchestrator``::

        result = deploy_from_safety_gate(
            incident_id="INC-001", safety_gate_result=gate.evaluate(fix), commit_hash="abc1234", wait=True
        )
        if result.state == "VERIFIED": ...

    :param settings: as the parameters of ``Orchestrator``: service, title, severity, change, resolved_when, emergency,
        wait, timeout, url, token.
    :raises RefusedError: one sentence that names the fields and the remedy; nothing was triggered.
    :raises TemporaryError: Airflow does not answer.
    """
    return Orchestrator(**settings).deploy_from_safety_gate(incident_id, safety_gate_result, commit_hash)


def _check_complete(facts: Mapping[str, Any], gate: Any) -> None:
    """Make sure that nothing required is missing.

    :raises RefusedError: one sentence that names all of it.
    """
    stated = gate if isinstance(gate, dict) else SafetyGate.model_fields  # what is no object is named by check_conf
    of_gate = [name for name, info in SafetyGate.model_fields.items() if info.is_required() and name not in stated]
    of_fix = [name for name in REQUIRED if facts[name] is None]
    if missing := [*of_gate, *of_fix]:
        verb, pronoun = ("is", "it") if len(missing) == 1 else ("are", "them")
        elsewhere = f", or pass {_listed(of_fix)} to the call or to Orchestrator" if of_fix else ""
        raise RefusedError(f"safety_gate_result: {_listed(missing)} {verb} missing; add {pronoun}{elsewhere}")


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _as_json(value: Any, model: type[Model] | None = None, also: tuple[str, ...] = ()) -> Any:
    """Return ``value`` as JSON has it; the check that follows names what is not valid.

    A mapping keeps all its keys, so that the check can name one that is unknown. Of any other object, those attributes
    are taken that are fields of ``model``.

    :param also: names of further attributes.
    """
    if isinstance(value, Enum):
        return value.value
    if model is None:
        return value
    nested = _nested_models(model)
    if isinstance(value, Mapping):
        found = dict(value)
    elif isinstance(value, VALUES) and not hasattr(value, "_fields"):  # a named tuple has attributes
        return value
    else:
        names = {name: info.alias or name for name, info in model.model_fields.items()} | {name: name for name in also}
        found = {key: getattr(value, name, getattr(value, key, None)) for name, key in names.items()}
        found = {key: item for key, item in found.items() if item is not None and not callable(item)}
    return {key: _as_json(item, nested.get(key)) for key, item in found.items()}


def _nested_models(model: type[Model]) -> dict[str, type[Model]]:
    """Return the fields of ``model`` that are models too."""
    found = {}
    for name, info in model.model_fields.items():
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, Model):
                found[info.alias or name] = kind
    return found
