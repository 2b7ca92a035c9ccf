"""Verdicts: what one gate finds at one look, and the final verdict that ends an analysis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

Verdict = Literal["HEALTHY", "BREACHED", "UNDECIDED", "BLIND"]


@dataclass(frozen=True)
class Finding:
    """The verdict of one gate at one look.

    :param gate: name of the gate, or of the check that takes its place, such as ``ready_pods``.
    :param reason: one sentence with the numbers; it is part of the stored evidence.
    :param numbers: the numbers behind the reason, by name.
    """

    gate: str
    verdict: Verdict
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """Return plain JSON. Numbers are rounded to six digits, so that every machine recomputes the same text."""
        numbers = {name: float(f"{number:.6g}") for name, number in self.numbers.items()}
        return {"gate": self.gate, "verdict": self.verdict, "reason": self.reason, "numbers": numbers}


@dataclass(frozen=True)
class FinalVerdict:
    """The verdict that ends an analysis. A rollback records it on the route, which later tasks read.

    :param verdict: CLOSED if the route shows that another task has already ended the analysis.
    :param reason: one sentence with the numbers.
    :param at: unix seconds of the verdict.
    :param restored_at: unix seconds at which the stable had all traffic again; None without a rollback.
    :param numbers: the numbers behind the reason, as plain JSON.
    """

    verdict: Verdict | Literal["CLOSED"]
    reason: str
    at: float
    restored_at: float | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def event(self) -> dict[str, Any]:
        """Return plain JSON with times in ISO 8601 (UTC)."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "at": _iso(self.at),
            "restored_at": self.restored_at and _iso(self.restored_at),
            "numbers": dict(self.numbers),
        }

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> FinalVerdict:
        """Return the verdict that ``event()`` wrote. The input comes from an annotation, so it may be anything.

        :raises ValueError: a rollback does not record such a verdict. Input of another shape raises KeyError,
            TypeError, AttributeError or RecursionError.
        """
        if event["verdict"] not in ("BREACHED", "UNDECIDED", "BLIND"):
            raise ValueError("verdict is not BREACHED, UNDECIDED or BLIND; a rollback records no other")
        restored_at = event["restored_at"] and datetime.fromisoformat(event["restored_at"]).timestamp()
        at = datetime.fromisoformat(event["at"]).timestamp()
        return cls(event["verdict"], str(event["reason"]), at, restored_at, dict(event["numbers"].items()))


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
