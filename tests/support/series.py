"""Counter series as Prometheus returns them for a service behind Traefik."""

from __future__ import annotations

from airflow_deploy.domain.metrics.counters import CounterReader, Counts, Series, Tick
from airflow_deploy.domain.metrics.sources import SOURCES
from tests.support.judgement import CANDIDATE, STABLE

TRAEFIK = SOURCES["traefik"]
REQUESTS, DURATION = TRAEFIK.requests, TRAEFIK.duration


def label(service: str, *, namespace: str = "shop", route: str = "pay", index: int = 0) -> str:
    """How Traefik names a backend."""
    return f"httproute-{namespace}-{route}-gw-traefik-ep-web-0-abc-svc-{namespace}-{service}-{index}@kubernetesgateway"


def labels(name: str, service: str, instance: str = "gateway-0", **more: str) -> dict[str, str]:
    return {"__name__": name, "service": label(service), "instance": instance, **more}


def reader() -> CounterReader:
    return CounterReader(TRAEFIK, "shop", "pay", (CANDIDATE, STABLE))


def requests(service: str, *samples: tuple[float, float], code: str = "200", instance: str = "gateway-0") -> Series:
    return Series(labels(REQUESTS, service, instance, code=code), samples)


def total(ticks: list[Tick], service: str) -> Counts:
    return sum((tick.counts[service] for tick in ticks), Counts())


def poll(history: list[Series], since: float, until: float) -> list[Series]:
    """What a query at ``until`` returns of the samples newer than ``since``."""
    seen = [Series(s.labels, [(at, value) for at, value in s.samples if since < at <= until]) for s in history]
    return [series for series in seen if series.samples]
