"""What Prometheus knows about the two versions of one deployment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import isfinite

from airflow_deploy.clients.prometheus import Prometheus
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.telemetry import PRESETS, SATURATION, CounterReader, Counts, Series, saturation_query

BASELINE_SECONDS = 300
LOOKBACK = 30
"""Seconds that each query asks for once more: a scrape is seen a moment after its time, and what was there before the
first of them shows which series are new."""
CHUNK = 600
"""Seconds of history that one query asks for, so that a long canary can be taken in again after a restart."""


def chunks(since: float, until: float) -> Iterator[tuple[int, float]]:
    """Yield the queries that take in ``since`` to ``until`` (unix seconds), each as its seconds and its end."""
    while since < until:
        end = min(until, since + CHUNK)
        yield int(end - since) + LOOKBACK, end
        since = end


class Observer:
    """Asks for one deployment's counters and gauges."""

    def __init__(self, prometheus: Prometheus, plan: DeploymentPlan) -> None:
        self._prometheus, self._plan = prometheus, plan
        self._preset = PRESETS[plan.spec.metrics]
        self._services = (plan.candidate, plan.stable)
        self._where = plan.spec.namespace, plan.spec.route.name

    @classmethod
    def connect(cls, plan: DeploymentPlan) -> Observer:
        """Return an observer on the plan's own connection."""
        return cls(Prometheus.connect(plan.spec.connections.prometheus), plan)

    @property
    def queries(self) -> Mapping[str, str]:
        """The queries behind every look, by what they yield."""
        gauges = {name: self._gauge_query(name) for name in SATURATION}
        return {"counters": self._selector, **gauges}

    @property
    def _selector(self) -> str:
        edges = sorted(set(self._plan.spec.latency_limits.values()))
        return self._preset.selector(*self._where, self._services, edges)

    def _gauge_query(self, name: str) -> str:
        return saturation_query(name, self._plan.spec.namespace, self._plan.candidate)

    def reader(self, newborn: bool = True) -> CounterReader:
        """Return a reader for what ``counters`` returns.

        :param newborn: whether the candidate's series begin within what is asked for, so that they start at 0.
        """
        return CounterReader(
            self._preset, *self._where, self._services, newborn=self._plan.candidate if newborn else None
        )

    def counters(self, seconds: int, until: float | None = None) -> list[Series]:
        """Return the raw counters of both versions over ``seconds``, up to ``until`` (unix seconds) or now."""
        return self._prometheus.raw(self._selector, seconds, until)

    def gauges(self, at: float | None = None) -> dict[str, float | None]:
        """Return each gauge of the candidate's fullest pod, now or ``at``; None where cAdvisor has not seen it yet."""
        values = {name: self._prometheus.number(self._gauge_query(name), at) for name in SATURATION}
        return {name: value if value is not None and isfinite(value) else None for name, value in values.items()}

    def number(self, query: str, at: float | None = None) -> float | None:
        """Return the one number of a query of the user's, now or ``at``; None where it has no result."""
        return self._prometheus.number(query, at)

    def baseline(self) -> Counts:
        """Return what the stable answered in the last five minutes."""
        ticks = self.reader().feed(self.counters(BASELINE_SECONDS))
        return sum((tick.counts[self._plan.stable] for tick in ticks), Counts())

    def check_edges(self) -> None:
        """Check that each latency limit is an edge of the histogram's buckets.

        :raises RefusedError: it is not, or there are no metrics of the stable at all.
        """
        result = self._prometheus.query(self._preset.edges_query(*self._where, self._plan.stable))
        edges = sorted({float(item["metric"]["le"]) for item in result})
        if not edges:
            raise RefusedError(
                f"metrics: Prometheus has no {self._plan.spec.metrics} metrics of {self._plan.stable};"
                " send the service some traffic, or correct metrics and route in its YAML"
            )
        for gate, limit in self._plan.spec.latency_limits.items():
            if limit not in edges:
                listed = ", ".join(f"{edge:g}" for edge in edges if edge != float("inf"))
                raise RefusedError(f"gates.{gate}: {limit:g} s is no bucket's edge; choose one of {listed}")
