"""Whole deployments through Airflow's REST API, on real Kubernetes, under traffic."""

import json
import re
from collections import Counter

import pytest
import requests

from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.metrics.sources import SOURCES
from airflow_deploy.safety_gate import deploy_from_safety_gate
from tests.e2e import terminal
from tests.e2e.graphs import graphs, link
from tests.e2e.trail import audited, check_consistent, states, summary, transitions
from tests.e2e.world import PATIENCE, RISKY, World
from tests.stack.access import kubectl
from tests.stack.cluster import Cluster
from tests.stack.demo import conf
from tests.stack.gateway import METRICS_PORT
from tests.stack.http import get
from tests.stack.layout import ADDRESS

TRAEFIK = SOURCES["traefik"]
METRICS = f"http://{ADDRESS}:{METRICS_PORT}/metrics"


def test_a_rejection_by_a_person_or_the_safety_gate_deploys_nothing(world: World) -> None:
    before = world.objects()
    asked = world.deploy(world.sample.good, change=RISKY)
    world.asked(asked, "approve")
    assert world.api.answer("deploy_payments", asked, "approve", "Reject") == 200
    assert world.ended(asked) == "failed"
    vetoed = world.deploy(world.sample.good, safety_gate={"recommendation": "HOLD", "tests": {"passed": 1, "total": 1}})
    assert world.ended(vetoed) == "failed"

    folders = [audited(world, run) for run in (asked, vetoed)]
    assert states(folders[0]) == ["INIT", "BUILDING", "AWAITING_APPROVAL", "REJECTED"]
    assert states(folders[1]) == ["INIT", "BUILDING", "REJECTED"]
    assert "safety_gate.recommendation is HOLD" in summary(folders[1])["reason"]
    assert world.objects() == before
    assert world.weights() == {"payments": 100}


def test_a_bad_fix_is_rolled_back_and_the_terminal_shows_it(world: World) -> None:
    fix = json.dumps(conf(world.sample.bad, "Payments time out"))
    triggered = terminal.run(world.info, "trigger", "payments", "--conf", "-", stdin=fix)
    assert triggered.returncode == 0, triggered.stderr
    run = triggered.stdout.strip()
    watched = terminal.run(world.info, "watch", "payments", run)
    assert watched.returncode == 1, watched.stderr
    shown = terminal.summary(watched.stdout)
    assert shown["state"] == "ROLLED_BACK"
    assert shown["watch"].startswith("BREACHED: ")
    assert shown["reason"].startswith("watch: BREACHED: ")
    states_shown = [line.split()[1] for line in watched.stdout.splitlines() if line[2:3] == ":"]
    assert "CANARY_WAITING" in states_shown[: states_shown.index("ROLLED_BACK")]
    assert world.ended(run) == "failed"

    folder = audited(world, run)
    assert states(folder)[-2:] == ["ROLLING_BACK", "ROLLED_BACK"]
    check_consistent(folder)
    said = summary(folder)
    assert said["judgements"]["watch"]["verdict"] == "BREACHED"
    assert said["verdict_at"] <= said["restored_at"]
    candidate = said["candidate"]
    assert world.weights() == {"payments": 100, candidate: 0}
    # Only the candidate failed requests: the rollback itself lost none.
    assert {request.version for request in world.requests() if request.failed} == {candidate}
    assert world.tasks(run)["rollback"] == "success"


def answered(**headers: str) -> list[str]:
    """Ask the gateway 40 times, and return which version answered each."""
    url = f"{Cluster.load().gateway_url}/readyz"
    answers = [requests.get(url, headers={"Host": "payments.test", **headers}, timeout=5) for _ in range(40)]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.headers["X-Version"] for answer in answers]


def test_a_run_failed_by_hand_in_mid_canary_restores_the_traffic(world: World) -> None:
    run = world.deploy(world.sample.good)
    candidate = world.until(lambda: [name for name, weight in world.weights().items() if name != "payments" and weight],
                            "the candidate has traffic")[0]  # fmt: skip
    assert set(answered(**{"x-canary": "always"})) == {candidate}, "testers are sent to it"
    assert Counter(answered())["payments-before-us"] > 10, "users go as before"
    # A service that leaves Traefik's configuration loses its counters, so they are read meanwhile.
    metrics = (get(METRICS) or b"").decode()
    world.api.end_run("deploy_payments", run)

    world.until(lambda: world.weights() == {"payments": 100, candidate: 0}, "the traffic is restored", 60)
    assert world.ended(run) == "failed"
    world.until(lambda: world.tasks(run)["finalize"] == "failed", "the teardown has spoken", 60)
    folder = audited(world, run)
    assert states(folder)[-2:] == ["ROLLING_BACK", "ROLLED_BACK"]
    seen = f"; a request to {Cluster.load().gateway_url} with x-canary: always was seen to arrive"
    assert next(step["reason"] for step in transitions(folder) if step["to"] == "CANARY").endswith(seen)
    assert [request for request in world.requests() if request.failed] == []
    assert kubectl("-n", "payments", "get", "httproutes", "-o", "name").split() == [
        "httproute.gateway.networking.k8s.io/payments"
    ]
    assert "payments-before-us" in answered(**{"x-canary": "always"}), "testers still reach a candidate"
    counted = {name for name in re.findall(r'service="([^"]+)"', metrics) if f"-{candidate}-" in name}
    users = {name for name in counted if TRAEFIK.service_of({"service": name}, "payments", "payments", [candidate])}
    assert {name.startswith("httproute-payments-testers-payments-") for name in counted - users} == {True}
    assert users, "users are counted, and testers apart from them"


def test_a_good_fix_from_the_safety_gate_is_verified_and_loses_no_request(world: World) -> None:
    said = conf(world.sample.good, "Payments time out")
    result = deploy_from_safety_gate(
        said["incident"]["id"],
        said["safety_gate"],
        world.sample.good,
        service="payments",
        title=said["incident"]["title"],
        severity=said["incident"]["severity"],
        change=said["change"],
        wait=True,
        timeout=PATIENCE,
        url=world.info.airflow_url,
        token=str(world.api.session.headers["Authorization"]).removeprefix("Bearer "),
    )
    assert (result.state, result.ended) == (State.VERIFIED, True)
    judged = [(verdict.task, verdict.verdict) for verdict in result.canary]
    gates = [(f"canary_{share}.gate", "HEALTHY") for share in (5, 25, 50, 100)]
    assert judged == [*gates, ("watch", "CLOSED"), ("verify", "HEALTHY")]
    name, _, tag = str(result.image_tag).rpartition(":")
    assert name == f"{world.info.registry}/payments"
    assert tag.startswith(world.sample.good)
    assert tag in world.images()
    watched = terminal.run(world.info, "watch", "payments", result.run_id)
    assert watched.returncode == 0
    assert terminal.summary(watched.stdout)["state"] == "VERIFIED"

    run = result.run_id
    folder = audited(world, run)
    assert str(result.artifact_path) == f"file://{folder}"
    assert states(folder)[-4:] == ["PROMOTING", "PROMOTED", "VERIFYING", "VERIFIED"]
    assert states(folder).count("CANARY") == 4
    check_consistent(folder)
    again = terminal.run(world.info, "judge", "replay", *folder.glob("evidence_*/*.jsonl"))
    assert (again.returncode, again.stdout.count(" lines agree, ")) == (0, len(judged)), again.stdout
    candidate = summary(folder)["candidate"]
    assert world.weights() == {"payments": 0, candidate: 100}
    assert [request for request in world.requests() if request.failed] == []
    assert any(request.version == candidate for request in world.requests())
    assert world.tasks(run)["rollback"] == "skipped"
    requests, errors, p95, p99, full = graphs(world, link(world, run, "verify"))
    both = {f"version={candidate}", "version=payments"}
    assert set(requests) == both
    assert min(requests.values()) > 10
    for name, shares in {"error_rate": errors, "latency_p95": p95, "latency_p99": p99}.items():
        assert set(shares) == {*both, f"limit={name}"}
    assert errors[f"version={candidate}"] == 0
    assert set(full) == {f"{kind}={name}" for kind in ("gauge", "limit") for name in ("cpu_saturation", "memory")}
    assert full["gauge=memory"] > 0


@pytest.mark.served(stages=[50, 100], criticality="medium")
def test_a_gate_cleared_in_mid_canary_lets_the_deployment_finish(world: World) -> None:
    run = world.deploy(world.sample.good)
    world.until(lambda: world.tasks(run)["canary_50.gate"] == "deferred", "the gate looks")
    page = link(world, run, "canary_50.gate")
    assert page.startswith(f"{world.info.prometheus_url}/graph?g0.expr=")
    assert "end_input" not in page
    world.until(lambda: len(graphs(world, page)[0]) == 2, "both versions are on its first graph", 60)
    world.api.clear("deploy_payments", run, "canary_50.gate")

    assert world.ended(run) == "success"
    folder = audited(world, run)
    assert states(folder)[-1] == "VERIFIED"
    check_consistent(folder)
    assert world.weights() == {"payments": 0, summary(folder)["candidate"]: 100}
    assert [request for request in world.requests() if request.failed] == []
