"""The way from the real client to the server: urllib3's own pool, on a connection that opens no socket.

So the client's retries, timeouts and errors are urllib3's.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml
from urllib3 import HTTPResponse
from urllib3.connection import HTTPConnection
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.exceptions import NewConnectionError, ReadTimeoutError

from tests.support.kubernetes_api.journal import Request
from tests.support.kubernetes_api.watches import Watch

REASONS = {200: "OK", 201: "Created", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
REASONS |= {405: "Method Not Allowed", 409: "Conflict", 422: "Unprocessable Entity", 429: "Too Many Requests"}
REASONS |= {500: "Internal Server Error", 502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}


@dataclass
class Answer:
    """What the server sends: a string is sent as it is, the rest as JSON."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


Serve = Callable[[Request], Answer]


class WatchResponse(HTTPResponse):
    """A response that goes on: each chunk is an event."""

    def __init__(self, watch: Watch, lines: Iterator[bytes], **given: Any) -> None:
        super().__init__(body=io.BytesIO(), preload_content=False, **given)
        self._watch, self._lines = watch, lines

    def stream(self, amt: int | None = 0, decode_content: bool | None = None) -> Generator[bytes, None, None]:
        yield from self._lines

    def close(self) -> None:
        self._watch.close()
        super().close()


def pool_classes(serve: Serve) -> dict[str, type[HTTPConnectionPool]]:
    """Return what ``PoolManager.pool_classes_by_scheme`` needs so that all requests go to ``serve``."""

    class Connection(HTTPConnection):
        is_closed = False
        is_connected = True

        def __init__(self, host: str, port: int | None = None, **options: Any) -> None:
            super().__init__(host, port, timeout=options.get("timeout"))

        def request(  # type: ignore[override]
            self,
            method: str,
            url: str,
            body: Any = None,
            headers: Mapping[str, str] | None = None,
            *,
            preload_content: bool = True,
            **_: Any,
        ) -> None:
            self._request = _read(method, url, body, headers or {})
            self._connect_timeout, self._preload, self._asked = self.timeout, preload_content, url

        def getresponse(self) -> HTTPResponse:  # type: ignore[override]
            request = self._request
            request.timeout = (self._connect_timeout, self.timeout)
            try:
                answer = serve(request)
            except ConnectionRefusedError as error:
                raise NewConnectionError(self, f"Failed to establish a new connection: {error}") from error
            return self._response(answer)

        def _response(self, answer: Answer) -> HTTPResponse:
            content: Any = answer.body
            given: dict[str, Any] = {"status": answer.status, "reason": REASONS.get(answer.status), "version": 11}
            given |= {"headers": dict(answer.headers), "request_method": self._request.method}
            given |= {"request_url": self._asked, "version_string": "HTTP/1.1"}
            if isinstance(content, Watch):
                lines = content.lines(self.timeout, self._late)
                if not self._preload:
                    return WatchResponse(content, lines, **given)
                content = b"".join(lines).decode()
            text = content if isinstance(content, str) else json.dumps(content)
            kind = "text/plain; charset=utf-8" if isinstance(content, str) else "application/json"
            given["headers"] = {"Content-Type": kind, **given["headers"]}
            return HTTPResponse(body=io.BytesIO(text.encode()), preload_content=self._preload, **given)

        def _late(self) -> BaseException:
            pool: Any = None
            return ReadTimeoutError(pool, self._asked, "Read timed out.")

    class Pool(HTTPConnectionPool):
        ConnectionCls = Connection

    return {"http": Pool, "https": Pool}


def _read(method: str, url: str, body: Any, headers: Mapping[str, str]) -> Request:
    parts = urlsplit(url)
    named = {key.lower(): value for key, value in headers.items()}
    content_type = named.get("content-type", "").partition(";")[0]
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(method, unquote(parts.path), query, _parsed(body), content_type, dict(headers))


def _parsed(body: Any) -> Any:
    """Return a body's content; one that cannot be read stays text."""
    if body is None:
        return None
    try:
        return yaml.safe_load(body) if not body.lstrip().startswith(("{", "[")) else json.loads(body)
    except (ValueError, yaml.YAMLError):
        return body
