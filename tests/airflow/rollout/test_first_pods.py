"""A service's very first version without a gateway: its Service selects nobody until all its pods are there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, cast

import pytest

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.clients.kubernetes.versions import deployments_with
from airflow_deploy.domain.errors import FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.labels import MANAGED_BY, MANAGER, VERSION
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.service_route import MATCH_NO_POD
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.cleanup import Survey, clean_up
from airflow_deploy.rollout.guard import Guard
from airflow_deploy.rollout.teardown import roll_back_and_stop
from tests.airflow.analysis.test_loop import said
from tests.airflow.operators.test_operators import Run
from tests.airflow.operators.test_plan import World as PlanWorld
from tests.airflow.rollout.test_replicas import AGREED, Log, shift, tasks
from tests.support.claims import roll_back, undo
from tests.support.fake_pods import LABELS, FakePods
from tests.support.fake_pods import planned as second_planned
from tests.support.fake_world import Clock, Stage, World
from tests.support.kubernetes_api import KubernetesApi

__all__ = ["tasks"]
Met = Callable[[FakePods], FakePods]


def planned(**changes: Any) -> DeploymentPlan:
    return second_planned(**changes).model_copy(update={"stable": "", "stable_ready": 0, "adopted": {"": LABELS}})


CANDIDATE = planned().candidate


def real(cluster: FakePods) -> Cluster:
    return cast("Cluster", cluster)


def unclaimed(cluster: FakePods) -> FakePods:
    """Return it as the team has made it."""
    del cluster.body["metadata"]["annotations"]
    cluster.writes = 0
    return cluster


def claim(cluster: FakePods, plan: DeploymentPlan | None = None) -> str:
    planned = plan or cluster.plan
    return str(ClaimRouteOperator(task_id="claim", plan=planned.dump()).execute(Run().at("claim")))


class TestPlan:
    @pytest.fixture
    def world(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> PlanWorld:
        world = PlanWorld(monkeypatch, tmp_path)
        world.cluster = unclaimed(FakePods(planned()))
        return world

    def plan(self, world: PlanWorld, **given: Any) -> DeploymentPlan:
        return world.plan(**{"router": "replicas", "metrics": "pods", "route": {"name": "payments"}, **given})

    def test_a_service_without_pods_has_no_stable(self, world: PlanWorld) -> None:
        plan = self.plan(world)
        assert (plan.stable, plan.stable_ready, plan.adopted, world.cluster.writes) == ("", 0, {"": LABELS}, 0)
        assert (plan.router.shares(25), plan.pods_for(100)) == ((100,), plan.spec.replicas)
        assert LABELS.items() <= plan.pod_labels.items()

    def test_nor_has_one_whose_first_version_was_taken_back(self, world: PlanWorld) -> None:
        first = planned()
        cluster = FakePods.at_share(first, 100)
        roll_back_and_stop(real(cluster), first)
        world.cluster = cluster
        plan = self.plan(world, run_after=first.created + 60)
        assert (plan.stable, plan.adopted) == ("", {"": LABELS})

    def test_its_first_share_is_everything_whatever_the_criticality(self, world: PlanWorld) -> None:
        """There is nobody to share with; the confidence says whom it puts at risk."""
        assert self.plan(world, criticality="high", canary={"stages": [5, 100]}).stable == ""

    def test_a_version_that_is_down_is_no_reason_for_a_first_one(self, world: PlanWorld) -> None:
        cluster = cast("FakePods", world.cluster)
        cluster.labels["payments"], cluster.replicas = LABELS, {"payments": 0}
        cluster.body["spec"]["selector"] = MATCH_NO_POD
        cluster.annotate("airflow-deploy/adopted", json.dumps({"": LABELS}))
        with pytest.raises(RefusedError, match="no ready pod; start payments and let it select that, or delete it"):
            self.plan(world)

    def test_nor_is_one_of_ours_that_has_lost_its_pods(self, world: PlanWorld) -> None:
        world.cluster = FakePods.verified(planned())
        world.cluster.replicas.pop(CANDIDATE)
        with pytest.raises(RefusedError, match="behind its Service there is no ready pod; let the pods of one"):
            self.plan(world)

    def test_while_another_first_version_is_under_way_it_is_refused(self, world: PlanWorld) -> None:
        world.cluster = FakePods.at_share(planned(), 0)
        world.cluster.replicas[CANDIDATE] = 2
        with pytest.raises(RefusedError, match="is not over: wait until it is"):
            self.plan(world)

    @pytest.mark.parametrize("phase", [routes.CANARY, routes.BRAKED])
    def test_one_that_is_not_over_is_no_stable_whatever_selects_it(self, world: PlanWorld, phase: str) -> None:
        cluster = FakePods.at_share(planned(), 100).annotate(routes.PHASE, phase)
        cluster.body["spec"]["selector"] = LABELS
        world.cluster = cluster
        with pytest.raises(RefusedError, match="is not over: wait until it is"):
            self.plan(world)

    def test_a_service_that_nobody_knows_who_it_was_for_is_refused(self, world: PlanWorld) -> None:
        world.cluster.body["spec"]["selector"] = MATCH_NO_POD
        with pytest.raises(RefusedError, match="its Service selects no pods"):
            self.plan(world)

    def test_after_a_verified_one_it_is_an_ordinary_stable(self, world: PlanWorld) -> None:
        first = planned()
        world.cluster = FakePods.verified(first)
        plan = self.plan(world, run_after=first.created + 60)
        assert (plan.stable, plan.stable_ready, plan.adopted) == (CANDIDATE, 2, {"": LABELS})
        # Whoever applies the Service's old manifest adds its labels to the selector.
        assert LABELS.items() <= plan.pod_labels.items()


def deployment(name: str, pods: int, labels: dict[str, str], **mine: str) -> dict[str, Any]:
    spec = {"replicas": pods, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}
    return {"kind": "Deployment", "metadata": {"name": name, "namespace": "shop", "labels": mine}, "spec": spec}


def test_only_what_could_serve_counts_as_deployed() -> None:
    server = KubernetesApi()
    server.add(
        deployment("down", 0, LABELS),
        deployment("stopped", 0, LABELS, **{MANAGED_BY: MANAGER}),
        deployment("started", 1, LABELS, **{MANAGED_BY: MANAGER}),
        deployment("other", 2, {"app": "other"}),
    )
    assert deployments_with(KubernetesClient(server.client()), "shop", LABELS) == ["down", "started"]


class TestTraffic:
    def test_nobody_is_selected_from_the_claim_on(self, tasks: Met) -> None:
        """The candidate's pods have the labels that the Service asked for: no user may get to them before the share."""
        cluster = tasks(unclaimed(FakePods(planned())))
        claim(cluster)
        cluster.replicas[CANDIDATE] = 2
        assert (cluster.service.selector, cluster.served()) == (MATCH_NO_POD, {})
        assert cluster.service.adopted == {"": LABELS}

    def test_all_pods_are_there_before_the_share(self, tasks: Met) -> None:
        cluster = cast("Log", tasks(Log.at_share(planned(), 0)))
        cluster.wrote.clear()
        shift(cluster, 25)
        assert cluster.wrote == ["pods 2", "share 100"]
        assert (cluster.service.selector, cluster.served()) == ({VERSION: CANDIDATE}, {CANDIDATE: 2})
        shift(cluster, 100)
        assert cluster.wrote == ["pods 2", "share 100"]

    def test_it_is_promoted_and_reached_by_the_old_manifest_too(self, tasks: Met) -> None:
        cluster = tasks(FakePods.at_share(planned(), 100))
        owned: dict[str, Any] = {"plan": cluster.plan.dump(), "claim": cluster.claim}
        PromoteOperator(task_id="promote", agreed=AGREED, **owned).execute(Run().at("promote"))
        assert cluster.service.serving() == CANDIDATE
        cluster.body["spec"]["selector"] = {**LABELS, VERSION: CANDIDATE}
        assert (cluster.service.serving(), cluster.served()) == (CANDIDATE, {CANDIDATE: 2})

    @pytest.mark.parametrize("selector", [LABELS, {**MATCH_NO_POD, **LABELS}])
    def test_where_somebody_selects_for_it_no_share_is_given(self, tasks: Met, selector: dict[str, str]) -> None:
        """A team applies its manifest again: what then stands there is what it asked for, with ours or without."""
        cluster = tasks(FakePods.at_share(planned(), 0))
        cluster.body["spec"]["selector"] = selector
        with pytest.raises(FencedError, match="it was changed by hand"):
            shift(cluster, 25)
        roll_back_and_stop(real(cluster), cluster.plan)
        assert (cluster.service.selector, cluster.served()) == (MATCH_NO_POD, {})

    @pytest.mark.parametrize("selector", [LABELS, {**MATCH_NO_POD, **LABELS}, MATCH_NO_POD])
    def test_the_next_one_claims_it_whatever_was_applied_meanwhile(self, tasks: Met, selector: dict[str, str]) -> None:
        cluster = tasks(FakePods.at_share(planned(), 100))
        roll_back_and_stop(real(cluster), cluster.plan)
        cluster.body["spec"]["selector"] = selector
        newer = cluster.plan.model_copy(update={"created": cluster.plan.created + 60, "run_id": "newer"})
        claim(cluster, newer)
        assert (cluster.service.selector, cluster.service.adopted) == (MATCH_NO_POD, {"": LABELS})

    def test_what_the_team_serves_by_itself_after_one_was_taken_back_is_adopted(self, tasks: Met) -> None:
        first = planned()
        cluster = tasks(FakePods.at_share(first, 100))
        roll_back_and_stop(real(cluster), first)
        cluster.labels["payments"], cluster.replicas["payments"] = LABELS, 2
        cluster.body["spec"]["selector"] = LABELS
        adopted = {"": LABELS, "payments": LABELS}
        newer = second_planned().model_copy(update={"created": first.created + 60, "adopted": adopted})
        claim(cluster, newer)
        assert (cluster.service.serving(), cluster.service.adopted) == ("payments", adopted)

    def test_a_claim_that_comes_twice_is_one(self, tasks: Met) -> None:
        cluster = tasks(unclaimed(FakePods(planned())))
        assert claim(cluster) == claim(cluster) == f"{cluster.plan.deployment_id}/1"

    def test_who_serves_by_now_is_not_passed_over(self, tasks: Met, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lease, "is_alive", lambda *_: False)
        cluster = tasks(unclaimed(FakePods(planned())))
        cluster.labels["by-hand"], cluster.replicas["by-hand"] = LABELS, 1
        with pytest.raises(FencedError, match="served by by-hand now, not by no version"):
            claim(cluster)


class TestTheWayBack:
    def gone(self, cluster: FakePods) -> bool:
        """Whether nobody is served, and the candidate has no pods."""
        return (cluster.service.selector, cluster.served(), cluster.replicas[CANDIDATE]) == (MATCH_NO_POD, {}, 0)

    @pytest.mark.parametrize("share", [0, 100])
    def test_is_to_nobody(self, share: int) -> None:
        cluster = FakePods.at_share(planned(), share)
        settled = roll_back_and_stop(real(cluster), cluster.plan)
        assert (settled.reason, settled.stopped) == ("rolled back to no traffic, as before", True)
        assert self.gone(cluster)
        assert cluster.service.phase == routes.SETTLED
        writes = cluster.writes
        roll_back_and_stop(real(cluster), cluster.plan)
        assert cluster.writes == writes

    def test_ends_its_traffic_by_the_first_write_and_is_completed_by_whoever_comes(self) -> None:
        cluster = FakePods.at_share(planned(), 100)
        cluster.fail("withdraw", TemporaryError("killed"))
        with pytest.raises(TemporaryError):
            roll_back(cluster, cluster.plan, routes.BRAKED, "word")
        assert cluster.served() == {}
        roll_back_and_stop(real(cluster), cluster.plan)
        assert self.gone(cluster)

    def test_no_zombie_gives_its_pods_back(self, tasks: Met) -> None:
        cluster = tasks(FakePods.at_share(planned(), 100))
        owner = cluster.claim
        roll_back(cluster, cluster.plan, routes.BRAKED)
        with pytest.raises(FencedError, match="is braked"):
            shift(cluster, 25)
        with pytest.raises(TemporaryError):
            cluster.join(cluster.plan.spec.namespace, CANDIDATE, 2)
        assert (self.gone(cluster), cluster.claim) == (True, owner)

    def test_is_the_guards_too(self) -> None:
        cluster, clock = FakePods.at_share(planned(), 100), Clock()
        guard = Guard(cast("Cluster", cluster), clock=clock.time)
        for _ in range(47):
            guard.look()
            clock.sleep(1)
        assert self.gone(cluster)
        assert (cluster.service.phase, cluster.service.epoch) == (routes.BRAKED, 2)

    def test_is_the_verifications_too(self) -> None:
        cluster = FakePods.verified(planned())
        assert undo(cluster, cluster.plan)
        assert self.gone(cluster)
        assert undo(cluster, cluster.plan)

    def test_is_the_watchs_which_judges_it_by_its_limits_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), Stage(0, 100, errors=0.1), kind=FakePods)
        loop = world.loop("watch")
        outcome = world.look(loop, 60)
        assert said(outcome) == "BREACHED"
        assert outcome is not None
        assert re.search(r"error_rate: \d+ of \d+ requests failed \(limit 1.00%\)", outcome.reason)
        assert loop.brake(outcome) is not None
        assert self.gone(cast("FakePods", world.cluster))

    @pytest.mark.usefixtures("store")
    def test_leaves_nothing_to_tidy(self) -> None:
        cluster = FakePods.at_share(planned(), 100)
        roll_back_and_stop(real(cluster), cluster.plan)
        tidied = clean_up(Survey(cluster.plan, real(cluster), cluster.service, []), 2e9)
        assert (tidied.done, tidied.alarms, tidied.left) == ([], [], None)
