"""JSON patches, merge patches and strategic merge patches."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from tests.support.kubernetes_api import KubernetesApi, Object
from tests.unit.kubernetes_api.calls import CONFIG_MAPS, JSON_PATCH, MERGE_PATCH, ROUTE, call, refused
from tests.unit.kubernetes_api.objects import config_map, deployment, route


class TestJsonPatch:
    def test_json_patch_is_one_write(self, server: KubernetesApi, api: Any) -> None:
        server.add(route(annotations={"a/b": "1"}))
        patch = [
            {"op": "test", "path": "/metadata/annotations/a~1b", "value": "1"},
            {"op": "replace", "path": "/metadata/annotations/a~1b", "value": "2"},
            {"op": "add", "path": "/spec/rules/0/backendRefs/-", "value": {"name": "new", "weight": 0}},
        ]
        found = call(api, "PATCH", ROUTE, patch, JSON_PATCH)
        assert found["metadata"]["annotations"] == {"a/b": "2"}
        assert [one["name"] for one in found["spec"]["rules"][0]["backendRefs"]] == ["payments", "new"]
        assert server.writes[0].body == patch

    @pytest.mark.parametrize(
        "operation",
        [
            {"op": "test", "path": "/metadata/resourceVersion", "value": "0"},
            {"op": "test", "path": "/metadata/annotations/a", "value": "1"},
            {"op": "remove", "path": "/metadata/annotations/a"},
            {"op": "replace", "path": "/spec/nothing", "value": 1},
            {"op": "add", "path": "/spec/rules/7", "value": {}},
        ],
    )
    def test_one_refused_operation_refuses_the_whole_patch(
        self, server: KubernetesApi, api: Any, operation: Object
    ) -> None:
        before = server.add(route())
        first = {"op": "add", "path": "/spec/hostnames", "value": ["x"]}
        code, body = refused(api, "PATCH", ROUTE, [first, operation], JSON_PATCH)
        assert (code, body["reason"]) == (422, "Invalid")
        assert body["message"] == "the server rejected our request due to an error in our request"
        assert server.get("HTTPRoute", "shop", "payments") == before

    def test_patch_of_the_resource_version_is_a_conflict(self, server: KubernetesApi, api: Any) -> None:
        server.add(route())
        patch = [{"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}]
        assert refused(api, "PATCH", ROUTE, patch, JSON_PATCH)[1]["reason"] == "Conflict"


class TestMergePatch:
    def test_maps_merge_and_null_removes(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map(labels={"a": "1", "b": "2"}))
        patch = {"metadata": {"labels": {"a": None, "c": "3"}}}
        found = call(api, "PATCH", f"{CONFIG_MAPS}/settings", patch, MERGE_PATCH)
        assert found["metadata"]["labels"] == {"b": "2", "c": "3"}

    def test_patch_with_an_old_version_is_a_conflict(self, server: KubernetesApi, api: Any) -> None:
        before = server.add(config_map())
        server.edit("ConfigMap", "shop", "settings", lambda body: body["data"].update(a="2"))
        patch = {"metadata": {"resourceVersion": before["metadata"]["resourceVersion"]}, "data": {"b": "1"}}
        code, body = refused(api, "PATCH", f"{CONFIG_MAPS}/settings", patch, MERGE_PATCH)
        assert (code, body["reason"], body["details"]["kind"]) == (409, "Conflict", "configmaps")

    def test_strategic_patches_merge_containers_by_name_and_are_for_built_in_kinds(
        self, server: KubernetesApi, api: Any
    ) -> None:
        server.add(deployment(), route())
        patch = {"spec": {"template": {"spec": {"containers": [{"name": "app", "image": "new"}]}}}}
        found = client.AppsV1Api(api).patch_namespaced_deployment(
            "payments", "shop", patch, _content_type="application/strategic-merge-patch+json"
        )
        assert [one.image for one in found.spec.template.spec.containers] == ["new"]
        assert refused(api, "PATCH", ROUTE, {"spec": {}}, "application/strategic-merge-patch+json")[0] == 415
