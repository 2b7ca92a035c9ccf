"""Faults that a test orders: refusals, connection errors and concurrent writes."""

from __future__ import annotations

from typing import Any

import pytest
from urllib3 import Retry
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError

from tests.support.kubernetes_api import KubernetesApi
from tests.unit.kubernetes_api.calls import CONFIG_MAPS, JSON_PATCH, ROUTE, call, refused
from tests.unit.kubernetes_api.objects import config_map, route


class TestFaults:
    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (401, "Unauthorized"),
            (403, "Forbidden"),
            (409, "Conflict"),
            (422, "Invalid"),
            (429, "TooManyRequests"),
            (500, "InternalError"),
            (503, "ServiceUnavailable"),
        ],
    )
    def test_ordered_refusal_has_the_status_and_reason_of_an_api_server(
        self, server: KubernetesApi, api: Any, status: int, reason: str
    ) -> None:
        server.add(route())
        server.fail(ROUTE, status, method="GET")
        code, body = refused(api, "GET", ROUTE)
        assert (code, body["code"], body["reason"]) == (status, status, reason)
        assert call(api, "GET", ROUTE)["kind"] == "HTTPRoute"

    def test_ordered_404_names_the_object_only_with_a_reason(self, server: KubernetesApi, api: Any) -> None:
        server.add(route())
        server.fail(ROUTE, 404)
        server.fail(ROUTE, 404, reason="NotFound")
        assert refused(api, "GET", ROUTE) == (404, "404 page not found\n")
        assert refused(api, "GET", ROUTE)[1]["details"]["name"] == "payments"

    def test_fault_affects_matching_requests_as_often_as_ordered(self, server: KubernetesApi, api: Any) -> None:
        server.add(route())
        server.fail("dryRun=All", 500, method="DELETE", times=None)
        for _ in range(3):
            assert refused(api, "DELETE", ROUTE, dryRun="All")[0] == 500
        call(api, "GET", ROUTE)
        server.heal()
        call(api, "DELETE", ROUTE, dryRun="All")

    @pytest.mark.parametrize(
        ("raised", "seen"),
        [
            (ConnectionResetError(), ProtocolError),
            (TimeoutError(), ReadTimeoutError),
            (ConnectionRefusedError(), NewConnectionError),
        ],
    )
    def test_connection_errors_are_those_of_urllib3(
        self, server: KubernetesApi, api: Any, raised: Exception, seen: type[Exception]
    ) -> None:
        server.fail(exception=raised)
        with pytest.raises(seen):
            call(api, "GET", ROUTE)

    def test_client_with_retries_sends_again(self, server: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
        waits: list[float] = []
        monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
        api = server.client(retries=Retry(3, allowed_methods=None, status_forcelist=[503]))
        server.add(route())
        server.fail(status=503, headers={"Retry-After": "7"})
        server.fail(exception=ConnectionResetError)
        assert call(api, "GET", ROUTE)["kind"] == "HTTPRoute"
        assert [request.status for request in server.requests] == [503, None, 200]
        assert waits[0] == 7
        server.fail(exception=TimeoutError, times=None)
        with pytest.raises(MaxRetryError):
            call(api, "GET", ROUTE)

    def test_answer_may_be_lost_after_the_write(self, server: KubernetesApi, api: Any) -> None:
        server.fail(method="POST", exception=ConnectionResetError(), done=True)
        with pytest.raises(ProtocolError):
            call(api, "POST", CONFIG_MAPS, config_map())
        assert server.find("ConfigMap", "shop", "settings")
        assert [request.done for request in server.writes] == [True]

    def test_concurrent_write_refuses_a_patch(self, server: KubernetesApi, api: Any) -> None:
        version = server.add(route())["metadata"]["resourceVersion"]
        server.before(
            ROUTE,
            lambda: server.edit("HTTPRoute", "shop", "payments", lambda body: body["spec"].update(hostnames=["x"])),
            method="PATCH",
        )
        call(api, "GET", ROUTE)
        patch = [{"op": "test", "path": "/metadata/resourceVersion", "value": version}]
        assert refused(api, "PATCH", ROUTE, patch, JSON_PATCH)[0] == 422
        server.after(ROUTE, lambda: server.remove("HTTPRoute", "shop", "payments"))
        call(api, "GET", ROUTE)
        assert server.find("HTTPRoute", "shop", "payments") is None
