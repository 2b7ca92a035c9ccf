"""The request: the ``conf`` of a DAG run. It is hostile input until this module has validated it."""

import json
from math import isnan
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from airflow_deploy.domain.config.promql import check_ranges
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.names import COMMIT_PATTERN
from airflow_deploy.domain.values import DURATION, LINE_PATTERN, Line, Model, explain_invalid

MAX_BYTES = 64 * 1024
"""Largest conf, in bytes of JSON. A conf has a few hundred; more is a mistake or an attack on Airflow's database."""

COMMIT = f"^{COMMIT_PATTERN}$"
INCIDENT_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
QUERY = r"^[^\x00-\x08\x0b-\x1f\x7f]*$"
RECOMMENDATION = r"^[A-Z][A-Z_]{0,31}$"
PATTERNS = {
    COMMIT: "send 6 to 64 hex digits, in lower case",
    INCIDENT_ID: "send up to 64 letters, digits, dots, dashes and underscores, the first one a letter or a digit",
    LINE_PATTERN: "send one line, without control characters",
    QUERY: "send PromQL without control characters",
    RECOMMENDATION: "send one word in capital letters, such as DEPLOY",
}
"""The remedy, in words, for a text that does not match a pattern."""

Count = Annotated[int, Field(ge=0, le=10_000_000)]

COMPARE = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__}


class ResolvedWhen(Model):
    """When the incident is resolved: the query returns one number, and the comparison holds for ``for`` seconds."""

    query: Annotated[str, StringConstraints(min_length=1, max_length=2000, pattern=QUERY), AfterValidator(check_ranges)]
    """PromQL that yields one number."""
    op: Literal["<", "<=", ">", ">="]
    """Comparison of the query's number with ``value``."""
    value: float
    """Number to compare with."""
    for_: Annotated[int, Field(alias="for", ge=0, le=86_400), DURATION] = 0
    """How long the comparison must hold."""

    def holds(self, value: float) -> bool:
        """Whether ``value`` shows that the incident is resolved. NaN does not."""
        return COMPARE[self.op](value, self.value)

    def denied(self, value: float | None) -> bool:
        """Whether ``value`` shows that the incident is not resolved. None and NaN show nothing."""
        return value is not None and not isnan(value) and not self.holds(value)


class Incident(Model):
    """The incident that the change should resolve."""

    id: Annotated[str, StringConstraints(pattern=INCIDENT_ID)]
    """Identifier of the incident."""
    title: Line
    """Title of the incident, one line."""
    severity: Literal["critical", "high", "medium", "low"]
    """Severity of the incident."""
    resolved_when: ResolvedWhen | None = None
    """Condition in Prometheus under which the incident is over."""


class Tests(Model):
    """How many of the change's tests passed."""

    passed: Count
    """Number of tests that passed."""
    total: Count
    """Number of tests that ran."""

    @model_validator(mode="after")
    def _passed_within_total(self) -> "Tests":
        if self.passed > self.total:
            raise ValueError("passed is larger than total; correct one of them")
        return self


class Vulnerabilities(Model):
    """Known vulnerabilities by severity."""

    critical: Count = 0
    """Number of known critical vulnerabilities."""
    high: Count = 0
    """Number of known high vulnerabilities."""


class SafetyGate(Model):
    """The safety gate's result for the change, as the caller states it."""

    recommendation: Annotated[str, StringConstraints(pattern=RECOMMENDATION)]
    """Recommendation of the safety gate; any but DEPLOY is a veto."""
    tests: Tests
    """Test results; a failing test is a veto."""
    coverage: Annotated[float, Field(ge=0, le=1)] | None = None
    """Test coverage, 0 to 1."""
    lint_issues: Count | None = None
    """Number of lint issues."""
    vulnerabilities: Vulnerabilities | None = None
    """Known vulnerabilities."""
    build: Literal["success", "failure"] | None = None
    """Result of the safety gate's build; failure is a veto."""


class Change(Model):
    """The size and kind of the change."""

    files: Count
    """Number of files that the change touches."""
    lines: Count
    """Number of lines that the change touches."""
    migrations: bool = False
    """True if the change migrates a database."""
    dependencies: bool = False
    """True if the change updates dependencies."""
    configuration: bool = False
    """True if the change alters configuration."""


class Emergency(Model):
    """Why this deployment cannot wait. The reason is recorded and shown; it opens no gate."""

    reason: Line
    """Reason why the deployment cannot wait, one line."""


class DeployRequest(Model):
    """The request for one deployment."""

    commit: Annotated[str, StringConstraints(pattern=COMMIT)]
    """Commit to deploy: 6 to 64 hex digits, on a branch that the spec allows."""
    incident: Incident
    """Incident that the change is meant to end."""
    safety_gate: SafetyGate
    """Result of the safety gate, recorded as stated by the caller."""
    change: Change
    """Size and kind of the change."""
    emergency: Emergency | None = None
    """Why the deployment cannot wait; recorded, it opens no gate."""


def parse_request(conf: Any) -> DeployRequest:
    """Return the request in ``conf``.

    :raises RefusedError: one sentence for each invalid field, with its name, the cause and the remedy.
    """
    if not isinstance(conf, dict) or not conf:
        raise RefusedError(
            "conf: is empty or not an object; send an object with commit, incident, safety_gate and change"
        )
    try:
        size = len(json.dumps(conf).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise RefusedError(
            f"conf: is not plain JSON ({type(error).__name__}); send objects, lists, texts and numbers only"
        ) from None
    if size > MAX_BYTES:
        raise RefusedError(f"conf: is {size} bytes large, at most {MAX_BYTES} are permitted; shorten its texts")
    try:
        return DeployRequest.model_validate(conf)
    except ValidationError as error:
        raise RefusedError(explain_invalid("conf", error, PATTERNS)) from None
