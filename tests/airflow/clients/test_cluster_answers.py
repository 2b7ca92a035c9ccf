"""What the API server's answers mean: of pods that are refused, of what pods are made of, of what is there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client.rest import RESTClientObject

from airflow_deploy.clients.kubernetes.cluster import Cluster, Parts
from airflow_deploy.clients.kubernetes.errors import PROMPT_TIMEOUT
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.labels import VERSION
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.service_route import ServiceRoute
from airflow_deploy.rollout.analysis.loop import MAX_LOOK_SECONDS
from tests.support import kubeconfig

SLICES = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
PODS = "/api/v1/namespaces/shop/pods"
DEPLOYMENT = "/apis/apps/v1/namespaces/shop/deployments/payments"
CONFIG_MAPS = "/api/v1/namespaces/shop/configmaps"

Answers = dict[str, tuple[int, Any]]


@pytest.fixture
def sent() -> list[Any]:
    """Return the patches that were sent."""
    return []


@pytest.fixture
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: list[Any]) -> Iterator[Callable[..., Cluster]]:
    """Return what gives a cluster whose API server answers so by path."""
    answers: Answers = {}
    creates: list[bool] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, _, query = self.path.partition("?")
            # What is created without a dry run would be there afterwards.
            may = self.command == "GET" or "dryRun=All" in query or creates
            self._answer(*answers[path] if may else (500, {}))

        def _answer(self, status: int, content: Any) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def do_PATCH(self) -> None:
            sent.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            status, content = answers[self.path.partition("?")[0]]
            self._answer(status, content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    connection = f"answering_{server.server_port}"
    kubeconfig.connect(monkeypatch, connection, tmp_path, f"http://127.0.0.1:{server.server_port}")

    def cluster(given: Answers, *, creating: bool = False) -> Cluster:
        answers.update(given)
        creates.extend([True] * creating)
        return Cluster(connection, "test", PROMPT_TIMEOUT)

    yield cluster
    server.shutdown()
    thread.join()
    server.server_close()


def deployment(*conditions: dict[str, str]) -> dict[str, Any]:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "app", "image": "x"}]}}
    return {
        "metadata": {"name": "payments", "generation": 2},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template},
        "status": {"observedGeneration": 2, "conditions": list(conditions)},
    }


def failure(message: str) -> dict[str, str]:
    return {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": message}


PROGRESSING = {"type": "Progressing", "status": "True", "message": "it goes on"}


@pytest.mark.parametrize(
    "message",
    [
        'pods "payments-x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
        'admission webhook "policy.example.com" denied the request: no latest tag',
        "pods \"payments-x\" is forbidden: ValidatingAdmissionPolicy 'teams' with binding 'teams' denied request: no",
    ],
)
def test_pods_that_the_namespace_refuses_never_become_ready(answering: Callable[..., Cluster], message: str) -> None:
    cluster = answering({DEPLOYMENT: (200, deployment(PROGRESSING, failure(message))), PODS: (200, {"items": []})})
    failed = cluster.readiness("shop", "payments").failed
    assert failed == f"the namespace refuses its pods: {message}"


def test_pods_for_which_there_is_no_room_may_become_ready(answering: Callable[..., Cluster]) -> None:
    full = failure('pods "payments-x" is forbidden: exceeded quota: compute')
    cluster = answering({DEPLOYMENT: (200, deployment(PROGRESSING, full)), PODS: (200, {"items": []})})
    assert cluster.readiness("shop", "payments").failed is None


ROUTE = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/payments"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/shop/leases/airflow-deploy-payments"
SERVICE = "/api/v1/namespaces/shop/services/payments"


def test_what_comes_again_by_itself_is_not_awaited_longer_than_a_look_may_take(
    answering: Callable[..., Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where one request in thirty is never answered, two of them would cost the Lease."""
    awaited: list[tuple[float, float]] = []
    request = RESTClientObject.request

    def awaiting(client: Any, *arguments: Any, **given: Any) -> Any:
        awaited.append(given["_request_timeout"])
        return request(client, *arguments, **given)

    monkeypatch.setattr(RESTClientObject, "request", awaiting)
    found = {"metadata": {"name": "payments", "namespace": "shop"}, "spec": {}}
    slices: tuple[int, Any] = (200, {"items": []})
    cluster = answering(dict.fromkeys((ROUTE, LEASE, SERVICE, DEPLOYMENT), (200, found)) | {SLICES: slices})
    route, service = (cluster.team_route("shop", "payments", router) for router in ("gateway", "replicas"))
    for each in (route, service):
        cluster.patch_route(each, [{"op": "test"}])
        cluster.withdraw(each, "payments")
    cluster.lease("shop", "airflow-deploy-payments")
    cluster.patch_lease("shop", "airflow-deploy-payments", [])
    cluster.ready("shop", "payments", None)
    assert len(awaited) == 8
    assert max(map(sum, awaited)) < MAX_LOOK_SECONDS


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


def endpoints(*names: str) -> dict[str, Any]:
    refs = [{"kind": "Pod", "name": name, "uid": name} for name in names]
    found = [{"addresses": ["10.0.0.1"], "targetRef": ref} for ref in refs]
    return {"items": [{"addressType": "IPv4", "metadata": {"name": "payments-x"}, "endpoints": found}]}


def test_pods_are_made_of_all_that_they_do_not_start_without(answering: Callable[..., Cluster]) -> None:
    app = {
        "name": "app",
        "image": "app:1",
        "envFrom": [{"configMapRef": {"name": "settings"}}, {"configMapRef": {"name": "more", "optional": True}}],
        "env": [
            {"name": "A", "valueFrom": {"configMapKeyRef": {"name": "keys", "key": "a"}}},
            {"name": "B", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "b"}}},
            {"name": "C", "value": "c"},
        ],
    }
    volumes = [
        {"name": "files", "configMap": {"name": "files"}},
        {"name": "rest", "configMap": {"name": "rest", "optional": True}},
        {"name": "tmp", "emptyDir": {}},
    ]
    init = {"name": "init", "image": "init:1"}
    pods = [
        pod("one", containers=[app, {"name": "proxy", "image": "proxy:1"}], initContainers=[init], volumes=volumes),
        pod("two", containers=[{"name": "app", "image": "app:2"}]),
        pod("stranger", containers=[{"name": "app", "image": "stranger:1"}]),
    ]
    cluster = answering({SLICES: (200, endpoints("one", "two")), PODS: (200, {"items": pods})})
    images = ("app:1", "app:2", "init:1", "proxy:1")
    assert cluster.parts_of("shop", "payments") == Parts(images, ("files", "keys", "settings"))


def test_a_service_without_pods_is_made_of_nothing(answering: Callable[..., Cluster]) -> None:
    outside = {"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}]}
    cluster = answering({SLICES: (200, {"items": [outside]}), PODS: (200, {"items": []})})
    assert cluster.parts_of("shop", "payments") == Parts((), ())
    assert cluster.ready_endpoints("shop", "payments") == 1


EXISTS, CONFLICT = {"reason": "AlreadyExists"}, {"reason": "Conflict"}
"""What a server says that has made nothing: it is there, or a quota was written at the same moment."""


@pytest.mark.parametrize(("status", "said", "there"), [(409, EXISTS, True), (201, {"kind": "ConfigMap"}, False)])
def test_a_config_map_is_looked_for_without_reading_or_writing_it(
    answering: Callable[..., Cluster], status: int, said: Any, there: bool
) -> None:
    assert answering({CONFIG_MAPS: (status, said)}).has_config_map("shop", "settings") is there


@pytest.mark.parametrize("said", [CONFLICT, {}, [], None])
def test_a_conflict_does_not_say_that_a_config_map_is_there(answering: Callable[..., Cluster], said: Any) -> None:
    with pytest.raises(TemporaryError, match="the cluster answers 409"):
        answering({CONFIG_MAPS: (409, said)}).has_config_map("shop", "settings")


def test_a_config_map_that_may_not_be_looked_for_is_an_error(answering: Callable[..., Cluster]) -> None:
    cluster = answering({CONFIG_MAPS: (403, {"kind": "Status", "message": "forbidden"})})
    with pytest.raises(RefusedError, match="looking for ConfigMap shop/settings: the cluster answers 403"):
        cluster.has_config_map("shop", "settings")


def of_deployment(name: str, number: int, *, ready: bool = True, **metadata: Any) -> dict[str, Any]:
    """Return a pod as the API server has it: its ReplicaSet's name is the Deployment's and a hash."""
    owner = {"kind": "ReplicaSet", "name": f"{name}-7d4b9c6f5", "controller": True}
    known = {"name": f"{name}-7d4b9c6f5-{number}", "labels": {"pod-template-hash": "7d4b9c6f5"}}
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    return {"metadata": {**known, "ownerReferences": [owner], **metadata}, "status": status}


def test_ready_pods_are_counted_by_the_deployment_that_they_are_of(answering: Callable[..., Cluster]) -> None:
    pods = [
        of_deployment("payments", 1),
        of_deployment("payments", 2, ready=False),
        of_deployment("payments", 3, deletionTimestamp="2026-11-24T00:00:00Z"),
        of_deployment("payments-0123456-1795417200", 1),
        of_deployment("payments-0123456-1795417200", 2),
        of_deployment("other", 1, ready=False),
        {"metadata": {"name": "alone"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
        {"metadata": {"name": "young"}},
        {"metadata": {"name": "evicted"}, "status": {"phase": "Failed"}},
    ]
    cluster = answering({PODS: (200, {"items": pods})})
    found = {"payments": 1, "payments-0123456-1795417200": 2, "other": 0, "alone": 1, "young": 0}
    assert cluster.workloads("shop", {"app": "payments"}) == found
    assert [cluster.ready("shop", name, {"app": "payments"}) for name in ("payments", "gone")] == [1, 0]


def test_a_version_was_started_when_its_oldest_pod_was_made(answering: Callable[..., Cluster]) -> None:
    def made(version: str, minute: int, **metadata: Any) -> dict[str, Any]:
        at = f"2026-11-23T17:{minute:02}:00Z"
        return {"metadata": {"labels": {VERSION: version}, "creationTimestamp": at, **metadata}, "status": {}}

    over = {**made("old", 1), "status": {"phase": "Failed"}}
    pods = [made("old", 9), made("old", 3), made("new", 8), made("new", 2, deletionTimestamp="now"), over]
    cluster = answering({PODS: (200, {"items": pods})})
    began = datetime(2026, 11, 23, 17, tzinfo=UTC).timestamp()
    assert cluster.started("shop") == {"old": began + 180, "new": began + 480}


def test_pods_are_taken_away_and_that_is_kept(answering: Callable[..., Cluster], sent: list[Any]) -> None:
    cluster = answering({DEPLOYMENT: (200, deployment())})
    service = ServiceRoute({"metadata": {"namespace": "shop", "name": "payments"}, "spec": {}})
    cluster.withdraw(service, "payments")
    assert sent == [
        [
            {"op": "add", "path": "/metadata/annotations/airflow-deploy~1withdrawn", "value": "yes"},
            {"op": "add", "path": "/spec/replicas", "value": 0},
        ]
    ]
    cluster.withdraw(HttpRoute({"metadata": {"namespace": "shop", "name": "payments"}, "spec": {}}), "payments")
    assert len(sent) == 1  # where a gateway has taken the traffic away, nothing is
    answering({DEPLOYMENT: (404, {})}).withdraw(service, "payments")  # gone: so are its pods
    with pytest.raises(TemporaryError):
        answering({DEPLOYMENT: (500, {})}).withdraw(service, "payments")


def test_pods_that_were_taken_away_are_not_given_again(answering: Callable[..., Cluster], sent: list[Any]) -> None:
    answering({DEPLOYMENT: (200, deployment())}).join("shop", "payments", 3)
    assert sent == [
        [
            {"op": "test", "path": "/metadata/annotations/airflow-deploy~1withdrawn", "value": "no"},
            {"op": "add", "path": "/spec/replicas", "value": 3},
        ]
    ]
    with pytest.raises(TemporaryError, match="422"):
        answering({DEPLOYMENT: (422, {})}).join("shop", "payments", 3)


def test_a_service_that_is_not_there_is_told_from_a_server_that_is_just_starting(
    answering: Callable[..., Cluster],
) -> None:
    path, place = "/api/v1/namespaces/shop/services/payments", ("shop", "payments", "replicas")
    body = {"metadata": {"namespace": "shop", "name": "payments", "resourceVersion": "1"}, "spec": {}}
    assert answering({path: (200, body)}).team_route_or_absent(*place).is_there
    missing = {"reason": "NotFound", "details": {"name": "payments"}}
    assert not answering({path: (404, missing)}).team_route_or_absent(*place).is_there
    with pytest.raises(RefusedError):
        answering({path: (404, {})}).team_route_or_absent(*place)


@pytest.mark.parametrize(
    ("status", "said", "error"),
    [
        (201, {}, None),
        (409, EXISTS, None),
        (409, CONFLICT, TemporaryError),
        (422, {}, RefusedError),
        (500, {}, TemporaryError),
    ],
)
def test_what_is_there_is_not_made_again(
    answering: Callable[..., Cluster], status: int, said: Any, error: type[Exception] | None
) -> None:
    path = "/apis/apps/v1/namespaces/shop/deployments"
    cluster = answering({path: (status, said)}, creating=True)
    item = {"kind": "Deployment", "metadata": {"namespace": "shop", "name": "payments"}}
    with pytest.raises(error) if error else nullcontext():
        cluster.make(item)
