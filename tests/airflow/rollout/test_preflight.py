"""Nothing starts unless a rollback is possible: the stable serves, and what its pods are made of still exists."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_deploy.domain.errors import PermanentError, RefusedError, TemporaryError
from airflow_deploy.operators.canary import ClaimRouteOperator
from airflow_deploy.rollout import preflight
from tests.support.builders import make_plan
from tests.support.cluster import lead_to
from tests.support.fake_registry import FakeRegistry
from tests.support.kubernetes_api import Object
from tests.support.planning import Planning
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster

IMAGE = "registry.example.com/payments:v1"


@pytest.fixture
def planning(monkeypatch: pytest.MonkeyPatch, store: Path) -> Planning:
    return Planning(monkeypatch, with_parts(ServiceCluster(make_plan())))


def with_parts(cluster: ServiceCluster) -> ServiceCluster:
    """Let the stable's pods need two images and a ConfigMap."""
    namespace = cluster.plan.spec.namespace

    def change(body: Object) -> None:
        settings = [{"configMapRef": {"name": "payments-settings"}}]
        body["spec"]["template"]["spec"]["containers"] = [
            {"name": "main", "image": IMAGE, "envFrom": settings},
            {"name": "proxy", "image": "registry.example.com/proxy:v2"},
        ]

    cluster.api.edit("Deployment", namespace, cluster.plan.stable, change)
    cluster.api.add({"kind": "ConfigMap", "metadata": {"name": "payments-settings", "namespace": namespace}})
    return cluster


TakeAway = Callable[[ServiceCluster, FakeRegistry], None]


def no_pods(cluster: ServiceCluster, registry: FakeRegistry) -> None:
    cluster.replicas[cluster.plan.stable] = 0


def no_image(cluster: ServiceCluster, registry: FakeRegistry) -> None:
    registry.gone = {IMAGE}


def no_config(cluster: ServiceCluster, registry: FakeRegistry) -> None:
    cluster.api.remove("ConfigMap", cluster.plan.spec.namespace, "payments-settings")


MISSING = pytest.mark.parametrize(
    ("take_away", "said"),
    [
        (no_pods, r"^payments has no ready pod, .* start it, "),
        (no_image, rf"^the registry has {IMAGE} no more, .* push it again, "),
        (no_config, r"^ConfigMap shop/payments-settings is gone, .* restore it, "),
    ],
    ids=["pods", "image", "config"],
)


class TestPlan:
    @MISSING
    def test_deployment_is_not_planned_if_a_part_of_the_stable_is_missing(
        self, planning: Planning, registry: FakeRegistry, take_away: TakeAway, said: str
    ) -> None:
        take_away(planning.cluster, registry)
        with pytest.raises(RefusedError, match=said):
            planning.plan()
        assert (planning.steps(), planning.cluster.api.writes) == ([], [])

    def test_plan_freezes_how_many_pods_could_take_all_traffic_back(self, planning: Planning) -> None:
        planning.cluster.replicas["payments"] = 7
        assert planning.plan().stable_ready == 7

    def test_registry_that_does_not_answer_is_asked_again(self, planning: Planning, registry: FakeRegistry) -> None:
        registry.error = TemporaryError("no answer")
        with pytest.raises(TemporaryError, match="no answer"):
            planning.plan()

    def test_registry_that_may_not_be_asked_refuses_no_deployment(
        self, planning: Planning, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The nodes have a login of their own."""
        registry.error = PermanentError("403 denied")
        with caplog.at_level(logging.WARNING, preflight.__name__):
            assert planning.plan()
        assert "still has the image of payments is not known: 403 denied" in caplog.text


class TestClaim:
    """The build and the questions before it may have taken hours."""

    def claim(self, cluster: ServiceCluster, monkeypatch: pytest.MonkeyPatch) -> str:
        lead_to(cluster.api, monkeypatch)
        return ClaimRouteOperator(task_id="claim_route", plan=cluster.plan.dump()).execute(Run().at("claim_route"))

    @MISSING
    def test_route_is_not_claimed_if_a_part_of_the_stable_is_missing(
        self, monkeypatch: pytest.MonkeyPatch, registry: FakeRegistry, take_away: TakeAway, said: str
    ) -> None:
        cluster = with_parts(ServiceCluster(make_plan()))
        take_away(cluster, registry)
        with pytest.raises(RefusedError, match=said):
            self.claim(cluster, monkeypatch)
        assert (cluster.api.writes, cluster.now.owner) == ([], None)

    def test_second_claim_does_not_check_the_stable_again(
        self, monkeypatch: pytest.MonkeyPatch, registry: FakeRegistry
    ) -> None:
        cluster = with_parts(ServiceCluster(make_plan()))
        owner = self.claim(cluster, monkeypatch)
        no_pods(cluster, registry)
        assert self.claim(cluster, monkeypatch) == owner
