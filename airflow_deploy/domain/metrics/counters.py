"""From Prometheus' raw counter samples to the requests that each version answered between two scrapes.

The queries return raw samples, never ``rate()``, which extrapolates and ignores the first value of a series, so that it
would miss the first errors of a version. Here an increase is exact and survives counter resets, and a series that
appears while its target is already being scraped starts at 0.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from types import MappingProxyType
from typing import Any

from airflow_deploy.domain.metrics.scrape_windows import ScrapeWindows
from airflow_deploy.domain.metrics.sources import MetricsSource, edge_text


@dataclass(frozen=True)
class Series:
    """One raw series: its labels, and samples ``(unix seconds, value)`` in rising order of time."""

    labels: Mapping[str, str]
    samples: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Counts:
    """The requests that one version answered in a span of time.

    :param requests: all requests; ``errors``: those answered with a 5xx status.
    :param timed: the requests that the latency histogram measured.
    :param within: of these, how many took at most so long, by bucket edge in seconds.
    :param pairs: the bad events and all events of each of the team's own gates, by name.
    """

    requests: float = 0
    errors: float = 0
    timed: float = 0
    within: Mapping[float, float] = field(default_factory=dict)
    pairs: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        edges = sorted({*self.within, *other.within})
        own = sorted({*self.pairs, *other.pairs})
        none = 0.0, 0.0
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.timed + other.timed,
            {edge: self.within.get(edge, 0) + other.within.get(edge, 0) for edge in edges},
            {name: _sum(self.pairs.get(name, none), other.pairs.get(name, none)) for name in own},
        )

    def slow(self, edge: float) -> float:
        """Return how many requests took longer than ``edge`` seconds."""
        return max(0.0, self.timed - self.within.get(edge, 0))

    def dump(self) -> dict[str, Any]:
        """Return plain JSON."""
        within = {edge_text(edge): number for edge, number in self.within.items()}
        pairs = {name: list(pair) for name, pair in self.pairs.items()}
        found = {"requests": self.requests, "errors": self.errors, "timed": self.timed, "within": within}
        return {**found, "pairs": pairs} if pairs else found

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Counts":
        """Return the counts that ``dump()`` wrote."""
        within = {float(edge): number for edge, number in data["within"].items()}
        pairs = {name: (bad, trials) for name, (bad, trials) in data.get("pairs", {}).items()}
        return cls(data["requests"], data["errors"], data["timed"], within, pairs)


def _sum(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] + other[0], one[1] + other[1]


@dataclass(frozen=True)
class Tick:
    """The increase from one scrape to the next.

    :param at: time of the later scrape (unix seconds).
    :param counts: what each version answered since the scrape before, by Service name.
    :param gauges: the value of each of the candidate's gauges at ``at``, by gate; None if it has none.
    """

    at: float
    counts: Mapping[str, Counts]
    gauges: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def requests(self) -> float:
        """The requests that all versions answered together."""
        return sum(counts.requests for counts in self.counts.values())

    def dump(self) -> dict[str, Any]:
        """Return plain JSON."""
        counts = {name: counted.dump() for name, counted in self.counts.items()}
        return {"at": self.at, "counts": counts, "gauges": dict(self.gauges)}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Tick":
        """Return the tick that ``dump()`` wrote."""
        counts = {name: Counts.load(counted) for name, counted in data["counts"].items()}
        return cls(data["at"], counts, data["gauges"])


Samples = Sequence[tuple[float, float]]
"""``(unix seconds, value)`` in rising order of time."""


@dataclass(frozen=True)
class OwnSeries:
    """A counter of a team's own gate.

    :param role: ``bad`` if it counts bad events, ``total`` if it counts all events.
    :param service: the version that it belongs to.
    """

    gate: str
    role: str
    service: str
    series: Series


class _Increases:
    """The increases of counters from one sample to the next, each sample once."""

    def __init__(self) -> None:
        self._last: dict[tuple[tuple[str, str], ...], tuple[float, float]] = {}
        self._first: dict[str, float] = {}
        self._interval: dict[str, float] = {}
        self.seen_until = 0.0
        """Samples up to this time (unix seconds) are ignored."""

    def learn_targets(self, series: Iterable[Series]) -> None:
        """Note since when each target has been scraped. A series that appears later began at 0."""
        for item in series:
            if item.samples:
                target, first = item.labels.get("instance", ""), item.samples[0][0]
                self._first[target] = min(first, self._first.get(target, first))

    def of(self, item: Series, newborn: bool) -> Iterable[tuple[float, float]]:
        """Yield each new sample's time (unix seconds) and the increase since the sample before.

        :param newborn: whether the counter began at 0 even if it is in the first scrape.
        """
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
        """Return how many series are missing from the last two scrapes, and how many the last minute has."""
        newest = max((at for at, _ in self._last.values()), default=0.0)
        known = [at for at, _ in self._last.values() if at >= newest - SERIES_KNOWN_SECONDS]
        two_scrapes = 2 * (self.interval or SERIES_KNOWN_SECONDS)
        return sum(at < newest - two_scrapes for at in known), len(known)


SERIES_KNOWN_SECONDS = 60.0
"""Seconds for which a series that has disappeared counts as missing."""


class CounterReader:
    """Turns the samples of repeated, overlapping queries into ticks, each scrape exactly once.

    The result depends on the samples alone, not on the times of the queries. A new reader after a restart returns the
    same ticks for the same history.
    """

    def __init__(
        self, preset: MetricsSource, namespace: str, route: str, services: Sequence[str], newborn: str | None = None
    ) -> None:
        """Read the counters of ``services``, behind ``route`` in ``namespace``.

        :param newborn: the one of ``services`` that is new, so that its counters began at 0 even if they are in the
            first scrape; None if there is none.
        """
        self._newborn = newborn
        self._preset, self._namespace, self._route, self._services = preset, namespace, route, services
        self._counters, self._own = _Increases(), _Increases()
        self._waiting: list[tuple[float, str, Counts]] = []
        self._bins = ScrapeWindows[tuple[str, Counts]]()
        self._newest: dict[str, float] = {}

    @property
    def seen_until(self) -> float:
        """Unix seconds of the newest scrape; 0 before the first.

        If versions are scraped apart, it is the smaller of the versions' newest scrapes.
        """
        return (min if self._preset.apart else max)(self._newest.values(), default=0.0)

    @property
    def interval(self) -> float | None:
        """Seconds between two scrapes; None before the second."""
        return self._counters.interval

    @property
    def silent(self) -> tuple[int, int]:
        """How many series are missing from the last two scrapes, and how many the last minute has."""
        return self._counters.silent()

    def feed(
        self,
        series: Iterable[Series],
        own: Iterable[OwnSeries] = (),
        gauges: Mapping[str, Samples] = MappingProxyType({}),
    ) -> list[Tick]:
        """Return the new ticks, oldest first.

        :param series: raw samples of the gateway's counters; samples of earlier calls are ignored.
        :param own: counters of the team's own gates; their increases belong to the next tick.
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
        """Yield each tick's time, a service and its increase, in any order."""
        self._counters.learn_targets(item for item, _ in series)
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
        self._own.learn_targets(item.series for item in own)
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


GAUGE_MAX_AGE = 6.0
"""Seconds for which a gauge's sample is valid."""


def _at(at: float, samples: Samples) -> float | None:
    """Return a gauge's value at the time of a scrape, or up to a second after it; None if it has none."""
    index = bisect_right(samples, (at + 1, inf)) - 1
    if index < 0 or samples[index][0] < at - GAUGE_MAX_AGE or not isfinite(samples[index][1]):
        return None
    return samples[index][1]
