"""The controllers: pods, conditions and endpoints of Deployments."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from tests.support.kubernetes_api import CRASH_LOOP, NEVER_READY, KubernetesApi, Object, Workloads
from tests.unit.kubernetes_api.objects import deployment, service


class TestWorkloads:
    @pytest.fixture
    def workloads(self, server: KubernetesApi) -> Workloads:
        return Workloads(server)

    def ready(self, server: KubernetesApi, name: str = "payments") -> int:
        (found,) = server.all("EndpointSlice", "shop", {"kubernetes.io/service-name": name})
        return sum(endpoint["conditions"]["ready"] for endpoint in found["endpoints"] or [])

    def test_deployment_gets_its_pods_at_once(self, server: KubernetesApi, api: Any, workloads: Workloads) -> None:
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

    def test_oldest_pods_stay_when_replicas_are_added(self, server: KubernetesApi, workloads: Workloads) -> None:
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

    def test_crashing_container_is_in_the_pods_status(
        self, server: KubernetesApi, api: Any, workloads: Workloads
    ) -> None:
        workloads.let("payments", **CRASH_LOOP, message="back-off")
        server.add(deployment())
        status = client.CoreV1Api(api).list_namespaced_pod("shop").items[0].status.container_statuses[0]
        assert (status.state.waiting.reason, status.state.waiting.message) == ("CrashLoopBackOff", "back-off")
        assert status.restart_count == 3

    def test_deployment_conditions_name_the_reason_for_missing_pods(
        self, server: KubernetesApi, workloads: Workloads
    ) -> None:
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

    def test_controller_may_lag_behind_the_generation(self, server: KubernetesApi, workloads: Workloads) -> None:
        server.add(deployment())
        workloads.let("payments", observed=False)
        server.edit("Deployment", "shop", "payments", lambda body: body["spec"].update(replicas=5))
        found = server.get("Deployment", "shop", "payments")
        assert (found["metadata"]["generation"], found["status"]["observedGeneration"]) == (2, 1)

    def test_pods_without_an_owner_are_kept_and_counted(self, server: KubernetesApi, workloads: Workloads) -> None:
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        pod = {"kind": "Pod", "metadata": {"name": "alone", "namespace": "shop", "labels": {"app": "payments"}}}
        server.add({**pod, "status": ready}, service(), deployment(replicas=1))
        assert self.ready(server) == 2
        server.edit(
            "Pod", "shop", "alone", lambda body: body["metadata"].update(deletionTimestamp="2027-01-01T00:00:00Z")
        )
        assert self.ready(server) == 1
