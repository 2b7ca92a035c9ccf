"""The guard rolls back a canary whose watch is dead, once, and nothing else; and the run that comes back learns why."""

from __future__ import annotations

import inspect
import json
import logging
import threading
import time
from collections.abc import Callable

import pytest

from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.lease import new_lease
from airflow_deploy.rollout import guard as guarding
from airflow_deploy.rollout.analysis.loop import Role
from airflow_deploy.rollout.guard import REMIND_SECONDS, Guard
from airflow_deploy.tasks.base import recorded_steps
from tests.support.builders import make_plan, make_spec
from tests.support.ending import execute
from tests.support.events import ended
from tests.support.guards import Post
from tests.support.kubernetes_api import Object
from tests.support.loops import HEALTHY, planned
from tests.support.other_writers import with_a_rule_for_the_candidate_alone
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster
from tests.support.world import Stage, World

LEASE = 15
SHARES = [1, 5, 25, 100]


@pytest.fixture
def plan() -> DeploymentPlan:
    return make_plan(make_spec(lease=LEASE))


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each pass wait for what it has begun, on a slow machine too."""
    monkeypatch.setattr(guarding, "ROLLBACK_WAIT_SECONDS", 60)


def returned(cluster: ServiceCluster) -> bool:
    return cluster.weights() == {cluster.plan.stable: 100, cluster.plan.candidate: 0}


class TestLapsedLease:
    @pytest.mark.parametrize("share", SHARES)
    def test_canary_is_rolled_back_when_its_lease_has_lapsed(self, plan: DeploymentPlan, share: int) -> None:
        cluster = ServiceCluster.at_share(plan, share)
        post, owner = Post(cluster), cluster.claim
        post.passes(LEASE)
        assert not returned(cluster)
        post.passes(1)
        assert returned(cluster)
        assert cluster.now.phase == routes.BRAKED
        assert (cluster.now.owned_by(plan.deployment_id), cluster.claim == owner, cluster.now.epoch) == (True, False, 2)
        verdict = FinalVerdict.from_event(json.loads(cluster.now.final_verdict or ""))
        assert verdict.verdict == "BLIND"
        assert verdict.reason == f"guard: the watch has not renewed its Lease for {LEASE} s, and it lasts {LEASE} s"
        assert verdict.restored_at is not None

    def test_promotion_that_is_not_verified_is_rolled_back(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.promoted(plan)
        Post(cluster).passes(LEASE + 1)
        assert (returned(cluster), cluster.now.phase) == (True, routes.BRAKED)

    def test_every_rule_is_rolled_back(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster(plan, rules=3)
        _, claim = routes.claim(cluster.now, plan.claim())
        cluster.write(claim)
        cluster.apply(plan)
        cluster.hold_lease(cluster.claim)
        cluster.shift(25, 0.0)
        Post(cluster).passes(LEASE + 1)
        assert cluster.now.weights(plan.candidate) == [{plan.stable: 100, plan.candidate: 0}] * 3

    def test_two_guards_write_once(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        writes = cluster.writes
        Post(cluster, guards=2).passes(3 * LEASE)
        assert (returned(cluster), cluster.writes, cluster.now.epoch) == (True, writes + 1, 2)

    def test_second_of_two_guards_at_once_is_fenced(self, plan: DeploymentPlan) -> None:
        """Both have read the same route; the second's write finds another owner."""
        cluster = ServiceCluster.at_share(plan, 25)
        post = Post(cluster, guards=2)
        post.passes(LEASE)
        cluster.api.before("endpointslices", post.guards[1].look)
        writes = cluster.writes
        post.guards[0].look()
        assert (returned(cluster), cluster.writes, cluster.now.epoch) == (True, writes + 1, 2)
        post.passes(LEASE)
        assert cluster.writes == writes + 1

    def test_guard_that_was_restarted_counts_anew(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        post = Post(cluster)
        post.passes(LEASE - 1)
        post.guards = [post.another()]
        post.passes(LEASE)
        assert not returned(cluster)
        post.passes(1)
        assert returned(cluster)

    def test_rollback_that_fails_is_tried_again(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        cluster.api.fail("httproutes/", 429, method="PATCH")
        cluster.api.fail("httproutes/", 403, method="PATCH")
        cluster.api.fail("httproutes/", exception=KeyError("a mistake of ours"), method="PATCH")
        cluster.api.fail("httproutes/", 500, method="GET")
        post = Post(cluster)
        post.passes(LEASE + 4)
        assert not returned(cluster)
        post.passes(1)
        assert returned(cluster)

    def test_rollback_whose_answer_was_lost_is_not_done_again(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        cluster.api.fail("httproutes/", method="PATCH", done=True)
        writes = cluster.writes
        Post(cluster).passes(2 * LEASE)
        assert (returned(cluster), cluster.writes) == (True, writes + 1)

    def test_weights_that_a_person_set_do_not_stop_the_rollback(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)

        def change(body: Object) -> None:
            body["spec"]["rules"][0]["backendRefs"][1]["weight"] = 70

        cluster.edit(change)
        Post(cluster).passes(LEASE + 1)
        assert returned(cluster)

    def test_foreign_rule_is_reported_once_and_all_others_are_rolled_back(
        self, plan: DeploymentPlan, caplog: pytest.LogCaptureFixture
    ) -> None:
        cluster = with_a_rule_for_the_candidate_alone(ServiceCluster.at_share(plan, 25))
        rule = cluster.body["spec"]["rules"][1]
        Post(cluster).passes(3 * LEASE)
        assert (returned(cluster), cluster.body["spec"]["rules"][1]) == (True, rule)
        said = f"a rule that sends requests to {plan.candidate} and does not name {plan.stable}"
        assert caplog.text.count(said) == 1
        assert json.loads(cluster.now.final_verdict or "")["restored_at"] is None


class TestLeftAlone:
    def untouched(self, cluster: ServiceCluster, each: Callable[[], object] = lambda: None) -> None:
        before, writes = cluster.now.body, len(cluster.api.writes)
        Post(cluster).passes(5 * LEASE, each)
        assert (cluster.now.body, len(cluster.api.writes)) == (before, writes)

    @pytest.mark.parametrize("make", [lambda plan: ServiceCluster.at_share(plan, 25), ServiceCluster.promoted])
    def test_deployment_whose_lease_is_renewed_is_not_rolled_back(
        self, plan: DeploymentPlan, make: Callable[[DeploymentPlan], ServiceCluster]
    ) -> None:
        cluster = make(plan)
        self.untouched(cluster, lambda: cluster.hold_lease(cluster.claim))

    def test_verified_deployment_is_not_rolled_back(self, plan: DeploymentPlan) -> None:
        self.untouched(ServiceCluster.verified(plan))

    @pytest.mark.parametrize("phase", [routes.BRAKED, routes.SETTLED, routes.ABANDONED])
    def test_deployment_that_is_over_is_not_rolled_back(self, plan: DeploymentPlan, phase: str) -> None:
        self.untouched(ServiceCluster.at_share(plan, 25).annotate(routes.PHASE, phase))

    def test_candidate_without_traffic_is_not_rolled_back(self, plan: DeploymentPlan) -> None:
        self.untouched(ServiceCluster.at_share(plan, 0))

    def test_candidate_that_gets_traffic_after_its_lease_has_lapsed_is_rolled_back(self, plan: DeploymentPlan) -> None:
        """A task that woke after an hour gives a share although the watch is dead."""
        cluster = ServiceCluster.at_share(plan, 0)
        post = Post(cluster)
        post.passes(5 * LEASE)
        cluster.shift(5, 0.0)
        post.passes(1)
        assert returned(cluster)

    def test_canary_is_not_rolled_back_until_its_stable_has_a_ready_pod(
        self, plan: DeploymentPlan, caplog: pytest.LogCaptureFixture
    ) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        cluster.replicas[plan.stable] = 0
        post = Post(cluster)
        post.passes(2 * LEASE)
        assert cluster.weights()[plan.candidate] == 25
        assert f"{plan.stable} has no ready pod that could take the traffic" in caplog.text
        cluster.replicas[plan.stable] = 1
        post.passes(1)
        assert returned(cluster)

    @pytest.mark.parametrize("key", [routes.OWNER, routes.VERSIONS])
    def test_route_without_our_annotations_is_not_written(self, plan: DeploymentPlan, key: str) -> None:
        self.untouched(ServiceCluster.at_share(plan, 25).annotate(key, None))

    @pytest.mark.parametrize("text", ["", "null", "[]", "5", '{"stable": "payments"}', '{"stable":', "[" * 10_000])
    def test_route_with_garbled_versions_is_not_written(self, plan: DeploymentPlan, text: str) -> None:
        self.untouched(ServiceCluster.at_share(plan, 25).annotate(routes.VERSIONS, text))

    def test_route_of_a_deployment_that_is_over_is_read_once(self, plan: DeploymentPlan) -> None:
        """Each service's last Lease stays for ever, and lapses."""
        cluster = ServiceCluster.verified(plan)
        post = Post(cluster)
        with cluster.api.recorded() as requests:
            post.passes(2 * LEASE + 1)
        assert [request.method for request in requests if "/httproutes/" in request.path] == ["GET"]

    def test_route_that_is_gone_is_over(self, plan: DeploymentPlan, caplog: pytest.LogCaptureFixture) -> None:
        """A service that was given up leaves its Lease behind."""
        cluster = ServiceCluster.at_share(plan, 25).without_route()
        Post(cluster).passes(5 * LEASE)
        assert caplog.text == ""

    def test_next_deployment_of_the_same_route_is_guarded(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.verified(plan)
        post = Post(cluster)
        post.passes(2 * LEASE)
        following = make_plan(plan.spec, run_id="the-next", commit="f" * 40, stable=plan.candidate)
        claim, patch = routes.claim(cluster.now, following.claim())
        cluster.hold_lease(claim.owner)
        cluster.write(patch)
        cluster.write(routes.shift(cluster.now, claim, 25, 0.0))
        post.passes(LEASE + 1)
        assert cluster.weights() == {following.stable: 100, following.candidate: 0}


class TestSeveralLeases:
    def test_lease_of_the_other_router_by_the_same_name_hides_none(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        namespace, name, _ = plan.spec.place
        cluster.api.add(new_lease(namespace, name, cluster.claim, LEASE, "replicas"))
        assert len(cluster.api.all("Lease")) == 2
        Post(cluster).passes(LEASE + 1)
        assert returned(cluster)

    def test_rollback_that_hangs_delays_no_other(self, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(guarding, "ROLLBACK_WAIT_SECONDS", 0.0)
        cluster = ServiceCluster.at_share(plan, 25)
        _, name, router = plan.spec.place
        cluster.api.add(new_lease("slow", name, cluster.claim, LEASE, router))
        released, written, hung = threading.Event(), threading.Event(), list[bool]()
        cluster.api.before("namespaces/slow/httproutes/", lambda: hung.append(released.wait(60)), times=None)
        cluster.api.after(f"namespaces/{plan.spec.namespace}/httproutes/", written.set, method="PATCH")
        Post(cluster).passes(LEASE + 5)
        assert written.wait(60)
        slow = [request for request in cluster.api.requests if "namespaces/slow/httproutes/" in request.path]
        assert (returned(cluster), hung, len(slow)) == (True, [], 1)
        released.set()


def test_guard_takes_the_time_from_a_clock_that_is_never_set() -> None:
    assert inspect.signature(Guard).parameters["clock"].default is time.monotonic


class TestClusterThatDoesNotAnswer:
    def test_no_time_passes_while_leases_cannot_be_read(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        post = Post(cluster)
        post.passes(LEASE - 2)
        cluster.api.fail("/leases", times=600)
        post.passes(602)
        assert not returned(cluster)
        cluster.hold_lease(cluster.claim)  # the run has been there all the time
        post.passes(LEASE)
        assert not returned(cluster)

    def test_no_time_passes_while_leases_can_be_read_only_now_and_then(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        post = Post(cluster)
        post.passes(1)

        def fails_after_each_second() -> None:
            if int(post.clock.now) % 3:
                cluster.api.fail("/leases")

        post.passes(3 * LEASE, fails_after_each_second)
        assert not returned(cluster)

    def test_guard_goes_on_after_any_answer(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        for status in (500, 401):
            cluster.api.fail("/leases", status)
        cluster.api.fail("/leases", 200, body={})
        cluster.api.fail("/leases", 200, body="no JSON")
        cluster.api.fail("/leases", exception=KeyError("a mistake of ours"))
        Post(cluster).passes(LEASE + 7)
        assert len([request for request in cluster.api.requests if request.path.endswith("/leases")]) == LEASE + 7
        assert returned(cluster)

    def test_guard_logs_now_and_then_that_it_cannot_read_leases(
        self, plan: DeploymentPlan, caplog: pytest.LogCaptureFixture
    ) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        cluster.api.fail("/leases", times=100)
        caplog.set_level(logging.INFO, guarding.__name__)
        Post(cluster).passes(101)
        said = [record.getMessage() for record in caplog.records]
        assert len(said) == 100 // REMIND_SECONDS + 2
        assert said[0] == (
            "blind        all namespaces: listing Leases of all namespaces: HTTP 503 apiserver is shutting down"
        )
        assert said[-1] == "sees again   all namespaces"

    def test_namespace_that_may_not_be_read_delays_no_other(self, plan: DeploymentPlan) -> None:
        cluster = ServiceCluster.at_share(plan, 25)
        cluster.api.fail("namespaces/other/leases", 403, times=None)
        post = Post(cluster)
        post.guards = [post.another(["other", plan.spec.namespace])]
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
    def test_run_that_comes_back_says_what_the_guard_has_done(
        self, monkeypatch: pytest.MonkeyPatch, role: Role
    ) -> None:
        world, claim = self.braked(monkeypatch, promoted=role == "verify")
        trigger = world.trigger(role)
        trigger.assignment["claim"] = claim
        writes = world.cluster.writes
        event = ended(trigger)
        assert event["verdict"] == "BLIND"
        assert event["reason"].startswith("guard: the watch has not renewed its Lease for 45 s")
        assert (event["restored_at"] is not None, world.cluster.writes) == (True, writes)

    def test_gate_of_a_run_that_comes_back_is_closed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world, claim = self.braked(monkeypatch)
        trigger = world.trigger("gate", 50)
        trigger.assignment["claim"] = claim
        event = ended(trigger)
        assert event["verdict"] == "CLOSED"

    def test_run_that_comes_back_raises_and_promotes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world, claim = self.braked(monkeypatch)
        plan, route = world.plan, world.cluster.now
        with pytest.raises(FencedError):
            routes.shift(route, plan.claim(claim), 50, 0.0)
        with pytest.raises(FencedError):
            routes.promote(route, plan.claim(claim))
        with pytest.raises(FencedError):
            routes.confirm(route, plan.claim(claim))

    def test_run_that_comes_back_ends_rolled_back_and_names_the_guard(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world, claim = self.braked(monkeypatch)
        trigger = world.trigger("watch")
        trigger.assignment["claim"] = claim
        run = Run()
        run.judged("watch", ended(trigger))
        run.planned(world.plan)
        execute(run, "rollback", world.cluster, monkeypatch)
        steps = recorded_steps(run.context, ["rollback"])
        assert [step.to for step in steps] == [State.ROLLING_BACK, State.ROLLED_BACK]
        assert steps[0].reason.startswith("watch: BLIND: guard: the watch has not renewed its Lease")
        assert world.cluster.now.phase == routes.SETTLED
        assert world.cluster.replicas[world.plan.candidate] == 0

    def test_run_that_still_looks_and_cannot_renew_does_not_bring_the_traffic_back(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Guard and watch disagree: the candidate's traffic is the one thing that both can end."""
        world = World(monkeypatch, planned(), HEALTHY)
        loop, outcomes = world.loop("watch"), []
        world.cluster.api.fail("leases/", 403, method="PATCH", times=None)

        def look() -> None:
            outcomes.append(loop.look())
            loop.renew()
            world.clock.sleep(1)

        Post(world.cluster).passes(world.plan.spec.lease + 3, look)
        assert returned(world.cluster)
        (outcome,) = {(found.verdict, found.reason) for found in outcomes if found}
        assert outcome[0] == "BLIND"
        assert outcome[1].startswith("guard: ")


def test_guard_ends_when_it_is_told_to(plan: DeploymentPlan) -> None:
    stopped = threading.Event()
    guard = Guard(ServiceCluster(plan).client)
    thread = threading.Thread(target=guard.run, args=[stopped.wait])
    thread.start()
    stopped.set()
    thread.join(10)
    assert not thread.is_alive()
