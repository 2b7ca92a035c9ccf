"""Each completed look renews the Lease; a share is raised only after a look; a deployment under way keeps its route."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_deploy.clients.kubernetes.errors import ForbiddenError
from airflow_deploy.domain.config.spec import DEFAULT_LEASE_SECONDS, MAX_LEASE_SECONDS, MIN_LEASE_SECONDS
from airflow_deploy.domain.errors import DeployError, FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.lease import LEASE_LABELS, Lease
from airflow_deploy.operators import canary
from airflow_deploy.operators.canary import ClaimRouteOperator, ShiftCanaryOperator
from airflow_deploy.rollout import lease
from airflow_deploy.rollout import shift as shifting
from airflow_deploy.rollout.analysis.loop import MAX_LOOK_SECONDS, Role
from airflow_deploy.rollout.shift import WATCH_WAIT_SECONDS
from airflow_deploy.tasks.base import recorded_steps
from airflow_deploy.tasks.decisions import store_decision
from tests.support.builders import make_plan, make_spec
from tests.support.cluster import lead_to
from tests.support.events import ended
from tests.support.kubernetes_api import Object
from tests.support.loops import HARMFUL, HEALTHY, planned
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster
from tests.support.world import Clock, Stage, World

OTHER = "DEP-1795417100-ffffffff/1"
FIRST, SECOND = "DEP-1-00000000/2", "DEP-1-11111111/2"
"""Two deployments that take the Lease at the same time."""


def version(cluster: ServiceCluster) -> tuple[str, str]:
    assert cluster.held is not None
    return cluster.held.version


def holder(cluster: ServiceCluster) -> str | None:
    assert cluster.held is not None
    return cluster.held.holder


class TestRenewal:
    @pytest.mark.parametrize("role", ["watch", "verify"])
    def test_each_completed_look_renews_the_lease(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
        world = World(monkeypatch, planned(), Stage(0, 100), promoted=role == "verify")
        loop = world.loop(role)
        seen = {version(world.cluster)}
        for _ in range(5):
            assert loop.look() is None
            loop.renew()
            seen.add(version(world.cluster))
            world.clock.sleep(1)
        assert len(seen) == 6

    def test_look_without_metrics_renews_the_lease(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.observer.away = [(0, 1e9)]
        loop, before = world.loop("watch"), version(world.cluster)
        loop.look()
        loop.renew()
        assert version(world.cluster) != before

    def test_gate_does_not_renew_the_lease(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """While only gates look, nothing could brake."""
        world = World(monkeypatch, planned(), HEALTHY)
        loop, before = world.loop("gate"), version(world.cluster)
        loop.look()
        loop.renew()
        assert version(world.cluster) == before

    @pytest.mark.parametrize(("took", "renews"), [(MAX_LOOK_SECONDS, True), (MAX_LOOK_SECONDS + 0.1, False)])
    def test_look_that_took_too_long_does_not_renew_the_lease(
        self, monkeypatch: pytest.MonkeyPatch, took: float, renews: bool
    ) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        ask = world.observer.ask

        def slow(*arguments: Any, **options: Any) -> Any:
            world.clock.sleep(took)
            return ask(*arguments, **options)

        monkeypatch.setattr(world.observer, "ask", slow)
        loop, before = world.loop("watch"), version(world.cluster)
        loop.look()
        loop.renew()
        assert (version(world.cluster) != before) is renews

    def test_renewal_makes_a_lease_that_was_deleted_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.cluster.delete_lease()
        loop = world.loop("watch")
        loop.look()
        loop.renew()
        held = world.cluster.held
        assert held is not None
        assert (held.holder, held.seconds, held.body["metadata"]["labels"]) == (world.cluster.claim, 45, LEASE_LABELS)

    def test_renewal_leaves_the_lease_of_another_deployment_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.cluster.hold_lease(OTHER)
        before = version(world.cluster)
        loop = world.loop("watch")
        loop.look()
        loop.renew()
        assert version(world.cluster) == before

    def test_trigger_renews_the_lease_while_it_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        before = version(world.cluster)
        assert ended(world.trigger("watch"))["verdict"] == "BREACHED"
        assert version(world.cluster) != before

    @pytest.mark.parametrize(
        "fault", [{"status": 429}, {"status": 403}, {"exception": KeyError("a mistake of ours")}], ids=str
    )
    def test_renewal_that_fails_costs_no_verdict(self, monkeypatch: pytest.MonkeyPatch, fault: dict[str, Any]) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        world.cluster.api.fail("leases", times=None, **fault)
        event = ended(world.trigger("watch"))
        assert any("/leases" in request.path for request in world.cluster.api.requests)
        assert (event["verdict"], world.cluster.now.phase) == ("BREACHED", routes.BRAKED)

    def test_renewal_that_hangs_holds_up_neither_look_nor_brake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        released = threading.Event()
        world.cluster.api.before("leases", lambda: released.wait(30), times=None)
        event = ended(world.trigger("watch"))
        released.set()
        assert (event["verdict"], world.cluster.now.phase) == ("BREACHED", routes.BRAKED)
        assert event["restored_at"] is not None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (shifting, lease):
        moved = SimpleNamespace(time=clock.time, monotonic=clock.time, sleep=clock.sleep)
        monkeypatch.setattr(module, "time", moved)
    return clock


class TestShift:
    """A look, and then a larger share."""

    def shift(
        self, cluster: ServiceCluster, monkeypatch: pytest.MonkeyPatch, run: Run, claim: str | None = None
    ) -> None:
        lead_to(cluster.api, monkeypatch)
        store_decision(cluster.plan, "judge", "HEALTHY", goes_on=True)
        ShiftCanaryOperator(
            task_id="shift", agreed=("judge", ""), share=25, plan=cluster.plan.dump(), claim=claim or cluster.claim
        ).execute(run.at("shift"))

    def later(self, clock: Clock, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object], after: float) -> None:
        """Let something happen while the shift waits."""
        begun = clock.now

        def sleep(seconds: float) -> None:
            before = clock.now
            clock.sleep(seconds)
            if before < begun + after <= clock.now:
                happens()

        monkeypatch.setattr("airflow_deploy.rollout.shift.time.sleep", sleep)

    def test_shift_waits_until_the_watch_has_looked(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster, run, begun = ServiceCluster.at_share(make_plan(), 5), Run(), clock.now
        self.later(clock, monkeypatch, lambda: cluster.hold_lease(cluster.claim), after=20)
        self.shift(cluster, monkeypatch, run)
        assert clock.now - begun >= 20
        assert cluster.weights()[cluster.plan.candidate] == 25
        assert [step.to for step in recorded_steps(run.context, ["shift"])] == [State.CANARY, State.CANARY_WAITING]

    def test_shift_does_not_count_a_look_before_it_began(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster, run, begun = ServiceCluster.at_share(make_plan(), 5), Run(), clock.now
        writes = cluster.writes
        with pytest.raises(TemporaryError, match="watch has not renewed its Lease for 60 s; not shifting to 25 %"):
            self.shift(cluster, monkeypatch, run)
        assert WATCH_WAIT_SECONDS <= clock.now - begun < WATCH_WAIT_SECONDS + 1
        assert cluster.writes == writes
        assert recorded_steps(run.context, ["shift"]) == []

    def test_shift_does_not_count_a_look_of_another_deployment(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = ServiceCluster.at_share(make_plan(), 5)
        self.later(clock, monkeypatch, lambda: cluster.hold_lease(OTHER), after=2)
        with pytest.raises(TemporaryError, match="watch has not renewed its Lease"):
            self.shift(cluster, monkeypatch, Run())

    def test_shift_counts_the_first_look_of_all(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ServiceCluster.at_share(make_plan(), 0)
        cluster.delete_lease()
        self.later(clock, monkeypatch, lambda: cluster.hold_lease(cluster.claim), after=2)
        self.shift(cluster, monkeypatch, Run())
        assert cluster.weights()[cluster.plan.candidate] == 25

    def test_shift_that_is_done_already_waits_for_no_look(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster, begun = ServiceCluster.at_share(make_plan(), 25), clock.now
        self.shift(cluster, monkeypatch, Run())
        assert clock.now == begun

    def test_shift_ends_its_wait_at_once_if_the_route_is_braked(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster, begun = ServiceCluster.at_share(make_plan(), 5), clock.now
        self.later(clock, monkeypatch, lambda: cluster.annotate(routes.PHASE, routes.BRAKED), after=2)
        with pytest.raises(FencedError, match="is braked"):
            self.shift(cluster, monkeypatch, Run())
        assert clock.now - begun < 5


class TestClaim:
    def claim(self, plan: DeploymentPlan, cluster: ServiceCluster, monkeypatch: pytest.MonkeyPatch) -> str:
        lead_to(cluster.api, monkeypatch)
        return ClaimRouteOperator(task_id="claim_route", plan=plan.dump()).execute(Run().at("claim_route"))

    def another(self, cluster: ServiceCluster) -> DeploymentPlan:
        """What another Airflow would deploy to the same route, which it found as it is."""
        return make_plan(run_id="elsewhere", commit="f" * 40, stable=cluster.now.stable())

    def test_claim_takes_the_lease_before_the_route(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = make_plan(make_spec(lease="30s"))
        cluster = ServiceCluster(plan)
        holders: list[str | None] = []
        cluster.api.before(
            "httproutes/", lambda: holders.append(cluster.held.holder if cluster.held else None), method="PATCH"
        )
        owner = self.claim(plan, cluster, monkeypatch)
        assert holders == [owner]
        assert cluster.held is not None
        assert cluster.held.seconds == 30

    def test_claim_without_a_lease_does_not_write_the_route(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ServiceCluster(make_plan())
        cluster.api.fail("leases", 403, method="POST")
        with pytest.raises(ForbiddenError):
            self.claim(cluster.plan, cluster, monkeypatch)
        assert (cluster.now.owner, cluster.writes) == (None, 0)

    def test_claim_takes_over_the_lease_of_an_earlier_deployment_at_once(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster, begun = ServiceCluster.verified(make_plan()), clock.now
        cluster.annotate(routes.OWNER, f"{cluster.claim}7")  # by the guard, say, which takes no Lease
        owner = self.claim(self.another(cluster), cluster, monkeypatch)
        assert clock.now == begun
        assert (holder(cluster), owner) == (cluster.claim, cluster.claim)

    def test_claim_takes_over_the_lease_of_an_unknown_deployment_after_it_has_lapsed(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That has died between the two writes, say, or a person has removed the annotations."""
        cluster, begun = ServiceCluster(make_plan()), clock.now
        cluster.hold_lease(OTHER)
        owner = self.claim(cluster.plan, cluster, monkeypatch)
        assert clock.now - begun >= cluster.plan.spec.lease
        assert (holder(cluster), owner) == (cluster.claim, cluster.claim)

    @pytest.mark.parametrize("make", [lambda p: ServiceCluster.at_share(p, 0), ServiceCluster.promoted])
    def test_claim_is_refused_while_another_deployment_is_under_way(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch, make: Callable[[DeploymentPlan], ServiceCluster]
    ) -> None:
        """By another Airflow, or by this one after a person has raised max_active_runs."""
        cluster = make(make_plan())
        owner = cluster.claim

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            cluster.hold_lease(owner)

        monkeypatch.setattr("airflow_deploy.rollout.lease.time.sleep", sleep)
        writes = cluster.writes
        with pytest.raises(RefusedError, match=rf"by {owner}, which is under way: wait until it has ended"):
            self.claim(self.another(cluster), cluster, monkeypatch)
        assert (cluster.writes, holder(cluster)) == (writes, owner)

    @pytest.mark.parametrize("lost", [False, True])
    def test_claim_takes_the_route_of_a_deployment_whose_watch_is_dead(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch, lost: bool
    ) -> None:
        cluster, begun = ServiceCluster.at_share(make_plan(), 0), clock.now
        if lost:
            cluster.delete_lease()
        another = self.another(cluster)
        owner = self.claim(another, cluster, monkeypatch)
        assert clock.now - begun >= another.spec.lease
        assert cluster.now.owned_by(another.deployment_id)
        assert holder(cluster) == owner

    @pytest.mark.parametrize("phase", ["verified", "settled", "braked", "abandoned"])
    def test_claim_does_not_wait_for_a_deployment_that_is_over(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch, phase: str
    ) -> None:
        cluster, begun = ServiceCluster.at_share(make_plan(), 0).annotate(routes.PHASE, phase), clock.now
        self.claim(self.another(cluster), cluster, monkeypatch)
        assert clock.now == begun

    def test_second_of_two_claims_at_once_writes_nothing_on_the_route(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = ServiceCluster(make_plan())
        another = self.another(cluster)
        real = routes.claim

        def claim(*arguments: Any) -> Any:
            monkeypatch.setattr(routes, "claim", real)
            found = real(*arguments)
            self.claim(another, cluster, monkeypatch)
            return found

        monkeypatch.setattr(routes, "claim", claim)
        with pytest.raises(DeployError):
            self.claim(cluster.plan, cluster, monkeypatch)
        assert (cluster.now.owned_by(another.deployment_id), cluster.writes) == (True, 1)

    @pytest.mark.parametrize("while_", ["the registry is asked", "it claims"])
    def test_claim_that_comes_too_late_leaves_the_lease_of_the_first(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch, while_: str
    ) -> None:
        """The guard would take the traffic of a deployment whose Lease another one holds."""
        cluster = ServiceCluster(make_plan())
        another = self.another(cluster)
        module: Any = canary if while_ == "the registry is asked" else routes
        name = "check_rollback_possible" if while_ == "the registry is asked" else "claim"
        real = getattr(module, name)

        def meanwhile(*arguments: Any) -> Any:
            monkeypatch.setattr(module, name, real)
            found = real(*arguments)
            self.claim(another, cluster, monkeypatch)
            return found

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            lease.renew(cluster.client, another, f"{another.deployment_id}/1")

        monkeypatch.setattr("airflow_deploy.rollout.lease.time.sleep", sleep)
        monkeypatch.setattr(module, name, meanwhile)
        with pytest.raises(DeployError):
            self.claim(cluster.plan, cluster, monkeypatch)
        assert (cluster.claim, holder(cluster)) == (f"{another.deployment_id}/1",) * 2


class TestTake:
    def take(self, cluster: ServiceCluster, owner: str, before: str | None = OTHER) -> None:
        lease.take(cluster.client, cluster.plan, owner, before)

    def test_lease_that_another_took_since_it_was_read_is_not_taken(self) -> None:
        cluster = ServiceCluster(make_plan())
        cluster.hold_lease(OTHER)
        cluster.api.after("leases/", lambda: self.take(cluster, FIRST), method="GET")
        with pytest.raises(TemporaryError, match="the Lease was written meanwhile"):
            self.take(cluster, SECOND)
        assert holder(cluster) == FIRST

    def test_lease_that_another_made_since_it_was_read_is_not_taken(self) -> None:
        cluster = ServiceCluster(make_plan())
        cluster.api.after("leases/", lambda: self.take(cluster, FIRST), method="GET")
        with pytest.raises(TemporaryError):
            self.take(cluster, SECOND)
        assert holder(cluster) == FIRST

    def test_lease_that_is_taken_twice_is_written_once(self) -> None:
        cluster = ServiceCluster(make_plan())
        self.take(cluster, OTHER)
        before = version(cluster)
        self.take(cluster, OTHER)
        assert version(cluster) == before

    def test_take_whose_answer_was_lost_finds_its_own_name_at_the_next_try(self) -> None:
        cluster = ServiceCluster(make_plan())
        cluster.hold_lease(OTHER)
        cluster.api.fail("leases/", 503, method="PATCH", done=True)
        with pytest.raises(TemporaryError):
            self.take(cluster, FIRST)
        before = version(cluster)
        self.take(cluster, FIRST)
        assert (holder(cluster), version(cluster)) == (FIRST, before)

    def test_take_sets_labels_that_a_person_removed_again(self) -> None:
        """By them the guard finds the Lease."""
        cluster = ServiceCluster(make_plan())
        cluster.hold_lease(OTHER)
        assert cluster.held is not None

        def relabel(body: Object) -> None:
            body["metadata"]["labels"] = {"team": "pay"}

        cluster.api.edit("Lease", cluster.plan.spec.namespace, cluster.held.body["metadata"]["name"], relabel)
        self.take(cluster, FIRST)
        assert cluster.held.body["metadata"]["labels"] == {"team": "pay", **LEASE_LABELS}

    @pytest.mark.parametrize("spec", [None, {}, {"leaseDurationSeconds": None}, {"leaseDurationSeconds": 0}])
    def test_lease_without_a_duration_has_the_default(self, spec: Any) -> None:
        found = Lease({"metadata": {"name": "airflow-deploy-pay", "namespace": "shop"}, "spec": spec})
        assert (found.holder, found.seconds, found.route) == (None, DEFAULT_LEASE_SECONDS, "pay")

    @pytest.mark.parametrize(
        ("written", "seconds"),
        [(1, MIN_LEASE_SECONDS), (30, 30), (601, MAX_LEASE_SECONDS), (2**31 - 1, MAX_LEASE_SECONDS)],
    )
    def test_lease_lasts_no_longer_and_no_shorter_than_a_spec_may_say(self, written: int, seconds: int) -> None:
        body = {
            "metadata": {"name": "airflow-deploy-pay", "namespace": "shop"},
            "spec": {"leaseDurationSeconds": written},
        }
        assert Lease(body).seconds == seconds
