"""The probe on the real gateway: if it does not reach the candidate, no user is sent there."""

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.errors import ConflictError
from airflow_deploy.clients.kubernetes.routes import create_route, patch_route, read_http_route
from airflow_deploy.clients.kubernetes.versions import apply_all
from airflow_deploy.domain.errors import ProbeFailedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.transitions import claim
from airflow_deploy.domain.workloads.manifests import route_object, version_objects
from airflow_deploy.rollout.routers import probe as testers
from tests.stack import StackInfo
from tests.stack import cluster as stacks
from tests.stack.access import kubectl
from tests.support.builders import make_plan, make_spec

SCOUT = "scout"


@pytest.fixture
def cluster(stack: StackInfo, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesClient]:
    monkeypatch.setenv(
        f"AIRFLOW_CONN_{SCOUT.upper()}",
        json.dumps({"conn_type": "kubernetes", "extra": {"kube_config_path": stack.admin_kubeconfig}}),
    )
    metadata = {"name": SCOUT, "labels": stacks.Cluster.load().label}
    home = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    kubectl("delete", "namespace", SCOUT, "--ignore-not-found", "--wait")
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(home))
    yield connect(SCOUT)
    kubectl("delete", "namespace", SCOUT, "--wait=false")


def claimed(cluster: KubernetesClient, url: str) -> tuple[DeploymentPlan, Claim]:
    """Return the plan and the claim of a first version on its own route; its image is nowhere, so no pod is ready."""
    namespace, _, name = stacks.Cluster.load().gateway.partition("/")
    where = {"gateway": {"namespace": namespace, "name": name}, "hostnames": [f"{SCOUT}.test"]}
    spec = make_spec(service=SCOUT, namespace=SCOUT, route={"name": SCOUT, "url": url, **where})
    plan = make_plan(spec, stable="")
    apply_all(cluster, version_objects(plan))
    made = create_route(cluster, route_object(spec))
    for _ in range(50):
        ours, patch = claim(made, plan.claim())
        # The gateway may write its status between the two calls.
        with suppress(ConflictError):
            patch_route(cluster, made, patch)
            return plan, ours
        made = read_http_route(cluster, SCOUT, SCOUT)
    raise AssertionError("the route never comes to rest")


def test_a_candidate_that_the_gateway_does_not_reach_gets_no_share(
    stack: StackInfo, cluster: KubernetesClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, ours = claimed(cluster, stack.gateway_url)
    monkeypatch.setattr(testers, "PROBE_WAIT_SECONDS", 5.0)
    with pytest.raises(ProbeFailedError, match=r"was not seen to reach .*: 503; see whether"):
        testers.probe_candidate(cluster, plan, ours)
    assert not read_http_route(cluster, SCOUT, SCOUT).serves(plan.candidate)
