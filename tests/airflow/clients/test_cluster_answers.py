"""What the API server's answers mean: of pods that are refused, of what pods are made of, of what is there."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.errors import PROMPT_TIMEOUT, ConflictError, ForbiddenError, UnavailableError
from airflow_deploy.clients.kubernetes.leases import find_lease, patch_lease
from airflow_deploy.clients.kubernetes.pods import (
    PodParts,
    config_map_exists,
    deployment_readiness,
    parts_of,
    ready_by_deployment,
    ready_endpoints,
    ready_pods,
    scale_deployment,
    start_pods,
    started_at,
    withdraw_pods,
)
from airflow_deploy.clients.kubernetes.routes import find_route, patch_route, read_route
from airflow_deploy.clients.kubernetes.versions import create_once
from airflow_deploy.domain.errors import FencedError, TemporaryError
from airflow_deploy.domain.labels import DEPLOYMENT, MANAGED_BY, MANAGER, VERSION, WITHDRAWN
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.record import OWNER
from airflow_deploy.domain.routing.service_route import ServiceRoute
from airflow_deploy.rollout.analysis.loop import MAX_LOOK_SECONDS
from tests.support.cluster import cluster_on
from tests.support.kubernetes_api import KubernetesApi, Object, Workloads

DEP = "DEP-1795417200-0a1b2c3d"
OWNED = {"namespace": "shop", "name": "payments", "annotations": {OWNER: f"{DEP}/1"}}
SERVICE = ServiceRoute({"metadata": OWNED, "spec": {}})
GATEWAY = HttpRoute({"metadata": OWNED, "spec": {}})


@pytest.fixture
def server() -> KubernetesApi:
    return KubernetesApi()


@pytest.fixture
def cluster(server: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> KubernetesClient:
    return cluster_on(server, monkeypatch, timeout=PROMPT_TIMEOUT)


def named(kind: str, name: str = "payments", **fields: Any) -> Object:
    metadata = {"name": name, "namespace": "shop", **fields.pop("metadata", {})}
    return {"kind": kind, "metadata": metadata, **fields}


def version(**annotations: str) -> Object:
    """Return the Deployment of a version that ``DEP`` has created, named as the others are."""
    labels = {MANAGED_BY: MANAGER, VERSION: "payments"}
    return deployment(labels=labels, annotations={DEPLOYMENT: DEP, WITHDRAWN: "no", **annotations})


def deployment(**metadata: Any) -> Object:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "app", "image": "x"}]}}
    spec = {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": template}
    return named("Deployment", metadata=metadata, apiVersion="apps/v1", spec=spec)


@pytest.mark.parametrize(
    "message",
    [
        'pods "payments-x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true',
        'admission webhook "policy.example.com" denied the request: no latest tag',
        "pods \"payments-x\" is forbidden: ValidatingAdmissionPolicy 'teams' with binding 'teams' denied request: no",
    ],
)
def test_pods_that_the_namespace_refuses_never_become_ready(
    server: KubernetesApi, cluster: KubernetesClient, message: str
) -> None:
    server.add(deployment())
    Workloads(server).let("payments", refused=message)
    assert deployment_readiness(cluster, "shop", "payments").failed == f"the namespace refuses its pods: {message}"


def test_pods_for_which_there_is_no_room_may_become_ready(server: KubernetesApi, cluster: KubernetesClient) -> None:
    server.add(deployment())
    Workloads(server).let("payments", refused='pods "payments-x" is forbidden: exceeded quota: compute')
    assert deployment_readiness(cluster, "shop", "payments").failed is None


def test_what_comes_again_by_itself_is_not_awaited_longer_than_a_look_may_take(
    server: KubernetesApi, cluster: KubernetesClient
) -> None:
    """If one request in thirty is never answered, two of them would cost the Lease."""
    server.add(named("HTTPRoute", spec={}), named("Service", spec={}), named("Lease", "airflow-deploy-x"))
    server.add(version())
    for router in ("gateway", "replicas"):
        route = read_route(cluster, "shop", "payments", router)
        owned = {"op": "add", "path": "/metadata/annotations", "value": {OWNER: f"{DEP}/1"}}
        route = patch_route(cluster, route, [owned])
        withdraw_pods(cluster, route, "payments")
    find_lease(cluster, "shop", "airflow-deploy-x")
    patch_lease(cluster, "shop", "airflow-deploy-x", [{"op": "add", "path": "/metadata/labels", "value": {}}])
    ready_pods(cluster, "shop", "payments", None)
    assert len(server.requests) == 8
    assert max(sum(request.timeout) for request in server.requests) < MAX_LOOK_SECONDS


def test_pods_are_made_of_all_that_they_do_not_start_without(server: KubernetesApi, cluster: KubernetesClient) -> None:
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
    one = {"containers": [app, {"name": "proxy", "image": "proxy:1"}], "initContainers": [init], "volumes": volumes}
    two, stranger = ({"containers": [{"name": "app", "image": image}]} for image in ("app:2", "stranger:1"))
    behind = {"labels": {"app": "payments"}}
    server.add(named("Service", spec={"selector": {"app": "payments"}}), named("Pod", "stranger", spec=stranger))
    server.add(named("Pod", "one", metadata=behind, spec=one), named("Pod", "two", metadata=behind, spec=two))
    Workloads(server)
    images = ("app:1", "app:2", "init:1", "proxy:1")
    assert parts_of(cluster, "shop", "payments") == PodParts(images, ("files", "keys", "settings"))


def test_a_service_without_pods_is_made_of_nothing(server: KubernetesApi, cluster: KubernetesClient) -> None:
    labels = {"kubernetes.io/service-name": "payments"}
    outside = [{"addresses": ["192.0.2.1"]}]
    server.add(named("EndpointSlice", metadata={"labels": labels}, addressType="IPv4", endpoints=outside))
    assert parts_of(cluster, "shop", "payments") == PodParts((), ())
    assert ready_endpoints(cluster, "shop", "payments") == 1


@pytest.mark.parametrize("there", [True, False])
def test_a_config_map_is_looked_for_without_reading_or_writing_it(
    server: KubernetesApi, cluster: KubernetesClient, there: bool
) -> None:
    if there:
        server.add(named("ConfigMap", "settings"))
    assert config_map_exists(cluster, "shop", "settings") is there
    assert [request.method for request in server.requests] == ["POST"]
    assert not server.writes


@pytest.mark.parametrize("said", [None, {}, [], "null"])
def test_a_conflict_does_not_say_that_a_config_map_is_there(
    server: KubernetesApi, cluster: KubernetesClient, said: Any
) -> None:
    server.fail("/configmaps", 409, body=said)
    with pytest.raises(TemporaryError, match="HTTP 409"):
        config_map_exists(cluster, "shop", "settings")


def test_a_config_map_that_may_not_be_looked_for_is_an_error(server: KubernetesApi, cluster: KubernetesClient) -> None:
    server.fail("/configmaps", 403)
    with pytest.raises(ForbiddenError, match="creating ConfigMap shop/settings: HTTP 403"):
        config_map_exists(cluster, "shop", "settings")


def of_deployment(name: str, number: int, *, ready: bool = True, **metadata: Any) -> Object:
    """Return a pod as the API server has it: its ReplicaSet's name is the Deployment's and a hash."""
    owner = {"kind": "ReplicaSet", "name": f"{name}-7d4b9c6f5", "controller": True, "uid": name}
    labels = {"app": "payments", "pod-template-hash": "7d4b9c6f5"}
    status = {"conditions": [{"type": "Ready", "status": str(ready)}]}
    metadata = {"labels": labels, "ownerReferences": [owner], **metadata}
    return named("Pod", f"{name}-7d4b9c6f5-{number}", metadata=metadata, status=status)


def test_ready_pods_are_counted_by_the_deployment_that_they_are_of(
    server: KubernetesApi, cluster: KubernetesClient
) -> None:
    labels = {"labels": {"app": "payments"}}
    server.add(
        of_deployment("payments", 1),
        of_deployment("payments", 2, ready=False),
        of_deployment("payments", 3, deletionTimestamp="2026-11-24T00:00:00Z"),
        of_deployment("payments-0123456-1795417200", 1),
        of_deployment("payments-0123456-1795417200", 2),
        of_deployment("other", 1, ready=False),
        named("Pod", "alone", metadata=labels, status={"conditions": [{"type": "Ready", "status": "True"}]}),
        named("Pod", "young", metadata=labels),
        named("Pod", "evicted", metadata=labels, status={"phase": "Failed"}),
        named("Pod", "stranger"),
    )
    found = {"payments": 1, "payments-0123456-1795417200": 2, "other": 0, "alone": 1, "young": 0}
    assert ready_by_deployment(cluster, "shop", {"app": "payments"}) == found
    assert [ready_pods(cluster, "shop", name, {"app": "payments"}) for name in ("payments", "gone")] == [1, 0]


def test_a_version_was_started_when_its_oldest_pod_was_made(server: KubernetesApi, cluster: KubernetesClient) -> None:
    def made(version: str, minute: int, phase: str = "Running", **metadata: Any) -> Object:
        at = f"2026-11-23T17:{minute:02}:00Z"
        metadata = {"labels": {VERSION: version}, "creationTimestamp": at, **metadata}
        return named("Pod", f"{version}-{minute}", metadata=metadata, status={"phase": phase})

    server.add(made("old", 9), made("old", 3), made("old", 1, "Failed"))
    server.add(made("new", 8), made("new", 2, deletionTimestamp="2026-11-23T18:00:00Z"))
    began = datetime(2026, 11, 23, 17, tzinfo=UTC).timestamp()
    assert started_at(cluster, "shop") == {"old": began + 180, "new": began + 480}


def test_pods_are_taken_away_and_that_is_kept(server: KubernetesApi, cluster: KubernetesClient) -> None:
    withdraw_pods(cluster, SERVICE, "payments")  # not there: neither are its pods
    server.add(version())
    withdraw_pods(cluster, GATEWAY, "payments")  # a gateway has taken the traffic away
    assert server.get("Deployment", "shop", "payments")["spec"]["replicas"] == 2
    withdraw_pods(cluster, SERVICE, "payments")
    kept = server.get("Deployment", "shop", "payments")
    assert (kept["spec"]["replicas"], kept["metadata"]["annotations"]) == (0, {DEPLOYMENT: DEP, WITHDRAWN: "yes"})
    server.fail("/deployments/payments", 500)
    with pytest.raises(TemporaryError):
        withdraw_pods(cluster, SERVICE, "payments")


def test_pods_that_were_taken_away_are_not_given_again(server: KubernetesApi, cluster: KubernetesClient) -> None:
    server.add(version())
    start_pods(cluster, "shop", "payments", 3)
    assert server.get("Deployment", "shop", "payments")["spec"]["replicas"] == 3
    withdraw_pods(cluster, SERVICE, "payments")
    with pytest.raises(TemporaryError, match="422"):
        start_pods(cluster, "shop", "payments", 3)
    assert server.get("Deployment", "shop", "payments")["spec"]["replicas"] == 0


NOT_OURS: list[Object] = [
    {},
    {"labels": {MANAGED_BY: MANAGER}},
    {"labels": {MANAGED_BY: "Helm", VERSION: "payments"}},
    {"labels": {MANAGED_BY: MANAGER, VERSION: "other"}},
]


@pytest.mark.parametrize("metadata", NOT_OURS)
def test_deployment_that_is_no_version_of_ours_keeps_its_pods(
    server: KubernetesApi, cluster: KubernetesClient, metadata: Object
) -> None:
    """Its name may stand in an annotation that any client of the namespace can write."""
    server.add(deployment(**metadata, annotations={DEPLOYMENT: DEP, WITHDRAWN: "no"}))
    before = server.get("Deployment", "shop", "payments")
    with pytest.raises(FencedError, match=f"shop/payments was not created by {DEP}; its pods are left alone"):
        withdraw_pods(cluster, SERVICE, "payments")
    for scale in (start_pods, scale_deployment):
        with pytest.raises(ConflictError):
            scale(cluster, "shop", "payments", 0)
    assert server.get("Deployment", "shop", "payments") == before


@pytest.mark.parametrize("owner", [None, "DEP-1795417200-ffffffff/1", "/1", "nonsense"])
def test_version_of_another_deployment_keeps_its_pods(
    server: KubernetesApi, cluster: KubernetesClient, owner: str | None
) -> None:
    server.add(version())
    annotations = {} if owner is None else {OWNER: owner}
    with pytest.raises(FencedError, match="its pods are left alone: correct the annotations of shop/payments"):
        withdraw_pods(
            cluster, ServiceRoute({"metadata": {**OWNED, "annotations": annotations}, "spec": {}}), "payments"
        )
    assert server.get("Deployment", "shop", "payments")["spec"]["replicas"] == 2


def test_a_service_that_is_not_there_is_told_from_a_server_that_is_just_starting(
    server: KubernetesApi, cluster: KubernetesClient
) -> None:
    place = ("shop", "payments", "replicas")
    assert not find_route(cluster, *place).is_there
    server.add(named("Service", spec={}))
    assert find_route(cluster, *place).is_there
    server.fail("/services/payments", 404)
    with pytest.raises(UnavailableError):
        find_route(cluster, *place)


@pytest.mark.parametrize(
    ("status", "error"), [(None, None), (409, TemporaryError), (422, ConflictError), (500, TemporaryError)]
)
def test_what_is_there_is_not_made_again(
    server: KubernetesApi, cluster: KubernetesClient, status: int | None, error: type[Exception] | None
) -> None:
    if status:
        server.fail("/deployments", status, method="POST")
    with pytest.raises(error) if error else nullcontext():
        create_once(cluster, deployment())
        made = server.get("Deployment", "shop", "payments")
        create_once(cluster, {**deployment(), "spec": {}})
        assert server.get("Deployment", "shop", "payments") == made
