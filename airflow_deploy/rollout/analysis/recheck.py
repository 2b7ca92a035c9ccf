"""One look at a version that was verified before: is it still healthy, and is its incident still over?

It has no memory: everything that it judges is asked of Prometheus anew, so any worker may do it at any time. It looks
half an hour back. Each minute since the verification has its own share of the bound on false alarms and a span of time
that does not move within it, so a pass may be repeated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from airflow_deploy.domain.analysis.evidence import EvidenceLog
from airflow_deploy.domain.analysis.judge import ALPHA
from airflow_deploy.domain.analysis.verdict import Verdict
from airflow_deploy.domain.config.request import ResolvedWhen
from airflow_deploy.domain.errors import DeployError
from airflow_deploy.domain.routing.record import Shift
from airflow_deploy.rollout.analysis.intake import Intake, terms_of
from airflow_deploy.rollout.analysis.observer import LONG_STEP, Observer
from airflow_deploy.rollout.history import PromotedDeployment

RECHECK_WINDOW = 1800.0
"""Seconds that a pass looks back. A harm so rare that this long does not show it is not seen."""
ALPHA_INTERVAL = 60.0
"""Seconds that share one part of the bound on false alarms."""
INCIDENT_SAMPLES = 5
"""How often the incident's query is asked over its span: one bad sample says nothing."""
GAUGE_SECONDS = 300.0
"""Seconds for which a gauge must be beyond its limit: a peak of traffic is no reason to roll back."""


@dataclass(frozen=True)
class Recheck:
    """What was found at ``at`` (unix seconds): HEALTHY, BREACHED or BLIND, with the evidence as JSON lines."""

    verdict: Verdict
    reason: str
    at: float
    evidence: str


def recheck(item: PromotedDeployment, observer: Observer, at: float) -> Recheck:
    """Look once; an error of Prometheus' is BLIND."""
    number = int((at - item.verified_at) // ALPHA_INTERVAL) + 1
    plan = item.plan
    condition = plan.request.incident.resolved_when
    terms = replace(
        # The shift is long past: fewer users than then are not its fault.
        terms_of(plan, replace(item.baseline, quietest=0.0), condition),
        # By Ville's inequality and the union bound, all passes together give a false alarm with chance ALPHA at most.
        alpha=ALPHA / (number * (number + 1)),
        sustained=GAUGE_SECONDS,
        relapse_after=_span(condition) if condition else None,
    )
    log = EvidenceLog(terms, observer.queries)
    since = max(item.verified_at, item.verified_at + (number - 1) * ALPHA_INTERVAL - RECHECK_WINDOW)
    try:
        intake = Intake(plan, observer, log, newborn=False, step=LONG_STEP)
        # The scrape at the first moment tells of what was before it.
        intake.take_in(since, at, lambda tick: Shift(100, since) if tick.at > since else None)
        blind = intake.blind_reason(item.verified_at, at)
        if condition and not blind:
            _ask_incident(log, item, condition, observer, at)
    except DeployError as error:
        blind = str(error)
    verdict, findings = log.look(at, blind, None, final=True)
    return Recheck(verdict, "; ".join(finding.reason for finding in findings), at, log.lines())


def _span(condition: ResolvedWhen) -> float:
    return max(float(condition.for_), ALPHA_INTERVAL)


def _ask_incident(
    log: EvidenceLog, item: PromotedDeployment, condition: ResolvedWhen, observer: Observer, at: float
) -> None:
    """Tell the judge what the incident's query yields, until it says once that the incident is not back."""
    span = _span(condition)
    # The query speaks of the service and not of a version: what a later deployment did meanwhile is not this one's.
    if at - span < max(item.verified_at, item.disturbed_until):
        return
    for index in range(INCIDENT_SAMPLES):
        when = at - span * (INCIDENT_SAMPLES - 1 - index) / (INCIDENT_SAMPLES - 1)
        value = observer.number(condition.query, when)
        log.observe_incident(when, value)
        if not condition.denied(value):
            return
