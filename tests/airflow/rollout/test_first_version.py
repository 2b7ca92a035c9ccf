"""A service's very first version: no version has the rest of the traffic, and its rollback is to no traffic at all."""

from __future__ import annotations

import re
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_deploy.clients.kubernetes.errors import NotFoundError
from airflow_deploy.clients.prometheus.hook import Prometheus
from airflow_deploy.domain.errors import FencedError, NotFinalizedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.workloads.versions import RUN_GRACE_SECONDS
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator, ShiftCanaryOperator
from airflow_deploy.rollout import capacity, lease
from airflow_deploy.rollout import shift as shifting
from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.rollout.cleanup import CleanupResult, clean_up, survey
from airflow_deploy.rollout.guard import Guard
from airflow_deploy.rollout.teardown import roll_back_and_stop
from airflow_deploy.sensors.gates import HealthGateSensor, WatchSensor
from airflow_deploy.tasks.base import recorded_steps
from airflow_deploy.tasks.decisions import store_decision
from tests.support.builders import make_plan, make_spec
from tests.support.claims import recorded_reason, undo
from tests.support.cluster import lead_to
from tests.support.ending import deploying, execute
from tests.support.fleet import planned, verified
from tests.support.judgement import GOOD_BASELINE, START
from tests.support.kubernetes_api import Object
from tests.support.loops import said
from tests.support.planning import Planning
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster
from tests.support.versions import apply_version, claim_route, settle, verify
from tests.support.world import Clock, Stage, World

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
def planning(monkeypatch: pytest.MonkeyPatch) -> Planning:
    """What surrounds ``plan``: a route by which no version serves."""
    return Planning(monkeypatch, ServiceCluster(make_plan(stable="")))


def ref(name: str, weight: int) -> dict[str, Any]:
    return {"kind": "Service", "name": name, "port": 80, "weight": weight}


def send_to(cluster: ServiceCluster, *refs: dict[str, Any]) -> None:
    """Let the route have one rule with these backends, as any other client may."""
    cluster.edit(lambda body: body["spec"].update(rules=[{"backendRefs": [*refs]}]))


def join(cluster: ServiceCluster, name: str, weight: int) -> None:
    """Put a Service beside the others of the first rule, as any other client may."""
    cluster.edit(lambda body: body["spec"]["rules"][0]["backendRefs"].append(ref(name, weight)))


class TestPlan:
    def test_a_route_without_backends_has_no_stable(self, planning: Planning) -> None:
        plan = planning.plan()
        assert (plan.stable, plan.stable_port, plan.stable_ready) == ("", 80, 0)
        assert (plan.versions, planning.cluster.api.writes) == ((plan.candidate,), [])

    def test_a_route_whose_only_version_was_rolled_back_has_no_stable(self, planning: Planning) -> None:
        send_to(planning.cluster, ref("payments-abcdef0-1", 0))
        planning.cluster.add_version("payments-abcdef0-1", replicas=0)
        assert planning.plan().stable == ""

    def test_a_service_that_could_serve_is_not_passed_over(self, planning: Planning) -> None:
        """Its team has taken its traffic from it, for maintenance, say."""
        send_to(planning.cluster, ref("payments", 0))
        planning.cluster.add_version("payments", replicas=2)
        with pytest.raises(RefusedError, match="no Service serves it; give one Service the whole weight"):
            planning.plan()

    def test_a_stable_without_pods_is_no_first_version(self, planning: Planning) -> None:
        planning.use(ServiceCluster(make_plan())).replicas["payments"] = 0
        with pytest.raises(RefusedError, match="payments has no ready pod, so no rollback would be possible"):
            planning.plan()

    def test_a_route_that_can_only_redirect_is_refused(self, planning: Planning) -> None:
        planning.cluster.edit(lambda body: body["spec"].update(rules=[REDIRECT]))
        with pytest.raises(RefusedError, match="it has no rule that could send requests to a Service; add one"):
            planning.plan()

    def test_a_missing_route_is_refused_if_the_yaml_does_not_say_to_which_gateway_it_belongs(
        self, planning: Planning
    ) -> None:
        planning.cluster.without_route()
        with pytest.raises(
            RefusedError, match=r"^route: there is no HTTPRoute shop/payments-route; correct .* or set route\.gateway"
        ):
            planning.plan()

    def test_for_a_missing_route_with_a_gateway_the_server_is_asked_and_nothing_is_made(
        self, planning: Planning
    ) -> None:
        planning.cluster.without_route()
        assert planning.plan(route=ROUTE).stable == ""
        assert not planning.cluster.now.is_there
        (asked,) = (request for request in planning.cluster.api.requests if request.method == "POST")
        assert (asked.path.rpartition("/")[2], asked.dry_run) == ("httproutes", True)

    def test_a_route_that_the_server_does_not_permit_is_refused_before_the_build(self, planning: Planning) -> None:
        planning.cluster.without_route().api.fail("/httproutes", 403, method="POST")
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

    def __init__(self, cluster: ServiceCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster, self.run = cluster, Run()
        store_decision(cluster.plan, "judge", "HEALTHY", goes_on=True)
        lead_to(cluster.api, monkeypatch)
        cluster.apply(cluster.plan)
        # A shift that waits for the watch sees that it renews its Lease.
        slept = "airflow_deploy.rollout.shift.time.sleep"
        monkeypatch.setattr(slept, lambda _: cluster.hold_lease(self.owner))

    def claim(self) -> str:
        operator = ClaimRouteOperator(task_id="claim_route", plan=self.cluster.plan.dump())
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
class TestClaim:
    def test_every_rule_gets_the_candidate_but_those_that_answer_by_themselves(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster(plan, rules=2)

        def change(body: Object) -> None:
            body["spec"]["rules"].insert(1, REDIRECT)
            body["spec"]["rules"][2]["matches"] = [{"path": {"value": "/v2"}}]

        cluster.edit(change)
        _, patch = routes.claim(cluster.now, plan.claim())
        cluster.write(patch)
        first, redirect, last = cluster.body["spec"]["rules"]
        assert redirect == REDIRECT
        assert first["backendRefs"] == last["backendRefs"] == [ref(plan.candidate, 0)]
        assert last["matches"] == [{"path": {"value": "/v2"}}]

    def test_it_is_refused_if_another_service_serves_by_now(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = ServiceCluster(plan)
        send_to(cluster, ref("by-hand", 1))
        with pytest.raises(FencedError, match="is served by by-hand now, not by no version as when"):
            Steps(cluster, monkeypatch).claim()

    def test_a_missing_route_is_made(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        steps = Steps(ServiceCluster(plan).without_route(), monkeypatch)
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

    @pytest.mark.parametrize("conflicts", [1, 2])
    def test_the_next_try_claims_the_route_after_failed_writes_and_a_lost_answer(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, conflicts: int
    ) -> None:
        steps = Steps(ServiceCluster(plan).without_route(), monkeypatch)
        steps.cluster.api.fail("/httproutes/", 409, method="PATCH", times=conflicts)
        for _ in range(conflicts):
            with pytest.raises(TemporaryError):
                steps.claim()
        # The client sends the patch again, and finds that the route has changed.
        steps.cluster.api.fail("/httproutes/", exception=TimeoutError, method="PATCH", done=True)
        with pytest.raises(TemporaryError):
            steps.claim()
        assert steps.claim() == f"{plan.deployment_id}/1"
        assert steps.cluster.writes == 1

    def test_a_missing_route_that_had_a_stable_is_not_made(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = ServiceCluster(plan.model_copy(update={"stable": "payments"})).without_route()
        with pytest.raises(NotFoundError, match="404"):
            Steps(cluster, monkeypatch).claim()
        assert not cluster.now.is_there


@pytest.mark.usefixtures("clock")
class TestShift:
    def test_the_first_stage_gives_all_traffic_and_the_others_find_that_done(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = Steps(ServiceCluster(plan), monkeypatch)
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

    def test_the_first_stage_needs_all_pods_at_once(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = make_spec(route=ROUTE, replicas=4, capacity="proportional")
        steps = Steps(ServiceCluster(plan.model_copy(update={"spec": spec})), monkeypatch)
        steps.claim()
        steps.cluster.replicas[plan.candidate] = 1
        steps.shift(5)
        assert steps.cluster.replicas[plan.candidate] == 4

    def test_no_share_is_given_if_another_service_was_put_beside_the_candidate(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = Steps(ServiceCluster(plan), monkeypatch)
        steps.claim()
        join(steps.cluster, "by-hand", 1)
        with pytest.raises(FencedError, match="they were changed by hand"):
            steps.shift(5)


class TestRollback:
    @pytest.mark.parametrize("share", [0, 100])
    def test_it_is_to_no_traffic(self, plan: DeploymentPlan, share: int) -> None:
        cluster = ServiceCluster.at_share(plan, share)
        settled = roll_back_and_stop(cluster.client, plan)
        assert (settled.reason, settled.stopped) == ("rolled back to no traffic, as before", True)
        assert (cluster.weights(), dict(cluster.replicas)) == ({plan.candidate: 0}, {plan.candidate: 0})
        before = cluster.writes
        roll_back_and_stop(cluster.client, plan)
        assert (cluster.writes, cluster.now.phase) == (before, routes.SETTLED)

    @pytest.mark.parametrize("task", ["rollback", "finalize"])
    def test_it_ends_also_if_the_route_was_not_made_yet(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        run, cluster = Run(), ServiceCluster(plan).without_route()
        cluster.apply(plan)
        deploying(run, plan)
        with suppress(NotFinalizedError):  # finalize says so of all that is not verified
            execute(run, task, cluster, monkeypatch)
        assert [step.to for step in recorded_steps(run.context, [task])] == [State.ROLLING_BACK, State.ROLLED_BACK]
        assert (cluster.replicas[plan.candidate], cluster.now.is_there) == (0, False)

    def test_it_leaves_a_service_that_was_put_beside_the_candidate(self, plan: DeploymentPlan) -> None:
        """There is no stable that it would take traffic from."""
        cluster = ServiceCluster.at_share(plan, 100)
        join(cluster, "by-hand", 7)
        roll_back_and_stop(cluster.client, plan)
        assert cluster.weights() == {plan.candidate: 0, "by-hand": 7}

    def test_that_of_the_guard_is_the_same(self, plan: DeploymentPlan) -> None:
        cluster, clock = ServiceCluster.at_share(plan, 100), Clock()
        guard = Guard(cluster.client, clock=clock.time)
        for _ in range(plan.spec.lease + 1):
            guard.look()
            clock.sleep(1)
        assert (cluster.weights(), cluster.now.phase, cluster.now.epoch) == ({plan.candidate: 0}, routes.BRAKED, 2)

    def test_that_of_the_verification_is_the_same(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.verified(plan)
        assert undo(cluster.client, plan)
        assert (cluster.weights(), cluster.now.phase) == ({plan.candidate: 0}, routes.SETTLED)
        assert recorded_reason(cluster.now) == "worse"
        assert undo(cluster.client, plan)
        settled = roll_back_and_stop(cluster.client, plan)
        assert settled.reason.startswith("worse; rolled back to no traffic, as before")

    def test_after_it_another_first_version_can_claim_the_route(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 100)
        roll_back_and_stop(cluster.client, plan)
        second = plan.model_copy(update={"run_id": "second", "created": plan.created + 60})
        assert cluster.now.serving() == second.stable
        claim, patch = routes.claim(cluster.now, second.claim())
        cluster.write(patch)
        assert (claim.owner, cluster.weights()) == (f"{second.deployment_id}/2", {second.candidate: 0})


class TestAnalysis:
    def test_a_bad_first_version_is_rolled_back_by_its_limits_alone(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = World(monkeypatch, plan, Stage(0, 100, errors=0.1))
        loop = world.loop("watch")
        outcome = world.look(loop, 60)
        assert said(outcome) == "BREACHED"
        assert outcome is not None
        assert re.search(r"error_rate: \d+ of \d+ requests failed \(limit 1.00%\)", outcome.reason)
        assert loop.brake(outcome) is not None
        assert (world.cluster.weights(), world.cluster.now.phase) == ({plan.candidate: 0}, routes.BRAKED)

    def test_a_good_first_version_is_healthy(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
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


class EdgesOnly:
    """Prometheus that has a gateway's histogram, or nothing at all."""

    def __init__(self, *edges: str) -> None:
        self.edges = edges
        self.asked: list[str] = []

    def matrix(self, query: str, until: float | None = None) -> list[Any]:
        return []

    def query(self, query: str, at: float | None = None) -> list[Any]:
        self.asked.append(query)
        return [{"metric": {"le": edge}} for edge in self.edges]


class TestMetrics:
    @pytest.fixture
    def prometheus(self) -> EdgesOnly:
        return EdgesOnly("0.5", "1", "+Inf")

    def observer(self, prometheus: EdgesOnly, plan: DeploymentPlan) -> Observer:
        return Observer(cast("Prometheus", prometheus), plan)

    def test_the_edges_are_those_of_any_service_behind_the_gateway(
        self, plan: DeploymentPlan, prometheus: EdgesOnly
    ) -> None:
        self.observer(prometheus, plan).check()
        assert prometheus.asked == ["group by (le) (traefik_service_request_duration_seconds_bucket)"]
        between = make_plan(make_spec(gates={"latency_p95": 0.3}), stable="")
        with pytest.raises(RefusedError, match=r"0\.3 s is no bucket's edge"):
            self.observer(prometheus, between).check()

    def test_the_edges_of_another_application_are_not_asked_for(
        self, plan: DeploymentPlan, prometheus: EdgesOnly
    ) -> None:
        spec = make_spec(metrics={"preset": "application"}, gates={"latency_p95": 0.3})
        self.observer(prometheus, make_plan(spec, stable="")).check()
        assert prometheus.asked == []

    def test_a_gateway_that_has_answered_no_request_has_no_edges_yet(self, plan: DeploymentPlan) -> None:
        self.observer(EdgesOnly(), plan).check()

    def test_a_first_version_has_no_baseline(self, plan: DeploymentPlan, prometheus: EdgesOnly) -> None:
        baseline = self.observer(prometheus, plan).baseline()
        assert (baseline.counts.requests, baseline.quietest) == (0, 0)
        assert set(baseline.uncertain) == set(plan.spec.counted_gates)


class TestCleanup:
    @pytest.fixture
    def cluster(self) -> ServiceCluster:
        """A service whose first version was applied at START."""
        cluster = ServiceCluster(planned().model_copy(update={"stable": ""}))
        cluster.api.clock = lambda: START
        apply_version(cluster, cluster.plan)
        return cluster

    def test_pods_that_were_started_after_a_rollback_are_stopped(self, cluster: ServiceCluster) -> None:
        plan = cluster.plan
        claim_route(cluster, plan, 100)
        settle(cluster, plan)
        cluster.replicas[plan.candidate] = 1  # by a person, and forgotten
        result = clean_up(survey(cluster.client, plan), START + RUN_GRACE_SECONDS)
        assert result == CleanupResult(done=[f"stopped {plan.candidate}"])

    def test_beside_a_verified_one_no_version_is_kept_warm(self, cluster: ServiceCluster) -> None:
        plan = cluster.plan
        verify(cluster, plan)
        verified(plan, at=START)
        assert clean_up(survey(cluster.client, plan), START + 1e6) == CleanupResult()
        assert cluster.weights() == {plan.candidate: 100}
