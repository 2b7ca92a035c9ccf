"""From Prometheus' raw counter samples to what each version answered between two scrapes.

Raw samples are asked for, never ``rate()``: it extrapolates, and it does not see a series' first value, so the first
errors of a version would be missed. Here an increase is exact, safe against resets, and a series born while its target
was already being scraped starts at 0.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

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
    of those took no longer.
    """

    requests: float = 0
    errors: float = 0
    timed: float = 0
    within: Mapping[float, float] = field(default_factory=dict)

    def __add__(self, other: "Counts") -> "Counts":
        edges = sorted({*self.within, *other.within})
        return Counts(
            self.requests + other.requests,
            self.errors + other.errors,
            self.timed + other.timed,
            {edge: self.within.get(edge, 0) + other.within.get(edge, 0) for edge in edges},
        )

    def slow(self, edge: float) -> float:
        """How many took longer than ``edge`` seconds."""
        return max(0.0, self.timed - self.within.get(edge, 0))


@dataclass(frozen=True)
class Tick:
    """What one scrape added: its time (unix seconds), and by Service name what that version answered since the last."""

    at: float
    counts: Mapping[str, Counts]


@dataclass(frozen=True)
class Preset:
    """Where one gateway counts requests by backend. A new gateway is one more entry of ``PRESETS``.

    ``service`` is the pattern of the label that names the backend, with ``{namespace}``, ``{route}`` and ``{service}``.
    """

    requests: str
    duration: str
    label: str
    service: str
    code: str = "code"

    def selector(self, namespace: str, route: str, services: Sequence[str], edges: Iterable[float]) -> str:
        """Return one selector for all counters of ``services``, so that they come from the same scrape."""
        names = "|".join((self.requests, f"{self.duration}_count", f"{self.duration}_bucket"))
        bounds = "|".join(["", *(edge_pattern(edge) for edge in edges)])
        backend = self._backend(namespace, route, "(?:" + "|".join(map(promql_regex_literal, services)) + ")")
        return (
            f"{{__name__=~{promql_string(names)},{self.label}=~{promql_string(backend)},le=~{promql_string(bounds)}}}"
        )

    def edges_query(self, namespace: str, route: str, service: str) -> str:
        """Return the query whose results' ``le`` labels are the histogram's bucket edges."""
        return f"group by (le) ({self.duration}_bucket{{{self.matcher(namespace, route, service)}}})"

    def matcher(self, namespace: str, route: str, service: str) -> str:
        """Return the matcher for the series of one service."""
        return f"{self.label}=~{promql_string(self._backend(namespace, route, promql_regex_literal(service)))}"

    def service_of(self, labels: Mapping[str, str], namespace: str, route: str, services: Sequence[str]) -> str | None:
        """Return which of ``services`` a series belongs to."""
        for service in services:
            if re.fullmatch(self._backend(namespace, route, re.escape(service)), labels.get(self.label, "")):
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
}

POD_PREFIX = 58

SATURATION = {
    "cpu_saturation": (
        "max(sum by (pod) (rate(container_cpu_usage_seconds_total{{{pods}}}[{window}s])) / "
        "sum by (pod) (container_spec_cpu_quota{{{pods}}} / container_spec_cpu_period{{{pods}}}))"
    ),
    "memory": (
        "max(max by (pod) (container_memory_working_set_bytes{{{pods}}}) / "
        "max by (pod) (container_spec_memory_limit_bytes{{{pods}}} > 0))"
    ),
}
"""cAdvisor's view of the fullest pod, as a share of its limit (1 is full)."""


def saturation_query(gauge: str, namespace: str, version: str, window: int = 30) -> str:
    """Return the query for ``gauge``, a key of ``SATURATION``, over all pods of one version."""
    # The API server cuts a pod's generated name after 58 characters. No other version's name begins like this one's:
    # it ends in its time.
    pods = promql_string(promql_regex_literal(f"{version}-"[:POD_PREFIX]) + "[a-z0-9-]+")
    return SATURATION[gauge].format(
        pods=f'namespace={promql_string(namespace)},pod=~{pods},container!="",container!="POD"', window=window
    )


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
        self._last: dict[tuple[tuple[str, str], ...], float] = {}
        self._first_scrape: dict[str, float] = {}
        self.seen_until = 0.0
        """Unix seconds of the newest scrape; 0 before the first."""

    def feed(self, series: Iterable[Series]) -> list[Tick]:
        """Return the ticks newer than ``seen_until``, oldest first."""
        mine = [(item, service) for item in series if (service := self._owner(item))]
        for item, _ in mine:
            if item.samples:
                first = item.samples[0][0]
                target = item.labels.get("instance", "")
                self._first_scrape[target] = min(first, self._first_scrape.get(target, first))
        ticks: dict[float, dict[str, Counts]] = {}
        for item, service in mine:
            for at, increase in self._increases(item, service):
                at_tick = ticks.setdefault(at, {name: Counts() for name in self._services})
                at_tick[service] = at_tick[service] + self._classify(item, increase)
        self.seen_until = max(ticks, default=self.seen_until)
        return [Tick(at, ticks[at]) for at in sorted(ticks)]

    def _owner(self, item: Series) -> str | None:
        return self._preset.service_of(item.labels, self._namespace, self._route, self._services)

    def _increases(self, item: Series, service: str) -> Iterable[tuple[float, float]]:
        key = tuple(sorted(item.labels.items()))
        for at, value in item.samples:
            if at <= self.seen_until:
                continue
            if key in self._last:
                increase = value - self._last[key] if value >= self._last[key] else value
            else:
                born_later = at > self._first_scrape[item.labels.get("instance", "")]
                increase = value if born_later or service == self._newborn else 0.0
            self._last[key] = value
            yield at, increase

    def _classify(self, item: Series, increase: float) -> Counts:
        name = item.labels.get("__name__", "")
        if name == self._preset.requests:
            failed = item.labels.get(self._preset.code, "").startswith("5")
            return Counts(requests=increase, errors=increase if failed else 0)
        if name.endswith("_bucket"):
            return Counts(within={float(item.labels["le"]): increase})
        return Counts(timed=increase)
