"""Capacity on the real stack: shares wait for pods, dead pods cause a rollback, and plan needs a rollback target.

All of it happens to one service, which is not one that the other lanes' tests take turns on.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.deployment import RESTORED_WITHIN, Deployment, afresh
from tests.e2e.trail import unix
from tests.e2e.world import SMALL, World, served
from tests.stack import StackInfo
from tests.stack.access import kubectl
from tests.stack.service import declare

BOOTH = "booth"
REPLICAS = 4


@pytest.fixture(scope="module")
def booth(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(stack, BOOTH, tmp_path_factory.mktemp(BOOTH), commit="good", criticality="medium") as world:
        yield world


@pytest.fixture
def world(booth: World) -> World:
    return afresh(booth)


def declared(world: World, **fields: Any) -> None:
    given: dict[str, Any] = {"bake": 5, "stages": [50, 100], "criticality": "medium", "resources": SMALL, **fields}
    declare(world.info, world.sample, BOOTH, **given)
    world.api.await_read(world.dag)


def stable_of(world: World) -> str:
    (serving,) = (name for name, weight in world.weights().items() if weight)
    return serving


def deployment_of(world: World, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("-n", BOOTH, "get", "deployment", name, "-o", "json"))
    return found


def refused_by_plan(world: World, why: str) -> None:
    """The plan of a deployment refuses it, says why, and nothing has been written."""
    before = world.objects(), world.weights(), world.images()
    run = world.deploy(world.sample.good)
    assert world.ended(run) == "failed"
    assert why in "\n".join(world.api.log(world.dag, run, "plan"))
    assert (world.objects(), world.weights(), world.images()) == before


def test_plan_refuses_a_stable_without_ready_pods(world: World) -> None:
    declared(world)
    stable = stable_of(world)
    kubectl("-n", BOOTH, "scale", "deployment", stable, "--replicas=0")
    try:
        world.until(lambda: not deployment_of(world, stable)["status"].get("replicas"), f"{stable} has no pod", 60)
        refused_by_plan(world, f"{stable} has no ready pod, so no rollback would be possible; start it")
    finally:
        kubectl("-n", BOOTH, "scale", "deployment", stable, "--replicas=2")
        kubectl("-n", BOOTH, "rollout", "status", f"deployment/{stable}", "--timeout=60s")


@pytest.fixture
def refused(booth: World) -> Iterator[None]:
    """Let the namespace refuse the pods of every version of ours, as a team's own policy may."""
    group, name = "admissionregistration.k8s.io", f"{BOOTH}-refuses"
    pods = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
    rule = {"expression": "!('app.kubernetes.io/version' in object.metadata.labels)", "message": "versions are refused"}
    policy = {
        "apiVersion": f"{group}/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [pods]}, "validations": [rule]},
    }
    where = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": BOOTH}}}
    binding = {
        "apiVersion": f"{group}/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": where},
    }
    for item in (policy, binding):
        kubectl("apply", "-f", "-", stdin=json.dumps(item))
    yield
    kubectl("delete", f"validatingadmissionpolicybindings.{group},validatingadmissionpolicies.{group}", name)


@pytest.mark.usefixtures("refused")
def test_wait_ready_reports_pods_refused_by_the_namespace_before_any_traffic(world: World) -> None:
    declared(world)
    before = world.weights()
    deployment = Deployment(world, world.sample.good)
    deployment.ended()
    assert (deployment.state, deployment.summary["state"]) == ("failed", "ROLLED_BACK")
    said = "\n".join(world.api.log(world.dag, deployment.run, "wait_ready"))
    assert "does not become ready: the namespace refuses its pods: " in said
    assert "versions are refused" in said
    assert world.tasks(deployment.run)["claim_route"] == "upstream_failed"
    assert world.weights() == before


def test_a_candidate_that_loses_all_pods_at_50_percent_is_rolled_back(world: World, record_property: Any) -> None:
    declared(world, bake=120)
    deployment = Deployment(world, world.sample.good)
    candidate = deployment.exposed()
    world.until(lambda: [r for r in deployment.requests() if r.version == candidate][50:], "users are on it")
    kubectl("-n", BOOTH, "scale", "deployment", candidate, "--replicas=0")  # by a person
    deployment.rolled_back("BREACHED", "ready_pods")
    failed, said = deployment.failed(), deployment.summary
    # The gateway answered the requests to its pods, without a version.
    assert {request.version for request in failed} == {""}
    gone, verdict, restored = failed[0].sent, unix(said["verdict_at"]), unix(said["restored_at"])
    last = max(request.sent for request in failed)
    for name, figure in {
        "requests failed": len(failed),
        "seconds to the verdict": verdict - gone,
        "seconds from the verdict": max(restored, last) - verdict,
    }.items():
        record_property(name, figure)
        print(f"{name}: {figure:.3g}")
    assert max(restored, last) - verdict < RESTORED_WITHIN


def test_proportional_capacity_is_ready_before_each_share_and_loses_no_request(world: World) -> None:
    declared(world, stages=[25, 50, 100], replicas=REPLICAS, capacity="proportional")
    deployment = Deployment(world, world.sample.good)
    candidate = deployment.exposed()
    wanted: dict[int, set[int]] = {}

    def ended() -> bool:
        pods = world.replicas(candidate)
        share = world.weights()[candidate]
        # Pods only ever become more: those of now were no fewer when the share was given.
        ready = deployment_of(world, candidate)["status"].get("readyReplicas", 0)
        assert ready >= -(-REPLICAS * share // 100), f"{ready} pods at {share} %"
        wanted.setdefault(share, set()).add(pods)
        return world.tasks(deployment.run)["promote"] in ("success", "failed", "upstream_failed", "skipped")

    world.until(ended, "it is promoted, or not")
    deployment.ended()
    assert (deployment.state, deployment.summary["state"]) == ("success", "VERIFIED")
    assert {share: min(pods) for share, pods in wanted.items()} == {25: 1, 50: 2, 100: 4}
    assert deployment.failed() == []


def test_plan_refuses_a_stable_without_its_configmap(world: World) -> None:
    """The version before this test's deployment is one of ours: its pods read a ConfigMap of its name."""
    declared(world)
    stable = stable_of(world)
    kept = json.loads(kubectl("-n", BOOTH, "get", "configmap", stable, "-o", "json"))
    kubectl("-n", BOOTH, "delete", "configmap", stable)
    try:
        refused_by_plan(world, f"ConfigMap {BOOTH}/{stable} is gone, and no pod of {stable} could start without it")
    finally:
        metadata = {key: kept["metadata"][key] for key in ("name", "namespace", "labels", "annotations")}
        kubectl("apply", "-f", "-", stdin=json.dumps({**kept, "metadata": metadata}))
