"""The Kubernetes client on an API server: which request each verb sends, and which error each answer becomes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.clients.kubernetes import leases, routes
from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    PatchTestError,
    UnavailableError,
    UnknownApiError,
    refusing,
)
from airflow_deploy.clients.kubernetes.kinds import KINDS, path_of
from airflow_deploy.domain.errors import FencedError, PermanentError, RefusedError, TemporaryError
from airflow_deploy.domain.object_names import OBJECT_NAME
from airflow_deploy.domain.routing.lease import new_lease, renewal_patch
from tests.support.kubernetes_api import KubernetesApi

LEASE = new_lease("shop", "payments", "DEP-1/1", 45)
NAME = "airflow-deploy-payments"
ROUTE = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "HTTPRoute",
    "metadata": {"namespace": "shop", "name": "payments"},
    "spec": {"rules": []},
}


@pytest.fixture
def server() -> KubernetesApi:
    return KubernetesApi()


@pytest.fixture
def client(server: KubernetesApi) -> KubernetesClient:
    return KubernetesClient(server.client())


class TestPaths:
    @pytest.mark.parametrize("kind", sorted(KINDS))
    def test_each_kind_is_served_at_its_path(self, kind: str, server: KubernetesApi, client: KubernetesClient) -> None:
        assert client.list(kind, "shop") == []
        assert client.list(kind, None) == []
        assert client.find(kind, "shop", "payments") is None

    @given(st.text(max_size=300))
    def test_a_name_that_kubernetes_does_not_permit_reaches_no_path(self, name: str) -> None:
        """A name from an annotation such as ``../../kube-system/deployments/coredns`` leads out of the namespace."""
        permitted = len(name) <= 253 and OBJECT_NAME.fullmatch(name)
        if permitted:
            assert path_of("Deployment", "shop", name) == f"/apis/apps/v1/namespaces/shop/deployments/{name}"
        else:
            for namespace, object_name in (("shop", name), (name, "payments")):
                with pytest.raises(PermanentError, match="not a valid Kubernetes name"):
                    path_of("Deployment", namespace, object_name)

    @pytest.mark.parametrize("name", ["..", ".", "", "a/b", "../../kube-system/deployments/coredns", "A", "a_b", "a?x"])
    def test_no_request_is_sent_for_a_hostile_name(
        self, name: str, server: KubernetesApi, client: KubernetesClient
    ) -> None:
        with pytest.raises(PermanentError):
            client.patch("Deployment", "shop", name, [])
        assert server.requests == []


class TestAnswers:
    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, InvalidError),
            (401, ForbiddenError),
            (403, ForbiddenError),
            (404, UnknownApiError),
            (409, ConflictError),
            (429, UnavailableError),
            (500, UnavailableError),
            (503, UnavailableError),
        ],
    )
    def test_a_status_becomes_its_error(
        self, status: int, error: type[Exception], server: KubernetesApi, client: KubernetesClient
    ) -> None:
        server.add(ROUTE)
        server.fail("/httproutes", status)
        with pytest.raises(error, match=f"reading HTTPRoute shop/payments: HTTP {status}"):
            client.get("HTTPRoute", "shop", "payments")

    @pytest.mark.parametrize("status", [401, 403, 404, 503])
    def test_a_server_that_is_starting_is_temporary_and_has_not_lost_the_object(
        self, status: int, server: KubernetesApi, client: KubernetesClient
    ) -> None:
        server.add(ROUTE)
        server.fail("/httproutes", status)
        with pytest.raises(TemporaryError):
            client.find("HTTPRoute", "shop", "payments")
        assert client.find("HTTPRoute", "shop", "payments") is not None

    def test_an_object_is_gone_only_if_the_server_names_it(
        self, server: KubernetesApi, client: KubernetesClient
    ) -> None:
        assert client.find("HTTPRoute", "shop", "payments") is None
        with pytest.raises(NotFoundError) as caught:
            client.get("HTTPRoute", "shop", "payments")
        assert (caught.value.name, isinstance(caught.value, PermanentError)) == ("payments", True)
        about_the_namespace = {"kind": "Status", "reason": "NotFound", "code": 404, "details": {"name": "shop"}}
        server.fail("/httproutes", 404, body=about_the_namespace)
        with pytest.raises(UnavailableError, match="about shop, not about payments"):
            client.find("HTTPRoute", "shop", "payments")

    @pytest.mark.parametrize("exception", [TimeoutError, ConnectionResetError, ConnectionRefusedError])
    def test_no_answer_is_temporary(
        self, exception: type[Exception], server: KubernetesApi, client: KubernetesClient
    ) -> None:
        server.fail("/httproutes", exception=exception)
        with pytest.raises(UnavailableError, match="the API server does not answer"):
            client.get("HTTPRoute", "shop", "payments")

    @pytest.mark.parametrize("body", ["<html>", "[]", '"x"', "null"])
    def test_an_answer_that_is_no_object_is_temporary(
        self, body: str, server: KubernetesApi, client: KubernetesClient
    ) -> None:
        server.fail("/httproutes", 200, body=body)
        with pytest.raises(UnavailableError):
            client.list("HTTPRoute", "shop")

    def test_a_plan_refuses_what_other_steps_try_again(self, server: KubernetesApi, client: KubernetesClient) -> None:
        server.fail("/httproutes", 403)
        with pytest.raises(RefusedError, match="airflow-deploy rbac shop"), refusing("shop"):
            client.get("HTTPRoute", "shop", "payments")
        server.fail("/httproutes", 503)
        with pytest.raises(UnavailableError), refusing("shop"):
            client.get("HTTPRoute", "shop", "payments")


class TestWrites:
    def test_a_patch_whose_test_fails_conflicts_and_writes_nothing(
        self, server: KubernetesApi, client: KubernetesClient
    ) -> None:
        before = server.add(ROUTE)
        patch: list[dict[str, Any]] = [
            {"op": "test", "path": "/spec/rules", "value": [{}]},
            {"op": "add", "path": "/spec/x", "value": 1},
        ]
        with pytest.raises(PatchTestError):
            client.patch("HTTPRoute", "shop", "payments", patch)
        assert server.get("HTTPRoute", "shop", "payments") == before

    def test_an_object_that_is_not_accepted_is_permanent(self, server: KubernetesApi, client: KubernetesClient) -> None:
        causes = {"kind": "Status", "reason": "Invalid", "code": 422, "details": {"causes": [{"field": "spec.rules"}]}}
        server.fail("/httproutes", 422, body=causes, method="POST")
        with pytest.raises(InvalidError):
            client.create(ROUTE)

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_a_route_is_created_by_our_field_manager(
        self, dry_run: bool, server: KubernetesApi, client: KubernetesClient
    ) -> None:
        routes.create_route(client, ROUTE, dry_run=dry_run)
        (request,) = server.requests
        assert (request.method, request.dry_run) == ("POST", dry_run)
        assert (server.find("HTTPRoute", "shop", "payments") is None) == dry_run

    def test_what_exists_is_told_from_a_conflict(self, server: KubernetesApi, client: KubernetesClient) -> None:
        client.create(ROUTE)
        with pytest.raises(AlreadyExistsError):
            client.create(ROUTE)
        server.fail("/httproutes", 409, method="POST")
        with pytest.raises(ConflictError) as caught:
            client.create({**ROUTE, "metadata": {"namespace": "shop", "name": "other"}})
        assert not isinstance(caught.value, AlreadyExistsError)

    def test_an_object_that_changed_is_not_deleted(self, server: KubernetesApi, client: KubernetesClient) -> None:
        read = client.create(ROUTE)
        server.edit("HTTPRoute", "shop", "payments", lambda body: body["spec"].update(hostnames=["x.test"]))
        with pytest.raises(ConflictError):
            client.delete("HTTPRoute", "shop", "payments", as_read=read)
        client.delete("HTTPRoute", "shop", "payments", as_read=server.get("HTTPRoute", "shop", "payments"))
        client.delete("HTTPRoute", "shop", "payments")  # it is gone already
        assert server.find("HTTPRoute", "shop", "payments") is None


class TestLeases:
    def test_a_renewal_is_one_write_that_tests_the_holder(
        self, server: KubernetesApi, client: KubernetesClient
    ) -> None:
        leases.create_lease(client, LEASE)
        with server.recorded() as requests:
            assert leases.patch_lease(client, "shop", NAME, renewal_patch("DEP-1/1"))
        (request,) = requests
        body: Any = request.body
        assert (request.method, request.content_type) == ("PATCH", "application/json-patch+json")
        assert body[0] == {"op": "test", "path": "/spec/holderIdentity", "value": "DEP-1/1"}

    def test_another_holder_fences_the_renewal(self, client: KubernetesClient) -> None:
        leases.create_lease(client, LEASE)
        with pytest.raises(FencedError):
            leases.patch_lease(client, "shop", NAME, renewal_patch("DEP-2/1"))

    @pytest.mark.parametrize(("status", "error"), [(409, ConflictError), (403, ForbiddenError), (404, UnknownApiError)])
    def test_a_renewal_that_fails_otherwise_is_tried_again(
        self, status: int, error: type[Exception], server: KubernetesApi, client: KubernetesClient
    ) -> None:
        leases.create_lease(client, LEASE)
        server.fail("/leases", status, method="PATCH")
        with pytest.raises(error):
            leases.patch_lease(client, "shop", NAME, renewal_patch("DEP-1/1"))

    def test_a_lease_that_does_not_exist_is_none(self, client: KubernetesClient) -> None:
        assert leases.find_lease(client, "shop", NAME) is None
        assert leases.patch_lease(client, "shop", NAME, renewal_patch("DEP-1/1")) is False

    @pytest.mark.parametrize("namespace", ["shop", None])
    def test_only_our_leases_are_listed(
        self, namespace: str | None, server: KubernetesApi, client: KubernetesClient
    ) -> None:
        leases.create_lease(client, LEASE)
        server.add({**LEASE, "metadata": {"namespace": "shop", "name": "kubelet"}})
        (lease,) = leases.list_leases(client, namespace)
        assert (lease.route, lease.holder, lease.seconds) == ("payments", "DEP-1/1", 45)
