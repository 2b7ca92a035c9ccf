"""What goes wrong on the way to a cluster is one of our errors, so that the watch goes on."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.pods import scale_deployment
from airflow_deploy.clients.kubernetes.routes import read_http_route
from airflow_deploy.domain.errors import TemporaryError
from tests.stack.tls import Authority
from tests.support import kubeconfig


@pytest.fixture
def strangers_server(tmp_path: Path) -> Iterator[str]:
    """Serve with a certificate that is not trusted, and return the address."""
    folder = tmp_path / "stranger"
    Authority.create(folder).issue("server", "server", hosts=("127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_is_not_trusted_does_not_answer(
    strangers_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> None:
    kubeconfig.connect(monkeypatch, "stranger", tmp_path, strangers_server)
    for purpose in ("", "look"):
        with pytest.raises(TemporaryError, match=r"the API server does not answer .*certificate verify failed"):
            read_http_route(connect("stranger", purpose), "shop", "payments-route")


FAULTS = [(429, {"Retry-After": "1"}), (500, {}), (502, {}), (503, {"Retry-After": "3600"}), (504, {}), None]
"""What a server in trouble answers: status and headers, or None if it resets the connection."""


class Troubled(HTTPServer):
    """A server that answers ``faults`` one after the other, and then as it should."""

    def __init__(self, faults: list[Any]) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.faults = list(faults)
        self.asked: list[str] = []


class Answering(BaseHTTPRequestHandler):
    server: Troubled

    def do_GET(self) -> None:
        self.server.asked.append(self.command)
        if length := int(self.headers.get("Content-Length") or 0):
            self.rfile.read(length)
        fault = self.server.faults.pop(0) if self.server.faults else (200, {})
        if fault is None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            return
        status, headers = fault
        body = json.dumps({"metadata": {"namespace": "shop", "name": "payments-route"}}).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Type": "application/json", "Content-Length": len(body)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    do_PATCH = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def troubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slept: list[float]
) -> Iterator[Callable[[list[Any]], Troubled]]:
    """Return what starts a server and makes it the connection of its port's name."""
    servers: list[tuple[Troubled, threading.Thread]] = []

    def start(faults: list[Any]) -> Troubled:
        server = Troubled(faults)
        address = f"http://127.0.0.1:{server.server_port}"
        kubeconfig.connect(monkeypatch, f"troubled_{server.server_port}", tmp_path, address)
        thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_tasks_request_is_sent_again_if_the_server_is_in_trouble(
    troubled: Callable[[list[Any]], Troubled], slept: list[float]
) -> None:
    server = troubled(FAULTS)
    route = read_http_route(connect(f"troubled_{server.server_port}"), "shop", "payments-route")
    assert route.name == "shop/payments-route"
    assert len(server.asked) == len(FAULTS) + 1
    assert slept[0] == 1.0  # as the server asks
    assert max(slept) <= 10.0  # even if the server asks for more
    assert sum(slept) < 40.0


def test_a_write_is_sent_again_too(troubled: Callable[[list[Any]], Troubled]) -> None:
    server = troubled([(503, {}), None])
    scale_deployment(connect(f"troubled_{server.server_port}"), "shop", "payments-1", 0)
    assert server.asked == ["PATCH"] * 3


def test_trouble_that_lasts_is_for_the_task_to_try_again(troubled: Callable[[list[Any]], Troubled]) -> None:
    server = troubled([(503, {})] * 20)
    with pytest.raises(TemporaryError, match="reading HTTPRoute shop/payments-route: HTTP 503"):
        read_http_route(connect(f"troubled_{server.server_port}"), "shop", "payments-route")
    assert len(server.asked) == 7


@pytest.mark.parametrize("purpose", ["look", "brake"])
def test_a_look_and_the_brake_are_not_held_up_by_second_tries(
    troubled: Callable[[list[Any]], Troubled], purpose: str
) -> None:
    server = troubled([(429, {"Retry-After": "5"})])
    with pytest.raises(TemporaryError, match="429"):
        read_http_route(connect(f"troubled_{server.server_port}", purpose), "shop", "payments-route")
    assert len(server.asked) == 1
