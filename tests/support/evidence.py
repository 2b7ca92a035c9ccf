"""Evidence files of a few deployments, as the analysis records them."""

from __future__ import annotations

from math import inf, nan
from typing import Any

from airflow_deploy.domain.analysis.evidence import EvidenceLog
from airflow_deploy.domain.analysis.judge import Terms
from airflow_deploy.domain.analysis.verdict import Verdict
from airflow_deploy.domain.config.request import ResolvedWhen
from airflow_deploy.domain.metrics.counters import Counts, Tick
from tests.support.judgement import CANDIDATE, GOOD_BASELINE, STABLE, Traffic, limits

OVER = ResolvedWhen.load({"query": "up", "op": "<", "value": 0.01, "for": 20})


def recorded(
    seed: int, given: dict[str, float], stages: list[tuple[int, int, float, float]], **terms: Any
) -> tuple[list[str], list[Verdict]]:
    """Record a deployment; return the evidence's lines and the verdict of each look.

    :param given: limits that differ from the defaults.
    :param stages: scrapes, the candidate's share in %, and the error rates of candidate and stable.
    """
    log = EvidenceLog(Terms(limits(**given), CANDIDATE, STABLE, GOOD_BASELINE, **terms), {"counters": "up"})
    traffic, verdicts = Traffic(seed), []
    edge_p95, edge_p99 = (limits(**given)[name] for name in ("latency_p95", "latency_p99"))
    for scrapes, share, candidate, stable in stages:
        for number, plain in enumerate(traffic.ticks(scrapes, share, candidate, stable, slow=candidate)):
            counts = {
                name: Counts(c.requests, c.errors, c.timed, {edge_p95: c.within[0.5], edge_p99: c.within[1.0]})
                for name, c in plain.counts.items()
            }
            gauges = {"memory": None if number < 2 else 0.5, "cpu_saturation": 0.95 if number > 8 else 0.5}
            log.observe(Tick(plain.at, counts, gauges), share)
            blind = "Prometheus does not answer" if number == 5 else None
            if terms.get("resolved_when"):
                log.observe_incident(plain.at, [0.0, inf, None, -inf, nan][number % 5])
            verdicts.append(log.look(plain.at, blind, 100)[0])
    log.look(traffic.at + 1, None, 100, final=True)
    return log.lines().splitlines(keepends=True), verdicts


STORIES = {
    "healthy": [(14, 5, 0.0, 0.001), (14, 25, 0.001, 0.001), (14, 100, 0.001, 0.0)],
    "bad": [(14, 5, 0.002, 0.002), (14, 25, 0.08, 0.002)],
    "bad at 100": [(8, 50, 0.002, 0.002), (14, 100, 0.1, 0.0)],
    "shared outage": [(14, 25, 0.4, 0.4)],
}
TERMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "warm-up": {"warm_up": 20.0, "sustained": 20.0},
    "incident": {"resolved_when": OVER},
    "relapse": {"resolved_when": OVER, "relapse_after": 4.0},
}
