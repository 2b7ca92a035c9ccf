"""Lists by namespace, label and field; refused requests."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from tests.support.kubernetes_api import KubernetesApi, Object
from tests.unit.kubernetes_api.calls import CONFIG_MAPS, ROUTE, ROUTES, call, refused
from tests.unit.kubernetes_api.objects import config_map, route


class TestLists:
    @pytest.mark.parametrize(
        ("selector", "names"),
        [
            ("app=a", ["one"]),
            ("app==a,tier=front", ["one"]),
            ("app!=a", ["three", "two"]),
            ("tier", ["one", "two"]),
            ("!tier", ["three"]),
            ("app in (a, b)", ["one", "two"]),
            ("app notin (a,b),!tier", ["three"]),
        ],
    )
    def test_label_selector_filters_a_list(
        self, server: KubernetesApi, api: Any, selector: str, names: list[str]
    ) -> None:
        server.add(config_map("one", labels={"app": "a", "tier": "front"}))
        server.add(config_map("two", labels={"app": "b", "tier": "back"}), config_map("three"))
        found = client.CoreV1Api(api).list_namespaced_config_map("shop", label_selector=selector).items
        assert [item.metadata.name for item in found] == names

    def test_field_selectors_know_name_and_namespace(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map("one"), config_map("two"))
        found = call(api, "GET", CONFIG_MAPS, fieldSelector="metadata.name=two,metadata.namespace=shop")
        assert [item["metadata"]["name"] for item in found["items"]] == ["two"]
        assert refused(api, "GET", CONFIG_MAPS, fieldSelector="data.a=1")[1]["reason"] == "BadRequest"

    def test_invalid_label_selector_is_a_bad_request(self, api: Any) -> None:
        assert refused(api, "GET", CONFIG_MAPS, labelSelector="a=b=c")[0] == 400

    def test_list_covers_one_namespace_or_all(self, server: KubernetesApi, api: Any) -> None:
        server.add({**config_map(), "metadata": {"name": "other", "namespace": "else"}}, config_map())
        assert len(client.CoreV1Api(api).list_config_map_for_all_namespaces().items) == 2
        found = call(api, "GET", CONFIG_MAPS)
        assert (found["kind"], found["metadata"]["resourceVersion"]) == ("ConfigMapList", str(server.store.revision))
        # A built-in kind's items do not say their kind, those of a CRD do.
        assert [item.get("kind") for item in found["items"]] == [None]
        server.add(route())
        assert [item["kind"] for item in call(api, "GET", ROUTES)["items"]] == ["HTTPRoute"]


class TestRefusals:
    def test_missing_object_is_named(self, api: Any) -> None:
        code, body = refused(api, "GET", ROUTE)
        assert (code, body["code"], body["reason"], body["status"]) == (404, 404, "NotFound", "Failure")
        assert body["message"] == 'httproutes.gateway.networking.k8s.io "payments" not found'
        assert body["details"] == {"name": "payments", "group": "gateway.networking.k8s.io", "kind": "httproutes"}
        assert refused(api, "GET", "/api/v1/namespaces/shop/services/x")[1]["details"] == {
            "name": "x",
            "kind": "services",
        }

    @pytest.mark.parametrize(
        "path",
        ["/apis/example.com/v1/namespaces/shop/things", "/api/v2/pods", "/nothing", "/apis/apps/v1/deployments/x"],
    )
    def test_unknown_path_is_a_plain_404(self, api: Any, path: str) -> None:
        assert refused(api, "GET", path) == (404, "404 page not found\n")

    def test_existing_object_is_not_created_again(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map())
        code, body = refused(api, "POST", CONFIG_MAPS, config_map())
        assert (code, body["reason"], body["details"]["name"]) == (409, "AlreadyExists", "settings")

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (config_map("Settings"), 422),
            (config_map(labels={"a": "x" * 64}), 422),
            (config_map(annotations={"a": 1}), 400),
            ({**config_map(), "metadata": {}}, 422),
            ({**config_map(), "metadata": {"name": "x", "namespace": "other"}}, 400),
            ({**config_map(), "kind": "Secret"}, 400),
            (config_map(resourceVersion="1"), 500),
        ],
    )
    def test_invalid_object_is_refused(self, server: KubernetesApi, api: Any, body: Object, code: int) -> None:
        assert refused(api, "POST", CONFIG_MAPS, body)[0] == code
        assert not server.all("ConfigMap")

    def test_unsupported_method_is_refused(self, api: Any) -> None:
        assert refused(api, "DELETE", CONFIG_MAPS)[1]["reason"] == "MethodNotAllowed"
