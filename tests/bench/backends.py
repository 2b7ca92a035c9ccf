"""What a deployment needs beside Kubernetes: a Docker daemon that builds at once, and a gateway that counts."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from hashlib import sha256

from tests.bench.http_server import Request, Response
from tests.bench.kubernetes_api import KubernetesApi, Written


class Docker:
    """Docker's HTTP API: it builds nothing, at once, and its registry has what was pushed."""

    def __init__(self) -> None:
        self._pushed: set[str] = set()

    def answer(self, request: Request) -> Response:
        """Answer a request."""
        path = re.sub(r"^/v[0-9.]+/", "/", request.path)
        if path == "/_ping":
            return Response(200, b"OK", "text/plain")
        if path == "/version":
            return Response.of({"ApiVersion": "1.43", "MinAPIVersion": "1.24", "Version": "24.0.0"})
        if path == "/build":
            return _lines({"stream": "Successfully built\n"})
        if found := re.fullmatch(r"/images/(.+)/push", path):
            image = f"{found[1]}:{request.query['tag']}"
            self._pushed.add(image)
            return _lines({"status": "Pushed"}, {"aux": {"Digest": _digest(image), "Tag": request.query["tag"]}})
        if found := re.fullmatch(r"/distribution/(.+)/json", path):
            image = found[1]
            if "@" in image or image in self._pushed:
                return Response.of({"Descriptor": {"digest": _digest(image)}, "Platforms": []})
            return Response.of({"message": "manifest unknown"}, 404)
        if found := re.fullmatch(r"/images/(.+)/json", path):
            return Response.of({"Id": _digest(found[1])})
        if re.fullmatch(r"/images/.+", path):  # removed from the daemon
            return Response.of([])
        return Response.of({"message": f"page not found: {path}"}, 404)


def _lines(*items: object) -> Response:
    return Response(200, b"", parts=tuple(json.dumps(item).encode() + b"\r\n" for item in items))


def _digest(image: str) -> str:
    return image.partition("@")[2] or f"sha256:{sha256(image.encode()).hexdigest()}"


class Gateway:
    """The metrics of a Traefik that divides ``rate`` requests per second as the route says, and of cAdvisor.

    Requests are so many that a gate has its evidence as soon as its time is over. All are well, and quick.
    """

    def __init__(self, namespace: str, route: str, rate: float) -> None:
        self._backend = f"httproute-{namespace}-{route}-gw-web-0-abc-svc-{namespace}-{{}}-80@kubernetesgateway"
        self._namespace, self._route, self._rate = namespace, route, rate
        self._shares: dict[str, float] = {}
        self._counted: dict[str, float] = defaultdict(float)
        self._at = self._began = time.time()
        self._lock = threading.Lock()
        self.cluster = KubernetesApi(self.move)

    def move(self, written: Written) -> None:
        """Divide the requests from now on as the route says, if it is the service's."""
        if written.name == self._route:
            with self._lock:
                self._count()
                self._shares = written.shares

    def answer(self, _: Request) -> Response:
        """Answer a scrape."""
        pods = [pod["metadata"]["name"] for pod in self.cluster.pods()]
        with self._lock:
            self._count()
            lines = [*self._requests(), *self._usage(pods)]
        return Response(200, ("\n".join(lines) + "\n").encode(), "text/plain; version=0.0.4")

    def _count(self) -> None:
        now = time.time()
        for name, share in self._shares.items():
            self._counted[name] += self._rate * share / 100 * (now - self._at)
        self._at = now

    def _requests(self) -> Iterator[str]:
        duration = "traefik_service_request_duration_seconds"
        for name, counted in self._counted.items():
            if (number := int(counted)) == 0:
                continue  # a gateway has no counters of what it has not served yet
            service = self._backend.format(name)
            labels = f'code="200",method="GET",protocol="http",service="{service}"'
            yield f"traefik_service_requests_total{{{labels}}} {number}"
            yield f"{duration}_count{{{labels}}} {number}"
            yield f"{duration}_sum{{{labels}}} {number * 0.02}"
            for edge in ("0.1", "0.3", "0.5", "1", "+Inf"):
                yield f'{duration}_bucket{{{labels},le="{edge}"}} {number}'

    def _usage(self, pods: list[str]) -> Iterator[str]:
        seconds = self._at - self._began
        values = {
            "cpu_usage_seconds_total": seconds * 0.05,
            "spec_cpu_quota": 50000,
            "spec_cpu_period": 100000,
            "cpu_cfs_throttled_periods_total": 0,
            "cpu_cfs_periods_total": seconds * 10,
            "memory_working_set_bytes": 16 << 20,
            "spec_memory_limit_bytes": 64 << 20,
        }
        for pod in pods:
            labels = f'namespace="{self._namespace}",pod="{pod}",container="app"'
            yield from (f"container_{name}{{{labels}}} {value}" for name, value in values.items())
