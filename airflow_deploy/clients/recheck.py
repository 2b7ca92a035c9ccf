"""One look at a version that was verified before: does it still hold, and is its incident still over?

It has no memory: everything that it judges is asked of Prometheus anew, so any worker may do it at any time. It looks
half an hour back. Each minute since the verification has its own share of the bound on false alarms and a span of time
that does not move within it, so a pass may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airflow_deploy.clients.observer import Observer, chunks
from airflow_deploy.clients.promoted import Promoted
from airflow_deploy.domain.errors import DeployError
from airflow_deploy.domain.evidence import EvidenceLog
from airflow_deploy.domain.judge import ALPHA, SUSTAINED, Finding, Verdict, evaluate
from airflow_deploy.domain.telemetry import SATURATION

WINDOW = 1800.0
"""Seconds that a pass looks back. A harm so rare that this long does not show it is not seen."""
EVERY = 60.0
"""Seconds that share one part of the bound on false alarms."""
POINTS = 5
"""How often the incident's query is asked over its span: one bad sample says nothing."""
FULL = 300.0
"""Seconds for which a gauge must be beyond its limit: a peak of traffic is no reason to take back what has held."""


@dataclass(frozen=True)
class Recheck:
    """What was found at ``at`` (unix seconds): HEALTHY, BREACHED or BLIND, with the evidence as JSON lines."""

    verdict: Verdict
    reason: str
    at: float
    evidence: str


def recheck(item: Promoted, observer: Observer, at: float) -> Recheck:
    """Look once; an error of Prometheus' is BLIND."""
    number = int((at - item.verified_at) // EVERY) + 1
    # By Ville's inequality and the union bound all passes together give a false alarm with a chance of ALPHA at most.
    alpha = ALPHA / (number * (number + 1))
    plan = item.plan
    log = EvidenceLog(plan.spec.gates, plan.candidate, plan.stable, item.baseline, observer.queries, alpha)
    since = max(item.verified_at, item.verified_at + (number - 1) * EVERY - WINDOW)
    try:
        blind = _take_in(log, item, observer, since, at)
        incident = None if blind else _incident(log, item, observer, at)
    except DeployError as error:
        blind, incident = str(error), None
    verdict, findings = evaluate(log.judge, blind, None)
    if incident and verdict == "HEALTHY":
        verdict, findings = incident.verdict, [incident]
    condition = plan.request.incident.resolved_when
    question = {"blind": blind, "next_share": None, "resolved_when": condition and condition.dump()}
    log.verdict(at, verdict, findings, question, final=True)
    return Recheck(verdict, "; ".join(finding.reason for finding in findings), at, log.lines())


def _take_in(log: EvidenceLog, item: Promoted, observer: Observer, since: float, at: float) -> str | None:
    """Tell the judge what has been counted; return why that cannot be trusted, None where it can."""
    reader = observer.reader(newborn=False)
    for seconds, until in chunks(since, at):
        for tick in reader.feed(observer.counters(seconds, until)):
            if tick.at >= since:
                log.tick(tick, 100)
    _take_in_gauges(log, item, observer, at)
    stale = item.plan.spec.blindness.stale_after
    if at - max(reader.seen_until, item.verified_at) > stale:
        return f"Prometheus has no counters of {item.plan.candidate} newer than {stale} s"
    return None


def _take_in_gauges(log: EvidenceLog, item: Promoted, observer: Observer, at: float) -> None:
    """Tell the judge of the gauges that have been beyond their limits all the time."""
    limits = item.plan.spec.gates
    # More often than the judge's patience with what it does not see; the latest first, which nearly always ends it.
    seen: list[tuple[float, Mapping[str, float | None]]] = []
    full = set(SATURATION)
    for when in reversed(_points(at, FULL, int(FULL / SUSTAINED) + 2)):
        seen.append((when, observer.gauges(when)))
        full = {name for name in full if (value := seen[-1][1][name]) is not None and value > limits[name]}
        if not full:
            return
    for when, values in reversed(seen):
        for name in sorted(full):
            log.gauge(name, when, values[name])


def _incident(log: EvidenceLog, item: Promoted, observer: Observer, at: float) -> Finding | None:
    """Return the finding of an incident that has come back, or has not come to its end."""
    condition = item.plan.request.incident.resolved_when
    if condition is None:
        return None
    span = max(float(condition.for_), EVERY)
    # The query speaks of the service and not of a version: what a later deployment did meanwhile is not this one's.
    if at - span < max(item.verified_at, item.disturbed_until):
        return None
    value = None
    for when in _points(at, span, POINTS):
        value = observer.number(condition.query, when)
        log.answer(when, value)
        if not condition.denied(value):
            return None
    wanted = f"{condition.op} {condition.value:g}"
    reason = f"incident {item.plan.request.incident.id}: its query has yielded {value:g} for {span:.0f} s, not {wanted}"
    return Finding("resolved_when", "BREACHED", reason)


def _points(at: float, span: float, count: int) -> list[float]:
    return [at - span * (count - 1 - index) / (count - 1) for index in range(count)]
