"""Weight follows capacity: no share before its pods are ready, and none while the stable could not take all back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_deploy.clients.kubernetes.pods import ready_endpoints
from airflow_deploy.domain.errors import CapacityError, FencedError, PermanentError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.operators import apply as applying
from airflow_deploy.operators import canary
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.canary import PromoteOperator, ShiftCanaryOperator
from airflow_deploy.rollout import capacity, lease
from airflow_deploy.rollout.capacity import POD_WAIT_SECONDS, provide_capacity, scale_up
from tests.support.builders import make_plan, make_spec
from tests.support.cluster import lead_to
from tests.support.kubernetes_api import CRASH_LOOP
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster

AGREED = ("gate", "ask")


class Slow(ServiceCluster):
    """Pods take a while: each second one more of the candidate's is ready."""

    clock: Clock

    def started(self) -> Slow:
        """Let those be ready that are there now, and no other before its time."""
        self.clock = Clock(self)
        self.let_be_ready(self.plan.candidate, self.replicas[self.plan.candidate])
        return self

    def let_be_ready(self, version: str, pods: int) -> None:
        """Let so many pods of a version be ready, at most."""
        self.workloads.let(version, ready=pods)

    def ready(self, version: str) -> int:
        return ready_endpoints(self.client, self.plan.spec.namespace, version)

    @property
    def scaled(self) -> list[int]:
        """To how many pods the candidate was scaled, in turn."""
        path = f"/deployments/{self.plan.candidate}"
        scales = [request for request in self.api.writes if request.path.endswith(path)]
        return [request.body[-1]["value"] for request in scales]


class Clock:
    """Sleeping moves it, and lets happen what a test orders."""

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
        self.cluster.let_be_ready(candidate, self.cluster.ready(candidate) + 1)


def planned(**spec: Any) -> DeploymentPlan:
    return make_plan(make_spec(**{"replicas": 8, "capacity": "proportional", **spec}), stable_ready=2)


@pytest.fixture
def at_share(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Slow]:
    """Return what makes a canary with a share in percent, whose pods are all ready."""

    def make(share: int, **spec: Any) -> Slow:
        plan = planned(**spec)
        cluster = Slow.at_share(plan, share)
        cluster.replicas[plan.candidate] = plan.pods_for(share)
        cluster.started()
        lead_to(cluster.api, monkeypatch)
        for module in (canary, applying):
            monkeypatch.setattr(module, "check_agreed", lambda *_: None)
        monkeypatch.setattr(capacity, "time", cluster.clock)
        monkeypatch.setattr(lease.LeaseRenewal, "seen", lambda _: True)  # the watch renews
        return cluster

    return make


def shift(cluster: ServiceCluster, share: int) -> None:
    owned: dict[str, Any] = {"plan": cluster.plan.dump(), "claim": cluster.claim}
    ShiftCanaryOperator(task_id="shift", share=share, agreed=AGREED, **owned).execute(Run().at("shift"))


def promote(cluster: ServiceCluster) -> None:
    owned: dict[str, Any] = {"plan": cluster.plan.dump(), "claim": cluster.claim}
    PromoteOperator(task_id="promote", agreed=AGREED, **owned).execute(Run().at("promote"))


class TestShift:
    def test_shift_comes_after_the_pods_that_it_needs(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5)
        seen: list[tuple[int, int]] = []
        start_one = cluster.clock.start_one

        def watched() -> None:
            seen.append((cluster.ready(cluster.plan.candidate), cluster.weights()[cluster.plan.candidate]))
            start_one()

        cluster.clock.meanwhile = watched
        shift(cluster, 50)
        assert cluster.scaled == [4]
        assert seen == [(1, 5), (2, 5), (3, 5)]
        assert cluster.weights()[cluster.plan.candidate] == 50

    def test_shift_to_all_traffic_needs_all_pods(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(50)
        shift(cluster, 100)
        assert (cluster.scaled, cluster.ready(cluster.plan.candidate)) == ([8], 8)

    def test_shift_takes_no_pods_away(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5)
        cluster.replicas[cluster.plan.candidate] = 9
        cluster.let_be_ready(cluster.plan.candidate, 9)
        shift(cluster, 25)
        assert (cluster.scaled, cluster.clock.now, cluster.replicas[cluster.plan.candidate]) == ([], 0, 9)

    def test_shift_waits_for_all_pods_if_the_candidate_has_them_from_the_start(
        self, at_share: Callable[..., Slow]
    ) -> None:
        cluster = at_share(5, capacity="full")
        cluster.let_be_ready(cluster.plan.candidate, 6)
        shift(cluster, 25)
        assert (cluster.scaled, cluster.clock.now) == ([], 2)

    def test_shift_waits_until_the_stable_could_take_all_traffic_back(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5, capacity="full")
        cluster.let_be_ready(cluster.plan.stable, 1)

        def recovers() -> None:
            assert cluster.weights()[cluster.plan.candidate] == 5
            if cluster.clock.now == 61:
                cluster.let_be_ready(cluster.plan.stable, 2)

        cluster.clock.meanwhile = recovers
        shift(cluster, 25)
        assert 60 < cluster.clock.now < 65
        assert cluster.weights()[cluster.plan.candidate] == 25

    def test_shift_is_given_up_if_the_stable_does_not_come_back(
        self, at_share: Callable[..., Slow], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(capacity, "POD_POLL_SECONDS", 20.0)  # so that few requests fill the wait
        cluster = at_share(25, capacity="full")
        cluster.let_be_ready(cluster.plan.stable, 0)
        cluster.clock.meanwhile = lambda: None
        plan = cluster.plan
        with pytest.raises(CapacityError, match=f"not shifting to 50 %: .* 0 of 2 pods of {plan.stable} "):
            shift(cluster, 50)
        assert POD_WAIT_SECONDS <= cluster.clock.now <= POD_WAIT_SECONDS + 2
        assert cluster.weights()[plan.candidate] == 25
        assert issubclass(CapacityError, PermanentError), "the rollback begins, and nothing is tried again"

    def test_shift_is_given_up_at_once_if_a_pod_never_will_be_ready(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5)

        def crash() -> None:
            if cluster.clock.now == 2:
                behaviour = {**CRASH_LOOP, "ready": 1, "message": "it crashes"}
                cluster.workloads.let(cluster.plan.candidate, **behaviour)

        cluster.clock.meanwhile = crash
        with pytest.raises(CapacityError, match=r"1 of 4 pods .* \(pod .*: CrashLoopBackOff it crashes\)"):
            shift(cluster, 50)
        assert cluster.clock.now == 2

    def test_shift_ends_its_wait_if_the_watch_has_braked(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5)
        cluster.clock.meanwhile = lambda: cluster.annotate(routes.PHASE, routes.BRAKED)
        with pytest.raises(FencedError, match="is braked"):
            shift(cluster, 50)
        assert cluster.clock.now == 1

    def test_shift_of_a_run_that_was_overtaken_scales_nothing(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(5)
        provide_capacity(cluster.client, cluster.plan, cluster.plan.claim(), 50)
        assert (cluster.scaled, cluster.clock.now) == ([], 0)


class TestPromotion:
    def test_promotion_waits_for_all_pods_of_the_candidate(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(100)
        cluster.let_be_ready(cluster.plan.candidate, 7)
        promote(cluster)
        assert (cluster.clock.now, cluster.now.phase) == (1, routes.PROMOTED)

    def test_promotion_does_not_need_the_stable(self, at_share: Callable[..., Slow]) -> None:
        """With a stable that has died, a rollback would be the worse choice."""
        cluster = at_share(100)
        cluster.let_be_ready(cluster.plan.stable, 0)
        promote(cluster)
        assert (cluster.clock.now, cluster.now.phase) == (0, routes.PROMOTED)

    def test_promotion_done_twice_waits_for_nothing(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(100)
        promote(cluster)
        cluster.let_be_ready(cluster.plan.candidate, 0)
        promote(cluster)
        assert cluster.clock.now == 0


@pytest.mark.usefixtures("store")
class TestApply:
    def apply(self, cluster: Slow) -> list[dict[str, Any]]:
        """Execute the task, and return the Deployments that it sent."""
        with cluster.api.recorded() as requests:
            ApplyManifestOperator(task_id="apply", agreed=AGREED, plan=cluster.plan.dump()).execute(Run().at("apply"))
        sent = [request.body for request in requests if request.writes and isinstance(request.body, dict)]
        return [item for item in sent if item["kind"] == "Deployment"]

    @pytest.mark.parametrize(("first", "pods"), [(5, 1), (25, 2), (50, 4)])
    def test_apply_gives_the_candidate_the_pods_that_its_first_share_needs(
        self, at_share: Callable[..., Slow], first: int, pods: int
    ) -> None:
        cluster = at_share(0, canary={"stages": [first, 100]})
        del cluster.replicas[cluster.plan.candidate]
        (deployment,) = self.apply(cluster)
        assert "replicas" not in deployment["spec"]
        assert cluster.replicas[cluster.plan.candidate] == pods

    def test_apply_done_again_at_a_larger_share_takes_no_pods_away(self, at_share: Callable[..., Slow]) -> None:
        cluster = at_share(50)
        self.apply(cluster)
        assert cluster.replicas[cluster.plan.candidate] == 4

    def test_apply_done_again_keeps_the_pods_that_a_person_has_added(self, at_share: Callable[..., Slow]) -> None:
        """A person clears the run of the version that serves."""
        cluster = at_share(100, capacity="full")
        cluster.replicas[cluster.plan.candidate] = 9
        assert [item["spec"]["replicas"] for item in self.apply(cluster)] == [cluster.plan.spec.replicas]
        assert cluster.replicas[cluster.plan.candidate] == 9


def test_scaling_up_sets_the_pods_of_the_share() -> None:
    cluster = ServiceCluster.at_share(planned(), 5)
    cluster.replicas[cluster.plan.candidate] = 2
    scale_up(cluster.client, cluster.plan, 50)
    assert cluster.replicas[cluster.plan.candidate] == 4
