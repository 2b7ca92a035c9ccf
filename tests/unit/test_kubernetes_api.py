"""The API server of tests answers the real client as an API server does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client import ApiException
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import ResourceNotFoundError
from urllib3 import Retry
from urllib3.exceptions import MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError

from tests.support.kubernetes_api import CRASH_LOOP, NEVER_READY, KubernetesApi, Object, Workloads

ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes"
ROUTE = f"{ROUTES}/payments"
CONFIG_MAPS = "/api/v1/namespaces/shop/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/shop/deployments"
JSON_PATCH, MERGE_PATCH = "application/json-patch+json", "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


@pytest.fixture
def server() -> KubernetesApi:
    return KubernetesApi(clock=lambda: 1_800_000_000.0)


@pytest.fixture
def api(server: KubernetesApi) -> Any:
    return server.client()


def call(
    api: Any, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str
) -> Any:
    """Send a request as the raw client does, and return the answer."""
    return api.call_api(
        path,
        method,
        body=body,
        query_params=[*query.items()],
        header_params={"Accept": "application/json", "Content-Type": content_type},
        response_types_map=dict.fromkeys((200, 201, 202), "object"),
        auth_settings=["BearerToken"],
        _return_http_data_only=True,
        _request_timeout=(1.0, 3.0),
    )


def refused(api: Any, *arguments: Any, **query: str) -> tuple[int, Any]:
    """Return code and body of the answer to a request that is not accepted."""
    with pytest.raises(ApiException) as caught:
        call(api, *arguments, **query)
    try:
        return caught.value.status, json.loads(caught.value.body)
    except ValueError:
        return caught.value.status, caught.value.body


def config_map(name: str = "settings", **metadata: Any) -> Object:
    return {"kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop", **metadata}, "data": {"a": "1"}}


def route(**metadata: Any) -> Object:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "payments", "namespace": "shop", **metadata},
        "spec": {"rules": [{"backendRefs": [{"name": "payments", "port": 80, "weight": 1}]}]},
    }


def deployment(name: str = "payments", replicas: int = 2) -> Object:
    labels = {"app": name}
    container = {"name": "app", "image": f"registry/{name}:1"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def service(name: str = "payments") -> Object:
    return {"kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": {"selector": {"app": name}}}


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

    def test_a_write_raises_the_version_and_a_change_of_the_spec_the_generation(
        self, server: KubernetesApi, api: Any
    ) -> None:
        made = server.add(route())["metadata"]
        labelled = call(api, "PATCH", ROUTE, {"metadata": {"labels": {"a": "b"}}}, MERGE_PATCH)["metadata"]
        changed = call(api, "PATCH", ROUTE, {"spec": {"hostnames": ["x"]}}, MERGE_PATCH)["metadata"]
        versions = [int(one["resourceVersion"]) for one in (made, labelled, changed)]
        assert versions == sorted(set(versions))
        assert [one["generation"] for one in (made, labelled, changed)] == [1, 1, 2]
        assert len({one["uid"] for one in (made, labelled, changed)}) == 1

    def test_a_write_that_changes_nothing_is_none(self, server: KubernetesApi, api: Any) -> None:
        before = server.add(route())
        assert call(api, "PATCH", ROUTE, {"spec": before["spec"]}, MERGE_PATCH) == before

    def test_status_is_written_by_its_subresource_alone(self, server: KubernetesApi, api: Any) -> None:
        server.add(deployment())
        patch = {"spec": {"replicas": 3}, "status": {"replicas": 7}}
        assert "status" not in call(api, "PATCH", f"{DEPLOYMENTS}/payments", patch, MERGE_PATCH)
        found = call(api, "PATCH", f"{DEPLOYMENTS}/payments/status", {**patch, "spec": {"replicas": 9}}, MERGE_PATCH)
        assert (found["spec"]["replicas"], found["status"]) == (3, {"replicas": 7})

    def test_replace_needs_the_version_that_is_there(self, server: KubernetesApi, api: Any) -> None:
        before = server.add(route())
        server.edit("HTTPRoute", "shop", "payments", lambda body: body["spec"].update(hostnames=["x"]))
        assert refused(api, "PUT", ROUTE, before)[0] == 409
        assert "hostnames" not in call(api, "PUT", ROUTE, {**route()})["spec"]

    def test_a_dry_run_checks_and_writes_nothing(self, server: KubernetesApi, api: Any) -> None:
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
    def test_label_selectors(self, server: KubernetesApi, api: Any, selector: str, names: list[str]) -> None:
        server.add(config_map("one", labels={"app": "a", "tier": "front"}))
        server.add(config_map("two", labels={"app": "b", "tier": "back"}), config_map("three"))
        found = client.CoreV1Api(api).list_namespaced_config_map("shop", label_selector=selector).items
        assert [item.metadata.name for item in found] == names

    def test_field_selectors_know_name_and_namespace(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map("one"), config_map("two"))
        found = call(api, "GET", CONFIG_MAPS, fieldSelector="metadata.name=two,metadata.namespace=shop")
        assert [item["metadata"]["name"] for item in found["items"]] == ["two"]
        assert refused(api, "GET", CONFIG_MAPS, fieldSelector="data.a=1")[1]["reason"] == "BadRequest"

    def test_a_selector_that_cannot_be_read_is_a_bad_request(self, api: Any) -> None:
        assert refused(api, "GET", CONFIG_MAPS, labelSelector="a=b=c")[0] == 400

    def test_lists_of_one_namespace_and_of_all(self, server: KubernetesApi, api: Any) -> None:
        server.add({**config_map(), "metadata": {"name": "other", "namespace": "else"}}, config_map())
        assert len(client.CoreV1Api(api).list_config_map_for_all_namespaces().items) == 2
        found = call(api, "GET", CONFIG_MAPS)
        assert (found["kind"], found["metadata"]["resourceVersion"]) == ("ConfigMapList", str(server.store.revision))
        # A built-in kind's items do not say their kind, those of a CRD do.
        assert [item.get("kind") for item in found["items"]] == [None]
        server.add(route())
        assert [item["kind"] for item in call(api, "GET", ROUTES)["items"]] == ["HTTPRoute"]


class TestRefusals:
    def test_what_is_missing_is_named(self, api: Any) -> None:
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
    def test_an_unknown_path_names_nothing(self, api: Any, path: str) -> None:
        assert refused(api, "GET", path) == (404, "404 page not found\n")

    def test_what_is_there_is_not_made_again(self, server: KubernetesApi, api: Any) -> None:
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
    def test_what_no_server_accepts(self, server: KubernetesApi, api: Any, body: Object, code: int) -> None:
        assert refused(api, "POST", CONFIG_MAPS, body)[0] == code
        assert not server.all("ConfigMap")

    def test_a_method_that_a_path_does_not_have(self, api: Any) -> None:
        assert refused(api, "DELETE", CONFIG_MAPS)[1]["reason"] == "MethodNotAllowed"


class TestJsonPatch:
    def test_a_patch_is_applied_as_one_write(self, server: KubernetesApi, api: Any) -> None:
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
    def test_one_refused_operation_refuses_all(self, server: KubernetesApi, api: Any, operation: Object) -> None:
        before = server.add(route())
        first = {"op": "add", "path": "/spec/hostnames", "value": ["x"]}
        code, body = refused(api, "PATCH", ROUTE, [first, operation], JSON_PATCH)
        assert (code, body["reason"]) == (422, "Invalid")
        assert body["message"] == "the server rejected our request due to an error in our request"
        assert server.get("HTTPRoute", "shop", "payments") == before

    def test_a_patch_that_writes_another_version_is_a_conflict(self, server: KubernetesApi, api: Any) -> None:
        server.add(route())
        patch = [{"op": "replace", "path": "/metadata/resourceVersion", "value": "7"}]
        assert refused(api, "PATCH", ROUTE, patch, JSON_PATCH)[1]["reason"] == "Conflict"


class TestMergePatch:
    def test_maps_merge_and_null_removes(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map(labels={"a": "1", "b": "2"}))
        patch = {"metadata": {"labels": {"a": None, "c": "3"}}}
        found = call(api, "PATCH", f"{CONFIG_MAPS}/settings", patch, MERGE_PATCH)
        assert found["metadata"]["labels"] == {"b": "2", "c": "3"}

    def test_a_version_that_was_overtaken_is_a_conflict(self, server: KubernetesApi, api: Any) -> None:
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


class TestApply:
    def apply(self, api: Any, body: Object, manager: str = "airflow-deploy", **query: str) -> Any:
        return call(api, "PATCH", f"{DEPLOYMENTS}/payments", body, APPLY, fieldManager=manager, **query)

    def test_it_makes_what_is_not_there(self, server: KubernetesApi, api: Any) -> None:
        assert self.apply(api, deployment())["metadata"]["generation"] == 1
        (entry,) = server.get("Deployment", "shop", "payments")["metadata"]["managedFields"]
        assert (entry["manager"], entry["operation"]) == ("airflow-deploy", "Apply")
        assert {"f:replicas", "f:selector", "f:template"} == entry["fieldsV1"]["f:spec"].keys()
        assert server.requests[-1].status == 201

    def test_what_another_manager_has_set_stays(self, server: KubernetesApi, api: Any) -> None:
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

    def test_what_is_applied_no_more_is_removed(self, server: KubernetesApi, api: Any) -> None:
        body = deployment()
        self.apply(api, {**body, "metadata": {**body["metadata"], "annotations": {"a": "1", "b": "2"}}})
        server.edit("Deployment", "shop", "payments", lambda body: body["metadata"]["annotations"].update(b="3"))
        self.apply(api, {**body, "metadata": {**body["metadata"], "labels": {}}}, force="true")
        metadata = server.get("Deployment", "shop", "payments")["metadata"]
        assert metadata["annotations"] == {"b": "3"}  # by then another manager's
        assert not metadata.get("labels")

    def test_a_field_of_another_manager_needs_force(self, server: KubernetesApi, api: Any) -> None:
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

    def test_a_manager_is_needed(self, api: Any) -> None:
        code, body = refused(api, "PATCH", f"{DEPLOYMENTS}/payments", deployment(), APPLY)
        assert (code, body["details"]["causes"][0]["field"]) == (422, "fieldManager")

    def test_the_dynamic_client_finds_kinds_and_applies(self, server: KubernetesApi, api: Any, tmp_path: Any) -> None:
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
    def test_an_update_takes_the_fields_that_it_changes(self, server: KubernetesApi, api: Any) -> None:
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

    def test_without_a_name_the_client_is_the_manager(self, server: KubernetesApi, api: Any) -> None:
        call(api, "POST", CONFIG_MAPS, config_map())
        (entry,) = server.get("ConfigMap", "shop", "settings")["metadata"]["managedFields"]
        assert entry["manager"] == "OpenAPI-Generator"


class TestDelete:
    def test_what_is_deleted_is_gone(self, server: KubernetesApi, api: Any) -> None:
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

    def test_finalizers_hold_it_until_they_are_gone(self, server: KubernetesApi, api: Any) -> None:
        server.add(route(finalizers=["example.com/held"]))
        marked = call(api, "DELETE", ROUTE)
        assert marked["metadata"]["deletionTimestamp"] == "2027-01-15T08:00:00Z"
        assert call(api, "DELETE", ROUTE) == marked
        more = {"metadata": {"finalizers": ["example.com/held", "example.com/more"]}}
        assert refused(api, "PATCH", ROUTE, more, MERGE_PATCH)[0] == 403
        call(api, "PATCH", ROUTE, {"metadata": {"finalizers": None}}, MERGE_PATCH)
        assert server.find("HTTPRoute", "shop", "payments") is None


class TestScale:
    def test_it_reads_and_sets_the_number_of_pods(self, server: KubernetesApi, api: Any) -> None:
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

    def test_a_kind_without_scale_has_none(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map())
        assert refused(api, "GET", f"{CONFIG_MAPS}/settings/scale")[0] == 404


class TestWatch:
    def events(self, api: Any, **query: Any) -> Iterator[tuple[str, str]]:
        listing = client.CoreV1Api(api).list_namespaced_config_map
        for event in watch.Watch().stream(listing, "shop", **query):
            yield event["type"], event["object"].metadata.name

    def test_without_a_version_it_begins_with_what_is_there(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map("one"), config_map("two"))
        assert [*self.events(api, timeout_seconds=0.01)] == [("ADDED", "one"), ("ADDED", "two")]

    def test_from_a_version_on_it_gives_what_was_written_since(self, server: KubernetesApi, api: Any) -> None:
        version = server.add(config_map("one"), config_map("two"))["metadata"]["resourceVersion"]
        server.edit("ConfigMap", "shop", "one", lambda body: body["data"].update(a="2"))
        server.add(route())
        server.remove("ConfigMap", "shop", "two")
        found = [*self.events(api, resource_version=version, timeout_seconds=0.01)]
        assert found == [("MODIFIED", "one"), ("DELETED", "two")]

    def test_it_goes_on_with_what_is_written_meanwhile(self, server: KubernetesApi, api: Any) -> None:
        events = self.events(api, timeout_seconds=30)
        writer = threading.Timer(0.02, lambda: server.add(config_map("late")))
        writer.start()
        assert next(events) == ("ADDED", "late")
        writer.join()
        events.close()  # type: ignore[attr-defined]

    def test_what_is_selected_no_more_is_deleted(self, server: KubernetesApi, api: Any) -> None:
        version = server.add(config_map(labels={"a": "b"}))["metadata"]["resourceVersion"]
        server.edit("ConfigMap", "shop", "settings", lambda body: body["metadata"].update(labels={}))
        found = self.events(api, label_selector="a=b", resource_version=version, timeout_seconds=0.01)
        assert [*found] == [("DELETED", "settings")]

    def test_a_version_that_is_forgotten_is_too_old(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map())
        server.compact()
        with pytest.raises(ApiException, match="too old"):
            [*self.events(api, resource_version="1", timeout_seconds=0.01)]

    def test_without_events_the_client_gives_up_at_its_own_timeout(self, api: Any) -> None:
        with pytest.raises(ReadTimeoutError):
            [*self.events(api, timeout_seconds=30, _request_timeout=(1, 0.01))]


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
    def test_a_request_is_refused_as_the_server_says_it(
        self, server: KubernetesApi, api: Any, status: int, reason: str
    ) -> None:
        server.add(route())
        server.fail(ROUTE, status, method="GET")
        code, body = refused(api, "GET", ROUTE)
        assert (code, body["code"], body["reason"]) == (status, status, reason)
        assert call(api, "GET", ROUTE)["kind"] == "HTTPRoute"

    def test_a_404_names_nothing_unless_it_shall(self, server: KubernetesApi, api: Any) -> None:
        server.add(route())
        server.fail(ROUTE, 404)
        server.fail(ROUTE, 404, reason="NotFound")
        assert refused(api, "GET", ROUTE) == (404, "404 page not found\n")
        assert refused(api, "GET", ROUTE)[1]["details"]["name"] == "payments"

    def test_only_what_matches_fails_and_as_often_as_ordered(self, server: KubernetesApi, api: Any) -> None:
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
    def test_errors_on_the_way_are_urllib3s(
        self, server: KubernetesApi, api: Any, raised: Exception, seen: type[Exception]
    ) -> None:
        server.fail(exception=raised)
        with pytest.raises(seen):
            call(api, "GET", ROUTE)

    def test_a_client_with_retries_sends_again(self, server: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
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

    def test_an_answer_may_be_lost_after_the_write(self, server: KubernetesApi, api: Any) -> None:
        server.fail(method="POST", exception=ConnectionResetError(), done=True)
        with pytest.raises(ProtocolError):
            call(api, "POST", CONFIG_MAPS, config_map())
        assert server.find("ConfigMap", "shop", "settings")
        assert [request.done for request in server.writes] == [True]

    def test_another_client_is_faster(self, server: KubernetesApi, api: Any) -> None:
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


class TestJournal:
    def test_each_request_is_noted_as_it_was_sent(self, server: KubernetesApi, api: Any) -> None:
        api.set_default_header("X-Test", "yes")
        with server.recorded() as found:
            call(api, "POST", CONFIG_MAPS, config_map(), fieldManager="me")
        (request,) = found
        assert (request.method, request.path, request.query) == ("POST", CONFIG_MAPS, {"fieldManager": "me"})
        assert (request.body, request.content_type, request.timeout) == (config_map(), "application/json", (1.0, 3.0))
        assert (request.headers["X-Test"], request.status, request.done) == ("yes", 201, True)

    def test_writes_are_told_from_reads_and_dry_runs(self, server: KubernetesApi, api: Any) -> None:
        call(api, "POST", CONFIG_MAPS, config_map(), dryRun="All")
        call(api, "POST", CONFIG_MAPS, config_map())
        call(api, "GET", CONFIG_MAPS)
        refused(api, "POST", CONFIG_MAPS, config_map())
        assert [(request.method, request.status, request.done) for request in server.writes] == [
            ("POST", 201, True),
            ("POST", 409, False),
        ]

    def test_threads_write_one_after_the_other(self, server: KubernetesApi, api: Any) -> None:
        server.add({**config_map(), "data": {}})
        bodies = [{"data": {str(number): "x"}} for number in range(40)]
        threads = [
            threading.Thread(target=call, args=(api, "PATCH", f"{CONFIG_MAPS}/settings", body, MERGE_PATCH))
            for body in bodies
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.get("ConfigMap", "shop", "settings")["data"]) == 40
        assert server.store.revision == 2 + 40


class TestWorkloads:
    @pytest.fixture
    def workloads(self, server: KubernetesApi) -> Workloads:
        return Workloads(server)

    def ready(self, server: KubernetesApi, name: str = "payments") -> int:
        (found,) = server.all("EndpointSlice", "shop", {"kubernetes.io/service-name": name})
        return sum(endpoint["conditions"]["ready"] for endpoint in found["endpoints"] or [])

    def test_a_deployment_gets_its_pods_at_once(self, server: KubernetesApi, api: Any, workloads: Workloads) -> None:
        server.add(service(), deployment())
        pods = client.CoreV1Api(api).list_namespaced_pod("shop", label_selector="app=payments").items
        assert [pod.status.container_statuses[0].image for pod in pods] == ["registry/payments:1"] * 2
        owner = pods[0].metadata.owner_references[0]
        assert owner.name == f"payments-{pods[0].metadata.labels['pod-template-hash']}"
        status = client.AppsV1Api(api).read_namespaced_deployment("payments", "shop").status
        assert (status.observed_generation, status.available_replicas) == (1, 2)
        assert self.ready(server) == 2

    def test_scaling_makes_and_removes_pods(self, server: KubernetesApi, api: Any, workloads: Workloads) -> None:
        server.add(deployment(), service())
        apps = client.AppsV1Api(api)
        for replicas in (5, 1, 0):
            apps.patch_namespaced_deployment_scale("payments", "shop", {"spec": {"replicas": replicas}})
            assert len(workloads.pods("payments")) == self.ready(server) == replicas

    def test_the_oldest_pods_stay(self, server: KubernetesApi, workloads: Workloads) -> None:
        server.add(deployment(replicas=1))
        server.clock = lambda: 1_800_000_060.0
        server.edit("Deployment", "shop", "payments", lambda body: body["spec"].update(replicas=2))
        made = [pod["metadata"]["creationTimestamp"] for pod in workloads.pods("payments")]
        assert made == ["2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z"]

    def test_pods_go_with_their_deployment_and_its_template(self, server: KubernetesApi, workloads: Workloads) -> None:
        server.add(deployment(), deployment("other"), service())
        before = {pod["metadata"]["name"] for pod in workloads.pods("payments")}

        def change(body: Object) -> None:
            body["spec"]["template"]["spec"]["containers"][0]["image"] = "new"

        server.edit("Deployment", "shop", "payments", change)
        after = {pod["metadata"]["name"] for pod in workloads.pods("payments")}
        assert len(after) == 2
        assert not before & after
        server.remove("Deployment", "shop", "payments")
        assert (len(workloads.pods("payments")), len(workloads.pods("other")), self.ready(server)) == (0, 2, 0)
        server.remove("Service", "shop", "payments")
        assert not server.all("EndpointSlice")

    def test_some_pods_or_none_become_ready(self, server: KubernetesApi, workloads: Workloads) -> None:
        server.add(deployment(replicas=3), service())
        workloads.let("payments", ready=1)
        assert (self.ready(server), server.get("Deployment", "shop", "payments")["status"]["readyReplicas"]) == (1, 1)
        workloads.let("payments", **NEVER_READY)
        assert self.ready(server) == 0
        workloads.let("payments")
        assert self.ready(server) == 3

    def test_containers_crash(self, server: KubernetesApi, api: Any, workloads: Workloads) -> None:
        workloads.let("payments", **CRASH_LOOP, message="back-off")
        server.add(deployment())
        status = client.CoreV1Api(api).list_namespaced_pod("shop").items[0].status.container_statuses[0]
        assert (status.state.waiting.reason, status.state.waiting.message) == ("CrashLoopBackOff", "back-off")
        assert status.restart_count == 3

    def test_the_deployment_says_why_there_are_no_pods(self, server: KubernetesApi, workloads: Workloads) -> None:
        workloads.let("payments", refused="exceeded quota")
        workloads.let("other", ready=0, stalled="timed out progressing")
        server.add(deployment(), deployment("other"))
        found = {
            (name, one["type"]): (one["status"], one["message"])
            for name in ("payments", "other")
            for one in server.get("Deployment", "shop", name)["status"]["conditions"]
        }
        assert found["payments", "ReplicaFailure"] == ("True", "exceeded quota")
        assert found["other", "Progressing"] == ("False", "timed out progressing")
        assert not workloads.pods("payments")

    def test_a_controller_may_lag(self, server: KubernetesApi, workloads: Workloads) -> None:
        server.add(deployment())
        workloads.let("payments", observed=False)
        server.edit("Deployment", "shop", "payments", lambda body: body["spec"].update(replicas=5))
        found = server.get("Deployment", "shop", "payments")
        assert (found["metadata"]["generation"], found["status"]["observedGeneration"]) == (2, 1)

    def test_pods_of_others_are_left_alone(self, server: KubernetesApi, workloads: Workloads) -> None:
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        pod = {"kind": "Pod", "metadata": {"name": "alone", "namespace": "shop", "labels": {"app": "payments"}}}
        server.add({**pod, "status": ready}, service(), deployment(replicas=1))
        assert self.ready(server) == 2
        server.edit(
            "Pod", "shop", "alone", lambda body: body["metadata"].update(deletionTimestamp="2027-01-01T00:00:00Z")
        )
        assert self.ready(server) == 1
