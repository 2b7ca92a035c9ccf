"""From Prometheus' raw counter samples to what each version answered between two scrapes.

Raw samples are asked for, never ``rate()``: it extrapolates, and it does not see a series' first value, so the first
errors of a version would be missed. Here an increase is exact, safe against resets, and a series born while its target
was already being scraped starts at 0.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, isfinite
from types import MappingProxyType
from typing import Any

from airflow_deploy.domain.bins import Bins
from airflow_deploy.domain.names import promql_regex_literal, promql_string


@dataclass(frozen=True)
class Series:
    """One raw series: its labels, and samples ``(unix seconds, value)`` in rising order of time."""

    labels: Mapping[str, str]
    samples: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Counts:
    """Requests that one version answered in some span of time.

    ``timed`` of them were measured by the latency histogram, and ``within`` holds, by bucket edge in seconds, how many
    of those took no longer. ``pairs`` holds, by the name of a team's own gate, its bad and all of its events.
    """

    requests: float = 0
    errors: float = 0
    timed: float = 0
    within: Mapping[float, float] = field(default_factory=dict)
    pairs: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        edges = sorted({*self.within, *other.within})
        own = sorted({*self.pairs, *other.pairs})
        nothing = 0.0, 0.0
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.timed + other.timed,
            {edge: self.within.get(edge, 0) + other.within.get(edge, 0) for edge in edges},
            {name: _sum(self.pairs.get(name, nothing), other.pairs.get(name, nothing)) for name in own},
        )

    def slow(self, edge: float) -> float:
        """How many took longer than ``edge`` seconds."""
        return max(0.0, self.timed - self.within.get(edge, 0))

    def dump(self) -> dict[str, Any]:
        """Return plain JSON."""
        within = {edge_text(edge): number for edge, number in self.within.items()}
        pairs = {name: list(pair) for name, pair in self.pairs.items()}
        found = {"requests": self.requests, "errors": self.errors, "timed": self.timed, "within": within}
        return {**found, "pairs": pairs} if pairs else found

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Counts":
        """Return what ``dump()`` wrote."""
        within = {float(edge): number for edge, number in data["within"].items()}
        pairs = {name: (bad, trials) for name, (bad, trials) in data.get("pairs", {}).items()}
        return cls(data["requests"], data["errors"], data["timed"], within, pairs)


def _sum(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] + other[0], one[1] + other[1]


@dataclass(frozen=True)
class Tick:
    """What one scrape added.

    :param at: its time (unix seconds).
    :param counts: by Service name, what that version answered since the last.
    :param gauges: by gate, what the candidate's gauges showed then; None where they showed nothing.
    """

    at: float
    counts: Mapping[str, Counts]
    gauges: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def requests(self) -> float:
        """What the whole service answered."""
        return sum(counts.requests for counts in self.counts.values())

    def dump(self) -> dict[str, Any]:
        """Return plain JSON."""
        counts = {name: counted.dump() for name, counted in self.counts.items()}
        return {"at": self.at, "counts": counts, "gauges": dict(self.gauges)}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Tick":
        """Return what ``dump()`` wrote."""
        counts = {name: Counts.load(counted) for name, counted in data["counts"].items()}
        return cls(data["at"], counts, data["gauges"])


@dataclass(frozen=True)
class Preset:
    """Where requests are counted by the version that answered them. Another gateway is one more entry of ``PRESETS``.

    :param requests: name of the counter of requests, by the status that ``code`` names.
    :param duration: name of the histogram of their durations, in seconds.
    :param label: the label that tells versions apart.
    :param service: the pattern of its value, with ``{namespace}``, ``{route}`` and ``{service}``.
    :param namespace: the label that holds the namespace, where ``service`` does not.
    :param apart: whether each version has scrape targets of its own, so that no two are in one scrape.
    """

    requests: str
    duration: str
    label: str
    service: str
    code: str = "code"
    namespace: str = ""
    apart: bool = False

    def selector(self, namespace: str, route: str, services: Sequence[str], edges: Iterable[float]) -> str:
        """Return one selector for all counters of ``services``, so that they come from the same scrape."""
        names = "|".join((self.requests, f"{self.duration}_count", f"{self.duration}_bucket"))
        bounds = "|".join(["", *(edge_pattern(edge) for edge in edges)])
        matcher = self.matcher(namespace, route, *services)
        return f"{{__name__=~{promql_string(names)},{matcher},le=~{promql_string(bounds)}}}"

    def scrapes_query(self, namespace: str, route: str, services: Sequence[str]) -> str:
        """Return the query for when the counters of ``services`` were scraped, by target."""
        return f"max by (instance) (timestamp({self.requests}{{{self.matcher(namespace, route, *services)}}}))"

    def edges_query(self, namespace: str, route: str, service: str) -> str:
        """Return the query whose results' ``le`` labels are the histogram's bucket edges.

        :param service: empty for those of whatever the gateway serves: it has the same for all.
        """
        matcher = f"{{{self.matcher(namespace, route, service)}}}" if service else ""
        return f"group by (le) ({self.duration}_bucket{matcher})"

    def matcher(self, namespace: str, route: str, *services: str) -> str:
        """Return the matcher for the series of ``services``."""
        names = f"(?:{'|'.join(map(promql_regex_literal, services))})"
        matcher = f"{self.label}=~{promql_string(self._backend(namespace, route, names))}"
        return f"{matcher},{self.namespace}={promql_string(namespace)}" if self.namespace else matcher

    def service_of(self, labels: Mapping[str, str], namespace: str, route: str, services: Sequence[str]) -> str | None:
        """Return which of ``services`` a series belongs to."""
        return self._service_of(labels.get(self.label, ""), namespace, route, tuple(services))

    @lru_cache(maxsize=10_000)  # noqa: B019 - there is one object for each gateway, for good
    def _service_of(self, backend: str, namespace: str, route: str, services: tuple[str, ...]) -> str | None:
        for service in services:
            if re.fullmatch(self._backend(namespace, route, re.escape(service)), backend):
                return service
        return None

    def _backend(self, namespace: str, route: str, service: str) -> str:
        quoted = {"namespace": promql_regex_literal(namespace), "route": promql_regex_literal(route)}
        return self.service.format(**quoted, service=service)


def edge_text(edge: float) -> str:
    """Write a bucket's edge as Prometheus does: the shortest text that reads back as the same number."""
    return repr(float(edge)).removesuffix(".0")


def edge_pattern(edge: float) -> str:
    """Return a pattern for an edge however a client library writes it: ``1`` and ``1.0``."""
    return promql_regex_literal(edge_text(edge)) + (r"(?:\.0)?" if float(edge).is_integer() else "")


PRESETS = {
    "traefik": Preset(
        requests="traefik_service_requests_total",
        duration="traefik_service_request_duration_seconds",
        label="service",
        service=r"httproute-{namespace}-{route}-.*-svc-{namespace}-{service}-[0-9]+@kubernetesgateway",
    ),
    # The application's own: whoever finds targets by their Service (a ServiceMonitor, say) gives them these labels.
    "application": Preset(
        requests="http_requests_total",
        duration="http_request_duration_seconds",
        label="service",
        service="{service}",
        namespace="namespace",
        apart=True,
    ),
}

POD_PREFIX = 58

USAGE = (
    "sum by (pod) (rate(container_cpu_usage_seconds_total{{{pods}}}[{window}s])) / "
    "sum by (pod) (container_spec_cpu_quota{{{pods}}} / container_spec_cpu_period{{{pods}}})"
)
THROTTLED = (
    "sum by (pod) (rate(container_cpu_cfs_throttled_periods_total{{{pods}}}[{window}s])) / "
    "sum by (pod) (rate(container_cpu_cfs_periods_total{{{pods}}}[{window}s]))"
)
SATURATION = {
    "cpu_saturation": f'max({USAGE} or label_replace({THROTTLED}, "of", "periods", "", ""))',
    "memory": (
        "max(max by (pod) (container_memory_working_set_bytes{{{pods}}}) / "
        "max by (pod) (container_spec_memory_limit_bytes{{{pods}}} > 0))"
    ),
}
"""cAdvisor's view of the fullest pod, as a share of its limit (1 is full).

A processor is as full as the larger of two shares says: that of its quota which is used, and that of the periods in
which the quota was used up, and the pod had to wait.
"""


def saturation_query(gauge: str, namespace: str, version: str, window: int = 30) -> str:
    """Return the query for ``gauge``, a key of ``SATURATION``, over all pods of one version."""
    # The API server cuts a pod's generated name after 58 characters. No other version's name begins like this one's:
    # it ends in its time.
    pods = promql_string(promql_regex_literal(f"{version}-"[:POD_PREFIX]) + "[a-z0-9-]+")
    return SATURATION[gauge].format(
        pods=f'namespace={promql_string(namespace)},pod=~{pods},container!="",container!="POD"', window=window
    )


Samples = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class OwnSeries:
    """A counter of a team's own gate: of which version, and whether it counts ``bad`` events or their ``total``."""

    gate: str
    role: str
    service: str
    series: Series


class _Increases:
    """What counters add from one sample to the next, each sample once."""

    def __init__(self) -> None:
        self._last: dict[tuple[tuple[str, str], ...], tuple[float, float]] = {}
        self._first: dict[str, float] = {}
        self._interval: dict[str, float] = {}
        self.seen_until = 0.0
        """Unix seconds up to which nothing is taken in any more."""

    def meet(self, series: Iterable[Series]) -> None:
        """Learn since when each target has been scraped: a series born later than that began at 0."""
        for item in series:
            if item.samples:
                target, first = item.labels.get("instance", ""), item.samples[0][0]
                self._first[target] = min(first, self._first.get(target, first))

    def of(self, item: Series, newborn: bool) -> Iterable[tuple[float, float]]:
        """Yield when and by how much a counter grew."""
        key, target = tuple(sorted(item.labels.items())), item.labels.get("instance", "")
        for at, value in item.samples:
            before_at, before = self._last.get(key, (0.0, 0.0))
            if at <= max(before_at, self.seen_until):
                continue
            if key in self._last:
                increase = value - before if value >= before else value
                self._interval[target] = min(at - before_at, self._interval.get(target, at - before_at))
            else:
                increase = value if newborn or at > self._first[target] else 0.0
            self._last[key] = at, value
            yield at, increase

    @property
    def interval(self) -> float | None:
        """Seconds between two scrapes of the slowest target; None before the second."""
        return max(self._interval.values(), default=None)

    def silent(self) -> tuple[int, int]:
        """Return how many of how many series that were seen in the last minute are missing from the last scrapes."""
        newest = max((at for at, _ in self._last.values()), default=0.0)
        known = [at for at, _ in self._last.values() if at >= newest - KNOWN_FOR]
        patience = 2 * (self.interval or KNOWN_FOR)
        return sum(at < newest - patience for at in known), len(known)


KNOWN_FOR = 60.0
"""Seconds for which a series that has gone is missed."""


class CounterReader:
    """Turns the samples of repeated, overlapping queries into ticks, each scrape exactly once.

    The result depends on the samples alone, not on when they were asked for: a reader built anew after a restart, fed
    the same history, yields the same ticks.
    """

    def __init__(
        self, preset: Preset, namespace: str, route: str, services: Sequence[str], newborn: str | None = None
    ) -> None:
        """Read the counters of ``services``.

        :param newborn: the one whose name is as new as what is asked for: its series start at 0, seen early or late.
        """
        self._newborn = newborn
        self._preset, self._namespace, self._route, self._services = preset, namespace, route, services
        self._counters, self._own = _Increases(), _Increases()
        self._waiting: list[tuple[float, str, Counts]] = []
        self._bins = Bins[tuple[str, Counts]]()
        self._newest: dict[str, float] = {}

    @property
    def seen_until(self) -> float:
        """Unix seconds of the newest scrape; 0 before the first.

        Where versions are scraped apart, it is that of the version not seen for longer, once both have been seen.
        """
        return (min if self._preset.apart else max)(self._newest.values(), default=0.0)

    @property
    def interval(self) -> float | None:
        """Seconds between two scrapes; None where they are not known yet."""
        return self._counters.interval

    @property
    def silent(self) -> tuple[int, int]:
        """How many of how many series are missing from the last scrapes."""
        return self._counters.silent()

    def feed(
        self,
        series: Iterable[Series],
        own: Iterable[OwnSeries] = (),
        gauges: Mapping[str, Samples] = MappingProxyType({}),
    ) -> list[Tick]:
        """Return the ticks that are new, oldest first.

        :param own: counters of the team's own gates: what they add belongs to the next tick.
        :param gauges: samples of the candidate's gauges, by gate.
        """
        ticks: dict[float, dict[str, Counts]] = {}
        for at, service, counts in self._added([(item, owner) for item in series if (owner := self._owner(item))]):
            at_tick = ticks.setdefault(at, {name: Counts() for name in self._services})
            at_tick[service] = at_tick[service] + counts
        self._add_own(own, ticks)
        return [Tick(at, ticks[at], {name: _at(at, gauges[name]) for name in gauges}) for at in sorted(ticks)]

    def _owner(self, item: Series) -> str | None:
        return self._preset.service_of(item.labels, self._namespace, self._route, self._services)

    def _added(self, series: Sequence[tuple[Series, str]]) -> Iterator[tuple[float, str, Counts]]:
        """Yield what each service has answered by each tick's time; they need not come in order."""
        self._counters.meet(item for item, _ in series)
        for item, service in series:
            for at, increase in self._counters.of(item, service == self._newborn):
                self._newest[service] = max(at, self._newest.get(service, at))
                counts = self._classify(item, increase)
                if self._preset.apart:
                    self._bins.put(at, item.labels.get("instance", ""), (service, counts))
                else:
                    yield at, service, counts
        if not self._preset.apart:
            self._counters.seen_until = self.seen_until
        for end, within in self._bins.complete():
            for service, counts in within:
                yield end, service, counts

    def _add_own(self, own: Iterable[OwnSeries], ticks: Mapping[float, dict[str, Counts]]) -> None:
        own = list(own)
        self._own.meet(item.series for item in own)
        for item in own:
            # Two gates may count the same series.
            marked = Series(
                {**item.series.labels, "gate": f"{item.gate} {item.role} {item.service}"}, item.series.samples
            )
            for at, increase in self._own.of(marked, item.service == self._newborn):
                pair = (increase, 0.0) if item.role == "bad" else (0.0, increase)
                self._waiting.append((at, item.service, Counts(pairs={item.gate: pair})))
        self._own.seen_until = max((at for at, _, _ in self._waiting), default=self._own.seen_until)
        times, late = sorted(ticks), []
        for at, service, counts in self._waiting:
            if (index := bisect_left(times, at)) < len(times):
                ticks[times[index]][service] = ticks[times[index]][service] + counts
            else:
                late.append((at, service, counts))
        self._waiting = late

    def _classify(self, item: Series, increase: float) -> Counts:
        name = item.labels.get("__name__", "")
        if name == self._preset.requests:
            failed = item.labels.get(self._preset.code, "").startswith("5")
            return Counts(requests=increase, errors=increase if failed else 0)
        if name.endswith("_bucket"):
            return Counts(within={float(item.labels["le"]): increase})
        return Counts(timed=increase)


GAUGE_AGE = 6.0
"""Seconds for which what a gauge showed is still what it shows."""


def _at(at: float, samples: Samples) -> float | None:
    """Return what a gauge showed at the time of a scrape, or the moment after."""
    index = bisect_right(samples, (at + 1, inf)) - 1
    if index < 0 or samples[index][0] < at - GAUGE_AGE or not isfinite(samples[index][1]):
        return None
    return samples[index][1]
