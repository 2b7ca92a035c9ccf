"""A shift reads the route once before it writes, unless it has to wait; and each router is an entry of every table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast, get_args

import pytest

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.clients.kubernetes.routes import ROUTE_KINDS
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.errors import FencedError, TemporaryError
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.lease import LEASE_SUFFIXES
from airflow_deploy.domain.routing.routers import ROUTERS
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.routers import STEPS
from airflow_deploy.rollout.shift import CanaryShift
from tests.support.builders import make_plan
from tests.support.fake_cluster import FakeCluster


class Counted:
    """A canary whose watch is alive, and what its shifts read, write and record, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cluster: FakeCluster) -> None:
        self.cluster, self.happened = cluster, list[str]()
        monkeypatch.setattr(lease.LeaseRenewal, "seen", lambda _: True)
        for name, word in (("route", "read"), ("patch_route", "write")):
            monkeypatch.setattr(cluster, name, self._noted(word, getattr(cluster, name)))

    def _noted(self, word: str, actual: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            self.happened.append(word)
            return actual(*given, **named)

        return call

    def to(self, stage: int) -> list[str]:
        plan = self.cluster.plan
        claim = plan.claim(self.cluster.claim)
        shift = CanaryShift(cast("Cluster", self.cluster), plan, claim, False, lambda _: self.happened.append("record"))
        shift.to_stage(stage)
        return self.happened


@pytest.mark.parametrize(("before", "stage"), [(5, 25), (25, 50), (50, 100)])
def test_a_shift_that_waits_for_nothing_reads_the_route_once(
    monkeypatch: pytest.MonkeyPatch, before: int, stage: int
) -> None:
    shift = Counted(monkeypatch, FakeCluster.at_share(make_plan(), before))
    assert shift.to(stage) == ["read", "record", "write"]
    assert shift.cluster.weights()[shift.cluster.plan.candidate] == stage


def test_a_shift_that_is_done_already_reads_once_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster.at_share(make_plan(), 25)
    writes = cluster.writes
    assert Counted(monkeypatch, cluster).to(25) == ["read", "record", "write"]  # of an empty patch
    assert cluster.writes == writes


def test_the_read_before_the_write_is_the_one_that_fences_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch rolls back between the two."""
    cluster = FakeCluster.at_share(make_plan(), 5)
    shift = Counted(monkeypatch, cluster)
    write = cluster.patch_route

    def meanwhile(*given: Any) -> Any:
        monkeypatch.setattr(cluster, "patch_route", write)
        cluster.patch_route(cluster.now, routes.rollback(cluster.now, cluster.plan.claim(cluster.claim), routes.BRAKED))
        return write(*given)

    monkeypatch.setattr(cluster, "patch_route", meanwhile)
    with pytest.raises(TemporaryError):
        shift.to(25)
    with pytest.raises(FencedError, match="is braked"):
        shift.to(25)
    assert cluster.weights()[cluster.plan.candidate] == 0


def test_pods_that_are_missing_are_not_started_for_a_run_that_lost_the_route(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster.at_share(make_plan(), 5).annotate(routes.PHASE, routes.BRAKED)
    cluster.replicas[cluster.plan.candidate] = 0
    with pytest.raises(FencedError, match="is braked"):
        Counted(monkeypatch, cluster).to(25)
    assert cluster.replicas[cluster.plan.candidate] == 0


def test_every_table_knows_every_router() -> None:
    declared = set(get_args(DeploymentSpec.model_fields["router"].annotation))
    assert [set(table) for table in (ROUTERS, STEPS, ROUTE_KINDS, LEASE_SUFFIXES)] == [declared] * 4
