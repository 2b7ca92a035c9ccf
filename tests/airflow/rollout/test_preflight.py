"""Nothing starts without a way back: the stable serves, and what its pods are made of is still there."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from airflow_deploy.clients.kubernetes.pods import PodParts
from airflow_deploy.domain.errors import PermanentError, RefusedError, TemporaryError
from airflow_deploy.operators import canary
from airflow_deploy.operators.canary import ClaimRouteOperator
from airflow_deploy.rollout import preflight as wayback
from tests.airflow.operators.test_operators import Run
from tests.airflow.operators.test_plan import World
from tests.support.builders import make_plan
from tests.support.fake_cluster import FakeCluster
from tests.support.fake_registry import FakeRegistry

IMAGE = "registry.example.com/payments:v1"


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    return World(monkeypatch, tmp_path)


def no_pods(cluster: FakeCluster, registry: FakeRegistry) -> None:
    cluster.replicas[cluster.plan.stable] = 0


def no_image(cluster: FakeCluster, registry: FakeRegistry) -> None:
    registry.gone = {IMAGE}


def no_config(cluster: FakeCluster, registry: FakeRegistry) -> None:
    cluster.config_maps.clear()


MISSING = pytest.mark.parametrize(
    ("take_away", "said"),
    [
        (no_pods, r"^payments has no ready pod, .* start it, "),
        (no_image, rf"^the registry has {IMAGE} no more, .* push it again, "),
        (no_config, r"^ConfigMap shop/payments-settings is gone, .* restore it, "),
    ],
    ids=["pods", "image", "config"],
)


def whole(cluster: FakeCluster) -> FakeCluster:
    cluster.parts = PodParts((IMAGE, "registry.example.com/proxy:v2"), ("payments-settings",))
    cluster.config_maps = {"payments-settings"}
    return cluster


@MISSING
def test_nothing_is_planned_without_it(world: World, registry: FakeRegistry, take_away: Any, said: str) -> None:
    take_away(whole(world.cluster), registry)
    with pytest.raises(RefusedError, match=said):
        world.plan()
    assert (world.steps(), world.cluster.writes) == ([], 0)


def test_how_many_pods_could_take_everything_back_is_frozen(world: World, registry: FakeRegistry) -> None:
    whole(world.cluster).replicas["payments"] = 7
    assert world.plan().stable_ready == 7


class TestClaim:
    """The build and the questions before it may have taken hours."""

    def claim(self, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(canary, "Cluster", lambda _: cluster)
        return ClaimRouteOperator(task_id="claim_route", plan=cluster.plan.dump()).execute(Run().at("claim_route"))

    @MISSING
    def test_the_route_is_not_claimed_without_it(
        self, monkeypatch: pytest.MonkeyPatch, registry: FakeRegistry, take_away: Any, said: str
    ) -> None:
        cluster = whole(FakeCluster(make_plan()))
        take_away(cluster, registry)
        with pytest.raises(RefusedError, match=said):
            self.claim(cluster, monkeypatch)
        assert (cluster.writes, cluster.now.owner) == (0, None)

    def test_claimed_twice_it_is_not_asked_again(self, monkeypatch: pytest.MonkeyPatch, registry: FakeRegistry) -> None:
        cluster = whole(FakeCluster(make_plan()))
        owner = self.claim(cluster, monkeypatch)
        no_pods(cluster, registry)
        assert self.claim(cluster, monkeypatch) == owner


def test_a_registry_that_does_not_answer_is_asked_again(world: World, registry: FakeRegistry) -> None:
    whole(world.cluster)
    registry.error = TemporaryError("no answer")
    with pytest.raises(TemporaryError, match="no answer"):
        world.plan()


def test_a_registry_that_may_not_be_asked_stops_nobody(
    world: World, registry: FakeRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """The nodes have a login of their own."""
    whole(world.cluster)
    registry.error = PermanentError("403 denied")
    with caplog.at_level(logging.WARNING, wayback.__name__):
        assert world.plan()
    assert "still has the image of payments is not known: 403 denied" in caplog.text
