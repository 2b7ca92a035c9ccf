"""Prometheus and a Kubernetes API that answer every query of a gate quickly, and record when they were asked.

Each is a process of its own: ``python -m tests.bench.stand_ins prometheus|cluster FOLDER``. It serves on a free port,
and writes ``FOLDER/<kind>.json`` with its address. ``GET /asked`` there gives the record: unix seconds by whom it was
about.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import product
from math import ceil
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs

import uvloop

from airflow_deploy.domain.metrics.batch_query import PART_LABEL
from airflow_deploy.domain.metrics.sources import SATURATION, SOURCES
from tests.bench.fleet import SCRAPE, began, gate, route_body
from tests.stack.tls import Authority

Answer = Callable[[str, str], tuple[str, bytes]]
"""What a path and a form are about, and the body of the answer."""

TRAEFIK = SOURCES["traefik"]
INSTANCE = "10.0.0.7:8082"
RATE = 20.0
"""Requests per second of one service."""
FAILING = 0.001
CODES = {"200": 1 - FAILING, "503": FAILING}
METHODS = {"GET": 0.8, "POST": 0.2}
WITHIN = 0.995
"""Share of the requests that each bucket holds."""


class Server(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection."""

    def __init__(self, answer: Answer, asked: dict[str, list[float]]) -> None:
        self._answer, self._asked, self._begun = answer, asked, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._begun += data
        while b"\r\n\r\n" in self._begun:
            head, _, rest = self._begun.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *([0-9]+)", head)
            size = int(length[1]) if length else 0
            if len(rest) < size:
                return
            self._begun = rest[size:]
            self._transport.write(self._respond(head.split(b" ", 2)[1].decode(), rest[:size].decode()))

    def _respond(self, path: str, form: str) -> bytes:
        at = time.time()
        if path == "/asked":
            body = json.dumps(self._asked).encode()
        else:
            whom, body = self._answer(path, form)
            self._asked[whom].append(at)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


def cluster(path: str, _: str) -> tuple[str, bytes]:
    """Answer a read of an HTTPRoute."""
    name = path.rpartition("/")[2]
    return name, route_body(name)


def prometheus(_: str, form: str) -> tuple[str, bytes]:
    """Answer the one query behind a look as the real one would: every part of it, at each step of its subquery."""
    parameters = parse_qs(form)
    query, at = parameters["query"][0], float(parameters["time"][0])
    span = re.search(r"\[([0-9]+)s:1s\]$", query)
    service = re.search(r"shop-([0-9]{4})", query)
    assert span is not None, query
    assert service is not None, query
    series = ",".join(answer_series(int(service[1]), range(ceil(at) - int(span[1]), int(at) + 1)))
    return service[0], b'{"status":"success","data":{"resultType":"matrix","result":[%b]}}' % series.encode()


def answer_series(number: int, steps: range) -> Iterator[str]:
    """Yield the series of each part, as JSON: one service's targets are scraped at a phase of their own."""
    phase = number % 100 / 100 * SCRAPE
    scraped_at = [(step - phase) // SCRAPE * SCRAPE + phase for step in steps]
    yield written(PARTS["scrapes"], zip(steps, (f"{at:.3f}" for at in scraped_at), strict=True))
    for name in SATURATION:
        yield written(PARTS[name], ((step, "0.42") for step in steps))
    for labels, rate, born in counters(number):
        values = ((step, int((at - born) * rate)) for step, at in zip(steps, scraped_at, strict=True) if at > born)
        yield written(labels, values)


def written(labels: str, values: Iterable[tuple[int, object]]) -> str:
    texts = ",".join(f'[{step},"{value}"]' for step, value in values)
    return f'{{"metric":{labels},"values":[{texts}]}}'


PARTS = {
    "scrapes": json.dumps({PART_LABEL: "scrapes", "instance": INSTANCE}),
    **{name: json.dumps({PART_LABEL: name}) for name in SATURATION},
}


@cache
def counters(number: int) -> list[tuple[str, float, float]]:
    """Return both versions' counters: labels as JSON, increase per second, and when they began at 0."""
    plan = gate(number).plan
    route = plan.spec.route.name
    names: list[tuple[str, dict[str, str]]] = [(TRAEFIK.requests, {}), (f"{TRAEFIK.duration}_count", {})]
    names += [
        (f"{TRAEFIK.duration}_bucket", {"le": f"{edge}"}) for edge in sorted(set(plan.spec.latency_limits.values()))
    ]
    found = []
    for version, share, born in ((plan.candidate, 0.05, began()), (plan.stable, 0.95, began() - 3600)):
        backend = f"httproute-shop-{route}-gw-traefik-ep-web-0-abc-svc-shop-{version}-0@kubernetesgateway"
        for (code, of_codes), (method, of_methods), (name, more) in product(CODES.items(), METHODS.items(), names):
            labels = {
                PART_LABEL: "counters",
                "__name__": name,
                "instance": INSTANCE,
                "job": "gateway",
                "service": backend,
            }
            labels |= {"code": code, "method": method, "protocol": "http", **more}
            rate = RATE * share * of_codes * of_methods * (WITHIN if more else 1)
            found.append((json.dumps(labels, separators=(",", ":")), rate, born))
    return found


async def serve(kind: str, folder: Path) -> None:
    asked: dict[str, list[float]] = defaultdict(list)
    answer = {"prometheus": prometheus, "cluster": cluster}[kind]
    tls = _tls(folder) if kind == "cluster" else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Server(answer, asked), "127.0.0.1", 0, ssl=tls, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    address = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    (folder / f"{kind}.json").write_text(json.dumps(address))
    await server.serve_forever()


def _tls(folder: Path) -> ssl.SSLContext:
    Authority.create(folder / "pki").issue("server", "kubernetes", hosts=("127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pki" / "server.crt", folder / "pki" / "server.key")
    return context


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1], Path(sys.argv[2])))
