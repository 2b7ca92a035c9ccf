"""What decides who is served: the team's route, changed by JSON Patch alone, and the Lease beside it.

The guard needs no more of a cluster than this.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_deploy.clients.answers import TIMEOUT, errors
from airflow_deploy.domain.errors import FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.httproute import Route, absent
from airflow_deploy.domain.lease import LABEL, Lease
from airflow_deploy.domain.record import GARBLED, Patch

FIELD_MANAGER = "airflow-deploy"
GATEWAY_API = ("gateway.networking.k8s.io", "v1")
LEASE_API = ("coordination.k8s.io", "v1")
PATCH: dict[str, Any] = {
    "field_manager": FIELD_MANAGER,
    "_content_type": "application/json-patch+json",  # the client would take a merge patch
    "_request_timeout": TIMEOUT,
}


class Traffic:
    """Routes and Leases of the cluster that ``api``, a client of the Kubernetes library, reaches."""

    def __init__(self, api: Any) -> None:
        from kubernetes import client

        self._api = api
        self._custom = client.CustomObjectsApi(api)
        self._discovery = client.DiscoveryV1Api(api)

    def route(self, namespace: str, name: str) -> Route:
        """Read an HTTPRoute."""
        with errors(f"reading route {namespace}/{name}"):
            body = self._custom.get_namespaced_custom_object(
                *GATEWAY_API, namespace, "httproutes", name, _request_timeout=TIMEOUT
            )
        return Route(body)

    def route_or_absent(self, namespace: str, name: str) -> Route:
        """Read an HTTPRoute that may not be there yet."""
        from kubernetes.client import ApiException

        try:
            return self.route(namespace, name)
        except RefusedError as error:
            # An API server that is just starting says 404 to everything, and names nothing that it could not find.
            if isinstance(error.__cause__, ApiException) and _missed(error.__cause__) == name:
                return absent(namespace, name)
            raise

    def create_route(self, body: Mapping[str, Any], *, dry_run: bool = False) -> Route:
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
                _request_timeout=TIMEOUT,
                **({"dry_run": "All"} if dry_run else {}),
            )
        return Route(made)

    def patch_route(self, route: Route, patch: Patch) -> Route:
        """Apply a JSON Patch to the route as one write; an empty patch writes nothing.

        :raises TemporaryError: one of its tests failed: somebody else has written the route since it was read. Whoever
            tries again reads it again, and is fenced by what it has become.
        """
        if not patch:
            return route
        metadata = route.body["metadata"]
        with errors(f"writing route {route.name}", invalid=TemporaryError):
            body = self._custom.patch_namespaced_custom_object(
                *GATEWAY_API,
                metadata["namespace"],
                "httproutes",
                metadata["name"],
                patch,
                **PATCH,
            )
        return Route(body)

    def ready_endpoints(self, namespace: str, service: str, timeout: tuple[float, float] = TIMEOUT) -> int:
        """Return how many pods the Service ``service`` could send a request to now."""
        with errors(f"listing the endpoints of {namespace}/{service}"):
            slices = self._discovery.list_namespaced_endpoint_slice(
                namespace, label_selector=f"kubernetes.io/service-name={service}", _request_timeout=timeout
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
        from kubernetes.client import ApiException

        with errors(f"reading Lease {namespace}/{name}"):
            try:
                body = self._custom.get_namespaced_custom_object(
                    *LEASE_API, namespace, "leases", name, _request_timeout=TIMEOUT
                )
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
        return Lease(body)

    def leases(self, namespace: str | None) -> list[Lease]:
        """Return the Leases of all our routes, in one namespace or in all."""
        selector = ",".join(f"{key}={value}" for key, value in LABEL.items())
        options = {"label_selector": selector, "_request_timeout": TIMEOUT}
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
                *LEASE_API, namespace, "leases", body, field_manager=FIELD_MANAGER, _request_timeout=TIMEOUT
            )

    def patch_lease(self, namespace: str, name: str, patch: Patch) -> bool:
        """Apply a JSON Patch to a Lease as one write; False where there is none.

        :raises FencedError: one of its tests failed.
        """
        from kubernetes.client import ApiException

        with errors(f"writing Lease {namespace}/{name}", invalid=FencedError):
            try:
                self._custom.patch_namespaced_custom_object(*LEASE_API, namespace, "leases", name, patch, **PATCH)
            except ApiException as error:
                if error.status == 404:
                    return False
                raise
        return True


def _missed(error: Any) -> str | None:
    """Return the name of the object that the API server says is not there."""
    try:
        said = json.loads(error.body)
        return str(said["details"]["name"]) if error.status == 404 and said["reason"] == "NotFound" else None
    except GARBLED:
        return None
