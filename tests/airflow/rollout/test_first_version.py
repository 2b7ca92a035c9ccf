"""A service's very first version: nobody has the rest of the traffic, and its way back is to no traffic at all."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_deploy.clients.prometheus.hook import Prometheus
from airflow_deploy.domain.errors import FencedError, NotFinalizedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.workloads.versions import RUN_GRACE_SECONDS
from airflow_deploy.operators import canary
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator, ShiftCanaryOperator
from airflow_deploy.rollout import capacity, lease
from airflow_deploy.rollout import shift as shifting
from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.rollout.cleanup import clean_up, survey
from airflow_deploy.rollout.teardown import roll_back_and_stop
from airflow_deploy.sensors.gates import HealthGateSensor, WatchSensor
from airflow_deploy.tasks.base import recorded_steps
from tests.airflow.analysis.test_loop import said
from tests.airflow.analysis.test_observer import FakePrometheus
from tests.airflow.operators.test_operators import Run
from tests.airflow.operators.test_plan import World as Planning
from tests.airflow.rollout.test_guard import Post
from tests.airflow.rollout.test_rollback import deploying, execute, real
from tests.support.builders import make_plan, make_spec
from tests.support.claims import recorded_reason, undo
from tests.support.fake_cluster import FakeCluster
from tests.support.fake_fleet import planned, verified
from tests.support.fake_versions import FakeVersions
from tests.support.fake_world import Clock, Stage, World
from tests.support.judgement import GOOD_BASELINE, START

ROUTE = {
    "name": "payments-route",
    "gateway": {"name": "public", "namespace": "gateways"},
    "hostnames": ["pay.example.com", "*.pay.example.com"],
}
REDIRECT = {"filters": [{"type": "RequestRedirect", "requestRedirect": {"statusCode": 301}}]}
AGREED = ("judge", "")
pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def plan(request: pytest.FixtureRequest) -> DeploymentPlan:
    return make_plan(make_spec(route=ROUTE), run_id=request.node.name, stable="", stable_ready=0)


@pytest.fixture
def planning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Planning:
    """What surrounds ``plan``: a route that nobody serves."""
    world = Planning(monkeypatch, tmp_path)
    world.cluster = FakeCluster(make_plan(stable=""))
    return world


def ref(name: str, weight: int) -> dict[str, Any]:
    return {"kind": "Service", "name": name, "port": 80, "weight": weight}


class TestPlan:
    def test_a_route_without_backends_has_no_stable(self, planning: Planning) -> None:
        plan = planning.plan()
        assert (plan.stable, plan.stable_port, plan.stable_ready) == ("", 80, 0)
        assert (plan.versions, planning.cluster.writes) == ((plan.candidate,), 0)

    def test_nor_has_one_whose_only_version_was_taken_back(self, planning: Planning) -> None:
        planning.cluster.body["spec"]["rules"] = [{"backendRefs": [ref("payments-abcdef0-1", 0)]}]
        planning.cluster.replicas["payments-abcdef0-1"] = 0
        assert planning.plan().stable == ""

    def test_a_service_that_could_serve_is_not_passed_over(self, planning: Planning) -> None:
        """Its team has taken its traffic from it, for maintenance, say."""
        planning.cluster.body["spec"]["rules"] = [{"backendRefs": [ref("payments", 0)]}]
        planning.cluster.replicas["payments"] = 2
        with pytest.raises(RefusedError, match="no Service serves it; give one Service the whole weight"):
            planning.plan()

    def test_a_stable_without_pods_is_no_first_version(self, planning: Planning) -> None:
        planning.cluster = FakeCluster(make_plan())
        planning.cluster.replicas["payments"] = 0
        with pytest.raises(RefusedError, match="payments has no ready pod, so no rollback would be possible"):
            planning.plan()

    def test_a_route_that_can_only_redirect_is_refused(self, planning: Planning) -> None:
        planning.cluster.body["spec"]["rules"] = [REDIRECT]
        with pytest.raises(RefusedError, match="it has no rule that could send requests to a Service; add one"):
            planning.plan()

    def test_without_a_route_the_yaml_must_say_where_it_belongs(self, planning: Planning) -> None:
        planning.cluster.without_route()
        with pytest.raises(
            RefusedError, match=r"^route: there is no HTTPRoute shop/payments-route; correct .* or set route\.gateway"
        ):
            planning.plan()

    def test_where_it_says_so_the_server_is_asked_and_nothing_is_made(self, planning: Planning) -> None:
        planning.cluster.without_route()
        assert planning.plan(route=ROUTE).stable == ""
        assert not planning.cluster.now.is_there

    def test_what_the_server_does_not_permit_is_refused_before_anything_is_built(self, planning: Planning) -> None:
        planning.cluster.without_route().fail("create_route", RefusedError("403"))
        with pytest.raises(RefusedError, match="403"):
            planning.plan(route=ROUTE)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (shifting, lease, capacity):
        moved = SimpleNamespace(time=clock.time, monotonic=clock.time, sleep=clock.sleep)
        monkeypatch.setattr(module, "time", moved)
    return clock


class Steps:
    """The tasks that move the traffic, one after the other."""

    def __init__(self, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster, self.run = cluster, Run()
        self.run.judged("judge", {"verdict": "HEALTHY"})
        monkeypatch.setattr(canary, "Cluster", lambda _: cluster)
        # Whoever waits is seen to be looked at.
        looked = "airflow_deploy.rollout.shift.time.sleep"
        monkeypatch.setattr(looked, lambda _: cluster.hold_lease(self.owner))

    def claim(self) -> str:
        plan = self.cluster.plan
        self.cluster.replicas[plan.candidate] = plan.pods_for(100)
        operator = ClaimRouteOperator(task_id="claim_route", plan=plan.dump())
        self.owner: str = operator.execute(self.run.at("claim_route"))
        return self.owner

    def shift(self, share: int) -> list[str]:
        """Give a share, and return what was recorded of it."""
        task = f"canary_{share}.shift"
        owned: dict[str, Any] = {"plan": self.cluster.plan.dump(), "claim": self.owner, "agreed": AGREED}
        shift = ShiftCanaryOperator(task_id="shift", share=share, **owned)
        shift.execute(self.run.at(task))
        return [step.reason for step in recorded_steps(self.run.context, [task])]

    def promote(self) -> list[str]:
        owned: dict[str, Any] = {"plan": self.cluster.plan.dump(), "claim": self.owner, "agreed": AGREED}
        PromoteOperator(task_id="promote", **owned).execute(self.run.at("promote"))
        return [step.reason for step in recorded_steps(self.run.context, ["promote"])]


@pytest.mark.usefixtures("clock")
class TestTraffic:
    def test_the_first_stage_gives_all_and_the_others_find_that_done(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = Steps(FakeCluster(plan), monkeypatch)
        steps.claim()
        assert steps.cluster.weights() == {plan.candidate: 0}
        given = f"route set to 100 % of traffic for {plan.candidate}"
        shifted, declared = steps.shift(5)
        assert (shifted.partition(";")[0], declared) == (f"shifting 100 % to {plan.candidate}", given)
        assert steps.cluster.weights() == {plan.candidate: 100}
        writes = steps.cluster.writes
        assert steps.shift(25) == [f"keeping 100 % to {plan.candidate}", given]
        assert (steps.cluster.writes, len(steps.cluster.now.shifts)) == (writes, 1)
        assert steps.promote()[1] == f"{plan.candidate} is the stable"
        assert steps.cluster.now.phase == routes.PROMOTED

    def test_it_needs_all_its_pods_at_once(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = make_spec(route=ROUTE, replicas=4, capacity="proportional")
        steps = Steps(FakeCluster(plan.model_copy(update={"spec": spec})), monkeypatch)
        steps.claim()
        steps.cluster.replicas[plan.candidate] = 1
        steps.shift(5)
        assert steps.cluster.replicas[plan.candidate] == 4

    def test_every_rule_gets_it_but_those_that_answer_by_themselves(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster(plan, rules=2)
        cluster.body["spec"]["rules"].insert(1, REDIRECT)
        cluster.body["spec"]["rules"][2]["matches"] = [{"path": {"value": "/v2"}}]
        _, patch = routes.claim(cluster.now, plan.claim())
        first, redirect, last = cluster.patch_route(cluster.now, patch).body["spec"]["rules"]
        assert redirect == REDIRECT
        assert first["backendRefs"] == last["backendRefs"] == [ref(plan.candidate, 0)]
        assert last["matches"] == [{"path": {"value": "/v2"}}]

    def test_where_somebody_serves_by_now_it_gets_nothing(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = FakeCluster(plan)
        cluster.body["spec"]["rules"] = [{"backendRefs": [ref("by-hand", 1)]}]
        with pytest.raises(FencedError, match="is served by by-hand now, not by no version as when"):
            Steps(cluster, monkeypatch).claim()

    def test_where_somebody_has_joined_it_nothing_more_is_raised(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = Steps(FakeCluster(plan), monkeypatch)
        steps.claim()
        steps.cluster.body["spec"]["rules"][0]["backendRefs"].append(ref("by-hand", 1))
        with pytest.raises(FencedError, match="they were changed by hand"):
            steps.shift(5)

    def test_a_route_that_is_missing_is_made(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = Steps(FakeCluster(plan).without_route(), monkeypatch)
        steps.claim()
        made = steps.cluster.body
        assert made["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "airflow-deploy"
        assert (made["spec"]["parentRefs"], made["spec"]["hostnames"]) == ([ROUTE["gateway"]], ROUTE["hostnames"])
        assert made["spec"]["rules"] == [
            {"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [ref(plan.candidate, 0)]}
        ]
        steps.shift(100)
        steps.promote()
        assert steps.cluster.now.stable() == plan.candidate

    @pytest.mark.parametrize("answers", [1, 2])
    def test_whatever_fails_the_next_try_claims_it(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, answers: int
    ) -> None:
        steps = Steps(FakeCluster(plan).without_route(), monkeypatch)
        steps.cluster.fail("patch_route", *[TemporaryError("no answer")] * answers)
        for _ in range(answers):
            with pytest.raises(TemporaryError):
                steps.claim()
        steps.cluster.lose_answers = 1
        with pytest.raises(TemporaryError):
            steps.claim()
        assert steps.claim() == f"{plan.deployment_id}/1"

    def test_a_route_that_was_there_and_is_gone_is_nobodys_to_make(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = FakeCluster(plan.model_copy(update={"stable": "payments"})).without_route()
        with pytest.raises(RefusedError, match="404"):
            Steps(cluster, monkeypatch).claim()
        assert not cluster.now.is_there


class TestTheWayBack:
    @pytest.mark.parametrize("share", [0, 100])
    def test_is_to_no_traffic(self, plan: DeploymentPlan, share: int) -> None:
        cluster = FakeCluster.at_share(plan, share)
        settled = roll_back_and_stop(real(cluster), plan)
        assert (settled.reason, settled.stopped) == ("rolled back to no traffic, as before", True)
        assert (cluster.weights(), cluster.replicas) == ({plan.candidate: 0}, {plan.candidate: 0})
        before = cluster.writes
        roll_back_and_stop(real(cluster), plan)
        assert (cluster.writes, cluster.now.phase) == (before, routes.SETTLED)

    @pytest.mark.parametrize("task", ["rollback", "finalize"])
    def test_ends_also_where_the_route_was_not_made_yet(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        run, cluster = Run(), FakeCluster(plan).without_route()
        cluster.replicas[plan.candidate] = 2
        deploying(run, plan)
        with suppress(NotFinalizedError):  # settle says so of all that is not verified
            execute(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [State.ROLLING_BACK, State.ROLLED_BACK]
        assert (cluster.replicas[plan.candidate], cluster.now.is_there) == (0, False)

    def test_leaves_alone_who_else_serves(self, plan: DeploymentPlan) -> None:
        """Somebody has put a Service beside it: there is no stable that it would take traffic from."""
        cluster = FakeCluster.at_share(plan, 100)
        cluster.body["spec"]["rules"][0]["backendRefs"].append(ref("by-hand", 7))
        roll_back_and_stop(real(cluster), plan)
        assert cluster.weights() == {plan.candidate: 0, "by-hand": 7}

    def test_is_the_guards_too(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 100)
        post = Post(cluster)
        post.passes(plan.spec.lease + 1)
        assert (cluster.weights(), cluster.now.phase, cluster.now.epoch) == ({plan.candidate: 0}, routes.BRAKED, 2)

    def test_is_the_verifications_too(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.verified(plan)
        assert undo(cluster, plan)
        assert (cluster.weights(), cluster.now.phase) == ({plan.candidate: 0}, routes.SETTLED)
        assert recorded_reason(cluster.now) == "worse"
        assert undo(cluster, plan)
        assert roll_back_and_stop(real(cluster), plan).reason.startswith("worse; rolled back to no traffic, as before")

    def test_leads_to_another_first_version(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 100)
        roll_back_and_stop(real(cluster), plan)
        second = plan.model_copy(update={"run_id": "second", "created": plan.created + 60})
        assert cluster.now.serving() == second.stable
        claim, patch = routes.claim(cluster.now, second.claim())
        cluster.patch_route(cluster.now, patch)
        assert (claim.owner, cluster.weights()) == (f"{second.deployment_id}/2", {second.candidate: 0})


class TestJudgement:
    def test_it_is_taken_back_by_its_limits_alone(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, plan, Stage(0, 100, errors=0.1))
        loop = world.loop("watch")
        outcome = world.look(loop, 60)
        assert said(outcome) == "BREACHED"
        assert outcome is not None
        assert re.search(r"error_rate: \d+ of \d+ requests failed \(limit 1.00%\)", outcome.reason)
        assert loop.brake(outcome) is not None
        assert (world.cluster.weights(), world.cluster.now.phase) == ({plan.candidate: 0}, routes.BRAKED)

    def test_a_good_one_is_healthy(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, plan, Stage(0, 100))
        assert world.look(world.loop("watch"), 300) is None
        assert said(World(monkeypatch, plan, Stage(0, 100)).look(world.loop("gate", 100), 900)) == "HEALTHY"

    def test_every_gate_asks_what_the_last_one_would(self, plan: DeploymentPlan) -> None:
        judged: dict[str, Any] = {"claim": f"{plan.deployment_id}/1", "baseline": GOOD_BASELINE.dump()}
        context = cast("Any", {"ti": SimpleNamespace(task_id="canary_5.gate")})
        for stable, asked in (("", 100), ("payments", 25)):
            judged["plan"] = plan.model_copy(update={"stable": stable}).dump()
            trigger = HealthGateSensor(task_id="gate", next_share=25, **judged).trigger(context)
            assert trigger.serialize()[1]["assignment"]["next_share"] == asked
        watch = WatchSensor(task_id="watch", **judged).trigger(context)
        assert watch.serialize()[1]["assignment"]["next_share"] is None

    def test_the_edges_are_those_of_whatever_the_gateway_serves(self, plan: DeploymentPlan) -> None:
        prometheus = FakePrometheus(plan)
        Observer(cast("Prometheus", prometheus), plan).check()
        assert prometheus.asked == ["group by (le) (traefik_service_request_duration_seconds_bucket)"]
        between = make_plan(make_spec(gates={"latency_p95": 0.3}), stable="")
        with pytest.raises(RefusedError, match=r"0\.3 s is no bucket's edge"):
            Observer(cast("Prometheus", prometheus), between).check()

    def test_another_applications_edges_are_none_of_it(self, plan: DeploymentPlan) -> None:
        spec = make_spec(metrics={"preset": "application"}, gates={"latency_p95": 0.3})
        prometheus = FakePrometheus(plan)
        Observer(cast("Prometheus", prometheus), make_plan(spec, stable="")).check()
        assert prometheus.asked == []

    def test_a_gateway_that_has_served_nobody_has_none_yet(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        prometheus = FakePrometheus(plan)
        monkeypatch.setattr(prometheus, "query", lambda _: [])
        Observer(cast("Prometheus", prometheus), plan).check()

    def test_it_has_no_baseline(self, plan: DeploymentPlan) -> None:
        prometheus = FakePrometheus(plan)
        prometheus.answer = []
        baseline = Observer(cast("Prometheus", prometheus), plan).baseline()
        assert (baseline.counts.requests, baseline.quietest) == (0, 0)
        assert set(baseline.uncertain) == set(plan.spec.counted_gates)


class TestTidying:
    def test_after_one_that_was_taken_back(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        plan = planned().model_copy(update={"stable": ""})
        cluster = FakeVersions(plan)
        cluster.applied(plan, START)
        cluster.claimed(plan, 100)
        cluster.then_settled(plan)
        cluster.scale(plan.spec.namespace, plan.candidate, 1)  # by a person, and forgotten
        cluster.born[plan.candidate] = [START]
        tidied = clean_up(survey(real(cluster), plan), START + RUN_GRACE_SECONDS)
        assert (tidied.done, tidied.alarms, tidied.left) == ([f"stopped {plan.candidate}"], [], None)

    def test_of_one_that_serves_leaves_nobody_warm(self) -> None:
        plan = planned().model_copy(update={"stable": ""})
        cluster = FakeVersions(plan)
        cluster.applied(plan, START)
        cluster.then_verified(plan)
        verified(plan, at=START)
        tidied = clean_up(survey(real(cluster), plan), START + 1e6)
        assert (tidied.done, tidied.alarms, tidied.left) == ([], [], None)
        assert cluster.weights() == {plan.candidate: 100}
