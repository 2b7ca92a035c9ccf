"""Pods: how many are ready, of which version, why they will never be, and how many there shall be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_deploy.clients.kubernetes.client import Item, KubernetesClient
from airflow_deploy.clients.kubernetes.errors import AlreadyExistsError, NotFoundError, PatchTestError, Timeout
from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.labels import DEPLOYMENT, MANAGED_BY, MANAGER, VERSION, WITHDRAWN
from airflow_deploy.domain.routing.record import annotation_path, label_path, test_op
from airflow_deploy.domain.routing.service_route import ServiceRoute
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.domain.values import printable

POLICY_REFUSALS = ("violates PodSecurity", "denied the request", "denied request")
"""How Pod Security, admission webhooks and admission policies begin the refusal of a pod."""
HOPELESS_WAITING = frozenset({"InvalidImageName", "CreateContainerConfigError", "CreateContainerError"})


@dataclass(frozen=True)
class Readiness:
    """How far a Deployment has come: ``failed`` is the reason why it never will be ready."""

    ready: int
    wanted: int
    failed: str | None

    @property
    def done(self) -> bool:
        """Whether all wanted pods are ready."""
        return self.ready >= self.wanted > 0


@dataclass(frozen=True)
class PodParts:
    """What a Service's pods need to start again. Both are sorted."""

    images: tuple[str, ...]
    config_maps: tuple[str, ...]


def ready_pods(
    cluster: KubernetesClient,
    namespace: str,
    version: str,
    labels: Mapping[str, str] | None,
    timeout: Timeout | None = None,
) -> int:
    """Return how many pods of ``version`` can serve a request now.

    :param labels: those of its pods; None if the version has a Service of its own name.
    """
    if labels is None:
        return ready_endpoints(cluster, namespace, version, timeout)
    return ready_by_deployment(cluster, namespace, labels, timeout).get(version, 0)


def ready_endpoints(cluster: KubernetesClient, namespace: str, service: str, timeout: Timeout | None = None) -> int:
    """Return to how many pods the Service ``service`` can send a request now."""
    # A pod with two addresses is in two slices.
    ready = {
        (endpoint.get("targetRef") or {}).get("uid") or endpoint["addresses"][0]
        for endpoint in _endpoints(cluster, namespace, service, timeout)
        if (endpoint.get("conditions") or {}).get("ready") is not False
    }
    return len(ready)


def ready_by_deployment(
    cluster: KubernetesClient, namespace: str, labels: Mapping[str, str], timeout: Timeout | None = None
) -> dict[str, int]:
    """Return the number of ready pods with these labels by the name of their Deployment.

    A pod without a Deployment counts under its own name. A pod that has ended, or is terminating, is left out.
    """
    found: dict[str, int] = {}
    for pod in filter(is_live, cluster.list("Pod", namespace, labels=labels, timeout=timeout)):
        name = _deployment_of(pod)
        found[name] = found.get(name, 0) + _is_ready(pod)
    return found


def started_at(cluster: KubernetesClient, namespace: str) -> dict[str, float]:
    """Return when the oldest pod of each version was created, in unix seconds, by the version's name."""
    found: dict[str, float] = {}
    for pod in filter(is_live, cluster.list("Pod", namespace, labels=VERSION)):
        name = pod["metadata"]["labels"][VERSION]
        created = datetime.fromisoformat(pod["metadata"]["creationTimestamp"]).timestamp()
        found[name] = min(created, found.get(name, created))
    return found


def deployment_exists(cluster: KubernetesClient, namespace: str, name: str) -> bool:
    """Whether the Deployment ``name`` exists."""
    return cluster.find("Deployment", namespace, name) is not None


def deployment_readiness(cluster: KubernetesClient, namespace: str, name: str) -> Readiness:
    """Return how far the Deployment ``name`` has come."""
    deployment = cluster.get("Deployment", namespace, name)
    status, wanted = deployment.get("status") or {}, int(deployment["spec"].get("replicas") or 0)
    if int(status.get("observedGeneration") or 0) < int(deployment["metadata"].get("generation") or 0):
        return Readiness(0, wanted, None)
    ready = int(status.get("readyReplicas") or 0)
    for condition in status.get("conditions") or []:
        message = str(condition.get("message") or "")
        if condition["type"] == "Progressing" and condition["status"] == "False":
            return Readiness(ready, wanted, message)
        # A quota may have room later; a policy that refuses these pods refuses them again.
        if condition["type"] == "ReplicaFailure" and any(refusal in message for refusal in POLICY_REFUSALS):
            return Readiness(ready, wanted, f"the namespace refuses its pods: {printable(message, 400)}")
    return Readiness(int(status.get("availableReplicas") or 0), wanted, _hopeless(cluster, namespace, name))


def _hopeless(cluster: KubernetesClient, namespace: str, version: str) -> str | None:
    """Return why a pod of this version will never be ready, None if that is not known."""
    for pod in cluster.list("Pod", namespace, labels={VERSION: version}):
        for status in (pod.get("status") or {}).get("containerStatuses") or []:
            waiting = (status.get("state") or {}).get("waiting")
            if not waiting:
                continue
            reason = waiting.get("reason")
            crashes = reason == "CrashLoopBackOff" and int(status.get("restartCount") or 0) >= 2
            if crashes or reason in HOPELESS_WAITING:
                return (
                    f"pod {pod['metadata']['name']}: {reason} {printable(waiting.get('message') or '', 200)}".rstrip()
                )
    return None


def scale_deployment(
    cluster: KubernetesClient, namespace: str, version: str, replicas: int, as_read: Mapping[str, Any] | None = None
) -> None:
    """Set the number of pods of a version of ours.

    :param as_read: its Deployment; if it changed since, nothing is written.
    :raises ConflictError: it changed, or is not a version of ours.
    """
    fence = [test_op("/metadata/resourceVersion", as_read["metadata"]["resourceVersion"])] if as_read else []
    cluster.patch("Deployment", namespace, version, [*_is_ours(version), *fence, _set_replicas(replicas)])


def start_pods(cluster: KubernetesClient, namespace: str, version: str, pods: int) -> None:
    """Give a version whose pods are its share so many of them, unless they were withdrawn.

    :raises ConflictError: they were; the next read of the route says so.
    """
    kept = test_op(annotation_path(WITHDRAWN), "no")
    cluster.patch("Deployment", namespace, version, [*_is_ours(version), kept, _set_replicas(pods)])


def withdraw_pods(cluster: KubernetesClient, route: TeamRoute, version: str) -> None:
    """Take the version's pods away for good if they are its share; with a gateway, do nothing.

    The route says so before this is called, so that no other step starts them again.

    :raises FencedError: the Deployment of that name was not created by the deployment that owns the route: the route's
        record was written by another client.
    """
    if not isinstance(route, ServiceRoute):
        return
    namespace, owner = route.body["metadata"]["namespace"], (route.owner or "").rpartition("/")[0]
    ours = [*_is_ours(version), test_op(annotation_path(DEPLOYMENT), owner)]
    withdrawn = {"op": "add", "path": annotation_path(WITHDRAWN), "value": "yes"}
    try:
        cluster.patch("Deployment", namespace, version, [*ours, withdrawn, _set_replicas(0)])
    except NotFoundError:
        return
    except PatchTestError as error:
        raise FencedError(
            f"Deployment {namespace}/{version} was not created by {owner or 'a deployment'}; its pods are left alone:"
            f" correct the annotations of {route.name}"
        ) from error


def parts_of(cluster: KubernetesClient, namespace: str, service: str) -> PodParts:
    """Return what the pods behind the Service ``service`` need to start."""
    refs = (endpoint.get("targetRef") or {} for endpoint in _endpoints(cluster, namespace, service))
    names = {ref.get("name") for ref in refs if ref.get("kind") == "Pod"}
    specs = [pod["spec"] for pod in cluster.list("Pod", namespace) if pod["metadata"]["name"] in names]
    images = {container["image"] for spec in specs for container in _containers(spec)}
    return PodParts(tuple(sorted(images)), tuple(sorted({name for spec in specs for name in _config_maps(spec)})))


def config_map_exists(cluster: KubernetesClient, namespace: str, name: str) -> bool:
    """Whether the ConfigMap ``name`` exists, asked without the right to read its content."""
    try:
        cluster.create(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": namespace, "name": name}}, dry_run=True
        )
    except AlreadyExistsError:
        return True
    return False


def is_live(pod: Mapping[str, Any]) -> bool:
    """Whether a pod has neither ended nor is terminating."""
    ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
    return not ended and not pod["metadata"].get("deletionTimestamp")


def _endpoints(
    cluster: KubernetesClient, namespace: str, service: str, timeout: Timeout | None = None
) -> Iterator[Item]:
    slices = cluster.list("EndpointSlice", namespace, labels={"kubernetes.io/service-name": service}, timeout=timeout)
    for item in slices:
        yield from item.get("endpoints") or []


def _is_ours(version: str) -> list[dict[str, Any]]:
    """Return the tests by which a patch changes no Deployment but this version's: an annotation may have named it."""
    return [test_op(label_path(MANAGED_BY), MANAGER), test_op(label_path(VERSION), version)]


def _set_replicas(number: int) -> dict[str, Any]:
    return {"op": "add", "path": "/spec/replicas", "value": number}


def _deployment_of(pod: Mapping[str, Any]) -> str:
    """Return the name of the pod's Deployment: a ReplicaSet's name is that name and a hash."""
    metadata = pod["metadata"]
    digest = (metadata.get("labels") or {}).get("pod-template-hash", "")
    for owner in metadata.get("ownerReferences") or []:
        if owner["kind"] == "ReplicaSet" and owner.get("controller") and owner["name"].endswith(f"-{digest}"):
            return str(owner["name"].removesuffix(f"-{digest}"))
    return str(metadata["name"])


def _is_ready(pod: Mapping[str, Any]) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def _containers(spec: Mapping[str, Any]) -> list[Item]:
    return [*(spec.get("initContainers") or []), *spec["containers"]]


def _config_maps(spec: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ConfigMaps without which no pod of this spec starts."""
    found: list[Any] = []
    for container in _containers(spec):
        found += [source.get("configMapRef") for source in container.get("envFrom") or []]
        found += [(item.get("valueFrom") or {}).get("configMapKeyRef") for item in container.get("env") or []]
    found += [volume.get("configMap") for volume in spec.get("volumes") or []]
    yield from (ref["name"] for ref in found if ref and not ref.get("optional"))
