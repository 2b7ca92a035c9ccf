"""What the API server's answers mean: of pods that are refused, of what pods are made of, of what is there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_deploy.clients.cluster import Cluster, Parts
from airflow_deploy.domain.errors import RefusedError
from tests.unit import kubeconfig

SLICES = "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
PODS = "/api/v1/namespaces/shop/pods"
DEPLOYMENT = "/apis/apps/v1/namespaces/shop/deployments/payments"
CONFIG_MAPS = "/api/v1/namespaces/shop/configmaps"

Answers = dict[str, tuple[int, Any]]


@pytest.fixture
def answering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Answers], Cluster]]:
    """Return what gives a cluster whose API server answers so by path."""
    answers: Answers = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path, _, query = self.path.partition("?")
            # What is created without a dry run would be there afterwards.
            status, content = answers[path] if self.command == "GET" or "dryRun=All" in query else (500, {})
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    connection = f"answering_{server.server_port}"
    kubeconfig.connect(monkeypatch, connection, tmp_path, f"http://127.0.0.1:{server.server_port}")

    def cluster(given: Answers) -> Cluster:
        answers.update(given)
        return Cluster(connection, "test")

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
def test_pods_that_the_namespace_refuses_never_become_ready(
    answering: Callable[[Answers], Cluster], message: str
) -> None:
    cluster = answering({DEPLOYMENT: (200, deployment(PROGRESSING, failure(message))), PODS: (200, {"items": []})})
    failed = cluster.readiness("shop", "payments").failed
    assert failed == f"the namespace refuses its pods: {message}"


def test_pods_for_which_there_is_no_room_may_become_ready(answering: Callable[[Answers], Cluster]) -> None:
    full = failure('pods "payments-x" is forbidden: exceeded quota: compute')
    cluster = answering({DEPLOYMENT: (200, deployment(PROGRESSING, full)), PODS: (200, {"items": []})})
    assert cluster.readiness("shop", "payments").failed is None


def pod(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


def endpoints(*names: str) -> dict[str, Any]:
    refs = [{"kind": "Pod", "name": name, "uid": name} for name in names]
    found = [{"addresses": ["10.0.0.1"], "targetRef": ref} for ref in refs]
    return {"items": [{"addressType": "IPv4", "metadata": {"name": "payments-x"}, "endpoints": found}]}


def test_pods_are_made_of_all_that_they_do_not_start_without(answering: Callable[[Answers], Cluster]) -> None:
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


def test_a_service_without_pods_is_made_of_nothing(answering: Callable[[Answers], Cluster]) -> None:
    outside = {"addressType": "IPv4", "endpoints": [{"addresses": ["192.0.2.1"]}]}
    cluster = answering({SLICES: (200, {"items": [outside]}), PODS: (200, {"items": []})})
    assert cluster.parts_of("shop", "payments") == Parts((), ())
    assert cluster.ready_endpoints("shop", "payments") == 1


@pytest.mark.parametrize(("status", "there"), [(409, True), (201, False)])
def test_a_config_map_is_looked_for_without_reading_or_writing_it(
    answering: Callable[[Answers], Cluster], status: int, there: bool
) -> None:
    cluster = answering({CONFIG_MAPS: (status, {"kind": "ConfigMap", "metadata": {"name": "settings"}})})
    assert cluster.has_config_map("shop", "settings") is there


def test_a_config_map_that_may_not_be_looked_for_is_an_error(answering: Callable[[Answers], Cluster]) -> None:
    cluster = answering({CONFIG_MAPS: (403, {"kind": "Status", "message": "forbidden"})})
    with pytest.raises(RefusedError, match="looking for ConfigMap shop/settings: the cluster answers 403"):
        cluster.has_config_map("shop", "settings")
