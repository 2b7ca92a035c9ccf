"""The Kubernetes cluster: the team's route, and server-side apply for our own objects."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from urllib3 import Retry

from airflow_deploy.clients.kubernetes.errors import REQUEST_TIMEOUT, Timeout, exists_already, ignore_not_found
from airflow_deploy.clients.kubernetes.errors import errors as _errors
from airflow_deploy.clients.kubernetes.inventory import Inventory
from airflow_deploy.clients.kubernetes.traffic import FIELD_MANAGER
from airflow_deploy.clients.shared import POOL_SIZE, shared
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.values import printable

WRITE_RETRIES = Retry(
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
POLICY_REFUSALS = ("violates PodSecurity", "denied the request", "denied request")
"""What Pod Security, admission webhooks and admission policies say of a pod that they refuse."""
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


@dataclass(frozen=True)
class Parts:
    """What a Service's pods are made of: without it, no pod of it could start anew. Both are sorted."""

    images: tuple[str, ...]
    config_maps: tuple[str, ...]


class Cluster(Inventory):
    """One cluster, as the Airflow connection ``connection`` reaches it.

    :param purpose: those of one purpose share their connections to the server. What is asked for a purpose of its own
        is sent once, since it comes again by itself.
    :param timeout: of each request, unless a call says otherwise.
    """

    def __init__(self, connection: str, purpose: str = "", timeout: Timeout = REQUEST_TIMEOUT) -> None:
        from kubernetes import client

        super().__init__(_api_client(connection, purpose), timeout)
        self._apps = client.AppsV1Api(self._api)
        self._core = client.CoreV1Api(self._api)

    def apply(self, objects: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> None:
        """Server-side apply our own objects, in their order.

        :param dry_run: let the server check everything, its admission included, and write nothing.
        :raises RefusedError: the server does not accept an object.
        """
        from kubernetes.dynamic import DynamicClient
        from kubernetes.dynamic.exceptions import ResourceNotFoundError

        with _errors("reading the cluster's API list"):
            dynamic = DynamicClient(self._api)
        for item in objects:
            what = f"{item['kind']} {item['metadata']['namespace']}/{item['metadata']['name']}"
            with _errors(f"applying {what}", invalid=RefusedError):
                try:
                    resource = dynamic.resources.get(api_version=item["apiVersion"], kind=item["kind"])
                except ResourceNotFoundError as error:
                    unknown = f"{what}: the cluster knows no {item['kind']} of {item['apiVersion']}"
                    raise RefusedError(f"{unknown}; install its CRDs") from error
                dynamic.server_side_apply(
                    resource,
                    body=item,
                    name=item["metadata"]["name"],
                    namespace=item["metadata"]["namespace"],
                    field_manager=FIELD_MANAGER,
                    force_conflicts=True,
                    **({"dry_run": "All"} if dry_run else {}),
                    _request_timeout=self._timeout,
                )

    def readiness(self, namespace: str, name: str) -> Readiness:
        """Say how far the Deployment ``name`` has come."""
        with _errors(f"reading Deployment {namespace}/{name}"):
            deployment = self._apps.read_namespaced_deployment(name, namespace, _request_timeout=self._timeout)
        status, wanted = deployment.status, deployment.spec.replicas or 0
        if (status.observed_generation or 0) < deployment.metadata.generation:
            return Readiness(0, wanted, None)
        for condition in status.conditions or []:
            if condition.type == "Progressing" and condition.status == "False":
                return Readiness(status.ready_replicas or 0, wanted, condition.message)
            # A quota may have room later; a policy that refuses these pods will refuse them again.
            if condition.type == "ReplicaFailure" and any(said in condition.message for said in POLICY_REFUSALS):
                refusal = f"the namespace refuses its pods: {printable(condition.message, 400)}"
                return Readiness(status.ready_replicas or 0, wanted, refusal)
        return Readiness(status.available_replicas or 0, wanted, self._hopeless(namespace, name))

    def _hopeless(self, namespace: str, version: str) -> str | None:
        """Return why a pod of this version will never be ready, where that is known already."""
        with _errors(f"listing the pods of {namespace}/{version}"):
            pods = self._core.list_namespaced_pod(
                namespace, label_selector=f"app.kubernetes.io/version={version}", _request_timeout=self._timeout
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
        with _errors(f"reading Deployment {namespace}/{name}"), ignore_not_found():
            self._apps.read_namespaced_deployment(name, namespace, _request_timeout=self._timeout)
            return True
        return False

    def parts_of(self, namespace: str, service: str) -> Parts:
        """Return what the pods behind the Service ``service`` are made of."""
        with _errors(f"listing the pods behind {namespace}/{service}"):
            slices = self._discovery.list_namespaced_endpoint_slice(
                namespace, label_selector=f"kubernetes.io/service-name={service}", _request_timeout=self._timeout
            ).items
            pods = self._core.list_namespaced_pod(namespace, _request_timeout=self._timeout).items
        refs = (endpoint.target_ref for item in slices for endpoint in item.endpoints or [])
        names = {ref.name for ref in refs if ref and ref.kind == "Pod"}
        behind = [pod.spec for pod in pods if pod.metadata.name in names]
        containers = [one for pod in behind for one in [*(pod.init_containers or []), *pod.containers]]
        maps = {name for pod in behind for name in _config_maps(pod)}
        return Parts(tuple(sorted({one.image for one in containers})), tuple(sorted(maps)))

    def has_config_map(self, namespace: str, name: str) -> bool:
        """Whether the ConfigMap ``name`` is there, asked without the right to read what it says."""
        from kubernetes.client import ApiException

        with _errors(f"looking for ConfigMap {namespace}/{name}"):
            try:
                self._core.create_namespaced_config_map(
                    namespace, {"metadata": {"name": name}}, dry_run="All", _request_timeout=self._timeout
                )
            except ApiException as error:
                if exists_already(error):
                    return True
                raise
        return False

    def scale(self, namespace: str, name: str, replicas: int, as_read: Mapping[str, Any] | None = None) -> None:
        """Set the number of the Deployment's pods.

        :param as_read: the Deployment; where it has changed since, nothing is written.
        :raises TemporaryError: it has.
        """
        fence = {"metadata": {"resourceVersion": as_read["metadata"]["resourceVersion"]}} if as_read else {}
        with _errors(f"scaling Deployment {namespace}/{name}"):
            self._apps.patch_namespaced_deployment_scale(
                name,
                namespace,
                {**fence, "spec": {"replicas": replicas}},
                field_manager=FIELD_MANAGER,
                _request_timeout=self._timeout,
            )


def _config_maps(pod: Any) -> Iterator[str]:
    """Yield the ConfigMaps without which no pod of this spec starts."""
    containers = [*(pod.init_containers or []), *pod.containers]
    found = [source.config_map_ref for one in containers for source in one.env_from or []]
    found += [item.value_from and item.value_from.config_map_key_ref for one in containers for item in one.env or []]
    volumes = [volume for volume in pod.volumes or [] if volume.config_map]
    yield from (ref.name for ref in found if ref and not ref.optional)
    yield from (volume.config_map.name for volume in volumes if not volume.config_map.optional)


@shared
def _api_client(connection: str, purpose: str) -> Any:
    """Return a client that opens a connection where all others are in use, so that nobody waits for another's."""
    # Both imports cost seconds, and this module is imported wherever a DAG file is parsed.
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook
    from kubernetes import client

    configuration = copy(KubernetesHook(conn_id=connection).api_client.configuration)
    configuration.retries = False if purpose else WRITE_RETRIES
    configuration.connection_pool_maxsize = POOL_SIZE
    return client.ApiClient(configuration)
