"""``plan`` without a gateway: what serves is adopted, and a Service whose pods cannot divide traffic is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.labels import VERSION
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from tests.support.builders import DIGEST
from tests.support.kubernetes_api import Object
from tests.support.planning import Planning
from tests.support.pod_shares import Tasks
from tests.support.replicas_cluster import LABELS, STABLE, ReplicasCluster, planned

pytestmark = pytest.mark.usefixtures("store")

ROUTER: dict[str, Any] = {"router": "replicas", "metrics": "pods", "route": {"name": "payments"}}


@pytest.fixture
def cluster() -> ReplicasCluster:
    """A service that was never deployed."""
    return ReplicasCluster(planned()).unclaimed()


@pytest.fixture
def planning(monkeypatch: pytest.MonkeyPatch, cluster: ReplicasCluster) -> Planning:
    return Planning(monkeypatch, cluster)


def plan_of(planning: Planning, **given: Any) -> DeploymentPlan:
    """Execute ``plan``, and return what it has frozen."""
    return planning.plan(**{**ROUTER, **given})


def beside(**behaviour: Any) -> Callable[[ReplicasCluster], object]:
    """Return what adds a second Deployment of one pod that the Service selects."""

    def add(cluster: ReplicasCluster) -> None:
        cluster.workloads.let("other", **behaviour)
        cluster.add_version("other", replicas=1, labels=LABELS, service=False)

    return add


def without_pods(cluster: ReplicasCluster) -> None:
    cluster.replicas[STABLE] = 0


def spec(**fields: Any) -> Callable[[ReplicasCluster], object]:
    """Return what sets fields of the Service's spec."""
    return lambda cluster: cluster.edit(lambda body: body["spec"].update(fields))


def selected_by_argocd(cluster: ReplicasCluster) -> None:
    """Let another client take the selector away, and Argo CD set it again."""
    cluster.edit(lambda body: body["spec"].pop("selector"))

    def apply(body: Object) -> None:
        body["spec"]["selector"] = dict(LABELS)

    cluster.api.edit("Service", "shop", "payments", apply, manager="argocd-controller")


class TestStable:
    def test_what_serves_is_adopted_as_it_stands(self, planning: Planning) -> None:
        plan = plan_of(planning)
        assert (plan.stable, plan.adopted, plan.stable_ready) == (STABLE, {STABLE: LABELS}, 2)
        assert plan.stable_service == "payments"
        assert planning.cluster.api.writes == []

    def test_a_version_of_ours_is_known_by_its_label(self, planning: Planning) -> None:
        first = planned()
        planning.use(ReplicasCluster.verified(first))  # beside it, the team's own goes on
        plan = plan_of(planning, run_after=first.created + 60)
        assert (plan.stable, plan.stable_ready, plan.labels_of(plan.stable)) == (
            first.candidate,
            2,
            {VERSION: first.candidate},
        )

    def test_a_service_whose_old_manifest_was_applied_again_is_claimed_as_it_was(
        self, planning: Planning, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What kubectl apply makes of both selectors: the labels of the old one come to the version's."""
        first = planned()
        cluster = ReplicasCluster.verified(first).select({**LABELS, VERSION: first.candidate})
        planning.use(cluster)
        assert cluster.served() == {first.candidate: 2}
        plan = plan_of(planning, run_after=first.created + 60)
        assert plan.stable == first.candidate
        cluster.plan = plan.model_copy(update={"digest": DIGEST})
        cluster.apply(cluster.plan, replicas=0)
        tasks = Tasks(cluster, monkeypatch)
        tasks.claim()
        assert cluster.service.selector == {VERSION: first.candidate}
        tasks.shift(100)
        cluster.select({**LABELS, VERSION: plan.candidate})
        assert cluster.served() == {plan.candidate: 2}  # its pods have those labels too


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (without_pods, "behind its Service there is no ready pod"),
            (beside(ready=0), "there is other and payments; let the pods of one Deployment"),
            (beside(), "there is other and payments; let the pods of one Deployment"),
            (lambda c: c.edit(lambda body: body["spec"].pop("selector")), "its Service selects no pods"),
            (spec(ports=[{"port": 80, "targetPort": 9}]), "port: Service .* to 9 of its pods"),
            (spec(ports=[{"port": 80, "targetPort": "http"}, {"port": 9090}]), "port: Service .* to 9090 of its pods"),
            (ReplicasCluster.without_route, "route: there is no Service shop/payments"),
            (lambda c: c.select({VERSION: "1.2"}), f"{VERSION}, .* select them by another label"),
            (spec(publishNotReadyAddresses=True), "publishNotReadyAddresses of its Service"),
            (spec(sessionAffinity="ClientIP"), "sessionAffinity of its Service is ClientIP"),
            (spec(internalTrafficPolicy="Local"), "internalTrafficPolicy of its Service"),
            (spec(trafficDistribution="PreferClose"), "would not get equal shares"),
            (selected_by_argocd, "argocd-controller owns its selector .* let it ignore /spec/selector"),
        ],
        ids=[
            "no ready pod",
            "two Deployments, one not ready",
            "two Deployments",
            "no selector",
            "another target port",
            "a second port",
            "no Service",
            "our own label",
            "publishNotReadyAddresses",
            "sessionAffinity",
            "internalTrafficPolicy",
            "trafficDistribution",
            "GitOps",
        ],
    )
    def test_a_service_whose_traffic_cannot_be_divided_is_refused(
        self, planning: Planning, cluster: ReplicasCluster, change: Callable[[ReplicasCluster], object], said: str
    ) -> None:
        change(cluster)
        with pytest.raises(RefusedError, match=said):
            plan_of(planning)
        assert (planning.steps(), cluster.api.writes) == ([], [])

    def test_the_defaults_of_the_api_server_are_accepted(self, planning: Planning, cluster: ReplicasCluster) -> None:
        spec(sessionAffinity="None", internalTrafficPolicy="Cluster")(cluster)
        assert plan_of(planning).stable == STABLE

    @pytest.mark.parametrize("port", [{"targetPort": 8080}, {"port": 8080}])
    def test_a_port_that_versions_have_is_accepted(
        self, planning: Planning, cluster: ReplicasCluster, port: dict[str, Any]
    ) -> None:
        spec(ports=[{"port": 80, **port}])(cluster)
        assert plan_of(planning).stable == STABLE

    def test_a_deployment_whose_name_its_pods_names_would_cut_is_refused(
        self, planning: Planning, cluster: ReplicasCluster
    ) -> None:
        del cluster.replicas[STABLE]
        cluster.add_version("a" * 47, replicas=2, labels=LABELS, service=False)
        with pytest.raises(RefusedError, match="is too long"):
            plan_of(planning)

    def test_a_first_share_beyond_what_the_criticality_permits_is_refused(
        self, planning: Planning, cluster: ReplicasCluster
    ) -> None:
        stages: dict[str, Any] = {"criticality": "high", "canary": {"stages": [5, 100]}}
        with pytest.raises(RefusedError, match=r"high permits 10 % at first, and beside 2 pods .* would get 33 %"):
            plan_of(planning, **stages)
        cluster.replicas[STABLE] = 9
        assert plan_of(planning, replicas=9, **stages).share(5) == 10

    def test_fewer_pods_than_carry_the_traffic_now_are_refused(
        self, planning: Planning, cluster: ReplicasCluster
    ) -> None:
        """They would have all of it at once, after a stage that gave them little."""
        cluster.replicas[STABLE] = 10
        with pytest.raises(RefusedError, match=r"replicas: 2 pods would have to carry .*; set replicas to 10 at least"):
            plan_of(planning)
        assert plan_of(planning, replicas=10).pods_for(100) == 10

    def test_a_version_that_was_not_made_to_share_a_service_is_refused(self, planning: Planning) -> None:
        """It was made behind a gateway, and a person let the Service select it: the first share would leave it out."""
        first = planned()
        cluster = ReplicasCluster.verified(first)
        planning.use(cluster)

        def change(body: Object) -> None:
            body["spec"]["template"]["metadata"]["labels"] = {VERSION: first.candidate}

        cluster.api.edit("Deployment", "shop", first.candidate, change)
        assert cluster.served() == {first.candidate: 2}
        with pytest.raises(RefusedError, match="were not made to share a Service"):
            plan_of(planning, run_after=first.created + 60)

    def test_two_that_serve_since_the_old_selector_was_set_again_are_refused(self, planning: Planning) -> None:
        """A team has applied its own manifest again: its selector finds the version beside what served before it."""
        first = planned()
        planning.use(ReplicasCluster.verified(first).select(LABELS))
        with pytest.raises(RefusedError, match=f"there is payments and {first.candidate}; let the pods of one"):
            plan_of(planning)
