"""The table of health gates. A new built-in gate is one more entry here; a team's own gate is one more in its YAML."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from sys import float_info
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PlainValidator, StringConstraints, ValidationError, model_validator

from airflow_deploy.domain.config.promql import check_ranges
from airflow_deploy.domain.metrics.counters import Counts
from airflow_deploy.domain.values import Model, explain_invalid, printable

GateKind = Literal["errors", "latency", "pair", "gauge", "traffic"]


@dataclass(frozen=True)
class Gate:
    """One health check of the candidate, evaluated at every look.

    - ``errors``, ``latency`` and ``pair`` gates count: at most a given share of the requests may be bad. For ``errors``
      and ``pair`` the limit is that share; for ``latency`` the limit is a bucket's edge in seconds.
    - ``gauge`` gates read a value, such as the fullest pod's share of its memory limit.
    - The ``traffic`` gate checks that the route delivers its share and that the service keeps its traffic.

    :param default: the limit if a spec names none, in ``unit``.
    :param smallest: the smallest limit that a spec may set; ``largest``: the largest.
    :param unit: the unit of the limit, for people.
    :param share: for ``latency``: the share of requests that may be slower than the limit, 0 to 1.
    :param warms_up: whether observations during the warm-up of fresh pods are left out.
    """

    name: str
    kind: GateKind
    default: float
    smallest: float
    largest: float
    unit: str
    share: float | None = None
    warms_up: bool = False

    @property
    def counted(self) -> bool:
        """Whether the gate is judged on counts."""
        return self.kind in COUNT_RULES

    def allowed(self, limit: float) -> float:
        """Return the share of requests that may be bad, 0 to 1."""
        return limit if self.share is None else self.share

    def bad_and_trials(self, counts: Counts, limit: float) -> tuple[float, float]:
        """Return the number of bad requests (or events), and of all."""
        return COUNT_RULES[self.kind](self, counts, limit)


COUNT_RULES: dict[str, Callable[[Gate, Counts, float], tuple[float, float]]] = {
    "errors": lambda _, counts, __: (counts.errors, counts.requests),
    "latency": lambda _, counts, limit: (counts.slow(limit), counts.timed),
    "pair": lambda gate, counts, _: counts.pairs.get(gate.name, (0.0, 0.0)),
}

GATES = {
    gate.name: gate
    for gate in (
        Gate("error_rate", "errors", default=0.01, smallest=1e-6, largest=0.5, unit="of requests answered 5xx"),
        Gate("latency_p95", "latency", default=0.5, smallest=1e-4, largest=600, unit="s", share=0.05, warms_up=True),
        Gate("latency_p99", "latency", default=1.0, smallest=1e-4, largest=600, unit="s", share=0.01, warms_up=True),
        Gate("cpu_saturation", "gauge", default=0.9, smallest=0.01, largest=10, unit="of the CPU limit", warms_up=True),
        Gate("memory", "gauge", default=0.9, smallest=0.01, largest=1, unit="of the memory limit"),
        Gate("request_rate", "traffic", default=2.0, smallest=1.1, largest=10, unit="times the declared share"),
    )
}
"""The six built-in gates, by name."""

MAX_UNREADY = 0.5
"""Share of the candidate's pods that may be unready if the spec names none, 0 to 1."""

GATE_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
VERSION_PLACEHOLDER = "$version"
"""Placeholder in a team's query for a version's name: the name of its Service and the prefix of its pods' names."""


def _names_version(query: str) -> str:
    if VERSION_PLACEHOLDER not in query:
        raise ValueError(
            f"must contain {VERSION_PLACEHOLDER}, the placeholder of a version's name; without it both versions count"
        )
    return check_ranges(query)


Query = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(_names_version)]


class OwnGate(Model):
    """A gate of the team's own: counters of ``bad`` among ``total`` events, or a ``gauge``, and its limit."""

    bad: Query | None = None
    """PromQL counter of bad events, without ``rate()`` or ``sum()``."""
    total: Query | None = None
    """PromQL counter of all events, without ``rate()`` or ``sum()``."""
    gauge: Query | None = None
    """PromQL gauge; its largest value is held against the limit."""
    limit: float
    """Largest share of bad events (1e-06 to 0.5), or largest value of the gauge."""

    @model_validator(mode="after")
    def _check(self) -> "OwnGate":
        if (self.bad is None) != (self.total is None) or (self.bad is None) == (self.gauge is None):
            raise ValueError("write either bad and total, which are counters, or gauge")
        if self.bad and not 1e-6 <= self.limit <= 0.5:
            raise ValueError("limit is a share of total; write a number from 1e-06 to 0.5")
        return self

    @property
    def kind(self) -> GateKind:
        """``pair`` if it counts, else ``gauge``."""
        return "pair" if self.bad else "gauge"

    def queries(self, version: str) -> dict[str, str]:
        """Return its queries for one version, by role: ``bad`` and ``total``, or ``gauge``."""
        queries = {"bad": self.bad, "total": self.total, "gauge": self.gauge}
        return {role: query.replace(VERSION_PLACEHOLDER, version) for role, query in queries.items() if query}


def _limit(value: Any) -> float | OwnGate:
    """Return the value of a gate in the spec: a limit, or a gate of the team's own."""
    if isinstance(value, dict):
        try:
            return OwnGate.model_validate(value)
        except ValidationError as error:
            raise ValueError(explain_invalid("the gate", error)) from None
    if isinstance(value, OwnGate):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= float_info.max:
        raise ValueError("write a number, or for a gate of your own: bad, total and limit, or gauge and limit")
    return float(value)


Limit = Annotated[Any, PlainValidator(_limit, json_schema_input_type=float | OwnGate)]
"""A gate's limit, or a gate of the team's own."""


def gate_table(kinds: Mapping[str, GateKind]) -> dict[str, Gate]:
    """Return all gates by name: the built-in ones, then the team's own, whose kinds are given by name."""
    own = {name: Gate(name, kind, 0, 0, 0, "", None) for name, kind in kinds.items()}
    return {**GATES, **own}


def merge_limits(gates: Mapping[str, float | OwnGate]) -> dict[str, float | OwnGate]:
    """Return the limit of every built-in gate in the table's order, then the team's own gates by name.

    :param gates: what the spec sets; the others get their defaults.
    :raises ValueError: a name is not permitted or unknown, or a limit is out of range.
    """
    for name, value in gates.items():
        if isinstance(value, OwnGate):
            if name in GATES or not GATE_NAME.fullmatch(name):
                raise ValueError(
                    f"{printable(name)} cannot name a gate of your own; use another name of a-z, 0-9 and _"
                )
            continue
        if name not in GATES:
            raise ValueError(f"{printable(name)} is not a gate; use one of {', '.join(GATES)}")
        gate = GATES[name]
        if not gate.smallest <= value <= gate.largest:
            raise ValueError(f"{name} is out of range; write {gate.smallest:g} to {gate.largest:g} ({gate.unit})")
    built_in = {name: gates.get(name, gate.default) for name, gate in GATES.items()}
    return {**built_in, **{name: gates[name] for name in sorted(gates) if name not in GATES}}
