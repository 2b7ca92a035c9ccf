"""A service's very first version without a gateway: its Service selects no pod until all its pods are there."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.pods import start_pods
from airflow_deploy.clients.kubernetes.versions import deployments_with
from airflow_deploy.domain.errors import FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.labels import MANAGED_BY, MANAGER, VERSION
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.service_route import ADOPTED, MATCH_NO_POD
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.cleanup import CleanupResult, clean_up, survey
from airflow_deploy.rollout.guard import Guard
from airflow_deploy.rollout.teardown import roll_back_and_stop
from tests.support.claims import roll_back, undo
from tests.support.kubernetes_api import KubernetesApi
from tests.support.loops import said
from tests.support.planning import Planning
from tests.support.pod_shares import Tasks, moves
from tests.support.replicas_cluster import LABELS, ReplicasCluster
from tests.support.replicas_cluster import planned as second_planned
from tests.support.world import Clock, Stage, World

pytestmark = pytest.mark.usefixtures("store")


def planned(**changes: Any) -> DeploymentPlan:
    """Return the plan of a deployment beside which no version serves."""
    return second_planned(**changes).model_copy(update={"stable": "", "stable_ready": 0, "adopted": {"": LABELS}})


CANDIDATE = planned().candidate
DEPLOYMENT = f"/deployments/{CANDIDATE}"


def newer(plan: DeploymentPlan) -> DeploymentPlan:
    """Return the plan of the next run, which finds no version either."""
    return plan.model_copy(update={"created": plan.created + 60, "run_id": "newer"})


class TestPlan:
    @pytest.fixture
    def cluster(self) -> ReplicasCluster:
        """A service that was never deployed, and has no pods."""
        return ReplicasCluster(planned()).unclaimed()

    @pytest.fixture
    def planning(self, monkeypatch: pytest.MonkeyPatch, cluster: ReplicasCluster) -> Planning:
        return Planning(monkeypatch, cluster)

    def plan(self, planning: Planning, **given: Any) -> DeploymentPlan:
        return planning.plan(**{"router": "replicas", "metrics": "pods", "route": {"name": "payments"}, **given})

    def test_a_service_without_pods_has_no_stable(self, planning: Planning) -> None:
        plan = self.plan(planning)
        assert (plan.stable, plan.stable_ready, plan.adopted) == ("", 0, {"": LABELS})
        assert planning.cluster.api.writes == []
        assert (plan.router.shares(25), plan.pods_for(100)) == ((100,), plan.spec.replicas)
        assert LABELS.items() <= plan.pod_labels.items()

    def test_a_service_whose_first_version_was_rolled_back_has_no_stable(self, planning: Planning) -> None:
        first = planned()
        cluster = ReplicasCluster.at_share(first, 100)
        roll_back_and_stop(cluster.client, first)
        planning.use(cluster)
        plan = self.plan(planning, run_after=first.created + 60)
        assert (plan.stable, plan.adopted) == ("", {"": LABELS})

    def test_the_first_share_of_a_first_version_is_everything_at_any_criticality(self, planning: Planning) -> None:
        """There is no version to share with; the confidence says which users it puts at risk."""
        assert self.plan(planning, criticality="high", canary={"stages": [5, 100]}).stable == ""

    def test_beside_a_version_that_is_down_no_first_version_is_planned(
        self, planning: Planning, cluster: ReplicasCluster
    ) -> None:
        cluster.add_version("payments", replicas=0, labels=LABELS, service=False)
        cluster.select(MATCH_NO_POD).annotate(ADOPTED, json.dumps({"": LABELS}))
        with pytest.raises(RefusedError, match="no ready pod; start payments and let it select that, or delete it"):
            self.plan(planning)

    def test_after_a_version_of_ours_that_has_lost_its_pods_no_first_version_is_planned(
        self, planning: Planning
    ) -> None:
        cluster = ReplicasCluster.verified(planned())
        planning.use(cluster)
        del cluster.replicas[CANDIDATE]
        with pytest.raises(RefusedError, match="behind its Service there is no ready pod; let the pods of one"):
            self.plan(planning)

    def test_while_another_first_version_is_under_way_a_run_is_refused(self, planning: Planning) -> None:
        cluster = ReplicasCluster.at_share(planned(), 0)
        planning.use(cluster)
        cluster.replicas[CANDIDATE] = 2
        with pytest.raises(RefusedError, match="is not over: wait until it is"):
            self.plan(planning)

    @pytest.mark.parametrize("phase", [routes.CANARY, routes.BRAKED])
    def test_a_first_version_that_is_not_over_is_no_stable_at_any_selector(
        self, planning: Planning, phase: str
    ) -> None:
        planning.use(ReplicasCluster.at_share(planned(), 100).annotate(routes.PHASE, phase).select(LABELS))
        with pytest.raises(RefusedError, match="is not over: wait until it is"):
            self.plan(planning)

    def test_a_service_that_selects_no_pod_and_has_no_record_is_refused(
        self, planning: Planning, cluster: ReplicasCluster
    ) -> None:
        cluster.select(MATCH_NO_POD)
        with pytest.raises(RefusedError, match="its Service selects no pods"):
            self.plan(planning)

    def test_a_first_version_that_was_verified_is_an_ordinary_stable(self, planning: Planning) -> None:
        first = planned()
        planning.use(ReplicasCluster.verified(first))
        plan = self.plan(planning, run_after=first.created + 60)
        assert (plan.stable, plan.stable_ready, plan.adopted) == (CANDIDATE, 2, {"": LABELS})
        # A team that applies the Service's old manifest adds its labels to the selector.
        assert LABELS.items() <= plan.pod_labels.items()


def deployment(name: str, pods: int, labels: dict[str, str], **mine: str) -> dict[str, Any]:
    spec = {"replicas": pods, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}}}
    return {"kind": "Deployment", "metadata": {"name": name, "namespace": "shop", "labels": mine}, "spec": spec}


def test_deployments_with_some_labels_are_listed_without_versions_of_ours_that_were_stopped() -> None:
    server = KubernetesApi()
    server.add(
        deployment("down", 0, LABELS),
        deployment("stopped", 0, LABELS, **{MANAGED_BY: MANAGER}),
        deployment("started", 1, LABELS, **{MANAGED_BY: MANAGER}),
        deployment("other", 2, {"app": "other"}),
    )
    assert deployments_with(KubernetesClient(server.client()), "shop", LABELS) == ["down", "started"]


class TestClaim:
    def test_from_the_claim_on_no_pod_is_selected(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The candidate's pods have the labels that the Service asked for: no user may reach them before the share."""
        cluster = ReplicasCluster(planned()).unclaimed()
        tasks = Tasks(cluster, monkeypatch)
        tasks.apply()
        tasks.claim()
        cluster.replicas[CANDIDATE] = 2
        assert (cluster.service.selector, cluster.served()) == (MATCH_NO_POD, {})
        assert cluster.service.adopted == {"": LABELS}

    @pytest.mark.parametrize("selector", [LABELS, {**MATCH_NO_POD, **LABELS}, MATCH_NO_POD])
    def test_the_next_run_claims_the_service_at_any_selector_that_was_applied_meanwhile(
        self, monkeypatch: pytest.MonkeyPatch, selector: dict[str, str]
    ) -> None:
        cluster = ReplicasCluster.at_share(planned(), 100)
        roll_back_and_stop(cluster.client, cluster.plan)
        cluster.select(selector)
        Tasks(cluster, monkeypatch).claim(newer(cluster.plan))
        assert (cluster.service.selector, cluster.service.adopted) == (MATCH_NO_POD, {"": LABELS})

    def test_what_the_team_serves_by_itself_after_a_rollback_is_adopted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = planned()
        cluster = ReplicasCluster.at_share(first, 100)
        roll_back_and_stop(cluster.client, first)
        cluster.add_version("payments", replicas=2, labels=LABELS, service=False)
        cluster.select(LABELS)
        adopted = {"": LABELS, "payments": LABELS}
        later = second_planned().model_copy(update={"created": first.created + 60, "adopted": adopted})
        Tasks(cluster, monkeypatch).claim(later)
        assert (cluster.service.serving(), cluster.service.adopted) == ("payments", adopted)

    def test_a_claim_that_comes_twice_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster(planned()).unclaimed()
        tasks = Tasks(cluster, monkeypatch)
        assert tasks.claim() == tasks.claim() == f"{cluster.plan.deployment_id}/1"

    def test_a_claim_is_refused_if_a_version_serves_by_now(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster(planned()).unclaimed()
        tasks = Tasks(cluster, monkeypatch)
        monkeypatch.setattr(lease, "is_alive", lambda *_: False)
        cluster.add_version("by-hand", replicas=1, labels=LABELS, service=False)
        with pytest.raises(FencedError, match="served by by-hand now, not by no version"):
            tasks.claim()


class TestShift:
    def test_all_pods_are_there_before_the_share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster.at_share(planned(), 0)
        tasks = Tasks(cluster, monkeypatch)
        with cluster.api.recorded() as requests:
            tasks.shift(25)
        assert moves(requests) == ["pods 2", "share 100"]
        assert (cluster.service.selector, cluster.served()) == ({VERSION: CANDIDATE}, {CANDIDATE: 2})
        with cluster.api.recorded() as requests:
            tasks.shift(100)
        assert moves(requests) == []

    def test_a_promoted_version_is_served_by_the_old_manifest_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster.at_share(planned(), 100)
        Tasks(cluster, monkeypatch).promote()
        assert cluster.service.serving() == CANDIDATE
        cluster.select({**LABELS, VERSION: CANDIDATE})
        assert (cluster.service.serving(), cluster.served()) == (CANDIDATE, {CANDIDATE: 2})

    @pytest.mark.parametrize("selector", [LABELS, {**MATCH_NO_POD, **LABELS}])
    def test_no_share_is_given_if_the_selector_was_changed_by_hand(
        self, monkeypatch: pytest.MonkeyPatch, selector: dict[str, str]
    ) -> None:
        """A team applies its manifest again: what then stands there is what it asked for, with ours or without."""
        cluster = ReplicasCluster.at_share(planned(), 0).select(selector)
        with pytest.raises(FencedError, match="it was changed by hand"):
            Tasks(cluster, monkeypatch).shift(25)
        roll_back_and_stop(cluster.client, cluster.plan)
        assert (cluster.service.selector, cluster.served()) == (MATCH_NO_POD, {})


def without_users_and_pods(cluster: ReplicasCluster) -> bool:
    """Whether the Service selects no pod, and the candidate has none."""
    return (cluster.service.selector, cluster.served(), cluster.replicas[CANDIDATE]) == (MATCH_NO_POD, {}, 0)


class TestRollback:
    @pytest.mark.parametrize("share", [0, 100])
    def test_it_is_to_no_traffic(self, share: int) -> None:
        cluster = ReplicasCluster.at_share(planned(), share)
        settled = roll_back_and_stop(cluster.client, cluster.plan)
        assert (settled.reason, settled.stopped) == ("rolled back to no traffic, as before", True)
        assert without_users_and_pods(cluster)
        assert cluster.service.phase == routes.SETTLED
        writes = cluster.writes
        roll_back_and_stop(cluster.client, cluster.plan)
        assert cluster.writes == writes

    def test_its_first_write_ends_the_traffic_and_a_later_try_completes_it(self) -> None:
        cluster = ReplicasCluster.at_share(planned(), 100)
        cluster.api.fail(DEPLOYMENT, 503, method="PATCH")
        with pytest.raises(TemporaryError):
            roll_back(cluster.client, cluster.plan, routes.BRAKED, "verdict")
        assert cluster.served() == {}
        roll_back_and_stop(cluster.client, cluster.plan)
        assert without_users_and_pods(cluster)

    def test_after_it_no_zombie_starts_the_pods_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cluster = ReplicasCluster.at_share(planned(), 100)
        tasks = Tasks(cluster, monkeypatch)
        owner = cluster.claim
        roll_back(cluster.client, cluster.plan, routes.BRAKED)
        with pytest.raises(FencedError, match="is braked"):
            tasks.shift(25)
        with pytest.raises(TemporaryError):
            start_pods(cluster.client, cluster.plan.spec.namespace, CANDIDATE, 2)
        assert (without_users_and_pods(cluster), cluster.claim) == (True, owner)

    def test_that_of_the_guard_is_the_same(self) -> None:
        cluster, clock = ReplicasCluster.at_share(planned(), 100), Clock()
        guard = Guard(cluster.client, clock=clock.time)
        for _ in range(47):
            guard.look()
            clock.sleep(1)
        assert without_users_and_pods(cluster)
        assert (cluster.service.phase, cluster.service.epoch) == (routes.BRAKED, 2)

    def test_that_of_the_verification_is_the_same(self) -> None:
        cluster = ReplicasCluster.verified(planned())
        assert undo(cluster.client, cluster.plan)
        assert without_users_and_pods(cluster)
        assert undo(cluster.client, cluster.plan)

    def test_that_of_the_watch_is_by_its_limits_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), Stage(0, 100, errors=0.1), kind=ReplicasCluster)
        loop = world.loop("watch")
        outcome = world.look(loop, 60)
        assert said(outcome) == "BREACHED"
        assert outcome is not None
        assert re.search(r"error_rate: \d+ of \d+ requests failed \(limit 1.00%\)", outcome.reason)
        assert loop.brake(outcome) is not None
        assert isinstance(world.cluster, ReplicasCluster)
        assert without_users_and_pods(world.cluster)

    def test_it_leaves_nothing_to_clean_up(self) -> None:
        cluster = ReplicasCluster.at_share(planned(), 100)
        roll_back_and_stop(cluster.client, cluster.plan)
        assert clean_up(survey(cluster.client, cluster.plan), 2e9) == CleanupResult()
