"""The one client of the Kubernetes API: six verbs over the table of kinds, plain objects in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_deploy.clients.kubernetes.errors import (
    REQUEST_TIMEOUT,
    InvalidError,
    NotFoundError,
    Timeout,
    UnavailableError,
    translated,
)
from airflow_deploy.clients.kubernetes.kinds import KINDS, path_of

Item = dict[str, Any]
"""A Kubernetes object as the API gives it, with ``kind`` and ``apiVersion``."""

FIELD_MANAGER = "airflow-deploy"
JSON = "application/json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"


class KubernetesClient:
    """Reads and writes objects of one cluster.

    Every method raises the errors of ``clients.kubernetes.errors``.

    :param api: an ``ApiClient`` of the Kubernetes library, which decides how often a request is sent again.
    :param timeout: of each request, unless a call gives its own.
    """

    def __init__(self, api: Any, timeout: Timeout = REQUEST_TIMEOUT) -> None:
        self._api, self._timeout = api, timeout

    def get(self, kind: str, namespace: str, name: str, *, timeout: Timeout | None = None) -> Item:
        """Return one object.

        :raises NotFoundError: it does not exist.
        """
        with translated(f"reading {kind} {namespace}/{name}"):
            return self._call("GET", path_of(kind, namespace, name), kind, timeout=timeout)

    def find(self, kind: str, namespace: str, name: str) -> Item | None:
        """Return one object, None if the server says that it does not exist."""
        try:
            return self.get(kind, namespace, name)
        except NotFoundError as error:
            if error.name != name:
                raise UnavailableError(f"{error}: the answer is about {error.name}, not about {name}") from error
            return None

    def list(
        self,
        kind: str,
        namespace: str | None,
        *,
        labels: str | Mapping[str, str] = "",
        name: str = "",
        timeout: Timeout | None = None,
    ) -> list[Item]:
        """Return the objects of one kind.

        :param namespace: None for those of all namespaces.
        :param labels: a label selector, or labels that must all match.
        :param name: only the object of that name.
        """
        selector = labels if isinstance(labels, str) else ",".join(f"{key}={labels[key]}" for key in labels)
        query = [("labelSelector", selector)] if selector else []
        query += [("fieldSelector", f"metadata.name={name}")] if name else []
        with translated(f"listing {kind}s of {namespace or 'all namespaces'}"):
            answer = self._call("GET", path_of(kind, namespace), kind, query=query, timeout=timeout)
            found = answer.get("items")
            if not isinstance(found, list):
                raise UnavailableError(f"listing {kind}s: the answer has no items")
        return [{**item, "kind": kind, "apiVersion": KINDS[kind].api} for item in found]

    def create(self, item: Mapping[str, Any], *, dry_run: bool = False) -> Item:
        """Create an object and return it.

        :param dry_run: let the server check it, its admission included, and write nothing.
        :raises AlreadyExistsError: it exists.
        :raises InvalidError: it is not accepted.
        """
        kind, namespace, name = _identity(item)
        with translated(f"creating {kind} {namespace}/{name}"):
            return self._call("POST", path_of(kind, namespace), kind, query=_written(dry_run), body=item)

    def apply(self, item: Mapping[str, Any], *, dry_run: bool = False) -> Item:
        """Server-side apply an object of our own, and return it.

        :raises InvalidError: it is not accepted.
        """
        kind, namespace, name = _identity(item)
        query = [*_written(dry_run), ("force", "true")]
        with translated(f"applying {kind} {namespace}/{name}"):
            return self._call("PATCH", path_of(kind, namespace, name), kind, content=APPLY, query=query, body=item)

    def patch(
        self,
        kind: str,
        namespace: str,
        name: str,
        operations: Sequence[Mapping[str, Any]],
        *,
        subresource: str | None = None,
        dry_run: bool = False,
    ) -> Item:
        """Apply a JSON Patch as one write, and return the object.

        :raises ConflictError: one of its tests failed: another client wrote the object since it was read.
        :raises NotFoundError: it does not exist.
        """
        path, query = path_of(kind, namespace, name, subresource), _written(dry_run)
        with translated(f"writing {kind} {namespace}/{name}"):
            return self._call("PATCH", path, kind, content=JSON_PATCH, query=query, body=list(operations))

    def delete(self, kind: str, namespace: str, name: str, *, as_read: Mapping[str, Any] | None = None) -> None:
        """Delete an object; one that does not exist is no error.

        :param as_read: the object; if it changed since, nothing is deleted.
        :raises ConflictError: it changed.
        """
        metadata = as_read["metadata"] if as_read else {}
        fence = {key: metadata[key] for key in ("uid", "resourceVersion") if key in metadata}
        body = {"preconditions": fence, "propagationPolicy": "Background"}
        try:
            with translated(f"deleting {kind} {namespace}/{name}"):
                self._call("DELETE", path_of(kind, namespace, name), kind, body=body)
        except NotFoundError:
            return

    def _call(
        self,
        method: str,
        path: str,
        kind: str,
        *,
        content: str = JSON,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        timeout: Timeout | None = None,
    ) -> Item:
        answer = self._api.call_api(
            path,
            method,
            query_params=list(query),
            header_params={"Accept": JSON, "Content-Type": content},
            body=body,
            response_types_map={200: "object", 201: "object", 202: "object"},
            auth_settings=["BearerToken"],
            _return_http_data_only=True,
            _request_timeout=timeout or self._timeout,
        )
        if not isinstance(answer, dict):
            raise UnavailableError(f"{method} {path}: the answer is not a Kubernetes object")
        return {**answer, "kind": kind, "apiVersion": KINDS[kind].api} if "metadata" in answer else answer


def _written(dry_run: bool) -> list[tuple[str, str]]:
    return [("fieldManager", FIELD_MANAGER), *([("dryRun", "All")] if dry_run else [])]


def _identity(item: Mapping[str, Any]) -> tuple[str, str, str]:
    """Return kind, namespace and name of an object of ours.

    :raises InvalidError: its API version is not the one of the table.
    """
    kind, metadata = str(item["kind"]), item["metadata"]
    if KINDS[kind].api != item["apiVersion"]:
        raise InvalidError(f"{kind} {metadata['name']}: apiVersion {item['apiVersion']} is not {KINDS[kind].api}")
    return kind, str(metadata["namespace"]), str(metadata["name"])
