"""Create, replace, scale and delete; versions, generations and dry runs."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiException

from tests.support.kubernetes_api import KubernetesApi
from tests.unit.kubernetes_api.calls import APPLY, CONFIG_MAPS, DEPLOYMENTS, MERGE_PATCH, ROUTE, call, refused
from tests.unit.kubernetes_api.objects import config_map, deployment, route


class TestObjects:
    def test_typed_clients_create_and_read(self, api: Any) -> None:
        made = client.AppsV1Api(api).create_namespaced_deployment("shop", deployment())
        assert made.metadata.generation == 1
        assert made.metadata.creation_timestamp.timestamp() == 1_800_000_000
        found = client.AppsV1Api(api).read_namespaced_deployment("payments", "shop")
        assert (found.metadata.uid, found.spec.replicas) == (made.metadata.uid, 2)

    def test_custom_objects_are_served_beside_built_in_ones(self, server: KubernetesApi, api: Any) -> None:
        custom = client.CustomObjectsApi(api)
        place = ("gateway.networking.k8s.io", "v1", "shop", "httproutes")
        custom.create_namespaced_custom_object(*place, route(), field_manager="airflow-deploy")
        found = custom.get_namespaced_custom_object(*place, "payments")
        assert found["spec"] == route()["spec"]
        assert server.requests[0].query == {"fieldManager": "airflow-deploy"}

    def test_write_raises_the_version_and_a_spec_change_the_generation(self, server: KubernetesApi, api: Any) -> None:
        made = server.add(route())["metadata"]
        labelled = call(api, "PATCH", ROUTE, {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH)["metadata"]
        changed = call(api, "PATCH", ROUTE, {"spec": {"hostnames": ["x"]}}, MERGE_PATCH)["metadata"]
        versions = [int(one["resourceVersion"]) for one in (made, labelled, changed)]
        assert versions == sorted(set(versions))
        assert [one["generation"] for one in (made, labelled, changed)] == [1, 1, 2]
        assert len({one["uid"] for one in (made, labelled, changed)}) == 1

    def test_patch_without_a_change_keeps_the_version(self, server: KubernetesApi, api: Any) -> None:
        before = server.add(route())
        assert call(api, "PATCH", ROUTE, {"spec": before["spec"]}, MERGE_PATCH) == before

    def test_status_is_written_by_its_subresource_alone(self, server: KubernetesApi, api: Any) -> None:
        server.add(deployment())
        patch = {"spec": {"replicas": 3}, "status": {"replicas": 7}}
        assert "status" not in call(api, "PATCH", f"{DEPLOYMENTS}/payments", patch, MERGE_PATCH)
        found = call(api, "PATCH", f"{DEPLOYMENTS}/payments/status", {**patch, "spec": {"replicas": 9}}, MERGE_PATCH)
        assert (found["spec"]["replicas"], found["status"]) == (3, {"replicas": 7})

    def test_replace_needs_the_current_version(self, server: KubernetesApi, api: Any) -> None:
        before = server.add(route())
        server.edit("HTTPRoute", "shop", "payments", lambda body: body["spec"].update(hostnames=["x"]))
        assert refused(api, "PUT", ROUTE, before)[0] == 409
        assert "hostnames" not in call(api, "PUT", ROUTE, {**route()})["spec"]

    def test_dry_run_checks_and_writes_nothing(self, server: KubernetesApi, api: Any) -> None:
        call(api, "POST", CONFIG_MAPS, config_map(), dryRun="All")
        assert server.find("ConfigMap", "shop", "settings") is None
        before = server.add(config_map(), route())
        assert refused(api, "POST", CONFIG_MAPS, config_map(), dryRun="All")[1]["reason"] == "AlreadyExists"
        patched = call(api, "PATCH", ROUTE, {"spec": {"hostnames": ["x"]}}, MERGE_PATCH, dryRun="All")
        applied = call(api, "PATCH", ROUTE, route(), APPLY, fieldManager="me", force="true", dryRun="All")
        call(api, "DELETE", ROUTE, dryRun="All")
        call(api, "DELETE", ROUTE, {"dryRun": ["All"]})
        assert patched["metadata"]["generation"] == 2
        assert "me" in [entry["manager"] for entry in applied["metadata"]["managedFields"]]
        assert server.get("HTTPRoute", "shop", "payments") == before
        assert server.writes == []


class TestDelete:
    def test_deleted_object_is_gone(self, server: KubernetesApi, api: Any) -> None:
        server.add(route())
        said = call(api, "DELETE", ROUTE, {"propagationPolicy": "Background"})
        assert (said["kind"], said["status"], said["details"]["name"]) == ("Status", "Success", "payments")
        assert refused(api, "DELETE", ROUTE)[1]["reason"] == "NotFound"
        assert server.requests[0].body == {"propagationPolicy": "Background"}

    @pytest.mark.parametrize("key", ["uid", "resourceVersion"])
    def test_preconditions_hold_or_nothing_is_deleted(self, server: KubernetesApi, api: Any, key: str) -> None:
        known = server.add(route())["metadata"][key]
        code, body = refused(api, "DELETE", ROUTE, {"preconditions": {key: "another"}})
        assert (code, body["reason"]) == (409, "Conflict")
        call(api, "DELETE", ROUTE, {"preconditions": {key: known}})
        assert server.find("HTTPRoute", "shop", "payments") is None

    def test_finalizers_delay_the_deletion(self, server: KubernetesApi, api: Any) -> None:
        server.add(route(finalizers=["example.com/held"]))
        marked = call(api, "DELETE", ROUTE)
        assert marked["metadata"]["deletionTimestamp"] == "2027-01-15T08:00:00Z"
        assert call(api, "DELETE", ROUTE) == marked
        more = {"metadata": {"finalizers": ["example.com/held", "example.com/more"]}}
        assert refused(api, "PATCH", ROUTE, more, MERGE_PATCH)[0] == 403
        call(api, "PATCH", ROUTE, {"metadata": {"finalizers": None}}, MERGE_PATCH)
        assert server.find("HTTPRoute", "shop", "payments") is None


class TestScale:
    def test_scale_reads_and_sets_the_replicas(self, server: KubernetesApi, api: Any) -> None:
        server.add(deployment())
        apps = client.AppsV1Api(api)
        scale = apps.read_namespaced_deployment_scale("payments", "shop")
        assert (scale.spec.replicas, scale.status.selector) == (2, "app=payments")
        patch = {"metadata": {"resourceVersion": scale.metadata.resource_version}, "spec": {"replicas": 0}}
        assert not apps.patch_namespaced_deployment_scale("payments", "shop", patch).spec.replicas
        found = server.get("Deployment", "shop", "payments")
        assert (found["spec"]["replicas"], found["metadata"]["generation"]) == (0, 2)
        with pytest.raises(ApiException, match="409"):
            apps.patch_namespaced_deployment_scale("payments", "shop", patch)

    def test_kind_without_scale_has_no_scale_subresource(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map())
        assert refused(api, "GET", f"{CONFIG_MAPS}/settings/scale")[0] == 404
