"""A proxy between Airflow and the Kubernetes API server that answers wrongly, late, or not at all, when it is told to.

Airflow reaches it by a kubeconfig of its own. Who asks is known by the token, which passes through.
"""

import json
import random
import select
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPException, HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from tests.stack.access import PKI, SERVER
from tests.stack.layout import AIRFLOW_KUBECONFIG
from tests.stack.tls import write_secret

SLOW = 12.0
"""Seconds after which a call that is to time out is ended if the caller has not ended it."""
RETRY_AFTER = "1"
KINDS = ("409", "429", "500", "503", "timeout", "reset", "lost")
"""``reset`` ends the connection before the API server has heard of the call, ``lost`` when it has done it."""


@dataclass(frozen=True)
class Call:
    """One request as it came."""

    method: str
    path: str
    body: bytes


Fault = Callable[[Call], str | None]
"""Says what becomes of a call: one of ``KINDS``, or None for the API server's own answer."""


def sometimes(share: float, seed: int) -> Fault:
    """Return faults of all kinds alike, at that share of the calls."""
    chance = random.Random(seed)

    def fault(_: Call) -> str | None:
        return chance.choice(KINDS) if chance.random() < share else None

    return fault


@dataclass
class Proxy:
    """What the proxy does now, and what it has done.

    :param fault: is asked about every call.
    :param holds: says whether a call waits for ``release``.
    """

    fault: Fault | None = None
    holds: Callable[[Call], bool] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    held: list[Call] = field(default_factory=list)
    _released: threading.Event = field(default_factory=threading.Event)

    def hold(self, holds: Callable[[Call], bool]) -> None:
        """Let such calls wait from now on."""
        self._released.clear()
        self.held.clear()
        self.holds = holds

    def release(self) -> None:
        """Let all calls through, those that wait as well."""
        self.holds = None
        self._released.set()

    def decide(self, call: Call) -> str | None:
        """Wait while the call is held; return its fault."""
        if self.holds and self.holds(call):
            self.held.append(call)
            self._released.wait()
        said = self.fault(call) if self.fault else None
        self.counts[said or "passed"] += 1
        return said


@contextmanager
def proxy(kubeconfig: Path) -> Iterator[Proxy]:
    """Run the proxy, and write the kubeconfig by which Airflow reaches it."""
    state = Proxy()
    trusted = ssl.create_default_context(cafile=str(PKI / "ca.crt"))
    handler = type("Handler", (_Handler,), {"proxied": state, "upstream": trusted})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(PKI / "apiserver.crt", PKI / "apiserver.key")
    # The handshake belongs to the connection's own thread: here, one silent client would stop all others.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    config = json.loads(AIRFLOW_KUBECONFIG.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{server.server_address[1]}"
    write_secret(kubeconfig, json.dumps(config))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.release()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Serves one connection.

    :cvar proxied: what is to be done.
    :cvar upstream: whom the API server's certificate must come from.
    """

    protocol_version = "HTTP/1.1"
    timeout = 60
    proxied: Proxy
    upstream: ssl.SSLContext

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.proxied.decide(Call(self.command, self.path, body))
        if fault is None or fault == "lost":
            self._pass(body, lost=bool(fault))
        elif fault in ("timeout", "reset"):
            if fault == "timeout":
                select.select([self.connection], [], [], SLOW)  # it can be read when the other end is closed
            self._hang_up()
        else:
            self._refuse(int(fault))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _any

    def _pass(self, body: bytes, *, lost: bool) -> None:
        address = urlsplit(SERVER)
        connection = HTTPSConnection(str(address.hostname), address.port, context=self.upstream, timeout=30)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            connection.request(self.command, self.path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
        except (HTTPException, OSError):
            self._hang_up()
            return
        finally:
            connection.close()
        if lost:
            self._hang_up()
            return
        self._answer(answer.status, content, answer.headers.get("Content-Type", "application/json"))

    def _refuse(self, status: int) -> None:
        said = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": status, "message": "a fault"}
        self._answer(status, json.dumps(said).encode(), "application/json")

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        with suppress(OSError):  # the caller may have ended meanwhile
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            if status == 429:
                self.send_header("Retry-After", RETRY_AFTER)
            self.end_headers()
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.close()

    def log_message(self, *_: object) -> None:
        pass
