"""What a look finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["HEALTHY", "BREACHED", "UNDECIDED", "BLIND"]


@dataclass(frozen=True)
class Finding:
    """What one gate says at one look, with its numbers."""

    gate: str
    verdict: Verdict
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    def dump(self) -> dict[str, Any]:
        """Return plain JSON; numbers are rounded, so that every machine recomputes the same text."""
        numbers = {name: float(f"{number:.6g}") for name, number in self.numbers.items()}
        return {"gate": self.gate, "verdict": self.verdict, "reason": self.reason, "numbers": numbers}
