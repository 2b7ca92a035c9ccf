"""The word that ends a loop of looks. Whoever brakes leaves it on the route, for whoever finds the route braked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from airflow_deploy.domain.analysis.verdict import Verdict


@dataclass(frozen=True)
class FinalVerdict:
    """The word that ends a loop: a verdict, or CLOSED where the route shows that somebody else has ended it."""

    verdict: Verdict | Literal["CLOSED"]
    reason: str
    at: float
    restored_at: float | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def event(self) -> dict[str, Any]:
        """Return plain JSON with ISO 8601 times."""
        return {
            "verdict": self.verdict,
            "reason": self.reason,
            "at": _iso(self.at),
            "restored_at": self.restored_at and _iso(self.restored_at),
            "numbers": dict(self.numbers),
        }

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> FinalVerdict:
        """Return what ``event()`` was made of.

        :raises ValueError: it was made by somebody else; KeyError, TypeError, AttributeError and RecursionError too.
        """
        if event["verdict"] not in ("BREACHED", "UNDECIDED", "BLIND"):
            raise ValueError("no brake says so")
        restored_at = event["restored_at"] and datetime.fromisoformat(event["restored_at"]).timestamp()
        at = datetime.fromisoformat(event["at"]).timestamp()
        return cls(event["verdict"], str(event["reason"]), at, restored_at, dict(event["numbers"].items()))


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
