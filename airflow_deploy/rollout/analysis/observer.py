"""What Prometheus knows about the two versions of one deployment."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from airflow_deploy.clients.prometheus.hook import Prometheus
from airflow_deploy.domain.analysis.baseline import HISTORY_SECONDS, Baseline, capture_baseline
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.batch_query import batch_query, largest_by_step, raw_samples, split_answer
from airflow_deploy.domain.metrics.counters import CounterReader, OwnSeries, Samples, Series
from airflow_deploy.domain.metrics.sources import SATURATION, saturation_query

log = logging.getLogger(__name__)

LOOKBACK = 6
"""Seconds that each query asks for once more: a scrape is seen a moment after its time, and what was there before the
first of them shows which series are new."""
CHUNK_SECONDS = 600
"""Seconds of history that one query asks for, so that a long canary can be taken in again after a restart."""
LONG_STEP = 5
"""Seconds between the steps at which a long past is asked for: less to read, and scrapes that fall together are taken
for one."""
COUNTERS, SCRAPES = "counters", "scrapes"


def chunks(since: float, until: float) -> Iterator[tuple[int, float]]:
    """Yield the queries that take in ``since`` to ``until`` (unix seconds), each as its seconds and its end."""
    while since < until:
        end = min(until, since + CHUNK_SECONDS)
        yield int(end - since) + LOOKBACK, end
        since = end


UNKNOWN_INTERVAL = 5.0
"""Seconds between two scrapes, as long as they were not seen."""
LATENESS = 2.0
"""Seconds that a scrape may take, and clocks may differ by."""


def blind_reason(reader: CounterReader, plan: DeploymentPlan, since: float, at: float) -> str | None:
    """Return why what the reader has seen cannot be trusted ``at`` (unix seconds); None if it can.

    :param since: when counters could first be expected.
    """
    stale = plan.spec.blindness.stale_after or 2 * (reader.interval or UNKNOWN_INTERVAL) + LATENESS
    if at - max(reader.seen_until, since) > stale:
        return f"Prometheus has no counters of {' or '.join(plan.versions)} newer than {stale:.0f} s"
    silent, known = reader.silent
    if silent > known / 2:
        return f"{silent} of {known} counters of {' and '.join(plan.versions)} are missing from the last scrapes"
    return None


@dataclass(frozen=True)
class Observation:
    """What one query brought: raw counters of the gateway, those of the team's own gates, and gauges by gate."""

    counters: list[Series]
    own: list[OwnSeries]
    gauges: Mapping[str, Samples]


class Observer:
    """Asks for one deployment's counters and gauges.

    :param copies: whether to count also what a mirror answers and copies, if the deployment has one.
    """

    def __init__(self, prometheus: Prometheus, plan: DeploymentPlan, *, copies: bool = True) -> None:
        self._prometheus, self._plan = prometheus, plan
        names = plan.spec.metrics.names
        self._preset = names.with_mirrors() if copies and plan.spec.shadow else names
        self._services = plan.versions
        self._where = plan.spec.namespace, plan.spec.route.name
        edges = sorted(set(plan.spec.latency_limits.values()))
        self._counters = {
            COUNTERS: self._preset.selector(*self._where, self._services, edges),
            SCRAPES: self._preset.scrapes_query(*self._where, self._services),
        }
        own = plan.spec.own_gates
        self._pairs = {
            f"{name} {role} {service}": (name, role, service, query)
            for name, gate in own.items()
            if gate.kind == "pair"
            for service in self._services
            for role, query in gate.queries(service).items()
        }
        self._gauges = {name: saturation_query(name, plan.spec.namespace, plan.candidate) for name in SATURATION} | {
            name: gate.queries(plan.candidate)["gauge"] for name, gate in own.items() if gate.kind == "gauge"
        }

    @classmethod
    def connect(cls, plan: DeploymentPlan) -> Observer:
        """Return an observer on the plan's own connection."""
        return cls(Prometheus.connect(plan.spec.connections.prometheus), plan)

    @property
    def queries(self) -> Mapping[str, str]:
        """The parts of the one query behind every look, by what they yield."""
        pairs = {name: query for name, (_, _, _, query) in self._pairs.items()}
        return {**self._counters, **pairs, **self._gauges}

    def reader(self, newborn: bool = True) -> CounterReader:
        """Return a reader for what ``ask`` returns.

        :param newborn: whether the candidate's series begin within what is asked for, so that they start at 0.
        """
        return CounterReader(
            self._preset, *self._where, self._services, newborn=self._plan.candidate if newborn else None
        )

    def ask(self, seconds: int, until: float | None = None, step: int = 1) -> Observation:
        """Return all that is known of both versions over ``seconds``, up to ``until`` (unix seconds) or now.

        :param step: seconds; scrapes that are closer together are taken for one.
        """
        try:
            found = split_answer(self._prometheus.matrix(batch_query(self.queries, seconds, step), until))
        except RefusedError as error:
            # A gauge or a gate of the team's own that cannot be evaluated must not disarm the gateway's counters.
            log.error("%s; asking for the gateway's counters alone", error)
            found = split_answer(self._prometheus.matrix(batch_query(self._counters, seconds, step), until))
        return Observation(
            raw_samples(found.get(COUNTERS, []), found.get(SCRAPES, [])),
            [OwnSeries(*pair[:3], item) for name, pair in self._pairs.items() for item in found.get(name, [])],
            {name: largest_by_step(found.get(name, [])) for name in self._gauges},
        )

    def number(self, query: str, at: float | None = None) -> float | None:
        """Return the one number of a query of the user's, now or ``at``; None if it has no result."""
        return self._prometheus.number(query, at)

    def baseline(self) -> Baseline:
        """Return what the service was like until now."""
        at = time.time()
        reader = self.reader()
        ticks = []
        for seconds, until in chunks(at - HISTORY_SECONDS, at):
            seen = self.ask(seconds, until, LONG_STEP)
            ticks += reader.feed(seen.counters, seen.own)
        return capture_baseline(ticks, self._plan.stable, self._plan.spec.counted_gates, at)

    def check(self) -> None:
        """Check that the queries of all gates can be judged by.

        Of a first version there is nothing yet: the edges are then those of all else that the gateway serves.

        :raises RefusedError: a latency limit is no edge of the histogram's buckets, there are no metrics of the stable,
            or a query of the team's own is not usable.
        """
        stable = self._plan.stable
        # If applications count themselves, another one's buckets say nothing of this one.
        known = stable or not self._preset.apart
        result = self._prometheus.query(self._preset.edges_query(*self._where, stable)) if known else []
        edges = sorted({float(item["metric"]["le"]) for item in result})
        if stable and not edges:
            raise RefusedError(
                f"metrics: Prometheus has no {self._plan.spec.metrics.preset} metrics of {stable};"
                " send the service some traffic, or correct metrics and route in its YAML"
            )
        for gate, limit in self._plan.spec.latency_limits.items():
            # A gateway that has answered no request yet has none; then a limit that is none makes the watch BLIND.
            if edges and limit not in edges:
                listed = ", ".join(f"{edge:g}" for edge in edges if edge != float("inf"))
                raise RefusedError(f"gates.{gate}: {limit:g} s is no bucket's edge; choose one of {listed}")
        for name, own in self._plan.spec.own_gates.items():
            for role, query in own.queries(stable or self._plan.candidate).items():
                self._check_own(f"gates.{name}.{role}", query, role)

    def _check_own(self, field: str, query: str, role: str) -> None:
        try:
            result = self._prometheus.query(query)
        except RefusedError as error:
            raise RefusedError(f"{field}: {error}") from error
        if not all(isinstance(item, dict) for item in result):
            raise RefusedError(f"{field}: must yield a vector, as a metric's name with labels does, and no scalar")
        # Nothing bad may have been counted yet; what is counted in all, and gauges, must be there.
        if not result and role != "bad" and self._plan.stable:
            raise RefusedError(
                f"{field}: Prometheus has nothing for it of {self._plan.stable}; correct the metric's name and labels"
            )
