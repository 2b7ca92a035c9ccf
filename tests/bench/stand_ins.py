"""Prometheus and a Kubernetes API that answer quickly whatever a gate asks, and remember when they were asked.

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
from collections.abc import Callable
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

import uvloop

from airflow_deploy.domain.telemetry import PRESETS
from tests.bench.fleet import SCRAPE, began, gate, route_body
from tests.stack.tls import Authority

Answer = Callable[[str], tuple[str, bytes]]
"""What a path with its query is about, and the body of the answer."""

TRAEFIK = PRESETS["traefik"]
RATE = 20.0
"""Requests per second of one service."""
FAILING = 0.001
CODES = {"200": 1 - FAILING, "503": FAILING}
METHODS = {"GET": 0.8, "POST": 0.2}
WITHIN = 0.995
"""Share of the requests that each bucket holds."""


class Server(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection; requests without a body."""

    def __init__(self, answer: Answer, asked: dict[str, list[float]]) -> None:
        self._answer, self._asked, self._begun = answer, asked, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        *whole, self._begun = (self._begun + data).split(b"\r\n\r\n")
        for head in whole:
            self._transport.write(self._respond(head.split(b" ", 2)[1].decode()))

    def _respond(self, path: str) -> bytes:
        at = time.time()
        if path == "/asked":
            body = json.dumps(self._asked).encode()
        else:
            whom, body = self._answer(path)
            self._asked[whom].append(at)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body


def cluster(path: str) -> tuple[str, bytes]:
    """Answer a read of an HTTPRoute."""
    name = urlsplit(path).path.rpartition("/")[2]
    return name, route_body(name)


def prometheus(path: str) -> tuple[str, bytes]:
    """Answer an instant query as the real one would: a range of raw samples, or one number."""
    parameters = parse_qs(urlsplit(path).query)
    query = parameters["query"][0]
    at = float(parameters["time"][0]) if "time" in parameters else time.time()
    service = re.search(r"shop-[0-9]{4}", query)
    name = service[0] if service else ""
    span = re.search(r"\[([0-9]+)s\]$", query)
    if span:
        result = ",".join(counters(int(name[5:]), at - int(span[1]), at))
        return name, b'{"status":"success","data":{"resultType":"matrix","result":[%b]}}' % result.encode()
    number = '{"metric":{},"value":[%.3f,"0.42"]}' % at
    return name, b'{"status":"success","data":{"resultType":"vector","result":[%b]}}' % number.encode()


def counters(number: int, since: float, until: float) -> list[str]:
    """Return the raw series of both versions of one service, scraped each at its own phase."""
    plan = gate(number).plan
    phase = number % 100 / 100 * SCRAPE
    first = since - (since - phase) % SCRAPE + SCRAPE
    times = [first + SCRAPE * step for step in range(int((until - first) / SCRAPE) + 1)]
    edges = [f"{edge}" for edge in sorted(set(plan.spec.latency_limits.values()))]
    families = [(TRAEFIK.requests, ""), (f"{TRAEFIK.duration}_count", "")]
    families += [(f"{TRAEFIK.duration}_bucket", f',"le":"{edge}"') for edge in edges]
    found = []
    for version, share, born in ((plan.candidate, 0.05, began()), (plan.stable, 0.95, began() - 3600)):
        backend = f"httproute-shop-{plan.spec.route.name}-gw-traefik-ep-web-0-abc-svc-shop-{version}-0@kubernetesgateway"
        for code, of_codes in CODES.items():
            for method, of_methods in METHODS.items():
                labels = f'"code":"{code}","method":"{method}","protocol":"http","service":"{backend}"'
                rate = RATE * share * of_codes * of_methods
                for name, more in families:
                    within = WITHIN if more else 1.0
                    values = ",".join(f'[{at:.3f},"{int((at - born) * rate * within)}"]' for at in times if at > born)
                    metric = f'"__name__":"{name}","instance":"10.0.0.7:8082","job":"gateway",{labels}{more}'
                    found.append(f'{{"metric":{{{metric}}},"values":[{values}]}}')
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
