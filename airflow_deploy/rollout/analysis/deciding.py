"""Which verdict ends an analysis loop, and when. It reads nothing: it is told what each look has found."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_deploy.domain.analysis.verdict import FinalVerdict, Finding, Verdict
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing.record import PROMOTED
from airflow_deploy.rollout.analysis.loop_roles import RoleTerms

log = logging.getLogger(__name__)

UNVERIFIED_SECONDS = 600.0
"""Seconds beyond ``max_bake`` after which the watch rolls back a promotion that no task verifies (a person has marked
``verify`` as done, say)."""


class Decision:
    """Counts for how long one loop has seen, been blind, or seen harm.

    :param started: unix seconds from which ``bake`` counts.
    """

    def __init__(self, role: RoleTerms, plan: DeploymentPlan, started: float) -> None:
        self._role, self._spec, self._started = role, plan.spec, started
        self._looked_at: float | None = None
        self._sighted = 0.0
        self._sighted_before_promotion = 0.0
        self._breached_since: float | None = None
        self._blind_since: float | None = None

    def note_phase(self, phase: str | None) -> None:
        """Note the route's phase before a look is decided."""
        if phase != PROMOTED:
            self._sighted_before_promotion = self._sighted

    def decide(
        self,
        verdict: Verdict,
        findings: Sequence[Finding],
        at: float,
        numbers: Mapping[str, Any],
        *,
        mirrored: bool,
    ) -> FinalVerdict | None:
        """Return the verdict that ends the loop; None to go on.

        :param numbers: what was counted so far.
        :param mirrored: whether the candidate has copies instead of users.
        """
        self._clock(verdict, at)
        reason = "; ".join(finding.reason for finding in findings if finding.verdict == verdict)
        if verdict == "BREACHED":
            lasted = at - (self._breached_since or at)
            return FinalVerdict(verdict, reason, at, numbers=numbers) if lasted >= self._role.grace else None
        if verdict == "BLIND":
            return self._decide_blind(reason, at, numbers, mirrored=mirrored)
        canary = self._spec.canary
        if not self._role.judges_health:
            if self._sighted - self._sighted_before_promotion < canary.max_bake + UNVERIFIED_SECONDS:
                return None
            return FinalVerdict("UNDECIDED", "no task has verified the promotion", at, numbers=numbers)
        if verdict == "HEALTHY" and at - self._started >= canary.bake:
            return FinalVerdict(verdict, reason, at, numbers=numbers)
        if self._sighted >= canary.max_bake:
            # A person may be asked about it, and wants to see all of it.
            seen = {**numbers, "findings": [item.dump() for item in findings]}
            return FinalVerdict("UNDECIDED", f"after {self._sighted:.0f} s: {reason}", at, numbers=seen)
        return None

    def _clock(self, verdict: Verdict, at: float) -> None:
        """Count the time that was spent seeing: blindness neither promotes nor rolls back by running out the clock."""
        elapsed = at - (self._looked_at or at)
        self._looked_at = at
        self._breached_since = (self._breached_since or at) if verdict == "BREACHED" else None
        if verdict == "BLIND":
            self._blind_since = self._blind_since or at
        else:
            self._blind_since = None
            self._sighted += elapsed

    def _decide_blind(
        self, reason: str, at: float, numbers: Mapping[str, Any], *, mirrored: bool
    ) -> FinalVerdict | None:
        blindness = self._spec.blindness
        lasted = at - (self._blind_since or at)
        if lasted < blindness.max_blind:
            return None
        log.error("blind for %.0f s; see whether Prometheus scrapes the service: %s", lasted, reason)
        # Copies that go on serve no user, and those that never end pile up in the gateway.
        if self._role.leads and (blindness.then == "rollback" or mirrored):
            return FinalVerdict("BLIND", f"for {lasted:.0f} s: {reason}", at, numbers=numbers)
        return None
