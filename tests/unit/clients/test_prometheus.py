"""The Prometheus client: temporary errors if the server fails, permanent errors if it rejects the query."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest

from airflow_deploy.clients import client_cache
from airflow_deploy.clients.client_cache import CLIENT_LIFETIME
from airflow_deploy.clients.prometheus import hook as prometheus
from airflow_deploy.clients.prometheus.hook import Prometheus, PrometheusHook
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.metrics.counters import Series

CONNECTION = "AIRFLOW_CONN_PROMETHEUS_DEFAULT"


@dataclass
class Server:
    """Answers every request with ``status`` and ``body``; does not answer while ``hanging`` is set."""

    status: int = 200
    body: bytes = b""
    hanging: bool = False
    requests: list[tuple[str, dict[str, list[str]], str | None]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    port: int = 0

    def answer(self, result: Any, kind: str = "vector") -> None:
        data = {"resultType": kind, "result": result}
        self.status, self.body = 200, json.dumps({"status": "success", "data": data}).encode()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                form = self.rfile.read(int(self.headers["Content-Length"])).decode()
                server.requests.append((self.path, parse_qs(form), self.headers["Authorization"]))
                if server.hanging:
                    server.released.wait(30)
                with suppress(OSError):
                    self.send_response(server.status)
                    self.send_header("Content-Length", str(len(server.body)))
                    self.end_headers()
                    self.wfile.write(server.body)

            def log_message(self, *_: object) -> None:
                """Stay silent."""

        return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    listening = ThreadingHTTPServer(("127.0.0.1", 0), made.handler())
    made.port = listening.server_port
    made.answer([])
    thread = threading.Thread(target=lambda: listening.serve_forever(poll_interval=0.01))
    thread.start()
    yield made
    made.released.set()
    listening.shutdown()
    thread.join()
    listening.server_close()


Connect = Callable[..., Prometheus]

LATER = count(0, CLIENT_LIFETIME)


@pytest.fixture(autouse=True)
def _each_connects_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_cache, "time", SimpleNamespace(monotonic=lambda: next(LATER)))


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch, server: Server) -> Connect:
    """Connect as an Airflow connection with these fields does; by default to ``server``."""

    def made(**fields: Any) -> Prometheus:
        connection = {"conn_type": "prometheus", "host": server.url, **fields}
        monkeypatch.setenv(CONNECTION, json.dumps(connection))
        return Prometheus.connect("prometheus_default")

    return made


def sample(value: str, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [1_795_417_200.5, value]}


class TestQuery:
    def test_query_has_a_timeout_for_the_server(self, server: Server, connect: Connect) -> None:
        server.answer([sample("1", job="x")])
        assert connect().query('up{job="x"}') == [sample("1", job="x")]
        path, parameters, authorization = server.requests[0]
        assert path == "/api/v1/query"
        assert parameters == {"query": ['up{job="x"}'], "timeout": [f"{prometheus.QUERY_TIMEOUT}s"]}
        assert authorization is None

    def test_query_may_have_an_evaluation_time(self, server: Server, connect: Connect) -> None:
        server.answer([], "matrix")
        assert connect().matrix("up[600s]", 1_795_417_200.25) == []
        _, parameters, _ = server.requests[0]
        assert (parameters["query"], parameters["time"]) == (["up[600s]"], ["1795417200.250"])

    @pytest.mark.parametrize("status", [400, 422])
    def test_rejected_query_is_a_permanent_error(self, server: Server, connect: Connect, status: int) -> None:
        server.status, server.body = status, b'{"status":"error","error":"parse error\x1b[2J"}'
        with pytest.raises(RefusedError, match=r"^Prometheus does not accept the query up\{: ") as caught:
            connect().query("up{")
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("status", [500, 502, 503, 504])
    def test_server_error_is_temporary(self, server: Server, connect: Connect, status: int) -> None:
        server.status, server.body = status, b"<html>bad gateway\x1b[2J</html>"
        with pytest.raises(TemporaryError, match=r"^Prometheus failed: ") as caught:
            connect().query("up")
        assert str(caught.value).isprintable()
        assert len(server.requests) == 1  # the caller decides whether to retry

    @pytest.mark.parametrize("status", [408, 429])
    def test_busy_server_is_a_temporary_error(self, server: Server, connect: Connect, status: int) -> None:
        server.status = status
        with pytest.raises(TemporaryError):
            connect().query("up")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html>",
            b"{}",
            b"[]",
            b"null",
            b'"x"',
            b"5",
            b'{"data": null}',
            b'{"data": {}}',
            b'{"data": []}',
            b"\xff",
        ],
    )
    def test_answer_that_is_not_prometheus_is_a_temporary_error(
        self, server: Server, connect: Connect, body: bytes
    ) -> None:
        server.body = body
        with pytest.raises(TemporaryError, match=r"^Prometheus does not answer: "):
            connect().query("up")

    def test_hanging_server_is_a_temporary_error(
        self, server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(prometheus, "QUERY_TIMEOUT", 0.2)
        server.hanging = True
        with pytest.raises(TemporaryError, match="does not answer"):
            connect().query("up")

    def test_refused_connection_is_a_temporary_error(self, server: Server, connect: Connect) -> None:
        with pytest.raises(TemporaryError, match="does not answer"):
            connect(host="http://127.0.0.1:1").query("up")

    @pytest.mark.parametrize("host", ["", "http://", "http://[", "gopher://x", "http://a b"])
    def test_invalid_address_is_a_deploy_error(self, connect: Connect, host: str) -> None:
        with pytest.raises((RefusedError, TemporaryError)):
            connect(host=host).query("up")


class TestNumber:
    @pytest.mark.parametrize(
        ("result", "kind", "number"),
        [
            ([], "vector", None),
            ([sample("0.25", job="x")], "vector", 0.25),
            ([sample("-3")], "vector", -3.0),
            ([1_795_417_200, "7"], "scalar", 7.0),
            ([sample("+Inf")], "vector", float("inf")),
        ],
    )
    def test_single_result_is_the_number(
        self, server: Server, connect: Connect, result: Any, kind: str, number: float | None
    ) -> None:
        server.answer(result, kind)
        assert connect().number("up") == number

    @pytest.mark.parametrize(
        ("result", "kind"),
        [
            ([sample("1", job="a"), sample("2", job="b")], "vector"),
            ([sample("1", job=str(number)) for number in range(3)], "vector"),
            ([{"metric": {}, "values": [[1, "2"]]}], "matrix"),
            ([{"metric": {}, "values": [[1, "2"]]}] * 2, "matrix"),
            ([{"metric": {}, "histogram": [1, {"count": "2"}]}], "vector"),
            ([1_795_417_200, "text"], "string"),
        ],
        ids=["two", "three", "matrix", "matrices", "histogram", "string"],
    )
    def test_result_that_is_not_one_number_is_refused_with_the_remedy(
        self, server: Server, connect: Connect, result: Any, kind: str
    ) -> None:
        server.answer(result, kind)
        with pytest.raises(RefusedError, match="one number"):
            connect().number("up")


class TestMatrix:
    def test_matrix_samples_become_numbers(self, server: Server, connect: Connect) -> None:
        metric = {"__name__": "x", "instance": "gateway-0"}
        server.answer([{"metric": metric, "values": [[100.5, "1"], [105.5, "2e3"]]}], "matrix")
        assert connect().matrix('{__name__="x"}[30s]') == [Series(metric, [(100.5, 1.0), (105.5, 2000.0)])]
        assert server.requests[0][1]["query"] == ['{__name__="x"}[30s]']

    @pytest.mark.parametrize(
        "result", [[sample("1")], [{"metric": {}}], [{}], [{"metric": {}, "values": [["x", "y"]]}], [5]]
    )
    def test_result_that_is_not_a_matrix_is_a_deploy_error(self, server: Server, connect: Connect, result: Any) -> None:
        server.answer(result)
        with pytest.raises((RefusedError, TemporaryError)):
            connect().matrix("x[30s]")


class TestConnection:
    def test_login_and_password_are_sent(self, server: Server, connect: Connect) -> None:
        connect(login="ada", password="s3cr3t").query("up")
        assert server.requests[0][2] == "Basic " + base64.b64encode(b"ada:s3cr3t").decode()

    def test_password_is_not_in_the_error(self, server: Server, connect: Connect) -> None:
        server.status = 401
        with pytest.raises((RefusedError, TemporaryError)) as caught:
            connect(login="ada", password="s3cr3t").query("up")
        assert "s3cr3t" not in str(caught.value)

    @pytest.mark.parametrize("form", ["url", "url/", "host and port", "url and port"])
    def test_address_may_have_any_usual_form(self, server: Server, connect: Connect, form: str) -> None:
        forms: dict[str, dict[str, Any]] = {
            "url": {"host": server.url},
            "url/": {"host": f"{server.url}/"},
            "host and port": {"host": "127.0.0.1", "port": server.port},
            "url and port": {"host": "http://127.0.0.1", "port": server.port},
        }
        connect(**forms[form]).query("up")
        assert [path for path, _, _ in server.requests] == ["/api/v1/query"]

    def test_connection_may_be_an_airflow_uri(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(CONNECTION, f"prometheus://127.0.0.1:{server.port}")
        assert Prometheus.connect("prometheus_default").query("up") == []

    def test_connection_runs_a_query(self, server: Server, connect: Connect) -> None:
        connect()
        server.answer([sample("1")])
        assert PrometheusHook().test_connection() == (True, "Prometheus answers queries")
        assert server.requests[0][1]["query"] == ["vector(1)"]

    @pytest.mark.parametrize("status", [401, 500])
    def test_connection_reports_the_http_status(self, server: Server, connect: Connect, status: int) -> None:
        connect()
        server.status = status
        works, said = PrometheusHook().test_connection()
        assert not works
        assert str(status) in said

    @pytest.mark.parametrize("host", ["", "http://", "http://["])
    def test_connection_reports_an_invalid_address(self, connect: Connect, host: str) -> None:
        connect()
        works, said = _test_button(connect, host)
        assert not works
        assert said


def _test_button(connect: Connect, host: str) -> tuple[bool, str]:
    with suppress(RefusedError, TemporaryError):
        connect(host=host)
    return PrometheusHook().test_connection()
