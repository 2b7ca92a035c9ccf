"""The table of health gates. A new gate of ours is one more entry here; a team's own is one more in its YAML."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from sys import float_info
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, PlainValidator, StringConstraints, ValidationError, model_validator

from airflow_deploy.domain.config.promql import check_ranges
from airflow_deploy.domain.metrics.counters import Counts
from airflow_deploy.domain.values import Model, explain_invalid, printable

Kind = Literal["errors", "latency", "pair", "gauge", "traffic"]


@dataclass(frozen=True)
class Gate:
    """One question that is asked of the candidate at every look.

    ``errors``, ``latency`` and ``pair`` gates are statements about counts: at most ``share`` of requests may be bad
    (for ``errors`` and ``pair`` that share is the limit itself, and for ``latency`` the limit is a bucket's edge in
    seconds). ``gauge`` gates read the fullest pod's share of its limit. The ``traffic`` gate asks whether the route
    delivers its share, and whether the users stay.
    """

    name: str
    kind: Kind
    default: float
    smallest: float
    largest: float
    unit: str
    share: float | None = None
    warms_up: bool = False
    """Whether fresh pods are forgiven: what is seen in the warm-up is left out."""

    @property
    def counted(self) -> bool:
        """Whether the gate is judged on counts."""
        return self.kind in COUNT_RULES

    def allowed(self, limit: float) -> float:
        """Return the share of requests that may be bad."""
        return limit if self.share is None else self.share

    def bad_and_trials(self, counts: Counts, limit: float) -> tuple[float, float]:
        """Return how many of how many requests were bad."""
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
"""The six gates by name, with the limit of each where a spec names none."""

MAX_UNREADY = 0.5
"""Share of the candidate's pods that may be unready, unless the spec says otherwise."""

GATE_NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
VERSION_PLACEHOLDER = "$version"
"""Stands in a team's query for the version's name: its Service, and the beginning of its pods' names."""


def _about_a_version(query: str) -> str:
    if VERSION_PLACEHOLDER not in query:
        raise ValueError(
            f"must hold {VERSION_PLACEHOLDER}, which stands for a version's name, so that versions are told apart"
        )
    return check_ranges(query)


Query = Annotated[str, StringConstraints(min_length=1, max_length=2000), AfterValidator(_about_a_version)]


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
            raise ValueError("has either bad and total, which are counters, or gauge")
        if self.bad and not 1e-6 <= self.limit <= 0.5:
            raise ValueError("limit must lie between 1e-06 and 0.5: it is a share of total")
        return self

    @property
    def kind(self) -> Kind:
        """How it is judged."""
        return "pair" if self.bad else "gauge"

    def queries(self, version: str) -> dict[str, str]:
        """Return its queries for one version, by ``bad``, ``total`` and ``gauge``."""
        said = {"bad": self.bad, "total": self.total, "gauge": self.gauge}
        return {role: query.replace(VERSION_PLACEHOLDER, version) for role, query in said.items() if query}


def _limit(value: Any) -> float | OwnGate:
    """Read what a gate's name stands for: a limit, or a gate of the team's own."""
    if isinstance(value, dict):
        try:
            return OwnGate.model_validate(value)
        except ValidationError as error:
            raise ValueError(explain_invalid("the gate", error)) from None
    if isinstance(value, OwnGate):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= float_info.max:
        raise ValueError("write its limit, or for a gate of your own: bad, total and limit, or gauge and limit")
    return float(value)


Limit = Annotated[Any, PlainValidator(_limit, json_schema_input_type=float | OwnGate)]
"""A gate's limit, or a gate of the team's own."""


def gate_table(kinds: Mapping[str, Kind]) -> dict[str, Gate]:
    """Return all gates by name: ours, and those of the team's own, whose kinds are given."""
    own = {name: Gate(name, kind, 0, 0, 0, "", None) for name, kind in kinds.items()}
    return {**GATES, **own}


def merge_limits(gates: Mapping[str, float | OwnGate]) -> dict[str, float | OwnGate]:
    """Return every gate in the table's order: the given ones, the defaults of the others, and the team's own.

    :raises ValueError: a name or a limit that cannot be.
    """
    for name, said in gates.items():
        if isinstance(said, OwnGate):
            if name in GATES or not GATE_NAME.fullmatch(name):
                raise ValueError(
                    f"{printable(name)} cannot name a gate of your own; use another word of a-z, 0-9 and _"
                )
            continue
        if name not in GATES:
            raise ValueError(f"{printable(name)} is no gate; the gates are {', '.join(GATES)}")
        gate = GATES[name]
        if not gate.smallest <= said <= gate.largest:
            raise ValueError(f"{name} must lie between {gate.smallest:g} and {gate.largest:g} ({gate.unit})")
    ours = {name: gates.get(name, gate.default) for name, gate in GATES.items()}
    return {**ours, **{name: gates[name] for name in sorted(gates) if name not in GATES}}
