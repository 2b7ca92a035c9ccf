"""A route as teams have them: several rules and hostnames, some of it switched off, and a GitOps tool's own."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.e2e.deployment import Deployment, afresh
from tests.e2e.world import SMALL, World, served
from tests.stack import StackInfo
from tests.stack.access import kubectl
from tests.stack.service import declare

PIER, OTHER_HOST = "pier", "harbour.test"
ASKED: dict[str, Any] = {"bake": 5, "stages": [50, 100], "criticality": "medium"}


def backend(name: str, weight: int) -> dict[str, Any]:
    return {"name": name, "port": 80, "weight": weight}


RULES: list[dict[str, Any]] = [
    {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}, "headers": [{"name": "x-region", "value": "eu"}]}],
        "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": [{"name": "x", "value": "y"}]}}],
        "backendRefs": [backend(PIER, 1)],
    },
    {
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [backend(PIER, 1), backend(f"{PIER}-by-hand", 0)],
    },
    {
        "matches": [{"path": {"type": "PathPrefix", "value": "/closed"}}],
        "backendRefs": [backend(PIER, 0), backend(f"{PIER}-by-hand", 0)],
    },
]


@pytest.fixture(scope="module")
def pier(stack: StackInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with served(stack, PIER, tmp_path_factory.mktemp(PIER), commit="good", **ASKED) as world:
        service = json.loads(kubectl("-n", PIER, "get", "service", PIER, "-o", "json"))
        by_hand = {"name": f"{PIER}-by-hand", "namespace": PIER}
        spec = {"selector": service["spec"]["selector"], "ports": service["spec"]["ports"]}
        kubectl("apply", "-f", "-", stdin=json.dumps({**service, "metadata": by_hand, "spec": spec}))
        synchronise(RULES)
        yield world


@pytest.fixture
def world(pier: World) -> World:
    return afresh(pier)


def live() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(kubectl("-n", PIER, "get", "httproute", PIER, "-o", "json"))
    return found


def synchronise(rules: list[dict[str, Any]]) -> None:
    """Apply the route as Argo CD does."""
    now = live()
    spec = {"parentRefs": now["spec"]["parentRefs"], "hostnames": [f"{PIER}.test", OTHER_HOST], "rules": rules}
    route = {"apiVersion": now["apiVersion"], "kind": "HTTPRoute", "metadata": {"name": PIER, "namespace": PIER}}
    how = "--server-side", "--force-conflicts", "--field-manager=argocd-controller"
    kubectl("apply", *how, "-f", "-", stdin=json.dumps({**route, "spec": spec}))


def as_the_teams() -> list[dict[str, Any]]:
    """Return the live rules without what is ours in them, and without what the server has added."""
    rules = copy.deepcopy(live()["spec"]["rules"])
    for rule in rules[:2]:
        rule["backendRefs"] = [ref for ref in rule["backendRefs"] if ref["name"] == f"{PIER}-by-hand"]
    kept = {"name", "port", "weight"}
    return [{**rule, "backendRefs": [{key: ref[key] for key in kept} for ref in rule["backendRefs"]]} for rule in rules]


def answered_by(world: World, host: str, path: str = "/payments", **headers: str) -> str | None:
    """Return which version answers; None if none does."""
    answer = requests.post(
        f"{world.info.gateway_url}{path}",
        headers={"Host": host, "Content-Type": "application/json", **headers},
        data=b'{"amount":1050,"currency":"EUR"}',
        timeout=10,
    )
    return answer.headers.get("X-Version") if answer.ok else None


def test_plan_refuses_a_route_of_a_gitops_tool_until_the_spec_says_it_is_ignored(world: World) -> None:
    before = live()["spec"]
    deployment = Deployment(world, world.sample.good)
    assert world.ended(deployment.run) == "failed"
    said = "\n".join(world.api.log(world.dag, deployment.run, "plan"))
    assert "argocd-controller owns its rules and would set back" in said
    assert "then set route.ignored_by_gitops: true" in said
    assert live()["spec"] == before


def test_a_deployment_shifts_every_rule_and_hostname_but_those_switched_off(world: World) -> None:
    where = {"name": PIER, "url": world.info.gateway_url, "ignored_by_gitops": True}
    declare(world.info, world.sample, PIER, resources=SMALL, **ASKED, route=where)
    world.api.await_read(world.dag)
    before = as_the_teams()

    bad = Deployment(world, world.sample.bad)
    bad.rolled_back("BREACHED", "error_rate")
    assert as_the_teams() == before
    synchronise(
        [{**ours, "backendRefs": now["backendRefs"]} for ours, now in zip(RULES, live()["spec"]["rules"], strict=True)]
    )
    afresh(world)

    good = Deployment(world, world.sample.good)
    said = good.ended()
    assert (good.state, said["state"]) == ("success", "VERIFIED")
    assert good.failed() == []
    assert as_the_teams() == before
    reached = [
        (f"{PIER}.test", {}),
        (OTHER_HOST, {}),
        (f"{PIER}.test", {"x-region": "eu"}),
        (OTHER_HOST, {"x-region": "eu"}),
    ]
    assert {answered_by(world, host, **headers) for host, headers in reached} == {said["candidate"]}
    assert answered_by(world, f"{PIER}.test", "/closed/payments") is None
