"""Without a gateway: pods are the share, so they come after the record of it and end with the rollback."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from airflow_deploy.domain.errors import CapacityError, FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.workloads.manifests import render_guard, version_objects
from airflow_deploy.rollout import capacity, lease
from airflow_deploy.rollout.cleanup import clean_up, survey
from airflow_deploy.rollout.guard import Guard
from airflow_deploy.rollout.teardown import roll_back_and_stop
from airflow_deploy.tasks.triggers import ReadyTrigger
from tests.support.claims import roll_back, undo
from tests.support.loops import BAKE, MAX_BAKE
from tests.support.pod_shares import Tasks, moves
from tests.support.replicas_cluster import LABELS, STABLE, ReplicasCluster, planned
from tests.support.world import Clock, Stage, World

CANDIDATE = planned().candidate
DEPLOYMENT = f"/deployments/{CANDIDATE}"
pytestmark = pytest.mark.usefixtures("store")


def newer(plan: DeploymentPlan) -> DeploymentPlan:
    """Return the plan of the next run."""
    return plan.model_copy(update={"run_id": "the-next", "created": plan.created + 60})


def killed_before_the_pods_end(cluster: ReplicasCluster, times: int = 1) -> ReplicasCluster:
    """Let the write fail that takes the candidate's pods away, as if a rollback were killed before it."""
    cluster.api.fail(DEPLOYMENT, 503, method="PATCH", times=times)
    return cluster


class TestBeforeTheFirstShare:
    def test_a_version_is_applied_without_pods(self) -> None:
        (made,) = (item for item in version_objects(planned()) if item["kind"] == "Deployment")
        assert made["spec"]["replicas"] == 0
        assert made["metadata"]["annotations"]["airflow-deploy/withdrawn"] == "no"
        assert LABELS.items() <= made["spec"]["template"]["metadata"]["labels"].items()

    def test_apply_gives_the_candidate_no_pods(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster(planned())
        Tasks(cluster, monkeypatch).apply()
        assert cluster.replicas == {STABLE: 2, CANDIDATE: 0}
        assert cluster.served() == {STABLE: 2}

    def test_apply_keeps_the_pods_that_serve_if_it_runs_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A person clears the task at 100 %, or a zombie of it wakes up after a brake."""
        cluster = ReplicasCluster.at_share(planned(), 100)
        tasks = Tasks(cluster, monkeypatch)
        tasks.apply()
        assert cluster.served() == {CANDIDATE: 2}
        roll_back(cluster.client, cluster.plan, routes.BRAKED)
        tasks.apply()
        assert (cluster.withdrawn, cluster.served()) == (True, {STABLE: 2})

    @pytest.mark.anyio
    async def test_the_readiness_check_waits_for_no_pod(self) -> None:
        event = await ReadyTrigger(planned().dump(), 0.0).event()
        assert event == {"ready": 0, "wanted": 0, "failed": None}


class TestClaim:
    def test_the_claim_records_by_which_labels_the_service_knows_the_teams_own(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = ReplicasCluster(planned()).unclaimed()
        owner = Tasks(cluster, monkeypatch).claim()
        assert cluster.service.owner == owner
        assert (cluster.service.adopted, cluster.service.selector) == ({STABLE: LABELS}, LABELS)

    def test_a_claim_is_refused_if_another_deployment_serves_by_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster(planned()).unclaimed()
        del cluster.replicas[STABLE]
        cluster.add_version("other", replicas=1, labels=LABELS, service=False)
        with pytest.raises(FencedError, match="is served by other now, not by payments"):
            Tasks(cluster, monkeypatch).claim()

    def test_a_run_that_is_cleared_in_mid_canary_goes_on_under_its_first_claim(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = ReplicasCluster.at_share(planned(), 33)
        before = cluster.claim
        assert Tasks(cluster, monkeypatch).claim() == before
        assert cluster.served() == {STABLE: 2, CANDIDATE: 1}

    @pytest.mark.parametrize("ready", [0, 1])
    def test_a_claim_is_refused_beside_the_pods_of_a_run_that_died(
        self, monkeypatch: pytest.MonkeyPatch, ready: int
    ) -> None:
        """They would go on serving, or begin to, and no watch would see them."""
        cluster = ReplicasCluster.at_share(planned(), 33)
        cluster.workloads.let(CANDIDATE, ready=ready)
        tasks = Tasks(cluster, monkeypatch)
        monkeypatch.setattr(lease, "is_alive", lambda *_: False)
        with pytest.raises(RefusedError, match=r"there is payments and .*; the deployment DEP-.*/1 is not over"):
            tasks.claim(newer(cluster.plan))

    def test_a_claim_withdraws_the_pods_that_a_dead_run_has_recorded_and_not_got_yet(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = ReplicasCluster.at_share(planned(), 33)
        cluster.workloads.let(CANDIDATE, refused="exceeded quota")
        assert cluster.served() == {STABLE: 2}
        tasks = Tasks(cluster, monkeypatch)
        monkeypatch.setattr(lease, "is_alive", lambda *_: False)
        owner = tasks.claim(newer(cluster.plan))
        assert (cluster.withdrawn, cluster.service.owner) == (True, owner)

    def test_a_claim_writes_nothing_while_the_watch_of_the_run_before_is_alive(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = ReplicasCluster.at_share(planned(), 33)
        tasks = Tasks(cluster, monkeypatch)
        monkeypatch.setattr(lease, "is_alive", lambda *_: True)
        with cluster.api.recorded() as requests, pytest.raises(RefusedError, match="is under way"):
            tasks.claim(newer(cluster.plan))
        assert not any(request.writes for request in requests)
        assert not cluster.withdrawn


class TestShift:
    def test_pods_come_after_the_record_of_their_share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster.at_share(planned(), 0)
        tasks = Tasks(cluster, monkeypatch)
        with cluster.api.recorded() as requests:
            reasons = tasks.shift(5)
        assert moves(requests) == ["share 33", "pods 1"]
        assert cluster.served() == {STABLE: 2, CANDIDATE: 1}
        assert reasons == [f"shifting 33 % to {CANDIDATE}", f"route set to 33 % of traffic for {CANDIDATE}"]

    def test_the_share_of_100_comes_after_all_pods(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster.at_share(planned(), 33)
        tasks = Tasks(cluster, monkeypatch)
        with cluster.api.recorded() as requests:
            tasks.shift(100)
        assert moves(requests) == ["share 50", "pods 2", "share 100"]
        assert cluster.served() == {CANDIDATE: 2}

    def test_no_share_is_recorded_before_the_stable_has_all_its_pods(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Beside fewer of the stable's pods, as many of the candidate's would have more than the share."""
        cluster = ReplicasCluster.at_share(planned(), 0)
        tasks = Tasks(cluster, monkeypatch)
        cluster.replicas[STABLE] = 1
        begun = len(cluster.api.requests)

        def back(_: float) -> None:
            assert (moves(cluster.api.requests[begun:]), cluster.served()) == ([], {STABLE: 1})
            cluster.replicas[STABLE] = 2

        monkeypatch.setattr(capacity, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=back))
        tasks.shift(5)
        assert moves(cluster.api.requests[begun:]) == ["share 33", "pods 1"]

    def test_a_shift_to_100_that_runs_again_lowers_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster.at_share(planned(), 100)
        tasks = Tasks(cluster, monkeypatch)
        with cluster.api.recorded() as requests:
            tasks.shift(100)
        assert not any(request.writes for request in requests)
        assert cluster.served() == {CANDIDATE: 2}

    def test_a_stage_whose_pods_are_there_writes_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster.at_share(planned(), 33)
        tasks = Tasks(cluster, monkeypatch)
        with cluster.api.recorded() as requests:
            tasks.shift(25)
        assert not any(request.writes for request in requests)
        assert cluster.served() == {STABLE: 2, CANDIDATE: 1}

    @pytest.mark.parametrize("stage", [5, 50, 100])
    def test_a_task_that_was_killed_between_record_and_pods_goes_on(
        self, monkeypatch: pytest.MonkeyPatch, stage: int
    ) -> None:
        cluster = ReplicasCluster.at_share(planned(), 0)
        tasks = Tasks(cluster, monkeypatch)
        cluster.api.fail(DEPLOYMENT, 409, method="PATCH")
        with pytest.raises(TemporaryError):
            tasks.shift(stage)
        assert cluster.served() == {STABLE: 2}
        tasks.shift(stage)
        served = {5: {STABLE: 2, CANDIDATE: 1}, 50: {STABLE: 2, CANDIDATE: 2}, 100: {CANDIDATE: 2}}
        assert cluster.served() == served[stage]

    def test_pods_that_never_become_ready_are_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster.at_share(planned(), 0)
        cluster.workloads.let(CANDIDATE, ready=0)
        with pytest.raises(CapacityError, match=r"not shifting to 33 %: 0 of 1 pods"):
            Tasks(cluster, monkeypatch).shift(5)

    def test_a_run_that_was_braked_meanwhile_gets_no_pods(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A task of the run has read the route and how many pods there are, and sleeps for long; then it writes."""
        cluster = ReplicasCluster.at_share(planned(), 33)
        tasks = Tasks(cluster, monkeypatch)
        braked: list[bool] = []

        def brake() -> None:
            braked.append(roll_back(cluster.client, cluster.plan, routes.BRAKED))

        cluster.api.before(DEPLOYMENT, brake, method="PATCH")
        with pytest.raises(TemporaryError):
            tasks.shift(50)
        assert (braked, cluster.served()) == ([True], {STABLE: 2})
        with pytest.raises(FencedError):
            tasks.shift(50)
        assert cluster.served() == {STABLE: 2}

    def test_a_route_that_is_lost_while_pods_start_fails_the_shift(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster.at_share(planned(), 0)
        cluster.workloads.let(CANDIDATE, ready=0)
        tasks = Tasks(cluster, monkeypatch)

        def brake(_: float) -> None:
            roll_back(cluster.client, cluster.plan, routes.BRAKED)

        monkeypatch.setattr(capacity, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=brake))
        with pytest.raises(FencedError):
            tasks.shift(5)

    def test_a_promotion_finds_all_pods(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster.at_share(planned(), 100)
        Tasks(cluster, monkeypatch).promote()
        assert (cluster.service.phase, cluster.served()) == (routes.PROMOTED, {CANDIDATE: 2})


class TestRollback:
    @pytest.mark.parametrize("share", [33, 50, 100])
    def test_it_takes_the_pods_away(self, share: int) -> None:
        cluster = ReplicasCluster.at_share(planned(), share)
        assert roll_back(cluster.client, cluster.plan, routes.BRAKED, "verdict")
        assert (cluster.served(), cluster.service.phase, cluster.withdrawn) == ({STABLE: 2}, routes.BRAKED, True)

    @pytest.mark.parametrize("share", [33, 50, 100])
    def test_one_that_was_killed_between_its_writes_is_completed(self, share: int) -> None:
        cluster = killed_before_the_pods_end(ReplicasCluster.at_share(planned(), share))
        with pytest.raises(TemporaryError):
            roll_back(cluster.client, cluster.plan, routes.BRAKED, "verdict")
        assert CANDIDATE in cluster.served()
        settled = roll_back_and_stop(cluster.client, cluster.plan)
        assert (cluster.served(), settled.stopped) == ({STABLE: 2}, True)
        assert re.fullmatch(rf"verdict; rolled back to {STABLE} in [0-9.]+ s", settled.reason)

    def test_the_route_is_settled_only_when_the_pods_are_gone(self) -> None:
        """The guard completes what is braked: at any death here, however long, no pod serves without a watch."""
        cluster = killed_before_the_pods_end(ReplicasCluster.at_share(planned(), 50))
        with pytest.raises(TemporaryError):
            roll_back_and_stop(cluster.client, cluster.plan)
        assert cluster.service.phase == routes.BRAKED
        roll_back_and_stop(cluster.client, cluster.plan)
        assert (cluster.service.phase, cluster.served()) == (routes.SETTLED, {STABLE: 2})
        writes = cluster.writes
        roll_back_and_stop(cluster.client, cluster.plan)
        assert cluster.writes == writes

    def test_it_waits_for_a_stable_that_has_no_pod(self) -> None:
        cluster = ReplicasCluster.at_share(planned(), 50)
        cluster.replicas[STABLE] = 0
        with pytest.raises(TemporaryError, match="has no ready pod that could take the traffic"):
            roll_back(cluster.client, cluster.plan, routes.BRAKED)
        assert not cluster.withdrawn

    def test_that_of_a_promotion_is_completed_too(self) -> None:
        cluster = killed_before_the_pods_end(ReplicasCluster.verified(planned()))
        with pytest.raises(TemporaryError):
            undo(cluster.client, cluster.plan)
        assert undo(cluster.client, cluster.plan)
        assert (cluster.served(), cluster.service.phase) == ({STABLE: 2}, routes.SETTLED)


class TestGuard:
    @staticmethod
    def look(cluster: ReplicasCluster, more: int) -> None:
        """Let a guard look until the Lease is over, and ``more`` times after it has acted."""
        clock = Clock()
        guard = Guard(cluster.client, clock=clock.time)
        for _ in range(46 + more):
            guard.look()
            clock.sleep(1)

    @pytest.mark.parametrize("share", [33, 50, 100])
    def test_it_takes_the_pods_away(self, share: int) -> None:
        cluster = ReplicasCluster.at_share(planned(), share)
        self.look(cluster, more=0)
        assert (cluster.served(), cluster.service.phase, cluster.service.epoch) == ({STABLE: 2}, routes.BRAKED, 2)

    def test_it_completes_its_own_rollback_a_second_later(self) -> None:
        cluster = killed_before_the_pods_end(ReplicasCluster.at_share(planned(), 50))
        self.look(cluster, more=4)
        assert cluster.served() == {STABLE: 2}

    def test_it_completes_a_rollback_of_an_airflow_that_died(self) -> None:
        cluster = killed_before_the_pods_end(ReplicasCluster.at_share(planned(), 50), times=3)
        with pytest.raises(TemporaryError):
            roll_back(cluster.client, cluster.plan, routes.BRAKED)
        self.look(cluster, more=4)
        assert cluster.served() == {STABLE: 2}

    def test_its_manifest_has_more_rights_only_if_it_is_asked_to(self) -> None:
        plain, more = (render_guard("image", "airflow", ["shop"], replicas=asked) for asked in (False, True))
        assert "deployments" not in plain
        assert "resources: [deployments]\n    verbs: [patch]" in more


class TestAnalysis:
    @pytest.fixture
    def share(self) -> int:
        return 50

    @pytest.fixture
    def cluster(self, world: World) -> ReplicasCluster:
        assert isinstance(world.cluster, ReplicasCluster)
        return world.cluster

    @pytest.fixture
    def world(self, monkeypatch: pytest.MonkeyPatch, share: int) -> World:
        plan = planned(canary={"bake": BAKE, "max_bake": MAX_BAKE}, criticality="low")
        return World(monkeypatch, plan, Stage(0, share), kind=ReplicasCluster)

    def test_pods_that_are_still_to_come_are_no_harm(self, world: World, cluster: ReplicasCluster) -> None:
        cluster.replicas[CANDIDATE] = 0
        assert world.look(world.loop("watch"), 60) is None

    def test_pods_that_were_there_and_are_gone_are_harm(self, world: World, cluster: ReplicasCluster) -> None:
        loop = world.loop("watch")
        assert world.look(loop, 20) is None
        cluster.replicas[CANDIDATE] = 0
        outcome = world.look(loop, 60)
        assert outcome is not None
        assert (outcome.verdict, outcome.reason.partition(":")[0]) == ("BREACHED", "ready_pods")

    @pytest.mark.parametrize("share", [100])
    def test_missing_pods_at_100_are_harm_also_for_a_watch_that_has_just_begun(
        self, world: World, cluster: ReplicasCluster
    ) -> None:
        cluster.replicas[CANDIDATE] = 0
        outcome = world.look(world.loop("watch"), 20)
        assert outcome is not None
        assert (outcome.verdict, outcome.reason.partition(":")[0]) == ("BREACHED", "ready_pods")

    def test_the_brake_takes_the_pods_away(self, world: World, cluster: ReplicasCluster) -> None:
        loop = world.loop("watch")
        killed_before_the_pods_end(cluster)
        assert world.look(loop, 5) is None
        cluster.replicas[CANDIDATE] = 0
        outcome = world.look(loop, 60)
        assert outcome is not None
        cluster.replicas[CANDIDATE] = 2
        assert loop.brake(outcome) is not None
        assert cluster.served() == {STABLE: 2}

    def test_a_brake_that_died_between_its_writes_is_completed_by_the_next_watch(
        self, world: World, cluster: ReplicasCluster
    ) -> None:
        killed_before_the_pods_end(cluster, times=2)
        with pytest.raises(TemporaryError):
            roll_back(cluster.client, world.plan, routes.BRAKED, "worse")
        loop = world.loop("watch")
        assert loop.look() is None  # the cluster does not let it yet
        assert CANDIDATE in cluster.served()
        outcome = loop.look()
        assert outcome is not None
        assert (outcome.reason, cluster.served()) == ("worse", {STABLE: 2})


class TestCleanup:
    @pytest.mark.parametrize("stable", [0, 2])
    def test_a_version_with_users_is_not_stopped_although_the_stable_should_have_them(self, stable: int) -> None:
        """The team has set its old selector again: beside what it had before, or when that is no more."""
        cluster = ReplicasCluster.verified(planned()).select(LABELS)
        cluster.replicas[STABLE] = stable
        result = clean_up(survey(cluster.client, cluster.plan), 2e9)
        assert cluster.replicas[CANDIDATE] == 2
        assert (result.done, len(result.alarms)) == ([], 1)
        assert result.alarms[0].startswith(f"{CANDIDATE} has users, and {STABLE} should have them all")

    def test_pods_of_a_version_that_was_rolled_back_are_stopped_while_the_stable_serves(self) -> None:
        cluster = killed_before_the_pods_end(ReplicasCluster.verified(planned()))
        with pytest.raises(TemporaryError):
            undo(cluster.client, cluster.plan)
        cluster.replicas[STABLE] = 0
        assert clean_up(survey(cluster.client, cluster.plan), 2e9).alarms == [
            f"{CANDIDATE} alone has users, since {STABLE} has no ready pod"
        ]
        assert cluster.served() == {CANDIDATE: 2}
        cluster.replicas[STABLE] = 1
        assert clean_up(survey(cluster.client, cluster.plan), 2e9).done == [f"stopped {CANDIDATE}"]
        assert cluster.served() == {STABLE: 1}
