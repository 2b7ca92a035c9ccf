"""The metrics in Prometheus by which a deployment is judged: requests by version, and the saturation of pods."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from airflow_deploy.domain.names import MIRROR_SUFFIX, promql_regex_literal, promql_string


@dataclass(frozen=True)
class MetricsSource:
    """A source of request counts by version. Another gateway is one more entry of ``SOURCES``.

    :param requests: name of the counter of requests.
    :param duration: name of the histogram of their durations, in seconds.
    :param label: the label that identifies the version.
    :param service: pattern of that label's value, with ``{namespace}``, ``{route}`` and ``{service}``.
    :param code: the label that holds the HTTP status.
    :param namespace: the label that holds the namespace; empty if ``service`` includes it.
    :param mirrored: pattern of ``label``'s value for requests through a mirror; empty if it is the same.
    :param apart: whether each version has scrape targets of its own, so that no scrape covers both.
    """

    requests: str
    duration: str
    label: str
    service: str
    code: str = "code"
    namespace: str = ""
    mirrored: str = ""
    apart: bool = False

    def with_mirrors(self) -> "MetricsSource":
        """Return the source that also counts requests through a mirror: the stable's, and the candidate's copies."""
        return replace(self, service=f"(?:{self.service}|{self.mirrored})") if self.mirrored else self

    def selector(self, namespace: str, route: str, services: Sequence[str], edges: Iterable[float]) -> str:
        """Return one selector for all counters of ``services``, so that they come from the same scrape.

        :param edges: the bucket edges that are needed, in seconds.
        """
        names = "|".join((self.requests, f"{self.duration}_count", f"{self.duration}_bucket"))
        bounds = "|".join(["", *(edge_pattern(edge) for edge in edges)])
        matcher = self.matcher(namespace, route, *services)
        return f"{{__name__=~{promql_string(names)},{matcher},le=~{promql_string(bounds)}}}"

    def scrapes_query(self, namespace: str, route: str, services: Sequence[str]) -> str:
        """Return the query for the time of the latest scrape of the counters of ``services``, by target."""
        return f"max by (instance) (timestamp({self.requests}{{{self.matcher(namespace, route, *services)}}}))"

    def edges_query(self, namespace: str, route: str, service: str) -> str:
        """Return the query whose results' ``le`` labels are the histogram's bucket edges.

        :param service: a version; empty for any service of the gateway, since all have the same edges.
        """
        matcher = f"{{{self.matcher(namespace, route, service)}}}" if service else ""
        return f"group by (le) ({self.duration}_bucket{matcher})"

    def matcher(self, namespace: str, route: str, *services: str) -> str:
        """Return the matcher for the series of ``services``."""
        names = f"(?:{'|'.join(map(promql_regex_literal, services))})"
        matcher = f"{self.label}=~{promql_string(self._backend(namespace, route, names))}"
        return f"{matcher},{self.namespace}={promql_string(namespace)}" if self.namespace else matcher

    def service_of(self, labels: Mapping[str, str], namespace: str, route: str, services: Sequence[str]) -> str | None:
        """Return the one of ``services`` to which a series with these labels belongs; None if there is none."""
        return self._service_of(labels.get(self.label, ""), namespace, route, tuple(services))

    @lru_cache(maxsize=10_000)  # noqa: B019 - sources are few and never freed
    def _service_of(self, backend: str, namespace: str, route: str, services: tuple[str, ...]) -> str | None:
        for service in services:
            if re.fullmatch(self._backend(namespace, route, re.escape(service)), backend):
                return service
        return None

    def _backend(self, namespace: str, route: str, service: str) -> str:
        quoted = {"namespace": promql_regex_literal(namespace), "route": promql_regex_literal(route)}
        return self.service.format(**quoted, service=service)


def edge_text(edge: float) -> str:
    """Return a bucket edge as Prometheus writes it: the shortest text that reads back as the same number."""
    return repr(float(edge)).removesuffix(".0")


def edge_pattern(edge: float) -> str:
    """Return a pattern that matches an edge in both ways in which client libraries write it: ``1`` and ``1.0``."""
    return promql_regex_literal(edge_text(edge)) + (r"(?:\.0)?" if float(edge).is_integer() else "")


SOURCES = {
    "traefik": MetricsSource(
        requests="traefik_service_requests_total",
        duration="traefik_service_request_duration_seconds",
        label="service",
        service=r"httproute-{namespace}-{route}-.*-svc-{namespace}-{service}-[0-9]+@kubernetesgateway",
        mirrored=rf"{{namespace}}-{{service}}(?:{MIRROR_SUFFIX})?-[0-9]+@kubernetescrd",
    ),
    # The application's own metrics. Discovery by Service, for example with a ServiceMonitor, adds these labels.
    "application": MetricsSource(
        requests="http_requests_total",
        duration="http_request_duration_seconds",
        label="service",
        service="{service}",
        namespace="namespace",
        apart=True,
    ),
    # The same for pods behind one Service, identified by their names.
    "pods": MetricsSource(
        requests="http_requests_total",
        duration="http_request_duration_seconds",
        label="pod",
        service="{service}-[a-z0-9]{{1,10}}-[a-z0-9]{{5}}",
        namespace="namespace",
        apart=True,
    ),
}

MAX_DEPLOYMENT_NAME = 46
"""Longest name of a Deployment, in characters, for which the API server does not cut the names of its pods."""

POD_NAME_PREFIX = 58
"""Characters after which the API server cuts the generated name of a pod, before it adds a random suffix."""

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
"""PromQL for the saturation of the fullest pod, by gate, as a share of its limit (1 is full), from cAdvisor's metrics.

CPU saturation is the larger of two shares: the used part of the CPU quota, and the part of the scheduling periods in
which the pod was throttled.
"""


def saturation_query(gauge: str, namespace: str, version: str, window: int = 30) -> str:
    """Return the query for ``gauge``, a key of ``SATURATION``, over all pods of one version.

    :param window: range of the rates, in seconds.
    """
    # No other version's name has this prefix, since a version's name ends in its time.
    pods = promql_string(promql_regex_literal(f"{version}-"[:POD_NAME_PREFIX]) + "[a-z0-9-]+")
    return SATURATION[gauge].format(
        pods=f'namespace={promql_string(namespace)},pod=~{pods},container!="",container!="POD"', window=window
    )
