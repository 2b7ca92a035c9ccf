"""What decides who is served: what divides the traffic, changed by JSON Patch alone, and the Lease beside it.

The guard needs no more of a cluster than this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from airflow_deploy.clients.kubernetes.errors import REQUEST_TIMEOUT, Timeout, errors, ignore_not_found
from airflow_deploy.domain.errors import FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.labels import WITHDRAWN
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.lease import LEASE_LABELS, Lease
from airflow_deploy.domain.routing.record import ANNOTATION_ERRORS, Patch, annotation_path
from airflow_deploy.domain.routing.service_route import ServiceRoute
from airflow_deploy.domain.routing.team_route import TeamRoute, absent_route

FIELD_MANAGER = "airflow-deploy"
GATEWAY_API = ("gateway.networking.k8s.io", "v1")
LEASE_API = ("coordination.k8s.io", "v1")
ROUTES: Mapping[str, tuple[type[TeamRoute], str]] = {
    kind.ROUTER: (kind, path)
    for kind, path in (
        (HttpRoute, "/apis/gateway.networking.k8s.io/v1/namespaces/{}/httproutes"),
        (ServiceRoute, "/api/v1/namespaces/{}/services"),
    )
}
"""What may divide the traffic, by router, and where the API has it. Another router is one more entry."""
DEPLOYMENTS = "/apis/apps/v1/namespaces/{}/deployments"
PODS = "/api/v1/namespaces/{}/pods"
JSON_PATCH = "application/json-patch+json"
PATCH: dict[str, Any] = {
    "field_manager": FIELD_MANAGER,
    "_content_type": JSON_PATCH,  # the client would take a merge patch
}

R = TypeVar("R", bound=TeamRoute)


class Traffic:
    """Routes and Leases of the cluster that ``api``, a client of the Kubernetes library, reaches.

    :param timeout: of each request, unless a call says otherwise.
    """

    def __init__(self, api: Any, timeout: Timeout = REQUEST_TIMEOUT) -> None:
        from kubernetes import client

        self._api, self._timeout = api, timeout
        self._custom = client.CustomObjectsApi(api)
        self._discovery = client.DiscoveryV1Api(api)

    def route(self, namespace: str, name: str) -> HttpRoute:
        """Read an HTTPRoute."""
        return HttpRoute(self.team_route(namespace, name, HttpRoute.ROUTER).body)

    def route_or_absent(self, namespace: str, name: str) -> HttpRoute:
        """Read an HTTPRoute that may not be there yet."""
        return self._or_absent(namespace, name, HttpRoute, lambda: self.route(namespace, name))

    def team_route(self, namespace: str, name: str, router: str) -> TeamRoute:
        """Read what divides a service's traffic."""
        kind, path = ROUTES[router]
        with errors(f"reading route {namespace}/{name}"):
            return kind(self._call("GET", f"{path.format(namespace)}/{name}"))

    def team_route_or_absent(self, namespace: str, name: str, router: str) -> TeamRoute:
        """Read what divides a service's traffic, and may not be there."""
        kind, _ = ROUTES[router]
        return self._or_absent(namespace, name, kind, lambda: self.team_route(namespace, name, router))

    def create_route(self, body: Mapping[str, Any], *, dry_run: bool = False) -> HttpRoute:
        """Make an HTTPRoute.

        :param dry_run: let the server check it, and write nothing.
        :raises RefusedError: it is not accepted.
        :raises TemporaryError: somebody else has just made it.
        """
        metadata = body["metadata"]
        with errors(f"making route {metadata['namespace']}/{metadata['name']}", invalid=RefusedError):
            made = self._custom.create_namespaced_custom_object(
                *GATEWAY_API,
                metadata["namespace"],
                "httproutes",
                body,
                field_manager=FIELD_MANAGER,
                _request_timeout=self._timeout,
                **({"dry_run": "All"} if dry_run else {}),
            )
        return HttpRoute(made)

    def patch_route(self, route: R, patch: Patch) -> R:
        """Apply a JSON Patch to the route as one write; an empty patch writes nothing.

        :raises TemporaryError: one of its tests failed: somebody else has written the route since it was read. Whoever
            tries again reads it again, and is fenced by what it has become.
        """
        if not patch:
            return route
        metadata = route.body["metadata"]
        _, path = ROUTES[route.ROUTER]
        with errors(f"writing route {route.name}", invalid=TemporaryError):
            body = self._patch(f"{path.format(metadata['namespace'])}/{metadata['name']}", patch)
        return type(route)(body)

    def join(self, namespace: str, version: str, pods: int) -> None:
        """Give the version so many pods, unless they were taken away for good.

        :raises TemporaryError: they were; whoever tries again finds that on the route.
        """
        kept = {"op": "test", "path": annotation_path(WITHDRAWN), "value": "no"}
        with errors(f"scaling Deployment {namespace}/{version}", invalid=TemporaryError):
            self._patch(f"{DEPLOYMENTS.format(namespace)}/{version}", [kept, _set_pods(pods)])

    def withdraw(self, route: TeamRoute, version: str) -> None:
        """Take the version's pods away for good, where they are its share; nothing elsewhere.

        Whoever calls this has said so on the route before, so that nobody gives them back.
        """
        if not isinstance(route, ServiceRoute):
            return
        namespace = route.body["metadata"]["namespace"]
        gone = {"op": "add", "path": annotation_path(WITHDRAWN), "value": "yes"}
        with errors(f"scaling Deployment {namespace}/{version}"), ignore_not_found():
            self._patch(f"{DEPLOYMENTS.format(namespace)}/{version}", [gone, _set_pods(0)])

    def ready(
        self,
        namespace: str,
        version: str,
        labels: Mapping[str, str] | None,
        timeout: Timeout | None = None,
    ) -> int:
        """Return how many pods of ``version`` could be sent a request now.

        :param labels: those by which its pods are known; None where it has a Service of that name.
        """
        if labels is None:
            return self.ready_endpoints(namespace, version, timeout)
        return self.workloads(namespace, labels, timeout).get(version, 0)

    def workloads(self, namespace: str, labels: Mapping[str, str], timeout: Timeout | None = None) -> dict[str, int]:
        """Return how many ready pods with these labels each Deployment has that has any, by its name.

        A pod that no Deployment has stands under its own name. What has ended, or is about to, is left out.
        """
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        with errors(f"listing the pods of {namespace} with {selector}"):
            answer = self._call(
                "GET", PODS.format(namespace), timeout=timeout, query_params=[("labelSelector", selector)]
            )
        found: dict[str, int] = {}
        for pod in answer["items"]:
            if lives(pod):
                name = _workload_of(pod)
                found[name] = found.get(name, 0) + _is_ready(pod)
        return found

    def ready_endpoints(self, namespace: str, service: str, timeout: Timeout | None = None) -> int:
        """Return how many pods the Service ``service`` could send a request to now."""
        with errors(f"listing the endpoints of {namespace}/{service}"):
            slices = self._discovery.list_namespaced_endpoint_slice(
                namespace,
                label_selector=f"kubernetes.io/service-name={service}",
                _request_timeout=timeout or self._timeout,
            ).items
        # A pod with two addresses stands in two slices.
        ready = {
            (endpoint.target_ref and endpoint.target_ref.uid) or endpoint.addresses[0]
            for item in slices
            for endpoint in item.endpoints or []
            if endpoint.conditions is None or endpoint.conditions.ready is not False
        }
        return len(ready)

    def lease(self, namespace: str, name: str) -> Lease | None:
        """Read a Lease; None where there is none."""
        with errors(f"reading Lease {namespace}/{name}"), ignore_not_found():
            return Lease(
                self._custom.get_namespaced_custom_object(
                    *LEASE_API, namespace, "leases", name, _request_timeout=self._timeout
                )
            )
        return None

    def leases(self, namespace: str | None) -> list[Lease]:
        """Return the Leases of all our routes, in one namespace or in all."""
        selector = ",".join(f"{key}={value}" for key, value in LEASE_LABELS.items())
        options = {"label_selector": selector, "_request_timeout": self._timeout}
        with errors(f"listing the Leases of {namespace or 'all namespaces'}"):
            if namespace:
                found = self._custom.list_namespaced_custom_object(*LEASE_API, namespace, "leases", **options)
            else:
                found = self._custom.list_cluster_custom_object(*LEASE_API, "leases", **options)
        return [Lease(item) for item in found["items"]]

    def create_lease(self, namespace: str, body: Mapping[str, Any]) -> None:
        """Make a Lease.

        :raises TemporaryError: somebody else has just made it.
        """
        with errors(f"making Lease {namespace}/{body['metadata']['name']}"):
            self._custom.create_namespaced_custom_object(
                *LEASE_API, namespace, "leases", body, field_manager=FIELD_MANAGER, _request_timeout=self._timeout
            )

    def patch_lease(self, namespace: str, name: str, patch: Patch) -> bool:
        """Apply a JSON Patch to a Lease as one write; False where there is none.

        :raises FencedError: one of its tests failed.
        """
        with errors(f"writing Lease {namespace}/{name}", invalid=FencedError), ignore_not_found():
            self._custom.patch_namespaced_custom_object(
                *LEASE_API, namespace, "leases", name, patch, **PATCH, _request_timeout=self._timeout
            )
            return True
        return False

    @staticmethod
    def _or_absent(namespace: str, name: str, kind: type[R], read: Callable[[], R]) -> R:
        from kubernetes.client import ApiException

        try:
            return read()
        except RefusedError as error:
            # An API server that is just starting says 404 to everything, and names nothing that it could not find.
            if isinstance(error.__cause__, ApiException) and _missed(error.__cause__) == name:
                return absent_route(kind, namespace, name)
            raise

    def _patch(self, path: str, patch: Patch) -> Any:
        query = [("fieldManager", FIELD_MANAGER)]
        return self._call("PATCH", path, content_type=JSON_PATCH, query_params=query, body=patch)

    def _call(
        self,
        method: str,
        path: str,
        content_type: str = "application/json",
        timeout: Timeout | None = None,
        **sent: Any,
    ) -> Any:
        return self._api.call_api(
            path,
            method,
            header_params={"Accept": "application/json", "Content-Type": content_type},
            response_types_map={200: "object", 201: "object", 202: "object"},
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _request_timeout=timeout or self._timeout,
            **sent,
        )


def _set_pods(number: int) -> dict[str, Any]:
    return {"op": "add", "path": "/spec/replicas", "value": number}


def _workload_of(pod: Mapping[str, Any]) -> str:
    """Return the name of the pod's Deployment; a ReplicaSet's name is that of its Deployment and a hash."""
    metadata = pod["metadata"]
    digest = (metadata.get("labels") or {}).get("pod-template-hash", "")
    for owner in metadata.get("ownerReferences") or []:
        if owner["kind"] == "ReplicaSet" and owner.get("controller") and owner["name"].endswith(f"-{digest}"):
            return str(owner["name"].removesuffix(f"-{digest}"))
    return str(metadata["name"])


def lives(pod: Mapping[str, Any]) -> bool:
    """Whether a pod is neither over nor about to be."""
    over = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not over and not pod["metadata"].get("deletionTimestamp")


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _missed(error: Any) -> str | None:
    """Return the name of the object that the API server says is not there."""
    try:
        said = json.loads(error.body)
        return str(said["details"]["name"]) if error.status == 404 and said["reason"] == "NotFound" else None
    except ANNOTATION_ERRORS:
        return None
