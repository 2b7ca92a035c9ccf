"""Server-side apply and the managers of fields."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from tests.support.kubernetes_api import KubernetesApi, Object
from tests.unit.kubernetes_api.calls import (
    APPLY,
    CONFIG_MAPS,
    DEPLOYMENTS,
    JSON_PATCH,
    MERGE_PATCH,
    ROUTE,
    call,
    refused,
)
from tests.unit.kubernetes_api.objects import config_map, deployment, route


class TestApply:
    def apply(self, api: Any, body: Object, manager: str = "airflow-deploy", **query: str) -> Any:
        return call(api, "PATCH", f"{DEPLOYMENTS}/payments", body, APPLY, fieldManager=manager, **query)

    def test_apply_creates_a_missing_object(self, server: KubernetesApi, api: Any) -> None:
        assert self.apply(api, deployment())["metadata"]["generation"] == 1
        (entry,) = server.get("Deployment", "shop", "payments")["metadata"]["managedFields"]
        assert (entry["manager"], entry["operation"]) == ("airflow-deploy", "Apply")
        assert {"f:replicas", "f:selector", "f:template"} == entry["fieldsV1"]["f:spec"].keys()
        assert server.requests[-1].status == 201

    def test_apply_keeps_fields_of_another_manager(self, server: KubernetesApi, api: Any) -> None:
        self.apply(api, deployment())
        proxy = {"name": "proxy", "image": "proxy:1"}
        containers = ("spec", "template", "spec", "containers")

        def inject(body: Object) -> None:
            body["spec"]["template"]["spec"]["containers"].append(proxy)
            body["metadata"]["annotations"] = {"team": "x"}

        server.edit("Deployment", "shop", "payments", inject)
        changed = deployment()
        changed["spec"]["template"]["spec"]["containers"][0]["image"] = "registry/payments:2"
        found = self.apply(api, changed)
        for key in containers:
            found, whole = found[key], found
        assert [one["image"] for one in found] == ["registry/payments:2", "proxy:1"]
        assert whole["containers"] is found
        assert server.get("Deployment", "shop", "payments")["metadata"]["annotations"] == {"team": "x"}

    def test_apply_removes_fields_that_are_no_longer_applied(self, server: KubernetesApi, api: Any) -> None:
        body = deployment()
        self.apply(api, {**body, "metadata": {**body["metadata"], "annotations": {"a": "1", "b": "2"}}})
        server.edit("Deployment", "shop", "payments", lambda body: body["metadata"]["annotations"].update(b="3"))
        self.apply(api, {**body, "metadata": {**body["metadata"], "labels": {}}}, force="true")
        metadata = server.get("Deployment", "shop", "payments")["metadata"]
        assert metadata["annotations"] == {"b": "3"}  # by then another manager's
        assert not metadata.get("labels")

    def test_apply_over_another_managers_field_needs_force(self, server: KubernetesApi, api: Any) -> None:
        self.apply(api, deployment())
        server.edit("Deployment", "shop", "payments", lambda body: body["spec"].update(replicas=5), "hpa")
        code, body = refused(
            api, "PATCH", f"{DEPLOYMENTS}/payments", deployment(), APPLY, fieldManager="airflow-deploy"
        )
        assert (code, body["reason"]) == (409, "Conflict")
        assert body["message"] == 'Apply failed with 1 conflict: conflict with "hpa" using apps/v1: .spec.replicas'
        assert self.apply(api, deployment(), force="true")["spec"]["replicas"] == 2
        managers = server.get("Deployment", "shop", "payments")["metadata"]["managedFields"]
        assert [entry["manager"] for entry in managers] == ["airflow-deploy"]

    def test_applying_the_same_again_writes_nothing(self, server: KubernetesApi, api: Any) -> None:
        before = self.apply(api, deployment())
        assert self.apply(api, deployment()) == before

    def test_apply_without_a_manager_is_refused(self, api: Any) -> None:
        code, body = refused(api, "PATCH", f"{DEPLOYMENTS}/payments", deployment(), APPLY)
        assert (code, body["details"]["causes"][0]["field"]) == (422, "fieldManager")

    def test_dynamic_client_finds_kinds_and_applies(self, server: KubernetesApi, api: Any, tmp_path: Any) -> None:
        dynamic = DynamicClient(api, cache_file=str(tmp_path / "cache"))
        resource = dynamic.resources.get(api_version="apps/v1", kind="Deployment")
        dynamic.server_side_apply(
            resource, body=deployment(), namespace="shop", field_manager="me", force_conflicts=True
        )
        assert server.get("Deployment", "shop", "payments")["spec"]["replicas"] == 2
        assert dynamic.resources.get(api_version="v1", kind="Service").path("x", "shop").endswith("/services/x")
        server.uninstall("TraefikService")
        with pytest.raises(ResourceNotFoundError):
            dynamic.resources.get(api_version="traefik.io/v1alpha1", kind="TraefikService")


class TestManagers:
    def test_update_takes_ownership_of_the_fields_it_changes(self, server: KubernetesApi, api: Any) -> None:
        server.add(route(), manager="argocd-controller")
        patch = [{"op": "add", "path": "/spec/rules/0/backendRefs/0/weight", "value": 2}]
        found = call(api, "PATCH", ROUTE, patch, JSON_PATCH, fieldManager="airflow-deploy")
        assert {entry["manager"]: entry["fieldsV1"] for entry in found["metadata"]["managedFields"]} == {
            "airflow-deploy": {"f:spec": {"f:rules": {}}}
        }

    def test_managers_that_a_test_gives_are_kept(self, server: KubernetesApi, api: Any) -> None:
        given = [{"manager": "argocd", "operation": "Apply", "fieldsV1": {"f:spec": {"f:rules": {"f:x": {}}}}}]
        server.add(route(managedFields=given))
        found = call(api, "PATCH", ROUTE, {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH, fieldManager="me")
        assert [entry["manager"] for entry in found["metadata"]["managedFields"]] == ["argocd", "me"]
        assert found["metadata"]["managedFields"][0]["fieldsV1"] == given[0]["fieldsV1"]

    def test_default_manager_is_the_client(self, server: KubernetesApi, api: Any) -> None:
        call(api, "POST", CONFIG_MAPS, config_map())
        (entry,) = server.get("ConfigMap", "shop", "settings")["metadata"]["managedFields"]
        assert entry["manager"] == "OpenAPI-Generator"
