"""The guard takes back what nobody looks at, once, and nothing else; and the run that comes back finds its word."""

from __future__ import annotations

import copy
import inspect
import json
import logging
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.errors import FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.lease import Lease
from airflow_deploy.domain.routing.service_route import ServiceRoute
from airflow_deploy.domain.routing.team_route import TeamRoute, absent_route
from airflow_deploy.operators import finalize as settling
from airflow_deploy.operators.finalize import RollbackOperator
from airflow_deploy.rollout import guard as guarding
from airflow_deploy.rollout.analysis.loop import Role
from airflow_deploy.rollout.guard import REMIND_SECONDS, Guard
from airflow_deploy.tasks.base import recorded_steps
from tests.airflow.analysis.test_loop import HEALTHY, planned
from tests.airflow.operators.test_operators import ENDING, Run
from tests.airflow.rollout.test_rollback import with_a_rule_for_the_candidate_alone
from tests.airflow.tasks.test_triggers import ended
from tests.support.builders import make_plan, make_spec
from tests.support.fake_cluster import FakeCluster
from tests.support.fake_world import Clock, Stage, World

LEASE = 15
SHARES = [1, 5, 25, 100]


@pytest.fixture
def plan() -> DeploymentPlan:
    return make_plan(make_spec(lease=LEASE))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each sight wait for what it has begun, however slow this machine is."""
    monkeypatch.setattr(guarding, "ROLLBACK_WAIT_SECONDS", 60)


class Post:
    """One guard, or several, that see one cluster."""

    def __init__(self, cluster: FakeCluster, guards: int = 1) -> None:
        self.cluster, self.clock = cluster, Clock()
        self.guards = [self.another() for _ in range(guards)]

    def another(self) -> Guard:
        return Guard(cast("Cluster", self.cluster), clock=self.clock.time)

    def passes(self, seconds: float, each: Callable[[], None] = lambda: None) -> None:
        """Let them look every second for so long."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            for guard in self.guards:
                guard.look()
            each()
            self.clock.sleep(1)


def returned(cluster: FakeCluster) -> bool:
    return cluster.weights() == {cluster.plan.stable: 100, cluster.plan.candidate: 0}


class TestWhoNobodyLooksAt:
    @pytest.mark.parametrize("share", SHARES)
    def test_its_traffic_is_returned_when_the_lease_is_over(self, plan: DeploymentPlan, share: int) -> None:
        cluster = FakeCluster.at_share(plan, share)
        post, owner = Post(cluster), cluster.claim
        post.passes(LEASE)
        assert not returned(cluster)
        post.passes(1)
        assert returned(cluster)
        assert cluster.now.phase == routes.BRAKED
        assert (cluster.now.owned_by(plan.deployment_id), cluster.claim == owner, cluster.now.epoch) == (True, False, 2)
        word = FinalVerdict.from_event(json.loads(cluster.now.final_verdict or ""))
        assert word.verdict == "BLIND"
        assert word.reason == f"guard: the watch has not renewed its Lease for {LEASE} s, and it lasts {LEASE} s"
        assert word.restored_at is not None

    def test_what_is_promoted_and_not_verified_is_too(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.promoted(plan)
        Post(cluster).passes(LEASE + 1)
        assert (returned(cluster), cluster.now.phase) == (True, routes.BRAKED)

    def test_under_every_rule(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster(plan, rules=3)
        _, claim = routes.claim(cluster.now, plan.claim())
        cluster.patch_route(cluster.now, claim)
        cluster.hold_lease(cluster.claim)
        cluster.shift(25, 0.0)
        Post(cluster).passes(LEASE + 1)
        assert cluster.now.weights(plan.candidate) == [{plan.stable: 100, plan.candidate: 0}] * 3

    def test_two_guards_write_once(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        writes = cluster.writes
        Post(cluster, guards=2).passes(3 * LEASE)
        assert (returned(cluster), cluster.writes, cluster.now.epoch) == (True, writes + 1, 2)

    def test_of_two_guards_at_once_one_is_fenced(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        """Both have read the same route; the second's write finds another owner."""
        cluster = FakeCluster.at_share(plan, 25)
        post = Post(cluster, guards=2)
        post.passes(LEASE)
        ready = cluster.ready_endpoints

        def meanwhile(*arguments: Any) -> int:
            monkeypatch.setattr(cluster, "ready_endpoints", ready)
            post.guards[1].look()
            return ready(*arguments)

        monkeypatch.setattr(cluster, "ready_endpoints", meanwhile)
        writes = cluster.writes
        post.guards[0].look()
        assert (returned(cluster), cluster.writes, cluster.now.epoch) == (True, writes + 1, 2)
        post.passes(LEASE)
        assert cluster.writes == writes + 1

    def test_a_guard_that_was_restarted_begins_anew(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        post = Post(cluster)
        post.passes(LEASE - 1)
        post.guards = [post.another()]
        post.passes(LEASE)
        assert not returned(cluster)
        post.passes(1)
        assert returned(cluster)

    def test_a_write_that_fails_is_tried_again(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        cluster.fail("patch_route", TemporaryError("429"), RefusedError("403"), KeyError("a mistake of ours"))
        cluster.fail("route", TemporaryError("500"))
        Post(cluster).passes(LEASE + 5)
        assert returned(cluster)

    def test_an_answer_that_was_lost_is_found_done(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        cluster.lose_answers = 1
        writes = cluster.writes
        Post(cluster).passes(2 * LEASE)
        assert (returned(cluster), cluster.writes) == (True, writes + 1)

    def test_weights_that_a_person_set_meanwhile_are_no_hindrance(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        cluster.body["spec"]["rules"][0]["backendRefs"][1]["weight"] = 70
        Post(cluster).passes(LEASE + 1)
        assert returned(cluster)

    def test_what_comes_by_a_rule_of_somebody_elses_is_said_and_all_else_returned(
        self, plan: DeploymentPlan, caplog: pytest.LogCaptureFixture
    ) -> None:
        cluster = with_a_rule_for_the_candidate_alone(FakeCluster.at_share(plan, 25))
        rule = copy.deepcopy(cluster.body["spec"]["rules"][1])
        Post(cluster).passes(3 * LEASE)
        assert (returned(cluster), cluster.body["spec"]["rules"][1]) == (True, rule)
        said = f"a rule that sends requests to {plan.candidate} and does not name {plan.stable}"
        assert caplog.text.count(said) == 1
        assert json.loads(cluster.now.final_verdict or "")["restored_at"] is None


class TestWhoIsLeftAlone:
    def untouched(self, cluster: FakeCluster, each: Callable[[], None] = lambda: None) -> None:
        before, writes = cluster.now.body, cluster.writes
        Post(cluster).passes(5 * LEASE, each)
        assert (cluster.now.body, cluster.writes) == (before, writes)

    @pytest.mark.parametrize("make", [lambda plan: FakeCluster.at_share(plan, 25), FakeCluster.promoted])
    def test_who_is_looked_at(self, plan: DeploymentPlan, make: Callable[[DeploymentPlan], FakeCluster]) -> None:
        cluster = make(plan)
        self.untouched(cluster, lambda: cluster.hold_lease(cluster.claim))

    def test_who_is_verified(self, plan: DeploymentPlan) -> None:
        self.untouched(FakeCluster.verified(plan))

    @pytest.mark.parametrize("phase", [routes.BRAKED, routes.SETTLED, routes.ABANDONED])
    def test_who_is_over(self, plan: DeploymentPlan, phase: str) -> None:
        self.untouched(FakeCluster.at_share(plan, 25).annotate(routes.PHASE, phase))

    def test_whose_candidate_has_no_traffic(self, plan: DeploymentPlan) -> None:
        self.untouched(FakeCluster.at_share(plan, 0))

    def test_until_it_has_some(self, plan: DeploymentPlan) -> None:
        """A task that woke after an hour gives a share although nobody looks any more."""
        cluster = FakeCluster.at_share(plan, 0)
        post = Post(cluster)
        post.passes(5 * LEASE)
        cluster.shift(5, 0.0)
        post.passes(1)
        assert returned(cluster)

    def test_whose_stable_could_not_take_it(self, plan: DeploymentPlan, caplog: pytest.LogCaptureFixture) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        cluster.replicas[plan.stable] = 0
        post = Post(cluster)
        post.passes(2 * LEASE)
        assert cluster.weights()[plan.candidate] == 25
        assert f"{plan.stable} has no ready pod that could take the traffic" in caplog.text
        cluster.replicas[plan.stable] = 1
        post.passes(1)
        assert returned(cluster)

    @pytest.mark.parametrize("key", [routes.OWNER, routes.VERSIONS])
    def test_whose_annotations_somebody_removed(self, plan: DeploymentPlan, key: str) -> None:
        self.untouched(FakeCluster.at_share(plan, 25).annotate(key, None))

    @pytest.mark.parametrize("text", ["", "null", "[]", "5", '{"stable": "payments"}', '{"stable":', "[" * 10_000])
    def test_whose_versions_are_garbled(self, plan: DeploymentPlan, text: str) -> None:
        self.untouched(FakeCluster.at_share(plan, 25).annotate(routes.VERSIONS, text))

    def test_what_is_over_costs_no_request_any_more(self, plan: DeploymentPlan) -> None:
        """Each service's last Lease stays for ever, and lapses."""
        cluster = FakeCluster.verified(plan)
        post = Post(cluster)
        post.passes(LEASE + 1)
        cluster.fail("route", *[AssertionError("it was read again")] * 100)
        post.passes(LEASE)
        assert len(cluster._faults["route"]) == 100

    def test_a_route_that_is_gone_is_over(self, plan: DeploymentPlan, caplog: pytest.LogCaptureFixture) -> None:
        """A service that was given up leaves its Lease behind."""
        cluster = FakeCluster.at_share(plan, 25)
        cluster.without_route()
        Post(cluster).passes(5 * LEASE)
        assert caplog.text == ""

    def test_the_next_deployment_of_the_same_route_is_guarded(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.verified(plan)
        post = Post(cluster)
        post.passes(2 * LEASE)
        following = make_plan(plan.spec, run_id="the-next", commit="f" * 40, stable=plan.candidate)
        claim, patch = routes.claim(cluster.now, following.claim())
        cluster.hold_lease(claim.owner)
        cluster.patch_route(cluster.now, patch)
        share = routes.shift(cluster.now, claim, 25, 0.0)
        cluster.patch_route(cluster.now, share)
        post.passes(LEASE + 1)
        assert cluster.weights() == {following.stable: 100, following.candidate: 0}


class TestSeveral:
    def test_a_lease_of_the_other_router_by_the_same_name_hides_none(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        other = copy.deepcopy(dict(cluster.leases(None)[0].body))
        other["metadata"].update(name=f"{other['metadata']['name']}.pods", uid="other")
        leases, route = cluster.leases, cluster.team_route_or_absent
        monkeypatch.setattr(cluster, "leases", lambda namespace: [*leases(namespace), Lease(other)])

        def either(namespace: str, name: str, router: str) -> TeamRoute:
            return (
                absent_route(ServiceRoute, namespace, name) if router == "replicas" else route(namespace, name, router)
            )

        monkeypatch.setattr(cluster, "team_route_or_absent", either)
        Post(cluster).passes(LEASE + 1)
        assert returned(cluster)

    def test_one_that_hangs_stops_no_others_clock(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guarding, "ROLLBACK_WAIT_SECONDS", 0.0)
        cluster, post = FakeCluster.at_share(plan, 25), Post(FakeCluster(plan))
        (lease,) = cluster.leases(None)
        slow = copy.deepcopy(dict(lease.body))
        slow["metadata"]["namespace"] = "slow"
        released, begun, gave_up = threading.Event(), [], []

        def read(namespace: str, name: str, router: str) -> TeamRoute:
            begun.append(namespace)
            if namespace == "slow" and not released.wait(60):
                gave_up.append(name)
            return cluster.team_route_or_absent(plan.spec.namespace, name, router)

        answers = {name: getattr(cluster, name) for name in ("ready", "patch_route", "withdraw")}
        both = SimpleNamespace(leases=lambda _: [Lease(slow), lease], team_route_or_absent=read, **answers)
        post.guards = [Guard(cast("Cluster", both), clock=post.clock.time)]
        post.passes(LEASE + 5)
        deadline = time.monotonic() + 60
        while not returned(cluster) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (returned(cluster), gave_up, begun.count("slow")) == (True, [], 1)
        released.set()


def test_it_takes_the_time_from_a_clock_that_nobody_sets() -> None:
    assert inspect.signature(Guard).parameters["clock"].default is time.monotonic


class TestWhileItIsBlind:
    def test_no_time_passes(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        post = Post(cluster)
        post.passes(LEASE - 2)
        cluster.fail("leases", *[TemporaryError("the cluster does not answer")] * 600)
        post.passes(602)
        assert not returned(cluster)
        cluster.hold_lease(cluster.claim)  # the run has been there all the time
        post.passes(LEASE)
        assert not returned(cluster)

    def test_nor_while_it_sees_only_now_and_then(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        post = Post(cluster)
        post.passes(1)

        def fails_after_each_second() -> None:
            if int(post.clock.now) % 3:
                cluster.fail("leases", TemporaryError("the cluster does not answer"))

        post.passes(3 * LEASE, fails_after_each_second)
        assert not returned(cluster)

    def test_it_goes_on_whatever_the_cluster_answers(self, plan: DeploymentPlan) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        cluster.fail("leases", TemporaryError("500"), RefusedError("401"), KeyError("items"), ValueError("no JSON"))
        Post(cluster).passes(LEASE + 6)
        assert returned(cluster)

    def test_it_says_so_now_and_then(self, plan: DeploymentPlan, caplog: pytest.LogCaptureFixture) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        cluster.fail("leases", *[TemporaryError("the cluster does not answer")] * 100)
        caplog.set_level(logging.INFO)
        Post(cluster).passes(101)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 100 // REMIND_SECONDS + 2
        assert said[0] == "blind        all namespaces: the cluster does not answer"
        assert said[-1] == "sees again   all namespaces"

    def test_one_namespace_that_it_may_not_see_costs_no_other(
        self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = FakeCluster.at_share(plan, 25)
        leases = cluster.leases

        def one(namespace: str | None) -> Any:
            if namespace != plan.spec.namespace:
                raise RefusedError("403")
            return leases(namespace)

        monkeypatch.setattr(cluster, "leases", one)
        post = Post(cluster)
        post.guards = [Guard(cast("Cluster", cluster), ["other", plan.spec.namespace], post.clock.time)]
        post.passes(LEASE + 1)
        assert returned(cluster)


class TestRunThatComesBack:
    """The run's Lease has lapsed: Airflow was away, or its renewals failed while it still looked."""

    def braked(self, monkeypatch: pytest.MonkeyPatch, *, promoted: bool = False) -> tuple[World, str]:
        world = World(monkeypatch, planned(), Stage(0, 100) if promoted else HEALTHY, promoted=promoted)
        claim = world.cluster.claim
        Post(world.cluster).passes(world.plan.spec.lease + 2)
        assert returned(world.cluster)
        return world, claim

    @pytest.mark.parametrize("role", ["watch", "verify"])
    def test_says_what_the_guard_has_done(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
        world, claim = self.braked(monkeypatch, promoted=role == "verify")
        trigger = world.trigger(role)
        trigger.assignment["claim"] = claim
        writes = world.cluster.writes
        event = ended(trigger)
        assert event["verdict"] == "BLIND"
        assert event["reason"].startswith("guard: the watch has not renewed its Lease for 45 s")
        assert (event["restored_at"] is not None, world.cluster.writes) == (True, writes)

    def test_its_gates_stand_aside(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world, claim = self.braked(monkeypatch)
        trigger = world.trigger("gate", 50)
        trigger.assignment["claim"] = claim
        event = ended(trigger)
        assert event["verdict"] == "CLOSED"

    def test_raises_and_promotes_nothing_any_more(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world, claim = self.braked(monkeypatch)
        plan, route = world.plan, world.cluster.now
        with pytest.raises(FencedError):
            routes.shift(route, plan.claim(claim), 50, 0.0)
        with pytest.raises(FencedError):
            routes.promote(route, plan.claim(claim))
        with pytest.raises(FencedError):
            routes.confirm(route, plan.claim(claim))

    def test_ends_rolled_back_and_names_the_guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world, claim = self.braked(monkeypatch)
        trigger = world.trigger("watch")
        trigger.assignment["claim"] = claim
        run = Run()
        run.judged("watch", ended(trigger))
        run.planned(world.plan)
        monkeypatch.setattr(settling, "Cluster", lambda _: world.cluster)
        RollbackOperator(task_id="rollback", judges=["watch"], gates=[], **ENDING).execute(run.at("rollback"))
        steps = recorded_steps(run.context, ["rollback"])
        assert [step.to for step in steps] == [State.ROLLING_BACK, State.ROLLED_BACK]
        assert steps[0].reason.startswith("watch: BLIND: guard: the watch has not renewed its Lease")
        assert world.cluster.now.phase == routes.SETTLED
        assert world.cluster.replicas[world.plan.candidate] == 0

    def test_a_run_that_still_looks_does_not_bring_the_traffic_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It looks and cannot renew: whoever is right, the candidate's traffic is the one thing that both can end."""
        world = World(monkeypatch, planned(), HEALTHY)
        loop, outcomes = world.loop("watch"), []
        world.cluster.fail("patch_lease", *[TemporaryError("the cluster answers 403")] * 1000)

        def look() -> None:
            outcomes.append(loop.look())
            loop.renew()
            world.clock.sleep(1)

        Post(world.cluster).passes(world.plan.spec.lease + 3, look)
        assert returned(world.cluster)
        (outcome,) = {(found.verdict, found.reason) for found in outcomes if found}
        assert outcome[0] == "BLIND"
        assert outcome[1].startswith("guard: ")


def test_it_ends_when_it_is_told_to(plan: DeploymentPlan) -> None:
    stopped = threading.Event()
    guard = Guard(cast("Cluster", FakeCluster(plan)))
    thread = threading.Thread(target=guard.run, args=[stopped.wait])
    thread.start()
    stopped.set()
    thread.join(10)
    assert not thread.is_alive()
