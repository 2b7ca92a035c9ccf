"""The controllers' work, done at once after each write: pods of Deployments, and EndpointSlices of Services."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from tests.support.kubernetes_api.kinds import Object
from tests.support.kubernetes_api.server import KubernetesApi
from tests.support.kubernetes_api.store import Event

CONTROLLER = "kube-controller-manager"
SERVICE = "kubernetes.io/service-name"


@dataclass(frozen=True)
class Behaviour:
    """How the pods of a Deployment do. By itself, all of them are ready.

    :param ready: how many become ready; None is all.
    :param waiting: why the containers of the others wait, ``CrashLoopBackOff`` for instance, with ``message``.
    :param restarts: how often those containers were started anew.
    :param refused: why no pod is made: what a quota or a policy says.
    :param stalled: what the Deployment says after its progress deadline.
    :param observed: whether the controller has seen the latest change of the Deployment.
    """

    ready: int | None = None
    waiting: str = ""
    message: str = ""
    restarts: int = 0
    refused: str = ""
    stalled: str = ""
    observed: bool = True


NEVER_READY = {"ready": 0}
CRASH_LOOP: dict[str, Any] = {"ready": 0, "waiting": "CrashLoopBackOff", "restarts": 3}


class Workloads:
    """Makes and removes pods on a server from now on."""

    def __init__(self, server: KubernetesApi) -> None:
        self._server = server
        self._behaviours: dict[str, Behaviour] = {}
        self._numbers = count(1)
        self._busy = False
        server.on_write(self._hear)
        self.sync()

    def let(self, deployment: str, **behaviour: Any) -> None:
        """Let the pods of a Deployment do so from now on: ``let("payments", ready=1)``, ``let("x", **CRASH_LOOP)``."""
        self._behaviours[deployment] = replace(Behaviour(), **behaviour)
        self.sync()

    def pods(self, deployment: str) -> list[Object]:
        """Return the pods of a Deployment."""
        return [pod for pod in self._server.all("Pod") if _owner(pod).get("name", "").rpartition("-")[0] == deployment]

    def sync(self, namespace: str | None = None) -> None:
        """Do all that is to be done, in one namespace or in all."""
        if self._busy:
            return
        self._busy = True
        try:
            with self._server.store.lock:
                deployments = self._server.all("Deployment", namespace)
                alive = {_replica_set(deployment)["uid"] for deployment in deployments}
                for pod in self._server.all("Pod", namespace):
                    if _owner(pod).get("uid", "").startswith("rs-") and _owner(pod)["uid"] not in alive:
                        self._remove(pod)
                for deployment in deployments:
                    self._sync_deployment(deployment, self._behaviours.get(_name(deployment), Behaviour()))
                self._sync_slices(namespace)
        finally:
            self._busy = False

    def _hear(self, event: Event) -> None:
        if event.kind.name in ("Deployment", "Service", "Pod"):
            self.sync((event.new or event.old or {})["metadata"]["namespace"])

    def _sync_deployment(self, deployment: Object, behaviour: Behaviour) -> None:
        if not behaviour.observed:
            return
        wanted = 0 if behaviour.refused else deployment["spec"].get("replicas", 1)
        owner, namespace = _replica_set(deployment), deployment["metadata"]["namespace"]
        there = [pod for pod in self._server.all("Pod", namespace) if _owner(pod).get("uid") == owner["uid"]]
        for pod in there[wanted:]:
            self._remove(pod)
        pods = there[:wanted] + [self._pod(deployment, owner) for _ in range(wanted - len(there))]
        ready = wanted if behaviour.ready is None else min(behaviour.ready, wanted)
        for number, pod in enumerate(pods):
            containers = deployment["spec"]["template"].get("spec", {}).get("containers", [])
            pod_status = _pod_status(containers, number < ready, behaviour)
            if pod.get("status") != pod_status:
                self._server.add({**pod, "status": pod_status}, manager="kubelet")
        status = _deployment_status(deployment, len(pods), ready, behaviour)
        if deployment.get("status") != status:
            self._server.edit(
                "Deployment", namespace, _name(deployment), lambda body: body.update(status=status), CONTROLLER
            )

    def _pod(self, deployment: Object, owner: Object) -> Object:
        template = deployment["spec"]["template"]
        metadata = template.get("metadata", {})
        digest = owner["name"].rpartition("-")[2]
        return {
            "kind": "Pod",
            "metadata": {
                "name": f"{owner['name']}-{next(self._numbers):05}",
                "namespace": deployment["metadata"]["namespace"],
                "labels": {**(metadata.get("labels") or {}), "pod-template-hash": digest},
                "annotations": dict(metadata.get("annotations") or {}),
                "ownerReferences": [owner],
            },
            "spec": template.get("spec", {"containers": []}),
        }

    def _sync_slices(self, namespace: str | None) -> None:
        wanted: dict[tuple[str, str], Object] = {}
        for service in self._server.all("Service", namespace):
            if selector := service["spec"].get("selector"):
                found = self._slice(service, selector)
                wanted[found["metadata"]["namespace"], _name(found)] = found
        for item in self._server.all("EndpointSlice", namespace):
            mine = item["metadata"].get("labels", {}).get(MANAGED_BY) == CONTROLLER
            if mine and (item["metadata"]["namespace"], _name(item)) not in wanted:
                self._server.remove("EndpointSlice", item["metadata"]["namespace"], _name(item))
        for (home, name), item in wanted.items():
            there = self._server.find("EndpointSlice", home, name)
            if there is None or any(there.get(key) != item[key] for key in ("endpoints", "ports")):
                self._server.add(item, manager=CONTROLLER)

    def _slice(self, service: Object, selector: dict[str, str]) -> Object:
        namespace, name = service["metadata"]["namespace"], _name(service)
        pods = [pod for pod in self._server.all("Pod", namespace, selector) if _runs(pod)]
        endpoints = [_endpoint(number, pod) for number, pod in enumerate(pods, 1)]
        labels = {SERVICE: name, MANAGED_BY: CONTROLLER}
        return {
            "kind": "EndpointSlice",
            "metadata": {"name": f"{name}-slice", "namespace": namespace, "labels": labels},
            "addressType": "IPv4",
            "endpoints": endpoints or None,
            "ports": service["spec"].get("ports"),
        }

    def _remove(self, item: Object) -> None:
        self._server.remove(item["kind"], item["metadata"]["namespace"], _name(item))


MANAGED_BY = "endpointslice.kubernetes.io/managed-by"


def _name(body: Object) -> str:
    return str(body["metadata"]["name"])


def _owner(pod: Object) -> Object:
    owners: list[Object] = pod["metadata"].get("ownerReferences") or [{}]
    return owners[0]


def _replica_set(deployment: Object) -> Object:
    """Return the reference of its pods to the ReplicaSet between; that itself is not kept."""
    template = json.dumps(deployment["spec"]["template"], sort_keys=True)
    digest = hashlib.sha256(template.encode()).hexdigest()[:9]
    uid = f"rs-{deployment['metadata']['uid']}-{digest}"
    name = f"{_name(deployment)}-{digest}"
    return {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": uid, "controller": True}


def _runs(pod: Object) -> bool:
    return (pod.get("status") or {}).get("phase") not in ("Succeeded", "Failed")


def _ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _condition(kind: str, holds: bool, reason: str, message: str = "") -> Object:
    return {"type": kind, "status": str(holds), "reason": reason, "message": message}


def _pod_status(containers: list[Object], ready: bool, behaviour: Behaviour) -> Object:
    waits = behaviour.waiting and not ready
    waiting = {"waiting": {"reason": behaviour.waiting, "message": behaviour.message}}
    statuses = [
        {
            "name": one["name"],
            "image": one.get("image", ""),
            "imageID": "",
            "ready": ready,
            "restartCount": behaviour.restarts if waits else 0,
            "state": waiting if waits else {"running": {}},
        }
        for one in containers
    ]
    condition = _condition("Ready", ready, "" if ready else "ContainersNotReady")
    return {"phase": "Running", "conditions": [condition], "containerStatuses": statuses}


def _deployment_status(deployment: Object, pods: int, ready: int, behaviour: Behaviour) -> Object:
    conditions = [_condition("Available", pods == ready, "MinimumReplicas")]
    reason = "ProgressDeadlineExceeded" if behaviour.stalled else "NewReplicaSetAvailable"
    conditions.append(_condition("Progressing", not behaviour.stalled, reason, behaviour.stalled))
    if behaviour.refused:
        conditions.append(_condition("ReplicaFailure", True, "FailedCreate", behaviour.refused))
    counts = {"replicas": pods, "updatedReplicas": pods, "readyReplicas": ready, "availableReplicas": ready}
    known = {key: value for key, value in counts.items() if value}  # as the API leaves out what is 0
    return {"observedGeneration": deployment["metadata"]["generation"], **known, "conditions": conditions}


def _endpoint(number: int, pod: Object) -> Object:
    metadata = pod["metadata"]
    ready = _ready(pod) and not metadata.get("deletionTimestamp")
    reference = {"kind": "Pod", "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "addresses": [f"10.0.0.{number}"],
        "conditions": {"ready": ready, "serving": ready, "terminating": bool(metadata.get("deletionTimestamp"))},
        "targetRef": reference,
    }
