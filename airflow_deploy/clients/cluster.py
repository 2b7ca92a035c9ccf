"""The Kubernetes cluster: the team's route, and server-side apply for our own objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from urllib3 import Retry

from airflow_deploy.clients.answers import TIMEOUT
from airflow_deploy.clients.answers import errors as _errors
from airflow_deploy.clients.shared import KEPT_ALIVE, shared
from airflow_deploy.clients.traffic import FIELD_MANAGER, Traffic
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.values import printable

AGAIN = Retry(
    total=6,
    read=2,
    # 409 is not among them: what was read before is old by then, so that who reads it must try again.
    status_forcelist=(429, 500, 502, 503, 504),
    allowed_methods=None,  # each of our writes says what shall be, or tests what was: it may be sent twice
    backoff_factor=0.25,
    backoff_jitter=0.25,
    backoff_max=4.0,
    retry_after_max=10,
    raise_on_status=False,
)
"""How often a task's request is sent again where the server is busy, fails, resets the connection or does not answer.

It takes about 15 s in all, and a minute at most; after that, the task itself is tried again.
"""
HOPELESS_WAITING = frozenset({"InvalidImageName", "CreateContainerConfigError", "CreateContainerError"})


@dataclass(frozen=True)
class Readiness:
    """How far a Deployment has come: ``failed`` holds the reason why it never will."""

    ready: int
    wanted: int
    failed: str | None

    @property
    def done(self) -> bool:
        """Whether all wanted pods are ready."""
        return self.ready >= self.wanted > 0


class Cluster(Traffic):
    """One cluster, as the Airflow connection ``connection`` reaches it.

    :param purpose: those of one purpose share their connections to the server. What is asked for a purpose of its own
        is sent once, since it comes again by itself.
    """

    def __init__(self, connection: str, purpose: str = "") -> None:
        from kubernetes import client

        super().__init__(_api_client(connection, purpose))
        self._apps = client.AppsV1Api(self._api)
        self._core = client.CoreV1Api(self._api)

    def apply(self, objects: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> None:
        """Server-side apply our own objects, in their order.

        :param dry_run: let the server check everything, its admission included, and write nothing.
        :raises RefusedError: the server does not accept an object.
        """
        from kubernetes.dynamic import DynamicClient

        with _errors("reading the cluster's API list"):
            dynamic = DynamicClient(self._api)
        for item in objects:
            what = f"{item['kind']} {item['metadata']['namespace']}/{item['metadata']['name']}"
            with _errors(f"applying {what}", invalid=RefusedError):
                resource = dynamic.resources.get(api_version=item["apiVersion"], kind=item["kind"])
                dynamic.server_side_apply(
                    resource,
                    body=item,
                    name=item["metadata"]["name"],
                    namespace=item["metadata"]["namespace"],
                    field_manager=FIELD_MANAGER,
                    force_conflicts=True,
                    **({"dry_run": "All"} if dry_run else {}),
                    _request_timeout=TIMEOUT,
                )

    def readiness(self, namespace: str, name: str) -> Readiness:
        """Say how far the Deployment ``name`` has come."""
        with _errors(f"reading Deployment {namespace}/{name}"):
            deployment = self._apps.read_namespaced_deployment(name, namespace, _request_timeout=TIMEOUT)
        status, wanted = deployment.status, deployment.spec.replicas or 0
        if (status.observed_generation or 0) < deployment.metadata.generation:
            return Readiness(0, wanted, None)
        for condition in status.conditions or []:
            if condition.type == "Progressing" and condition.status == "False":
                return Readiness(status.ready_replicas or 0, wanted, condition.message)
        return Readiness(status.available_replicas or 0, wanted, self._hopeless(namespace, name))

    def _hopeless(self, namespace: str, version: str) -> str | None:
        """Return why a pod of this version will never be ready, where that is known already."""
        with _errors(f"listing the pods of {namespace}/{version}"):
            pods = self._core.list_namespaced_pod(
                namespace, label_selector=f"app.kubernetes.io/version={version}", _request_timeout=TIMEOUT
            ).items
        for pod in pods:
            for status in pod.status.container_statuses or []:
                waiting = status.state.waiting
                crashes = waiting is not None and waiting.reason == "CrashLoopBackOff" and status.restart_count >= 2
                if waiting is not None and (crashes or waiting.reason in HOPELESS_WAITING):
                    return f"pod {pod.metadata.name}: {waiting.reason} {printable(waiting.message or '', 200)}".rstrip()
        return None

    def exists(self, namespace: str, name: str) -> bool:
        """Whether the Deployment ``name`` is there."""
        from kubernetes.client import ApiException

        with _errors(f"reading Deployment {namespace}/{name}"):
            try:
                self._apps.read_namespaced_deployment(name, namespace, _request_timeout=TIMEOUT)
            except ApiException as error:
                if error.status == 404:
                    return False
                raise
        return True

    def scale(self, namespace: str, name: str, replicas: int) -> None:
        """Set the number of the Deployment's pods."""
        with _errors(f"scaling Deployment {namespace}/{name}"):
            self._apps.patch_namespaced_deployment_scale(
                name, namespace, {"spec": {"replicas": replicas}}, field_manager=FIELD_MANAGER, _request_timeout=TIMEOUT
            )


@shared
def _api_client(connection: str, purpose: str) -> Any:
    """Return a client that opens a connection where all others are in use, so that nobody waits for another's."""
    # Both imports cost seconds, and this module is imported wherever a DAG file is parsed.
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from kubernetes import client

    configuration = copy(KubernetesHook(conn_id=connection).api_client.configuration)
    configuration.retries = False if purpose else AGAIN
    configuration.connection_pool_maxsize = KEPT_ALIVE
    return client.ApiClient(configuration)
