"""Without a gateway: pods are the share, so they come after the record of it and go with the way back."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.domain.errors import CapacityError, FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.labels import VERSION
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.workloads.manifests import render_guard as guard_manifest
from airflow_deploy.domain.workloads.manifests import version_objects
from airflow_deploy.domain.workloads.versions import Version
from airflow_deploy.operators import apply as applying
from airflow_deploy.operators import canary
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator, ShiftCanaryOperator
from airflow_deploy.rollout import capacity, lease
from airflow_deploy.rollout.cleanup import Survey, clean_up
from airflow_deploy.rollout.guard import Guard
from airflow_deploy.rollout.teardown import roll_back_and_stop
from airflow_deploy.tasks.triggers import ReadyTrigger
from tests.airflow.analysis.test_loop import BAKE, MAX_BAKE
from tests.airflow.operators.test_operators import Run
from tests.airflow.operators.test_plan import World as PlanWorld
from tests.support.claims import roll_back, undo
from tests.support.fake_pods import LABELS, FakePods, planned
from tests.support.fake_world import Clock, Stage, World

AGREED = ("gate", "ask")
STABLE, CANDIDATE = "payments", planned().candidate


def real(cluster: FakePods) -> Cluster:
    return cast("Cluster", cluster)


class Log(FakePods):
    """Writes down in which order the share is recorded and the pods are given."""

    def __init__(self, plan: DeploymentPlan) -> None:
        self.wrote: list[str] = []
        super().__init__(plan)

    def patch_route(self, route: Any, patch: Any) -> Any:
        if any(item["path"].endswith("shifts") for item in patch) and self.team.owner:
            self.wrote.append(f"share {json.loads(patch[-1]['value'])[-1]['share']}")
        return super().patch_route(route, patch)

    def join(self, namespace: str, version: str, pods: int) -> None:
        super().join(namespace, version, pods)
        self.wrote.append(f"pods {pods}")


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakePods], FakePods]:
    """Let the tasks meet this cluster, in which somebody looks."""

    def met(cluster: FakePods) -> FakePods:
        for module in (canary, applying):
            monkeypatch.setattr(module, "Cluster", lambda _: cluster)
            monkeypatch.setattr(module, "check_agreed", lambda *_: None)
        monkeypatch.setattr(canary, "check_rollback_possible", lambda *_: None)
        monkeypatch.setattr(lease.LeaseRenewal, "seen", lambda _: True)
        clock = Clock()
        monkeypatch.setattr(capacity, "time", SimpleNamespace(monotonic=clock.time, sleep=clock.sleep))
        return cluster

    return met


def shift(cluster: FakePods, stage: int) -> Run:
    owned: dict[str, Any] = {"plan": cluster.plan.dump(), "claim": cluster.claim}
    run = Run()
    ShiftCanaryOperator(task_id="shift", share=stage, agreed=AGREED, **owned).execute(run.at("shift"))
    return run


class TestBeforeTheFirstShare:
    def test_a_version_is_applied_without_pods(self) -> None:
        (made,) = (item for item in version_objects(planned()) if item["kind"] == "Deployment")
        assert made["spec"]["replicas"] == 0
        assert made["metadata"]["annotations"]["airflow-deploy/withdrawn"] == "no"
        assert LABELS.items() <= made["spec"]["template"]["metadata"]["labels"].items()

    def test_none_are_given_and_none_awaited(self, tasks: Callable[[FakePods], FakePods]) -> None:
        cluster = tasks(FakePods(planned()))
        cluster.replicas[CANDIDATE] = 0
        ApplyManifestOperator(task_id="apply", agreed=AGREED, plan=cluster.plan.dump()).execute(Run().at("apply"))
        assert cluster.served() == {STABLE: 2}

    def test_applied_again_it_keeps_the_pods_that_serve(self, tasks: Callable[[FakePods], FakePods]) -> None:
        """A person clears the task at 100 %, or a zombie of it wakes up after a brake."""
        cluster = tasks(FakePods.at_share(planned(), 100))
        apply = ApplyManifestOperator(task_id="apply", agreed=AGREED, plan=cluster.plan.dump())
        apply.execute(Run().at("apply"))
        assert cluster.served() == {CANDIDATE: 2}
        roll_back(cluster, cluster.plan, routes.BRAKED)
        apply.execute(Run().at("apply"))
        assert (cluster.withdrawn, cluster.served()) == (True, {STABLE: 2})

    @pytest.mark.anyio
    async def test_nobody_waits_for_them(self) -> None:
        event = await ReadyTrigger(planned().dump(), 0.0).event()
        assert event == {"ready": 0, "wanted": 0, "failed": None}

    def test_the_claim_says_how_the_service_knows_the_teams_own(self, tasks: Callable[[FakePods], FakePods]) -> None:
        cluster = tasks(FakePods(planned()))
        del cluster.body["metadata"]["annotations"]
        owner = ClaimRouteOperator(task_id="claim", plan=cluster.plan.dump()).execute(Run().at("claim"))
        assert cluster.service.owner == owner
        assert (cluster.service.adopted, cluster.service.selector) == ({STABLE: LABELS}, LABELS)

    def test_a_claim_is_refused_where_somebody_else_serves_by_now(self, tasks: Callable[[FakePods], FakePods]) -> None:
        cluster = tasks(FakePods(planned()))
        del cluster.body["metadata"]["annotations"]
        cluster.replicas, cluster.labels["other"] = {"other": 1}, LABELS
        with pytest.raises(FencedError, match="is served by other now, not by payments"):
            ClaimRouteOperator(task_id="claim", plan=cluster.plan.dump()).execute(Run().at("claim"))

    def test_a_run_that_is_cleared_in_mid_canary_goes_on_under_its_first_claim(
        self, tasks: Callable[[FakePods], FakePods]
    ) -> None:
        cluster = tasks(FakePods.at_share(planned(), 33))
        before = cluster.claim
        assert ClaimRouteOperator(task_id="claim", plan=cluster.plan.dump()).execute(Run().at("claim")) == before
        assert cluster.served() == {STABLE: 2, CANDIDATE: 1}

    @pytest.mark.parametrize("ready", [0, 1])
    def test_and_beside_the_pods_of_a_run_that_died(
        self, tasks: Callable[[FakePods], FakePods], ready: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They would go on serving, or begin to, and nobody would look at them."""
        monkeypatch.setattr(lease, "is_alive", lambda *_: False)
        cluster = tasks(FakePods.at_share(planned(), 33))
        cluster.replicas[CANDIDATE] = ready
        newer = planned().model_copy(update={"run_id": "the-next", "created": cluster.plan.created + 60})
        with pytest.raises(RefusedError, match=r"there is payments and .*; the deployment DEP-.*/1 is not over"):
            ClaimRouteOperator(task_id="claim", plan=newer.dump()).execute(Run().at("claim"))

    def test_pods_that_a_dead_run_has_recorded_and_not_got_yet_are_taken_from_it(
        self, tasks: Callable[[FakePods], FakePods], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lease, "is_alive", lambda *_: False)
        cluster = tasks(FakePods.at_share(planned(), 33))
        del cluster.replicas[CANDIDATE]  # a quota is full
        newer = planned().model_copy(update={"run_id": "the-next", "created": cluster.plan.created + 60})
        owner = ClaimRouteOperator(task_id="claim", plan=newer.dump()).execute(Run().at("claim"))
        assert (cluster.withdrawn, cluster.service.owner) == (True, owner)

    def test_nothing_is_written_while_the_one_before_is_looked_at(
        self, tasks: Callable[[FakePods], FakePods], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lease, "is_alive", lambda *_: True)
        cluster = tasks(FakePods.at_share(planned(), 33))
        newer = planned().model_copy(update={"run_id": "the-next", "created": cluster.plan.created + 60})
        writes = cluster.writes
        with pytest.raises(RefusedError, match="is under way"):
            ClaimRouteOperator(task_id="claim", plan=newer.dump()).execute(Run().at("claim"))
        assert (cluster.writes, cluster.withdrawn) == (writes, False)


class TestShift:
    def test_its_pods_come_after_its_record(self, tasks: Callable[[FakePods], FakePods]) -> None:
        cluster = cast("Log", tasks(Log.at_share(planned(), 0)))
        run = shift(cluster, 5)
        assert cluster.wrote == ["share 33", "pods 1"]
        assert cluster.served() == {STABLE: 2, CANDIDATE: 1}
        said = run.ti.store["shift", "steps"]
        assert [step["reason"] for step in said] == [
            f"shifting 33 % to {CANDIDATE}",
            f"route set to 33 % of traffic for {CANDIDATE}",
        ]

    def test_of_everything_comes_after_all_its_pods(self, tasks: Callable[[FakePods], FakePods]) -> None:
        cluster = cast("Log", tasks(Log.at_share(planned(), 33)))
        cluster.wrote.clear()
        shift(cluster, 100)
        assert cluster.wrote == ["share 50", "pods 2", "share 100"]
        assert cluster.served() == {CANDIDATE: 2}

    def test_none_is_recorded_before_the_stable_is_whole(
        self, tasks: Callable[[FakePods], FakePods], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Beside fewer of the stable's pods, as many of the candidate's would have more than the share."""
        cluster = cast("Log", tasks(Log.at_share(planned(), 0)))
        cluster.replicas[STABLE] = 1

        def back(_: float) -> None:
            assert (cluster.wrote, cluster.served()) == ([], {STABLE: 1})
            cluster.replicas[STABLE] = 2

        monkeypatch.setattr(capacity, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=back))
        shift(cluster, 5)
        assert cluster.wrote == ["share 33", "pods 1"]

    def test_of_everything_that_is_tried_again_lowers_nothing(self, tasks: Callable[[FakePods], FakePods]) -> None:
        cluster = cast("Log", tasks(Log.at_share(planned(), 100)))
        cluster.wrote.clear()
        shift(cluster, 100)
        assert (cluster.wrote, cluster.served()) == ([], {CANDIDATE: 2})

    def test_a_stage_whose_pods_are_there_writes_nothing(self, tasks: Callable[[FakePods], FakePods]) -> None:
        cluster = cast("Log", tasks(Log.at_share(planned(), 33)))
        cluster.wrote.clear()
        shift(cluster, 25)
        assert (cluster.wrote, cluster.served()) == ([], {STABLE: 2, CANDIDATE: 1})

    @pytest.mark.parametrize("stage", [5, 50, 100])
    def test_a_task_that_was_killed_between_record_and_pods_goes_on(
        self, tasks: Callable[[FakePods], FakePods], stage: int
    ) -> None:
        cluster = tasks(FakePods.at_share(planned(), 0))
        cluster.replicas[CANDIDATE] = 0
        cluster.fail("join", TemporaryError("killed"))
        with pytest.raises(TemporaryError):
            shift(cluster, stage)
        assert cluster.served() == {STABLE: 2}
        shift(cluster, stage)
        served = {5: {STABLE: 2, CANDIDATE: 1}, 50: {STABLE: 2, CANDIDATE: 2}, 100: {CANDIDATE: 2}}
        assert cluster.served() == served[stage]

    def test_pods_that_never_come_are_given_up(self, tasks: Callable[[FakePods], FakePods]) -> None:
        cluster = tasks(FakePods.at_share(planned(), 0))
        cluster.labels[CANDIDATE] = {}  # none of them is ever seen
        with pytest.raises(CapacityError, match=r"not shifting to 33 %: 0 of 1 pods"):
            shift(cluster, 5)

    def test_who_was_braked_meanwhile_gets_no_pods(
        self, tasks: Callable[[FakePods], FakePods], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A task of the run has read the route and how many pods there are, and sleeps for long; then it writes."""
        cluster = tasks(FakePods.at_share(planned(), 33))
        before = cluster.join

        def overtaken(namespace: str, version: str, pods: int) -> None:
            monkeypatch.setattr(cluster, "join", before)
            assert roll_back(cluster, cluster.plan, routes.BRAKED)
            before(namespace, version, pods)

        monkeypatch.setattr(cluster, "join", overtaken)
        with pytest.raises(TemporaryError):
            shift(cluster, 50)
        assert cluster.served() == {STABLE: 2}
        with pytest.raises(FencedError):
            shift(cluster, 50)
        assert cluster.served() == {STABLE: 2}

    def test_where_the_route_is_lost_while_pods_start_the_shift_is_none(
        self, tasks: Callable[[FakePods], FakePods], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cluster = tasks(FakePods.at_share(planned(), 0))
        cluster.labels[CANDIDATE] = {}

        def brake(_: float) -> None:
            roll_back(cluster, cluster.plan, routes.BRAKED)

        monkeypatch.setattr(capacity, "time", SimpleNamespace(monotonic=lambda: 0.0, sleep=brake))
        with pytest.raises(FencedError):
            shift(cluster, 5)

    def test_a_promotion_finds_all_pods(self, tasks: Callable[[FakePods], FakePods]) -> None:
        cluster = tasks(FakePods.at_share(planned(), 100))
        owned: dict[str, Any] = {"plan": cluster.plan.dump(), "claim": cluster.claim}
        PromoteOperator(task_id="promote", agreed=AGREED, **owned).execute(Run().at("promote"))
        assert (cluster.service.phase, cluster.served()) == (routes.PROMOTED, {CANDIDATE: 2})


class TestTheWayBack:
    @pytest.mark.parametrize("share", [33, 50, 100])
    def test_takes_the_pods_away(self, share: int) -> None:
        cluster = FakePods.at_share(planned(), share)
        assert roll_back(cluster, cluster.plan, routes.BRAKED, "word")
        assert (cluster.served(), cluster.service.phase, cluster.withdrawn) == ({STABLE: 2}, routes.BRAKED, True)

    @pytest.mark.parametrize("share", [33, 50, 100])
    def test_that_was_killed_between_its_writes_is_completed(self, share: int) -> None:
        cluster = FakePods.at_share(planned(), share)
        cluster.fail("withdraw", TemporaryError("killed"))
        with pytest.raises(TemporaryError):
            roll_back(cluster, cluster.plan, routes.BRAKED, "word")
        assert CANDIDATE in cluster.served()
        settled = roll_back_and_stop(real(cluster), cluster.plan)
        assert (cluster.served(), settled.stopped) == ({STABLE: 2}, True)
        assert re.fullmatch(rf"word; rolled back to {STABLE} in [0-9.]+ s", settled.reason)

    def test_is_settled_only_when_the_pods_are_gone(self) -> None:
        """The guard completes what is braked: whatever dies here, and for how long, nobody serves unwatched."""
        cluster = FakePods.at_share(planned(), 50)
        cluster.fail("withdraw", TemporaryError("killed"))
        with pytest.raises(TemporaryError):
            roll_back_and_stop(real(cluster), cluster.plan)
        assert cluster.service.phase == routes.BRAKED
        roll_back_and_stop(real(cluster), cluster.plan)
        assert (cluster.service.phase, cluster.served()) == (routes.SETTLED, {STABLE: 2})
        writes = cluster.writes
        roll_back_and_stop(real(cluster), cluster.plan)
        assert cluster.writes == writes

    def test_waits_for_a_stable_that_has_no_pod(self) -> None:
        cluster = FakePods.at_share(planned(), 50)
        cluster.replicas[STABLE] = 0
        with pytest.raises(TemporaryError, match="has no ready pod that could take the traffic"):
            roll_back(cluster, cluster.plan, routes.BRAKED)
        assert not cluster.withdrawn

    def test_of_a_promotion_too(self) -> None:
        cluster = FakePods.verified(planned())
        cluster.fail("withdraw", TemporaryError("killed"))
        with pytest.raises(TemporaryError):
            undo(cluster, cluster.plan)
        assert undo(cluster, cluster.plan)
        assert (cluster.served(), cluster.service.phase) == ({STABLE: 2}, routes.SETTLED)


class TestGuard:
    def guard(self, cluster: FakePods, clock: Clock) -> Guard:
        return Guard(cast("Cluster", cluster), clock=clock.time)

    def lapse(self, guard: Guard, clock: Clock, more: int = 4) -> None:
        """Let it look until the Lease is over, and ``more`` times after it has acted."""
        for _ in range(46 + more):
            guard.look()
            clock.sleep(1)

    @pytest.mark.parametrize("share", [33, 50, 100])
    def test_it_takes_the_pods_away(self, share: int) -> None:
        cluster, clock = FakePods.at_share(planned(), share), Clock()
        self.lapse(self.guard(cluster, clock), clock, more=0)
        assert (cluster.served(), cluster.service.phase, cluster.service.epoch) == ({STABLE: 2}, routes.BRAKED, 2)

    def test_what_another_guard_could_not_complete_is_completed(self) -> None:
        cluster, clock = FakePods.at_share(planned(), 50), Clock()
        cluster.fail("withdraw", TemporaryError("killed"))
        self.lapse(self.guard(cluster, clock), clock)
        assert cluster.served() == {STABLE: 2}  # it looks again a second later
        cluster = FakePods.at_share(planned(), 50)
        cluster.fail("withdraw", *[TemporaryError("killed")] * 3)
        with pytest.raises(TemporaryError):
            roll_back(cluster, cluster.plan, routes.BRAKED)  # by Airflow, which dies then
        self.lapse(self.guard(cluster, clock), clock)
        assert cluster.served() == {STABLE: 2}

    def test_it_has_more_rights_only_where_it_is_asked_to(self) -> None:
        plain, more = (guard_manifest("image", "airflow", ["shop"], replicas=asked) for asked in (False, True))
        assert "deployments" not in plain
        assert "resources: [deployments]\n    verbs: [patch]" in more


class TestLooks:
    def world(self, monkeypatch: pytest.MonkeyPatch, share: int = 50) -> World:
        plan = planned(canary={"bake": BAKE, "max_bake": MAX_BAKE}, criticality="low")
        return World(monkeypatch, plan, Stage(0, share), kind=FakePods)

    def test_pods_that_are_still_to_come_are_no_harm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.world(monkeypatch)
        world.cluster.replicas[CANDIDATE] = 0
        assert world.look(world.loop("watch"), 60) is None

    def test_pods_that_were_there_and_are_gone_are(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.world(monkeypatch)
        loop = world.loop("watch")
        assert world.look(loop, 20) is None
        world.cluster.replicas[CANDIDATE] = 0
        outcome = world.look(loop, 60)
        assert outcome is not None
        assert (outcome.verdict, outcome.reason.partition(":")[0]) == ("BREACHED", "ready_pods")

    def test_alone_none_are_still_to_come_also_for_a_watch_that_has_just_begun(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = self.world(monkeypatch, 100)
        world.cluster.replicas[CANDIDATE] = 0
        outcome = world.look(world.loop("watch"), 20)
        assert outcome is not None
        assert (outcome.verdict, outcome.reason.partition(":")[0]) == ("BREACHED", "ready_pods")

    def test_the_brake_takes_them_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.world(monkeypatch)
        loop = world.loop("watch")
        world.cluster.fail("withdraw", TemporaryError("no answer"))
        assert world.look(loop, 5) is None
        world.cluster.replicas[CANDIDATE] = 0
        outcome = world.look(loop, 60)
        assert outcome is not None
        world.cluster.replicas[CANDIDATE] = 2
        assert loop.brake(outcome) is not None
        assert cast("FakePods", world.cluster).served() == {STABLE: 2}

    def test_a_brake_that_died_between_its_writes_is_completed_by_the_next_watch(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world = self.world(monkeypatch)
        cluster = cast("FakePods", world.cluster)
        cluster.fail("withdraw", *[TemporaryError("killed")] * 2)
        with pytest.raises(TemporaryError):
            roll_back(cluster, world.plan, routes.BRAKED, "worse")
        loop = world.loop("watch")
        assert loop.look() is None  # the cluster does not let it yet
        assert CANDIDATE in cluster.served()
        outcome = loop.look()
        assert outcome is not None
        assert (outcome.reason, cluster.served()) == ("worse", {STABLE: 2})


class TestPlan:
    @pytest.fixture
    def world(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> PlanWorld:
        world = PlanWorld(monkeypatch, tmp_path)
        world.cluster = FakePods(planned())
        del world.cluster.body["metadata"]["annotations"]
        world.cluster.writes = 0
        world.cluster.parts = world.cluster.parts.__class__((), ())
        return world

    def plan(self, world: PlanWorld, **given: Any) -> DeploymentPlan:
        fields = {"router": "replicas", "metrics": "pods", "route": {"name": "payments"}, **given}
        return world.plan(**fields)

    def test_what_serves_is_adopted_as_it_stands(self, world: PlanWorld) -> None:
        plan = self.plan(world)
        assert (plan.stable, plan.adopted, plan.stable_ready) == (STABLE, {STABLE: LABELS}, 2)
        assert plan.stable_service == "payments"
        assert world.cluster.writes == 0

    def test_a_version_of_ours_is_known_by_its_label(self, world: PlanWorld) -> None:
        first = planned()
        world.cluster = FakePods.verified(first)
        world.cluster.replicas[STABLE] = 2  # the team's own, which goes on
        plan = self.plan(world, run_after=first.created + 60)
        assert (plan.stable, plan.stable_ready, plan.labels_of(plan.stable)) == (
            first.candidate,
            2,
            {VERSION: first.candidate},
        )

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (lambda c: c.replicas.update(payments=0), "behind its Service there is no ready pod"),
            (lambda c: c.replicas.update(other=0), "there is other and payments; let the pods of one Deployment"),
            (lambda c: c.body["spec"].pop("selector"), "its Service selects no pods"),
            (lambda c: c.replicas.update(other=1), "there is other and payments; let the pods of one Deployment"),
            (lambda c: c.body["spec"]["ports"][0].update(targetPort=9), "port: Service .* to 9 of its pods"),
            (lambda c: c.body["spec"]["ports"].append({"port": 9090}), "port: Service .* to 9090 of its pods"),
            (lambda c: c.body["metadata"].pop("resourceVersion"), "route: there is no Service shop/payments"),
            (lambda c: c.body["spec"].update(selector={VERSION: "1.2"}), f"{VERSION}, .* select them by another label"),
            (lambda c: c.body["spec"].update(publishNotReadyAddresses=True), "publishNotReadyAddresses of its Service"),
            (lambda c: c.body["spec"].update(sessionAffinity="ClientIP"), "sessionAffinity of its Service is ClientIP"),
            (lambda c: c.body["spec"].update(internalTrafficPolicy="Local"), "internalTrafficPolicy of its Service"),
            (lambda c: c.body["spec"].update(trafficDistribution="PreferClose"), "would not get equal shares"),
            (
                lambda c: c.body["metadata"].update(
                    managedFields=[{"manager": "argocd", "fieldsV1": {"f:spec": {"f:selector": {}}}}]
                ),
                "argocd owns its selector .* let it ignore /spec/selector",
            ),
        ],
    )
    def test_what_cannot_be_divided_is_refused(
        self, world: PlanWorld, change: Callable[[FakePods], Any], said: str
    ) -> None:
        cluster = cast("FakePods", world.cluster)
        cluster.labels["other"] = LABELS
        change(cluster)
        with pytest.raises(RefusedError, match=said):
            self.plan(world)
        assert (world.steps(), cluster.writes) == ([], 0)

    def test_what_the_api_server_adds_to_a_plain_service_is_no_reason(self, world: PlanWorld) -> None:
        world.cluster.body["spec"] |= {"sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}
        assert self.plan(world).stable == STABLE

    @pytest.mark.parametrize("port", [{"targetPort": 8080}, {"port": 8080}])
    def test_a_port_that_versions_have_is_served(self, world: PlanWorld, port: dict[str, Any]) -> None:
        world.cluster.body["spec"]["ports"] = [{"port": 80, **port}]
        assert self.plan(world).stable == STABLE

    def test_a_name_that_its_pods_names_would_cut_is_refused(self, world: PlanWorld) -> None:
        cluster = cast("FakePods", world.cluster)
        cluster.replicas, cluster.labels["a" * 47] = {"a" * 47: 2}, LABELS
        with pytest.raises(RefusedError, match="is too long"):
            self.plan(world)

    def test_a_first_share_beyond_what_the_criticality_permits_is_refused(self, world: PlanWorld) -> None:
        stages: dict[str, Any] = {"criticality": "high", "canary": {"stages": [5, 100]}}
        with pytest.raises(RefusedError, match=r"high permits 10 % at first, and beside 2 pods .* would get 33 %"):
            self.plan(world, **stages)
        world.cluster.replicas[STABLE] = 9
        assert self.plan(world, replicas=9, **stages).share(5) == 10

    def test_fewer_pods_than_carry_the_traffic_now_are_refused(self, world: PlanWorld) -> None:
        """They would have all of it at once, after a stage that gave them little."""
        world.cluster.replicas[STABLE] = 10
        with pytest.raises(RefusedError, match=r"replicas: 2 pods would have to carry .*; set replicas to 10 at least"):
            self.plan(world)
        assert self.plan(world, replicas=10).pods_for(100) == 10

    def test_a_version_that_was_not_made_to_share_a_service_is_refused(self, world: PlanWorld) -> None:
        """It was made behind a gateway, and somebody let the Service select it: the first share would leave it out."""
        first = planned()
        world.cluster = cluster = FakePods.verified(first)
        cluster.labels[first.candidate] = {VERSION: first.candidate}
        with pytest.raises(RefusedError, match="were not made to share a Service"):
            self.plan(world, run_after=first.created + 60)

    def test_a_service_whose_old_manifest_was_applied_again_is_claimed_as_it_was(
        self, world: PlanWorld, tasks: Callable[[FakePods], FakePods]
    ) -> None:
        """What kubectl apply makes of both selectors: the labels of the old one come to the version's."""
        first = planned()
        world.cluster = cluster = tasks(FakePods.verified(first))
        cluster.body["spec"]["selector"] = {**LABELS, VERSION: first.candidate}
        assert cluster.served() == {first.candidate: 2}
        plan = self.plan(world, run_after=first.created + 60)
        assert plan.stable == first.candidate
        cluster.plan, cluster.labels[plan.candidate] = plan, plan.pod_labels
        ClaimRouteOperator(task_id="claim", plan=plan.dump()).execute(Run().at("claim"))
        assert cluster.service.selector == {VERSION: first.candidate}
        cluster.replicas[plan.candidate] = 0
        shift(cluster, 100)
        cluster.body["spec"]["selector"] = {**LABELS, VERSION: plan.candidate}
        assert cluster.served() == {plan.candidate: 2}  # its pods have those labels too

    def test_two_that_serve_since_somebody_set_the_selector_back_are_told_apart_first(self, world: PlanWorld) -> None:
        """A team has applied its own manifest again: its selector finds the version beside what served before it."""
        first = planned()
        world.cluster = FakePods.verified(first)
        world.cluster.body["spec"]["selector"] = LABELS
        with pytest.raises(RefusedError, match=f"there is payments and {first.candidate}; let the pods of one"):
            self.plan(world)


class TestTidy:
    def seen(self, cluster: FakePods, pods: int = 2) -> Survey:
        found = {item["kind"]: item for item in version_objects(cluster.plan)}
        made = {"creationTimestamp": "2020-01-01T00:00:00+00:00", "resourceVersion": "1"}
        for item in found.values():
            item["metadata"] |= made
        found["Deployment"]["spec"]["replicas"] = pods
        found.pop("ConfigMap")
        made_at = Version(CANDIDATE, found).made_at
        return Survey(cluster.plan, real(cluster), cluster.service, [Version(CANDIDATE, found, started_at=made_at)])

    @pytest.fixture(autouse=True)
    def _store(self, store: None) -> None:
        """Let artifacts be somewhere."""

    @pytest.mark.parametrize("stable", [0, 2])
    def test_what_users_get_to_is_not_stopped_whatever_the_selector_should_be(self, stable: int) -> None:
        """The team has set its old selector again: beside what it had before, or where that is no more."""
        cluster = FakePods.verified(planned())
        cluster.body["spec"]["selector"] = LABELS
        cluster.replicas[STABLE] = stable
        tidied = clean_up(self.seen(cluster), 2e9)
        assert cluster.replicas[CANDIDATE] == 2
        assert (tidied.done, len(tidied.alarms)) == ([], 1)
        assert tidied.alarms[0].startswith(f"{CANDIDATE} has users, and {STABLE} should have them all")

    def test_pods_of_a_version_that_was_taken_back_are_stopped_while_the_stable_serves(self) -> None:
        cluster = FakePods.verified(planned())
        cluster.fail("withdraw", TemporaryError("killed"))
        with pytest.raises(TemporaryError):
            undo(cluster, cluster.plan)
        cluster.replicas[STABLE] = 0
        assert clean_up(self.seen(cluster), 2e9).alarms == [
            f"{CANDIDATE} alone has users, since {STABLE} has no ready pod"
        ]
        assert cluster.served() == {CANDIDATE: 2}
        cluster.replicas[STABLE] = 1
        assert clean_up(self.seen(cluster), 2e9).done == [f"stopped {CANDIDATE}"]
        assert cluster.served() == {STABLE: 1}
