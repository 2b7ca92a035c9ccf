"""Each completed look renews the Lease; a share is raised only after a look; a deployment under way keeps its route."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.domain.errors import DeployError, FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.lease import DEFAULT_LEASE_SECONDS, LEASE_LABELS, Lease
from airflow_deploy.operators import canary
from airflow_deploy.operators.canary import ClaimRouteOperator, ShiftCanaryOperator
from airflow_deploy.rollout import lease
from airflow_deploy.rollout import preflight as wayback
from airflow_deploy.rollout import shift as shifting
from airflow_deploy.rollout.analysis.loop import MAX_LOOK_SECONDS, Role
from airflow_deploy.rollout.shift import WATCH_WAIT_SECONDS
from airflow_deploy.tasks.base import recorded_steps
from tests.airflow.analysis.test_loop import HARMFUL, HEALTHY, planned
from tests.airflow.operators.test_operators import Run
from tests.airflow.tasks.test_triggers import ended
from tests.support.builders import make_plan, make_spec
from tests.support.fake_cluster import FakeCluster
from tests.support.fake_registry import FakeRegistry
from tests.support.fake_world import Clock, Stage, World

OTHER = "DEP-1795417100-ffffffff/1"


def version(cluster: FakeCluster) -> tuple[str, str]:
    assert cluster.held is not None
    return cluster.held.version


class TestRenewal:
    @pytest.mark.parametrize("role", ["watch", "verify"])
    def test_each_completed_look_renews(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
        world = World(monkeypatch, planned(), Stage(0, 100), promoted=role == "verify")
        loop = world.loop(role)
        seen = {version(world.cluster)}
        for _ in range(5):
            assert loop.look() is None
            loop.renew()
            seen.add(version(world.cluster))
            world.clock.sleep(1)
        assert len(seen) == 6

    def test_a_blind_one_renews_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.observer.away = [(0, 1e9)]
        loop, before = world.loop("watch"), version(world.cluster)
        loop.look()
        loop.renew()
        assert version(world.cluster) != before

    def test_a_gate_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nobody holds the brake while only gates look."""
        world = World(monkeypatch, planned(), HEALTHY)
        loop, before = world.loop("gate"), version(world.cluster)
        loop.look()
        loop.renew()
        assert version(world.cluster) == before

    @pytest.mark.parametrize(("took", "renews"), [(MAX_LOOK_SECONDS, True), (MAX_LOOK_SECONDS + 0.1, False)])
    def test_a_look_that_took_too_long_does_not(
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

    def test_a_lease_that_somebody_deleted_is_made_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.cluster.delete_lease()
        loop = world.loop("watch")
        loop.look()
        loop.renew()
        held = world.cluster.held
        assert held is not None
        assert (held.holder, held.seconds, held.body["metadata"]["labels"]) == (world.cluster.claim, 45, LEASE_LABELS)

    def test_a_lease_of_somebody_else_is_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.cluster.hold_lease(OTHER)
        before = version(world.cluster)
        loop = world.loop("watch")
        loop.look()
        loop.renew()
        assert version(world.cluster) == before

    def test_the_loop_renews_while_it_looks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        before = version(world.cluster)
        assert ended(world.trigger("watch"))["verdict"] == "BREACHED"
        assert version(world.cluster) != before

    @pytest.mark.parametrize("error", [TemporaryError("429"), RefusedError("403"), KeyError("a mistake of ours")])
    def test_a_cluster_that_refuses_it_costs_no_verdict(
        self, monkeypatch: pytest.MonkeyPatch, error: Exception
    ) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        world.cluster.fail("patch_lease", *[error] * 1000)
        event = ended(world.trigger("watch"))
        assert (event["verdict"], world.cluster.now.phase) == ("BREACHED", routes.BRAKED)


class TestHanging:
    def test_a_renewal_that_hangs_holds_up_neither_look_nor_brake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        released = threading.Event()
        monkeypatch.setattr(world.cluster, "patch_lease", lambda *_: released.wait(30))
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


class TestLookThenRaise:
    def shift(self, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch, run: Run, claim: str | None = None) -> None:
        monkeypatch.setattr(canary, "Cluster", lambda _: cluster)
        run.judged("judge", {"verdict": "HEALTHY"})
        ShiftCanaryOperator(
            task_id="shift", agreed=("judge", ""), share=25, plan=cluster.plan.dump(), claim=claim or cluster.claim
        ).execute(run.at("shift"))

    def later(self, clock: Clock, monkeypatch: pytest.MonkeyPatch, happens: Callable[[], None], after: float) -> None:
        """Let something happen while the shift waits."""
        begun = clock.now

        def sleep(seconds: float) -> None:
            before = clock.now
            clock.sleep(seconds)
            if before < begun + after <= clock.now:
                happens()

        monkeypatch.setattr("airflow_deploy.rollout.shift.time.sleep", sleep)

    def test_waits_until_somebody_has_looked(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster, run, begun = FakeCluster.at_share(make_plan(), 5), Run(), clock.now
        self.later(clock, monkeypatch, lambda: cluster.hold_lease(cluster.claim), after=20)
        self.shift(cluster, monkeypatch, run)
        assert clock.now - begun >= 20
        assert cluster.weights()[cluster.plan.candidate] == 25
        assert [step.to for step in recorded_steps(run.context, ["shift"])] == [State.CANARY, State.CANARY_WAITING]

    def test_a_look_of_before_does_not_count(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster, run, begun = FakeCluster.at_share(make_plan(), 5), Run(), clock.now
        writes = cluster.writes
        with pytest.raises(TemporaryError, match="watch has not renewed its Lease for 60 s; not shifting to 25 %"):
            self.shift(cluster, monkeypatch, run)
        assert WATCH_WAIT_SECONDS <= clock.now - begun < WATCH_WAIT_SECONDS + 1
        assert cluster.writes == writes
        assert recorded_steps(run.context, ["shift"]) == []

    def test_nor_does_one_of_somebody_else(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = FakeCluster.at_share(make_plan(), 5)
        self.later(clock, monkeypatch, lambda: cluster.hold_lease(OTHER), after=2)
        with pytest.raises(TemporaryError, match="watch has not renewed its Lease"):
            self.shift(cluster, monkeypatch, Run())

    def test_the_first_look_of_all_counts(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = FakeCluster.at_share(make_plan(), 0)
        cluster.delete_lease()
        self.later(clock, monkeypatch, lambda: cluster.hold_lease(cluster.claim), after=2)
        self.shift(cluster, monkeypatch, Run())
        assert cluster.weights()[cluster.plan.candidate] == 25

    def test_a_share_that_is_given_already_waits_for_nobody(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster, begun = FakeCluster.at_share(make_plan(), 25), clock.now
        self.shift(cluster, monkeypatch, Run())
        assert clock.now == begun

    def test_a_route_that_is_braked_meanwhile_ends_it_at_once(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster, begun = FakeCluster.at_share(make_plan(), 5), clock.now
        self.later(clock, monkeypatch, lambda: cast("None", cluster.annotate(routes.PHASE, routes.BRAKED)), after=2)
        with pytest.raises(FencedError, match="is braked"):
            self.shift(cluster, monkeypatch, Run())
        assert clock.now - begun < 5


class TestClaim:
    @pytest.fixture(autouse=True)
    def _registry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(wayback, "Images", FakeRegistry())

    def claim(self, plan: DeploymentPlan, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(canary, "Cluster", lambda _: cluster)
        return ClaimRouteOperator(task_id="claim_route", plan=plan.dump()).execute(Run().at("claim_route"))

    def another(self, cluster: FakeCluster) -> DeploymentPlan:
        """What another Airflow would deploy to the same route, which it found as it is."""
        return make_plan(run_id="elsewhere", commit="f" * 40, stable=cluster.now.stable())

    def test_the_lease_is_there_before_the_claim(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = make_plan(make_spec(lease="30s"))
        cluster = FakeCluster(plan)
        holders: list[str | None] = []
        patch_route = cluster.patch_route

        def patch(*arguments: Any) -> Any:
            holders.append(cluster.held.holder if cluster.held else None)
            return patch_route(*arguments)

        monkeypatch.setattr(cluster, "patch_route", patch)
        owner = self.claim(plan, cluster, monkeypatch)
        assert holders == [owner]
        assert cluster.held is not None
        assert cluster.held.seconds == 30

    def test_without_a_lease_nothing_is_claimed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = FakeCluster(make_plan())
        cluster.fail("create_lease", RefusedError("403"))
        with pytest.raises(RefusedError):
            self.claim(cluster.plan, cluster, monkeypatch)
        assert cluster.now.owner is None

    def test_the_lease_of_an_earlier_deployment_is_taken_over(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster, begun = FakeCluster.verified(make_plan()), clock.now
        cluster.annotate(routes.OWNER, f"{cluster.claim}7")  # by the guard, say, which takes no Lease
        owner = self.claim(self.another(cluster), cluster, monkeypatch)
        assert clock.now == begun
        assert cluster.held is not None
        assert (cluster.held.holder, owner) == (cluster.claim, cluster.claim)

    def test_the_lease_of_one_that_the_route_does_not_know_is_taken_over_when_nobody_renews_it(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It died between the two, say, or somebody has removed the annotations."""
        cluster, begun = FakeCluster(make_plan()), clock.now
        cluster.hold_lease(OTHER)
        owner = self.claim(cluster.plan, cluster, monkeypatch)
        assert clock.now - begun >= cluster.plan.spec.lease
        assert cluster.held is not None
        assert (cluster.held.holder, owner) == (cluster.claim, cluster.claim)

    @pytest.mark.parametrize("make", [lambda p: FakeCluster.at_share(p, 0), FakeCluster.promoted])
    def test_a_deployment_that_is_under_way_elsewhere_keeps_its_route(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch, make: Callable[[DeploymentPlan], FakeCluster]
    ) -> None:
        """Another Airflow, or this one where somebody raised max_active_runs."""
        cluster = make(make_plan())
        owner = cluster.claim

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            cluster.hold_lease(owner)

        monkeypatch.setattr("airflow_deploy.rollout.lease.time.sleep", sleep)
        writes = cluster.writes
        with pytest.raises(RefusedError, match=rf"by {owner}, which is under way: wait until it has ended"):
            self.claim(self.another(cluster), cluster, monkeypatch)
        assert (cluster.writes, cluster.held and cluster.held.holder) == (writes, owner)

    @pytest.mark.parametrize("lost", [False, True])
    def test_one_that_nobody_looks_at_loses_it(self, clock: Clock, monkeypatch: pytest.MonkeyPatch, lost: bool) -> None:
        cluster, begun = FakeCluster.at_share(make_plan(), 0), clock.now
        if lost:
            cluster.delete_lease()
        another = self.another(cluster)
        owner = self.claim(another, cluster, monkeypatch)
        assert clock.now - begun >= another.spec.lease
        assert cluster.now.owned_by(another.deployment_id)
        assert cluster.held is not None
        assert cluster.held.holder == owner

    @pytest.mark.parametrize("phase", ["verified", "settled", "braked", "abandoned"])
    def test_one_that_is_over_is_not_waited_for(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch, phase: str
    ) -> None:
        cluster, begun = FakeCluster.at_share(make_plan(), 0).annotate(routes.PHASE, phase), clock.now
        self.claim(self.another(cluster), cluster, monkeypatch)
        assert clock.now == begun

    def test_two_claims_at_once_leave_one(self, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
        """Whoever comes second to the route writes nothing on it."""
        cluster = FakeCluster(make_plan())
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
        assert cluster.now.owned_by(another.deployment_id)

    @pytest.mark.parametrize("while_", ["the registry is asked", "it claims"])
    def test_whoever_comes_too_late_to_the_route_leaves_the_others_lease(
        self, clock: Clock, monkeypatch: pytest.MonkeyPatch, while_: str
    ) -> None:
        """The guard would take the traffic of a deployment whose Lease somebody else holds."""
        cluster = FakeCluster(make_plan())
        another = self.another(cluster)
        where: Any = canary if while_ == "the registry is asked" else routes
        name = "check_rollback_possible" if while_ == "the registry is asked" else "claim"
        real = getattr(where, name)

        def meanwhile(*arguments: Any) -> Any:
            monkeypatch.setattr(where, name, real)
            found = real(*arguments)
            self.claim(another, cluster, monkeypatch)
            return found

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            lease.renew(cast("Cluster", cluster), another, f"{another.deployment_id}/1")

        monkeypatch.setattr("airflow_deploy.rollout.lease.time.sleep", sleep)
        monkeypatch.setattr(where, name, meanwhile)
        with pytest.raises(DeployError):
            self.claim(cluster.plan, cluster, monkeypatch)
        assert cluster.held is not None
        assert (cluster.claim, cluster.held.holder) == (f"{another.deployment_id}/1",) * 2


class TestTake:
    def take(self, cluster: FakeCluster, owner: str, before: str | None = OTHER) -> None:
        lease.take(cast("Cluster", cluster), cluster.plan, owner, before)

    def test_whoever_reads_it_before_another_has_taken_it_comes_too_late(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = FakeCluster(make_plan())
        cluster.hold_lease(OTHER)
        read = cluster.lease

        def and_meanwhile(*arguments: Any) -> Lease | None:
            monkeypatch.setattr(cluster, "lease", read)
            found = read(*arguments)
            self.take(cluster, "DEP-1-00000000/2")
            return found

        monkeypatch.setattr(cluster, "lease", and_meanwhile)
        with pytest.raises(TemporaryError):
            self.take(cluster, "DEP-1-11111111/2")
        assert cluster.held is not None
        assert cluster.held.holder == "DEP-1-00000000/2"

    def test_taken_twice_it_is_written_once(self) -> None:
        cluster = FakeCluster(make_plan())
        self.take(cluster, OTHER)
        before = version(cluster)
        self.take(cluster, OTHER)
        assert version(cluster) == before

    def test_whoever_comes_second_tries_again(self) -> None:
        """So does a try whose answer was lost: it finds its own name the next time."""
        cluster = FakeCluster(make_plan())
        cluster.hold_lease(OTHER)
        cluster.fail("patch_lease", FencedError("test failed"))
        with pytest.raises(TemporaryError):
            self.take(cluster, "DEP-1-00000000/2")

    def test_labels_that_somebody_removed_are_set_again(self) -> None:
        """By them the guard finds it."""
        cluster = FakeCluster(make_plan())
        cluster.hold_lease(OTHER)
        assert cluster._held is not None
        cluster._held["metadata"]["labels"] = {"team": "pay"}
        self.take(cluster, "DEP-1-00000000/2")
        assert cluster.held is not None
        assert cluster.held.body["metadata"]["labels"] == {"team": "pay", **LEASE_LABELS}

    @pytest.mark.parametrize("spec", [None, {}, {"leaseDurationSeconds": None}, {"leaseDurationSeconds": 0}])
    def test_a_lease_that_says_nothing_lasts_as_usual(self, spec: Any) -> None:
        found = Lease({"metadata": {"name": "airflow-deploy-pay", "namespace": "shop"}, "spec": spec})
        assert (found.holder, found.seconds, found.route) == (None, DEFAULT_LEASE_SECONDS, "pay")
