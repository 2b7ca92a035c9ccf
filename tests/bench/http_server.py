"""A small HTTP/1.1 server in threads of the benchmark's own process, for stand-ins that keep what is written."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """One request; ``path`` is without its query."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Response:
    """An answer.

    :param parts: if there are any, they are the body, and each is sent by itself.
    """

    status: int
    body: bytes
    content_type: str = "application/json"
    parts: tuple[bytes, ...] = ()

    @classmethod
    def of(cls, value: Any, status: int = 200) -> Response:
        """Answer with JSON."""
        return cls(status, json.dumps(value).encode())


Answer = Callable[[Request], Response]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # The head and the body leave in one packet: two would wait 40 ms for the client's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    answer: Answer

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        said = type(self).answer(
            Request(self.command, unquote(url.path), query, self.headers.get("Content-Type", ""), body),
        )
        self.send_response(said.status)
        self.send_header("Content-Type", said.content_type)
        if said.parts:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(said.body)))
        self.end_headers()
        self.wfile.write(said.body)
        for part in [*said.parts, b""] if said.parts else []:
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: each look of each gate is a request."""


@contextmanager
def serve(answer: Answer) -> Iterator[str]:
    """Serve on a free port of this machine, and give ``host:port``."""
    handler = type("Handler", (_Handler,), {"answer": staticmethod(answer)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
