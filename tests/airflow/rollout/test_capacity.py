"""Weight follows capacity: no share is given before its pods are ready, nor while the way back is too narrow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.clients.kubernetes.pods import Readiness
from airflow_deploy.domain.errors import CapacityError, FencedError, PermanentError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.operators import apply as applying
from airflow_deploy.operators import canary
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.canary import PromoteOperator, ShiftCanaryOperator
from airflow_deploy.rollout import capacity, lease
from airflow_deploy.rollout.capacity import POD_WAIT_SECONDS, provide_capacity, scale_up
from tests.airflow.operators.test_operators import Run
from tests.support.builders import make_plan, make_spec
from tests.support.fake_cluster import FakeCluster

AGREED = ("gate", "ask")


class Slow(FakeCluster):
    """Pods take a while: each second one more of a Service's is ready; the route is written when they all are."""

    clock: Clock
    up: dict[str, int]

    def started(self, **ready: int) -> Slow:
        self.clock, self.up = Clock(self), {self.plan.stable: 2, self.plan.candidate: 2, **ready}
        self.scaled: list[int] = []
        return self

    def ready_endpoints(self, namespace: str, service: str, timeout: Any = None) -> int:
        return self.up[service]

    def scale(self, namespace: str, name: str, replicas: int) -> None:
        super().scale(namespace, name, replicas)
        self.scaled.append(replicas)


class Clock:
    """Sleeping moves it, and lets what was ordered happen."""

    def __init__(self, cluster: Slow) -> None:
        self.now, self.cluster = 0.0, cluster
        self.meanwhile: Callable[[], object] = self.start_one

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()

    def start_one(self) -> None:
        candidate = self.cluster.plan.candidate
        ready, wanted = self.cluster.up[candidate], self.cluster.replicas[candidate]
        self.cluster.up[candidate] = min(wanted, ready + 1)


def planned(**spec: Any) -> DeploymentPlan:
    return make_plan(make_spec(**{"replicas": 8, "capacity": "proportional", **spec}), stable_ready=2)


@pytest.fixture
def at_share(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Slow]:
    """Return what makes a canary of so many percent, whose pods are all ready."""

    def make(share: int, **spec: Any) -> Slow:
        plan = planned(**spec)
        cluster = cast("Slow", Slow.at_share(plan, share)).started()
        cluster.replicas[plan.candidate] = cluster.up[plan.candidate] = plan.pods_for(share)
        for module in (canary, applying):
            monkeypatch.setattr(module, "Cluster", lambda _: cluster)
            monkeypatch.setattr(module, "check_agreed", lambda *_: None)
        monkeypatch.setattr(capacity, "time", cluster.clock)
        monkeypatch.setattr(lease.LeaseRenewal, "seen", lambda _: True)  # the watch renews
        return cluster

    return make


def shift(cluster: FakeCluster, share: int) -> None:
    owned: dict[str, Any] = {"plan": cluster.plan.dump(), "claim": cluster.claim}
    ShiftCanaryOperator(task_id="shift", share=share, agreed=AGREED, **owned).execute(Run().at("shift"))


def promote(cluster: FakeCluster) -> None:
    owned: dict[str, Any] = {"plan": cluster.plan.dump(), "claim": cluster.claim}
    PromoteOperator(task_id="promote", agreed=AGREED, **owned).execute(Run().at("promote"))


class TestShift:
    def test_comes_after_the_pods_that_it_needs(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5)
        seen: list[tuple[int, int]] = []
        start_one = cluster.clock.start_one

        def watched() -> None:
            seen.append((cluster.up[cluster.plan.candidate], cluster.weights()[cluster.plan.candidate]))
            start_one()

        cluster.clock.meanwhile = watched
        shift(cluster, 50)
        assert cluster.scaled == [4]
        assert seen == [(1, 5), (2, 5), (3, 5)]
        assert cluster.weights()[cluster.plan.candidate] == 50

    def test_of_everything_needs_all_pods(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(50)
        shift(cluster, 100)
        assert (cluster.scaled, cluster.up[cluster.plan.candidate]) == ([8], 8)

    def test_takes_no_pods_away(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5)
        cluster.replicas[cluster.plan.candidate] = 9
        cluster.up[cluster.plan.candidate] = 9
        shift(cluster, 25)
        assert (cluster.scaled, cluster.clock.now) == ([], 0)

    def test_waits_for_all_pods_where_the_candidate_has_them_from_the_start(
        self, at_share: Callable[..., Slow]
    ) -> None:
        cluster = at_share(5, capacity="full")
        cluster.up[cluster.plan.candidate] = 6
        shift(cluster, 25)
        assert (cluster.scaled, cluster.clock.now) == ([], 2)

    def test_waits_until_the_stable_could_take_everything_back(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5, capacity="full")
        cluster.up[cluster.plan.stable] = 1

        def recovers() -> None:
            assert cluster.weights()[cluster.plan.candidate] == 5
            cluster.up[cluster.plan.stable] = 1 + (cluster.clock.now > 60)

        cluster.clock.meanwhile = recovers
        shift(cluster, 25)
        assert 60 < cluster.clock.now < 65
        assert cluster.weights()[cluster.plan.candidate] == 25

    def test_is_given_up_where_the_stable_does_not_come_back(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(25, capacity="full")
        cluster.up[cluster.plan.stable] = 0
        plan = cluster.plan
        with pytest.raises(CapacityError, match=f"not shifting to 50 %: .* 0 of 2 pods of {plan.stable} "):
            shift(cluster, 50)
        assert POD_WAIT_SECONDS <= cluster.clock.now <= POD_WAIT_SECONDS + 2
        assert cluster.weights()[plan.candidate] == 25
        assert issubclass(CapacityError, PermanentError), "the way back begins, and nothing is tried again"

    def test_is_given_up_at_once_where_a_pod_never_will_be_ready(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5)
        cluster.clock.meanwhile = lambda: None
        cluster.readiness_answers = [Readiness(1, 1, None), Readiness(1, 4, None), Readiness(1, 4, "it crashes")]
        with pytest.raises(CapacityError, match=r"1 of 4 pods .* \(it crashes\)"):
            shift(cluster, 50)
        assert cluster.clock.now == 2

    def test_ends_its_wait_where_the_watch_has_braked(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5)
        cluster.clock.meanwhile = lambda: cluster.annotate(routes.PHASE, routes.BRAKED)
        with pytest.raises(FencedError, match="is braked"):
            shift(cluster, 50)
        assert cluster.clock.now == 1

    def test_of_a_run_that_was_overtaken_scales_nothing(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5)
        provide_capacity(cast("Cluster", cluster), cluster.plan, cluster.plan.claim(), 50)
        assert (cluster.scaled, cluster.clock.now) == ([], 0)


class TestPromotion:
    def test_waits_for_all_pods_of_the_candidate(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(100)
        cluster.up[cluster.plan.candidate] = 7
        promote(cluster)
        assert (cluster.clock.now, cluster.now.phase) == (1, routes.PROMOTED)

    def test_asks_nothing_of_the_stable(self, at_share: Callable[..., Slow]) -> None:
        """With a stable that has died, the way back would be the worse one."""
        cluster = at_share(100)
        cluster.up[cluster.plan.stable] = 0
        promote(cluster)
        assert (cluster.clock.now, cluster.now.phase) == (0, routes.PROMOTED)

    def test_done_twice_it_waits_for_nothing(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(100)
        promote(cluster)
        cluster.up[cluster.plan.candidate] = 0
        promote(cluster)
        assert cluster.clock.now == 0


@pytest.mark.usefixtures("store")
class TestApplying:
    def apply(self, cluster: Slow, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
        applied: list[dict[str, Any]] = []
        make = cluster.make

        def take(objects: list[dict[str, Any]], *, dry_run: bool = False) -> None:
            applied.extend([] if dry_run else objects)

        def noted(item: dict[str, Any]) -> None:
            applied.append(item)
            make(item)

        monkeypatch.setattr(cluster, "apply", take)
        monkeypatch.setattr(cluster, "make", noted)
        ApplyManifestOperator(task_id="apply", agreed=AGREED, plan=cluster.plan.dump()).execute(Run().at("apply"))
        return applied

    @pytest.mark.parametrize(("first", "pods"), [(5, 1), (25, 2), (50, 4)])
    def test_gives_the_candidate_what_its_first_share_needs(
        self, at_share: Callable[..., Slow], monkeypatch: pytest.MonkeyPatch, first: int, pods: int
    ) -> None:
        cluster = at_share(0, canary={"stages": [first, 100]})
        del cluster.replicas[cluster.plan.candidate]
        (deployment,) = (item for item in self.apply(cluster, monkeypatch) if item["kind"] == "Deployment")
        assert "replicas" not in deployment["spec"]
        assert cluster.replicas[cluster.plan.candidate] == pods

    def test_done_again_at_a_larger_share_takes_no_pods_away(
        self, at_share: Callable[..., Slow], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = at_share(50)
        self.apply(cluster, monkeypatch)
        assert cluster.replicas[cluster.plan.candidate] == 4

    def test_done_again_when_somebody_has_given_it_more_pods_takes_none_away(
        self, at_share: Callable[..., Slow], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A person clears the run of the version that serves."""
        cluster = at_share(100, capacity="full")
        cluster.replicas[cluster.plan.candidate] = 9
        applied = self.apply(cluster, monkeypatch)
        assert [item["spec"]["replicas"] for item in applied if item["kind"] == "Deployment"] == [
            cluster.plan.spec.replicas
        ]
        assert cluster.replicas[cluster.plan.candidate] == 9


def test_scaling_up_sets_the_pods_of_the_share() -> None:
    cluster = FakeCluster.at_share(planned(), 5)
    cluster.readiness_answers = [Readiness(0, 2, None)]
    scale_up(cast("Cluster", cluster), cluster.plan, 50)
    assert cluster.replicas[cluster.plan.candidate] == 4
