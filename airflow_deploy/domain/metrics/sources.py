"""Where Prometheus has what is judged: requests by version, from one gateway or another, and how full pods are."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from airflow_deploy.domain.names import MIRROR_SUFFIX, promql_regex_literal, promql_string


@dataclass(frozen=True)
class MetricsSource:
    """Where requests are counted by the version that answered them. Another gateway is one more entry of ``SOURCES``.

    :param requests: name of the counter of requests, by the status that ``code`` names.
    :param duration: name of the histogram of their durations, in seconds.
    :param label: the label that tells versions apart.
    :param service: the pattern of its value, with ``{namespace}``, ``{route}`` and ``{service}``.
    :param namespace: the label that holds the namespace, where ``service`` does not.
    :param mirrored: the pattern of that value behind a mirror; empty where it is the same.
    :param apart: whether each version has scrape targets of its own, so that no two are in one scrape.
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
        """Return the preset that counts what passes by a mirror too: the stable's answers, and copies."""
        return replace(self, service=f"(?:{self.service}|{self.mirrored})") if self.mirrored else self

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


SOURCES = {
    "traefik": MetricsSource(
        requests="traefik_service_requests_total",
        duration="traefik_service_request_duration_seconds",
        label="service",
        service=r"httproute-{namespace}-{route}-.*-svc-{namespace}-{service}-[0-9]+@kubernetesgateway",
        mirrored=rf"{{namespace}}-{{service}}(?:{MIRROR_SUFFIX})?-[0-9]+@kubernetescrd",
    ),
    # The application's own: whoever finds targets by their Service (a ServiceMonitor, say) gives them these labels.
    "application": MetricsSource(
        requests="http_requests_total",
        duration="http_request_duration_seconds",
        label="service",
        service="{service}",
        namespace="namespace",
        apart=True,
    ),
    # The same, told apart by the names of their pods: all of them are behind one Service.
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
"""As long may the name of a Deployment be whose pods' names are not cut: two random parts follow it."""

POD_NAME_PREFIX = 58

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
    pods = promql_string(promql_regex_literal(f"{version}-"[:POD_NAME_PREFIX]) + "[a-z0-9-]+")
    return SATURATION[gauge].format(
        pods=f'namespace={promql_string(namespace)},pod=~{pods},container!="",container!="POD"', window=window
    )
