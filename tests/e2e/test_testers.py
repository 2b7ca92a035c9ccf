"""The probe on the real gateway: if it does not reach the candidate, no user is sent there."""

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.clients.kubernetes.errors import ConflictError
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
def cluster(stack: StackInfo, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setenv(
        f"AIRFLOW_CONN_{SCOUT.upper()}",
        json.dumps({"conn_type": "kubernetes", "extra": {"kube_config_path": stack.admin_kubeconfig}}),
    )
    metadata = {"name": SCOUT, "labels": stacks.Cluster.load().label}
    home = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    kubectl("delete", "namespace", SCOUT, "--ignore-not-found", "--wait")
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(home))
    yield Cluster(SCOUT)
    kubectl("delete", "namespace", SCOUT, "--wait=false")


def claimed(cluster: Cluster, url: str) -> tuple[DeploymentPlan, Claim]:
    """Return the plan and the claim of a first version on its own route; its image is nowhere, so no pod is ready."""
    namespace, _, name = stacks.Cluster.load().gateway.partition("/")
    where = {"gateway": {"namespace": namespace, "name": name}, "hostnames": [f"{SCOUT}.test"]}
    spec = make_spec(service=SCOUT, namespace=SCOUT, route={"name": SCOUT, "url": url, **where})
    plan = make_plan(spec, stable="")
    cluster.apply(version_objects(plan))
    made = cluster.create_route(route_object(spec))
    for _ in range(50):
        ours, patch = claim(made, plan.claim())
        # The gateway may write its status between the two calls.
        with suppress(ConflictError):
            cluster.patch_route(made, patch)
            return plan, ours
        made = cluster.route(SCOUT, SCOUT)
    raise AssertionError("the route never comes to rest")


def test_a_candidate_that_the_gateway_does_not_reach_gets_no_share(
    stack: StackInfo, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, ours = claimed(cluster, stack.gateway_url)
    monkeypatch.setattr(testers, "PROBE_WAIT_SECONDS", 5.0)
    with pytest.raises(ProbeFailedError, match=r"was not seen to reach .*: 503; see whether"):
        testers.probe_candidate(cluster, plan, ours)
    assert not cluster.route(SCOUT, SCOUT).serves(plan.candidate)
