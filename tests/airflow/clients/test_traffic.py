"""What the guard and a run ask of the API server, byte by byte, and what its answers mean."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from kubernetes import client

from airflow_deploy.clients.kubernetes.traffic import Traffic
from airflow_deploy.domain.errors import FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.routing.lease import new_lease, renewal_patch

LEASE = {**new_lease("shop", "payments", "DEP-1/1", 45), "metadata": {"name": "airflow-deploy-payments"}}
PATH = "/apis/coordination.k8s.io/v1/namespaces/shop/leases"


class Server(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.status, self.body = 200, LEASE
        self.asked: list[tuple[str, str, str | None, Any]] = []


class Answer(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        said = json.loads(sent) if sent else None
        self.server.asked.append((self.command, self.path, self.headers.get("Content-Type"), said))
        body = json.dumps(self.server.body).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PATCH = do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def traffic(server: Server) -> Traffic:
    configuration = client.Configuration()
    configuration.host, configuration.retries = f"http://127.0.0.1:{server.server_port}", False
    return Traffic(client.ApiClient(configuration))


def test_a_renewal_is_one_write_that_tests_who_holds_it(server: Server, traffic: Traffic) -> None:
    assert traffic.patch_lease("shop", "airflow-deploy-payments", renewal_patch("DEP-1/1"))
    ((method, path, kind, patch),) = server.asked
    assert (method, path) == ("PATCH", f"{PATH}/airflow-deploy-payments?fieldManager=airflow-deploy")
    assert kind == "application/json-patch+json"
    assert patch[0] == {"op": "test", "path": "/spec/holderIdentity", "value": "DEP-1/1"}
    assert (patch[1]["op"], patch[1]["path"]) == ("add", "/spec/renewTime")


@pytest.mark.parametrize(("status", "error"), [(422, FencedError), (403, RefusedError), (409, TemporaryError)])
def test_a_lease_that_cannot_be_written(server: Server, traffic: Traffic, status: int, error: type[Exception]) -> None:
    server.status = status
    with pytest.raises(error, match=f"writing Lease shop/airflow-deploy-payments: the cluster answers {status}"):
        traffic.patch_lease("shop", "airflow-deploy-payments", renewal_patch("DEP-1/1"))


def test_a_lease_that_is_not_there(server: Server, traffic: Traffic) -> None:
    server.status = 404
    assert traffic.lease("shop", "airflow-deploy-payments") is None
    assert traffic.patch_lease("shop", "airflow-deploy-payments", renewal_patch("DEP-1/1")) is False


def test_one_that_may_not_be_read_is_not_taken_for_none(server: Server, traffic: Traffic) -> None:
    server.status = 403
    with pytest.raises(RefusedError):
        traffic.lease("shop", "airflow-deploy-payments")


def test_a_lease_that_somebody_else_has_just_made(server: Server, traffic: Traffic) -> None:
    server.status = 409
    with pytest.raises(TemporaryError, match="making Lease shop/airflow-deploy-payments"):
        traffic.create_lease("shop", new_lease("shop", "payments", "DEP-1/1", 45))
    ((method, path, _, body),) = server.asked
    assert (method, path) == ("POST", f"{PATH}?fieldManager=airflow-deploy")
    assert body["spec"]["holderIdentity"] == "DEP-1/1"


@pytest.mark.parametrize(
    ("namespace", "path"), [("shop", PATH), (None, "/apis/coordination.k8s.io/v1/leases")], ids=["one", "all"]
)
def test_our_leases_alone_are_listed(server: Server, traffic: Traffic, namespace: str | None, path: str) -> None:
    server.body = {"items": [LEASE]}
    (lease,) = traffic.leases(namespace)
    assert (lease.route, lease.holder, lease.seconds) == ("payments", "DEP-1/1", 45)
    ((method, asked, _, _),) = server.asked
    assert (method, asked) == ("GET", f"{path}?labelSelector=app.kubernetes.io%2Fmanaged-by%3Dairflow-deploy")


MISSING = {"kind": "Status", "reason": "NotFound", "code": 404, "details": {"name": "payments", "kind": "httproutes"}}


def test_a_route_that_is_not_there_yet_is_known_by_its_name(server: Server, traffic: Traffic) -> None:
    server.status, server.body = 404, MISSING
    assert not traffic.route_or_absent("shop", "payments").is_there


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, {}),
        (404, {"reason": "NotFound"}),
        (404, {**MISSING, "details": {"name": "shop", "kind": "namespaces"}}),
        (403, MISSING),
    ],
)
def test_a_server_that_knows_no_routes_yet_has_not_said_so(
    server: Server, traffic: Traffic, status: int, body: Any
) -> None:
    server.status, server.body = status, body
    with pytest.raises(RefusedError, match=f"reading route shop/payments: the cluster answers {status}"):
        traffic.route_or_absent("shop", "payments")


@pytest.mark.parametrize(("dry_run", "asked"), [(True, "dryRun=All&"), (False, "")])
def test_a_route_is_made_by_our_field_manager(server: Server, traffic: Traffic, dry_run: bool, asked: str) -> None:
    body = {"metadata": {"namespace": "shop", "name": "payments"}}
    traffic.create_route(body, dry_run=dry_run)
    path = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes"
    ((method, where, _, sent),) = server.asked
    assert (method, where, sent) == ("POST", f"{path}?{asked}fieldManager=airflow-deploy", body)


@pytest.mark.parametrize(("status", "error"), [(422, RefusedError), (403, RefusedError), (409, TemporaryError)])
def test_a_route_that_cannot_be_made(server: Server, traffic: Traffic, status: int, error: type[Exception]) -> None:
    server.status = status
    with pytest.raises(error, match=f"making route shop/payments: the cluster answers {status}"):
        traffic.create_route({"metadata": {"namespace": "shop", "name": "payments"}})
