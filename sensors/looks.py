"""One look after the other at a deployment, until there is a word to say.

This is the loop behind the watch, the gates and the verification.

It reads the route (who owns it, its phase, its shifts), Prometheus' counters and gauges, and asks the one ``evaluate``.
Nothing here is Airflow's: the triggers run it in the triggerer, and a sensor that may not defer runs it in its worker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from airflow_deploy.clients.cluster import Cluster
from airflow_deploy.clients.observer import Observer
from airflow_deploy.clients.settling import return_traffic
from airflow_deploy.domain import route as routes
from airflow_deploy.domain.errors import DeployError, FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.evidence import EvidenceLog, counts_from
from airflow_deploy.domain.judge import Finding, Verdict, evaluate
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.route import Route
from airflow_deploy.domain.telemetry import CounterReader, Counts

log = logging.getLogger(__name__)

Role = Literal["watch", "gate", "verify"]

LOOKBACK = 30
"""Seconds of history before the first shift: they show which series were there already."""
COMPARE = {"<": float.__lt__, "<=": float.__le__, ">": float.__gt__, ">=": float.__ge__}


@dataclass(frozen=True)
class Assignment:
    """What one loop of looks is for. It travels to the triggerer as JSON, so all its times are absolute.

    :param claim: the owner that ``claim_route`` returned.
    :param started: unix seconds from which ``bake`` and ``max_bake`` count.
    :param next_share: the share in % that HEALTHY would permit; None for the watch, which asks for harm alone.
    """

    role: Role
    plan: dict[str, Any]
    baseline: dict[str, Any]
    claim: str
    started: float
    next_share: int | None = None


@dataclass(frozen=True)
class Outcome:
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


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


class Looks:
    """The state of one loop. ``look()`` blocks for a few requests; give it a thread of its own."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._plan = plan = DeploymentPlan.load(assignment.plan)
        self._cluster = Cluster(plan.spec.connections.kubernetes)
        # The brake has a client of its own, so that no other request can stand in its way.
        self._brake_cluster = Cluster(plan.spec.connections.kubernetes)
        self._observer = Observer.connect(plan)
        self._reader: CounterReader | None = None
        baseline: Counts = counts_from(assignment.baseline)
        self._log = EvidenceLog(plan.spec.gates, plan.candidate, plan.stable, baseline, self._observer.queries)
        self._blind_since: float | None = None
        self._resolved_since: float | None = None

    @property
    def evidence(self) -> str:
        """Everything that led to the verdicts so far, as JSON lines."""
        return self._log.lines()

    def look(self) -> Outcome | None:
        """Look once; return the word that ends the loop, None to go on.

        :raises TemporaryError: the cluster does not answer; look again.
        """
        at = time.time()
        route = self._cluster.route(self._plan.spec.namespace, self._plan.spec.route.name)
        if phase := self._closed_by(route):
            return Outcome("CLOSED", f"route {route.name} is {phase}", at, numbers={"phase": phase})
        blind = self._sight(route, at)
        verdict, findings = evaluate(self._log.judge, at, blind, self._assignment.next_share)
        self._log.verdict(at, verdict, findings, {"blind": blind, "next_share": self._assignment.next_share})
        self._report(route, verdict, findings)
        return self._decide(verdict, findings, at)

    def brake(self) -> float | None:
        """Return all traffic to the stable in one fenced write; say when it was done, None where the route was lost."""
        for _ in range(3):
            try:
                if return_traffic(self._brake_cluster, self._plan, routes.BRAKED):
                    return time.time()
            except FencedError as error:
                log.warning("brake: %s; reading the route again", error)
            else:
                return None
        return None

    def _closed_by(self, route: Route) -> str | None:
        """Return the phase in which this loop has nothing to judge any more, as the route itself shows it."""
        if route.owner != self._assignment.claim:
            return f"owned by {route.owner or 'nobody'}"
        expected = routes.PROMOTED if self._assignment.role == "verify" else routes.CANARY
        return None if route.phase == expected else str(route.phase)

    def _sight(self, route: Route, at: float) -> str | None:
        """Take in what is new; return why the metrics cannot be trusted, None where they can."""
        try:
            self._take_in(route, at)
        except (TemporaryError, RefusedError) as error:
            return str(error)
        stale = self._plan.spec.blindness.stale_after
        newest = max(self._reader.seen_until if self._reader else 0.0, self._assignment.started)
        if at - newest > stale:
            return f"Prometheus has no counters of {self._plan.stable} or {self._plan.candidate} newer than {stale} s"
        return None

    def _take_in(self, route: Route, at: float) -> None:
        shifts = route.shifts
        if not shifts:
            return
        reader = self._reader or self._observer.reader()
        since = reader.seen_until or shifts[0].at - LOOKBACK
        for tick in reader.feed(self._observer.counters(int(at - since) + 2)):
            if tick.at >= shifts[0].at:
                self._log.tick(tick, [shift.share for shift in shifts if shift.at <= tick.at][-1])
        self._reader = reader
        for name, value in self._observer.gauges().items():
            self._log.gauge(name, at, value)

    def _decide(self, verdict: Verdict, findings: list[Finding], at: float) -> Outcome | None:
        reason = "; ".join(finding.reason for finding in findings if finding.verdict == verdict)
        self._blind_since = None if verdict != "BLIND" else self._blind_since or at
        if self._assignment.role == "watch":
            return self._decide_watch(verdict, reason, at)
        if verdict == "BREACHED" and self._assignment.role == "verify":
            return self._outcome(verdict, reason, at)
        elapsed = at - self._assignment.started
        if verdict == "HEALTHY" and elapsed >= self._plan.spec.canary.bake and self._resolved(at):
            return self._outcome(verdict, "; ".join(finding.reason for finding in findings), at)
        if elapsed >= self._plan.spec.canary.max_bake:
            unresolved = "the incident is not resolved" if verdict == "HEALTHY" else reason
            return self._outcome("UNDECIDED", f"after {elapsed:.0f} s: {unresolved}", at)
        return None

    def _decide_watch(self, verdict: Verdict, reason: str, at: float) -> Outcome | None:
        if verdict == "BREACHED":
            return self._outcome(verdict, reason, at)
        blindness = self._plan.spec.blindness
        if self._blind_since and blindness.then == "rollback" and at - self._blind_since >= blindness.max_blind:
            return self._outcome("BLIND", f"for {at - self._blind_since:.0f} s: {reason}", at)
        return None

    def _resolved(self, at: float) -> bool:
        """Whether the incident's own condition has held for as long as it asks; True where there is none."""
        condition = self._plan.request.incident.resolved_when
        if self._assignment.role != "verify" or condition is None:
            return True
        try:
            value = self._observer.number(condition.query)
        except DeployError as error:
            log.warning("resolved_when: %s", error)
            value = None
        holds = value is not None and COMPARE[condition.op](value, condition.value)
        self._resolved_since = (self._resolved_since or at) if holds else None
        log.info("resolved_when: %s %s %g: %s", value, condition.op, condition.value, "yes" if holds else "not yet")
        return self._resolved_since is not None and at - self._resolved_since >= condition.for_

    def _outcome(self, verdict: Verdict, reason: str, at: float) -> Outcome:
        total = self._log.judge.total
        return Outcome(verdict, reason, at, numbers={"requests": total.requests, "errors": total.errors})

    def _report(self, route: Route, verdict: Verdict, findings: list[Finding]) -> None:
        judge = self._log.judge
        share = route.shifts[-1].share if route.shifts else 0
        log.info(
            "look: %d %% %s, candidate %.0f requests %.0f errors, stable %.0f requests %.0f errors | %s",
            share,
            verdict,
            judge.total.requests,
            judge.total.errors,
            judge.control.requests,
            judge.control.errors,
            " | ".join(finding.reason for finding in findings),
        )
