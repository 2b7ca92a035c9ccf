"""Is the incident over, by its own query? And is it back, after the fix has been verified?"""

from airflow_deploy.domain.analysis.verdict import Finding
from airflow_deploy.domain.config.request import ResolvedWhen


class IncidentWatch:
    """Follows what the incident's query says.

    :param condition: its end; None where nobody named it.
    :param relapse_after: seconds for which it must be seen to be back to be harm; None where its end is asked for.
    """

    def __init__(self, condition: ResolvedWhen | None, relapse_after: float | None) -> None:
        self._condition, self._relapse_after = condition, relapse_after
        self._value: float | None = None
        self._at = 0.0
        self._over_since: float | None = None
        self._back_since: float | None = None

    def answer(self, at: float, value: float | None) -> None:
        """Take in the query's number; None where it yielded none, or could not be asked."""
        if not self._condition:
            return
        self._value, self._at = value, at
        holds = value is not None and self._condition.holds(value)
        self._over_since = (at if self._over_since is None else self._over_since) if holds else None
        back = self._condition.denied(value)
        self._back_since = (at if self._back_since is None else self._back_since) if back else None

    def ended(self) -> list[Finding]:
        """Say whether the incident is over; nothing where nobody asked."""
        if not self._condition or self._relapse_after is not None:
            return []
        lasted = 0.0 if self._over_since is None else self._at - self._over_since
        over = self._over_since is not None and lasted >= self._condition.for_
        shown = "no number" if self._value is None else f"{self._value:g}"
        reason = f"resolved_when: {self._wanted(shown)}, for {lasted:.0f} of {self._condition.for_} s"
        if not over:
            reason += ": the incident is not resolved"
        return [Finding("resolved_when", "HEALTHY" if over else "UNDECIDED", reason)]

    def relapse(self) -> Finding | None:
        """Return a BREACHED finding where the incident is back."""
        if self._back_since is None or self._relapse_after is None:
            return None
        lasted = self._at - self._back_since
        if lasted < self._relapse_after:
            return None
        reason = f"resolved_when: {self._wanted(f'{self._value:g}')}, for {lasted:.0f} s: the incident is back"
        return Finding("resolved_when", "BREACHED", reason)

    def _wanted(self, shown: str) -> str:
        condition = self._condition
        return f"its query yields {shown}, wanted {condition.op} {condition.value:g}" if condition else ""
