"""The table of health gates. A new gate is one more entry here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from airflow_deploy.domain.telemetry import Counts
from airflow_deploy.domain.values import printable

Kind = Literal["errors", "latency", "gauge", "traffic"]


@dataclass(frozen=True)
class Gate:
    """One question that is asked of the candidate at every look.

    ``errors`` and ``latency`` gates are statements about counts: at most ``share`` of requests may be bad (for
    ``errors`` that share is the limit itself, and for ``latency`` the limit is a bucket's edge in seconds). ``gauge``
    gates read the fullest pod's share of its limit. The ``traffic`` gate asks whether the route delivers its share.
    """

    name: str
    kind: Kind
    default: float
    smallest: float
    largest: float
    unit: str
    share: float | None = None

    @property
    def counted(self) -> bool:
        """Whether the gate is judged on counts of requests."""
        return self.kind in COUNTED

    def allowed(self, limit: float) -> float:
        """Return the share of requests that may be bad."""
        return limit if self.share is None else self.share

    def bad_and_trials(self, counts: Counts, limit: float) -> tuple[float, float]:
        """Return how many of how many requests were bad."""
        return COUNTED[self.kind](counts, limit)


COUNTED: dict[str, Callable[[Counts, float], tuple[float, float]]] = {
    "errors": lambda counts, _: (counts.errors, counts.requests),
    "latency": lambda counts, limit: (counts.slow(limit), counts.timed),
}

GATES = {
    gate.name: gate
    for gate in (
        Gate("error_rate", "errors", default=0.01, smallest=1e-6, largest=0.5, unit="of requests answered 5xx"),
        Gate("latency_p95", "latency", default=0.5, smallest=1e-4, largest=600, unit="s", share=0.05),
        Gate("latency_p99", "latency", default=1.0, smallest=1e-4, largest=600, unit="s", share=0.01),
        Gate("cpu_saturation", "gauge", default=0.9, smallest=0.01, largest=10, unit="of the CPU limit"),
        Gate("memory", "gauge", default=0.9, smallest=0.01, largest=1, unit="of the memory limit"),
        Gate("request_rate", "traffic", default=2.0, smallest=1.1, largest=10, unit="times the declared share"),
    )
}
"""The six gates by name, with the limit of each where a spec names none."""


def merge_limits(limits: dict[str, float]) -> dict[str, float]:
    """Return the limit of every gate, in the table's order: the given ones, and the defaults of the others.

    :raises ValueError: a gate that does not exist, or a limit outside its range.
    """
    for name, limit in limits.items():
        if name not in GATES:
            raise ValueError(f"{printable(name)} is no gate; the gates are {', '.join(GATES)}")
        gate = GATES[name]
        if not gate.smallest <= limit <= gate.largest:
            raise ValueError(f"{name} must lie between {gate.smallest:g} and {gate.largest:g} ({gate.unit})")
    return {name: float(limits.get(name, gate.default)) for name, gate in GATES.items()}
