"""How much the loops of one process may log.

All that triggers log goes through one pipe of the triggerer's, which Airflow reads at some 50 KB a second. If it is
full, a loop that logs waits, and the triggerer's own loop with all that it runs.
"""

from __future__ import annotations

LINES_PER_SECOND = 20.0
MAX_LINES = 100.0
"""Lines that may come at one time."""


class LogBudget:
    """Lines that may be logged now: few loops always have enough, and a thousand take turns."""

    def __init__(self) -> None:
        self._left, self._at = MAX_LINES, 0.0

    def is_left(self, now: float) -> bool:
        """Whether something may be logged at ``now`` (monotonic seconds)."""
        self._left = min(MAX_LINES, self._left + max(0.0, now - self._at) * LINES_PER_SECOND)
        self._at = now
        return self._left > 0

    def spend(self, lines: int) -> None:
        """Count what has been logged."""
        self._left -= lines


LOG_BUDGET = LogBudget()
