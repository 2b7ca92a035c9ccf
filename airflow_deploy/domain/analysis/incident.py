"""Whether the incident is resolved, by its own query, and whether it has come back after the fix was verified."""

from airflow_deploy.domain.analysis.verdict import Finding
from airflow_deploy.domain.config.request import ResolvedWhen


class IncidentWatch:
    """Follows the value of the incident's query.

    :param condition: the incident's ``resolved_when``; None if the request has none.
    :param relapse_after: seconds for which the incident must be back before that is harm; None while the incident is
        still to be resolved.
    """

    def __init__(self, condition: ResolvedWhen | None, relapse_after: float | None) -> None:
        self._condition, self._relapse_after = condition, relapse_after
        self._value: float | None = None
        self._at = 0.0
        self._resolved_since: float | None = None
        self._back_since: float | None = None

    def observe(self, at: float, value: float | None) -> None:
        """Take in the query's value at ``at`` (unix seconds); None if it returned none or could not be evaluated."""
        if not self._condition:
            return
        self._value, self._at = value, at
        holds = value is not None and self._condition.holds(value)
        self._resolved_since = (at if self._resolved_since is None else self._resolved_since) if holds else None
        back = self._condition.denied(value)
        self._back_since = (at if self._back_since is None else self._back_since) if back else None

    def resolved(self) -> list[Finding]:
        """Return one finding: HEALTHY if the incident is resolved, else UNDECIDED.

        The list is empty if the request names no condition, or if the fix is already verified.
        """
        if not self._condition or self._relapse_after is not None:
            return []
        lasted = 0.0 if self._resolved_since is None else self._at - self._resolved_since
        resolved = self._resolved_since is not None and lasted >= self._condition.for_
        shown = "no number" if self._value is None else f"{self._value:g}"
        reason = f"resolved_when: {self._comparison(shown)}, held for {lasted:.0f} of {self._condition.for_} s"
        if not resolved:
            reason += ": the incident is not resolved"
        return [Finding("resolved_when", "HEALTHY" if resolved else "UNDECIDED", reason)]

    def relapse(self) -> Finding | None:
        """Return a BREACHED finding if the incident has been back for ``relapse_after`` seconds, else None."""
        if self._back_since is None or self._relapse_after is None:
            return None
        lasted = self._at - self._back_since
        if lasted < self._relapse_after:
            return None
        reason = f"resolved_when: {self._comparison(f'{self._value:g}')} for {lasted:.0f} s: the incident is back"
        return Finding("resolved_when", "BREACHED", reason)

    def _comparison(self, shown: str) -> str:
        condition = self._condition
        return f"its query returns {shown} (resolved if {condition.op} {condition.value:g})" if condition else ""
