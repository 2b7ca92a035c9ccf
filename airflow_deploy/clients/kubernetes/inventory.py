"""What airflow-deploy has made in a cluster, and what scales it: listed, compared and deleted."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from airflow_deploy.clients.kubernetes.errors import errors, exists_already, ignore_not_found
from airflow_deploy.clients.kubernetes.traffic import FIELD_MANAGER, GATEWAY_API, PATCH, PODS, Traffic, lives
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.labels import MANAGED_BY, MANAGER, VERSION
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.record import Patch
from airflow_deploy.domain.workloads import autoscaling
from airflow_deploy.domain.workloads.mirror import MIRROR_LABELS as MIRROR

AUTOSCALING_API = ("autoscaling", "v2")
OWN_KINDS = {
    "Deployment": "/apis/apps/v1/namespaces/{}/deployments",
    "Service": "/api/v1/namespaces/{}/services",
    "ConfigMap": "/api/v1/namespaces/{}/configmaps",
    "PodDisruptionBudget": "/apis/policy/v1/namespaces/{}/poddisruptionbudgets",
    "HorizontalPodAutoscaler": "/apis/autoscaling/v2/namespaces/{}/horizontalpodautoscalers",
    "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/{}/networkpolicies",
}
"""What a version consists of, and where the API has it, in the order in which it is deleted.

The Deployment is first, since it is fenced by its version, which changes with its pods; what is left can be listed and
deleted by the next who comes. ConfigMaps are not listed: nobody needs to read what they say.
"""


UNHELD = {"metadata": {"finalizers": None}}
MIRROR_KINDS = {
    "TraefikService": "/apis/traefik.io/v1alpha1/namespaces/{}/traefikservices",
    "Service": OWN_KINDS["Service"],
}
"""What a mirror consists of, in the order in which it is deleted: as long as its Service is there, it can be found."""


class Inventory(Traffic):
    """The objects of our versions, and the autoscalers, beside the routes that lead to them."""

    def objects(self, namespace: str, service: str) -> list[dict[str, Any]]:
        """Return what airflow-deploy has made for the service, but for ConfigMaps."""
        labels = f"app.kubernetes.io/managed-by=airflow-deploy,app.kubernetes.io/name={service}"
        kinds = [kind for kind in OWN_KINDS if kind != "ConfigMap"]
        return [item for kind in kinds for item in self._listed(kind, namespace, labelSelector=labels)]

    def started(self, namespace: str) -> dict[str, float]:
        """Return when the oldest pod of each version was made, in unix seconds, by the version's name."""
        with errors(f"listing the pods of {namespace}"):
            answer = self._call("GET", PODS.format(namespace), query_params=[("labelSelector", VERSION)])
        found: dict[str, float] = {}
        for pod in filter(lives, answer["items"]):
            name = pod["metadata"]["labels"][VERSION]
            made = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
            found[name] = min(made, found.get(name, made))
        return found

    def make(self, item: Mapping[str, Any]) -> None:
        """Make one of our own objects; where it is there already, it stays as it is.

        :raises RefusedError: the server does not accept it.
        :raises TemporaryError: it was not made, and is not there.
        """
        from kubernetes.client import ApiException

        metadata = item["metadata"]
        path = OWN_KINDS[item["kind"]].format(metadata["namespace"])
        with errors(f"making {item['kind']} {metadata['namespace']}/{metadata['name']}", invalid=RefusedError):
            try:
                self._call("POST", path, query_params=[("fieldManager", FIELD_MANAGER)], body=item)
            except ApiException as error:
                if not exists_already(error):
                    raise

    def delete(self, item: Mapping[str, Any]) -> None:
        """Delete one of our own objects, unless it has changed since it was read; what is gone already is well.

        :param item: the object as it was read; without what only a reader knows, there is no fence.
        :raises TemporaryError: it has changed.
        """
        metadata = item["metadata"]
        fence = {key: metadata[key] for key in ("uid", "resourceVersion") if key in metadata}
        path = f"{OWN_KINDS[item['kind']].format(metadata['namespace'])}/{metadata['name']}"
        with errors(f"deleting {item['kind']} {metadata['namespace']}/{metadata['name']}"), ignore_not_found():
            self._call("DELETE", path, body={"preconditions": fence, "propagationPolicy": "Background"})

    def delete_route(self, route: HttpRoute) -> None:
        """Delete an HTTPRoute of our own, unless it is another one by now; what is gone already is well.

        :raises TemporaryError: it has changed.
        """
        metadata = route.body["metadata"]
        fence = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        with errors(f"deleting route {route.name}"), ignore_not_found():
            self._custom.delete_namespaced_custom_object(
                *GATEWAY_API,
                metadata["namespace"],
                "httproutes",
                metadata["name"],
                body={"preconditions": fence},
                _request_timeout=self._timeout,
            )

    def mirrors(self, namespace: str) -> list[dict[str, Any]]:
        """Return the Services of the namespace's mirrors."""
        return self._listed("Service", namespace, labelSelector=",".join(f"{key}={MIRROR[key]}" for key in MIRROR))

    def delete_mirror(self, service: Mapping[str, Any]) -> None:
        """Delete a mirror, which is its ``service`` and all that has the same name; what is gone already is well."""
        metadata = service["metadata"]
        for kind, path in MIRROR_KINDS.items():
            path = f"{path.format(metadata['namespace'])}/{metadata['name']}"
            with errors(f"deleting {kind} {metadata['namespace']}/{metadata['name']}"), ignore_not_found():
                self._call("PATCH", path, body=UNHELD, content_type="application/merge-patch+json")
                self._call("DELETE", path, body={"propagationPolicy": "Background"})

    def selectors(self, namespace: str) -> list[dict[str, str]]:
        """Return which labels each of the namespace's Services asks for; those without any are left out."""
        found = (item["spec"].get("selector") for item in self._listed("Service", namespace))
        return [selector for selector in found if selector]

    def deployed(self, namespace: str, labels: Mapping[str, str]) -> list[str]:
        """Return the Deployments whose pods have these labels, but for versions of ours that were stopped."""
        return [
            item["metadata"]["name"]
            for item in self._listed("Deployment", namespace)
            if labels.items() <= (item["spec"]["template"]["metadata"].get("labels") or {}).items()
            and (item["spec"].get("replicas", 1) or (item["metadata"].get("labels") or {}).get(MANAGED_BY) != MANAGER)
        ]

    def all_autoscalers(self, namespace: str) -> list[dict[str, Any]]:
        """Return the namespace's HorizontalPodAutoscalers."""
        return self._listed("HorizontalPodAutoscaler", namespace)

    def autoscalers(self, namespace: str, service: str) -> list[dict[str, Any]]:
        """Return those that scale what the Service ``service`` sends requests to."""
        if not (found := self.all_autoscalers(namespace)):
            return []
        services = self._listed("Service", namespace, fieldSelector=f"metadata.name={service}")
        return autoscaling.autoscalers_of(services, self._listed("Deployment", namespace), found)

    def patch_autoscaler(self, item: Mapping[str, Any], patch: Patch, *, dry_run: bool = False) -> None:
        """Apply a JSON Patch to a HorizontalPodAutoscaler as one write; an empty patch writes nothing.

        :param dry_run: let the server check it, and write nothing.
        :raises TemporaryError: somebody else has written it since it was read.
        """
        if not patch:
            return
        metadata = item["metadata"]
        with errors(f"writing HorizontalPodAutoscaler {metadata['name']}", invalid=TemporaryError):
            self._custom.patch_namespaced_custom_object(
                *AUTOSCALING_API,
                metadata["namespace"],
                "horizontalpodautoscalers",
                metadata["name"],
                patch,
                **PATCH,
                _request_timeout=self._timeout,
                **({"dry_run": "All"} if dry_run else {}),
            )

    def _listed(self, kind: str, namespace: str, **selected: str) -> list[dict[str, Any]]:
        with errors(f"listing the {kind}s of {namespace}"):
            answer = self._call("GET", OWN_KINDS[kind].format(namespace), query_params=list(selected.items()))
        return [{**item, "kind": kind} for item in answer["items"]]
