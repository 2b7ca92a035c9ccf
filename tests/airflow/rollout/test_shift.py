"""A shift reads the route once before it writes, unless it has to wait; and each router is an entry of every table."""

from __future__ import annotations

from typing import get_args

import pytest

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
from tests.support.service_cluster import ServiceCluster

ROUTE = "httproutes/payments-route"


class Counted:
    """A canary whose watch is alive, and what its shifts read, write and record, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cluster: ServiceCluster) -> None:
        self.cluster, self.happened = cluster, list[str]()
        monkeypatch.setattr(lease.LeaseRenewal, "seen", lambda _: True)
        cluster.api.before(ROUTE, lambda: self.happened.append("read"), method="GET", times=None)
        cluster.api.before(ROUTE, lambda: self.happened.append("write"), method="PATCH", times=None)

    def to(self, stage: int) -> list[str]:
        plan = self.cluster.plan
        claim = plan.claim(self.cluster.claim)
        shift = CanaryShift(self.cluster.client, plan, claim, False, lambda _: self.happened.append("record"))
        shift.to_stage(stage)
        return self.happened


@pytest.mark.parametrize(("before", "stage"), [(5, 25), (25, 50), (50, 100)])
def test_shift_that_waits_for_nothing_reads_the_route_once(
    monkeypatch: pytest.MonkeyPatch, before: int, stage: int
) -> None:
    shift = Counted(monkeypatch, ServiceCluster.at_share(make_plan(), before))
    assert shift.to(stage) == ["read", "record", "write"]
    assert shift.cluster.weights()[shift.cluster.plan.candidate] == stage


def test_shift_that_is_done_already_reads_once_and_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = ServiceCluster.at_share(make_plan(), 25)
    writes = cluster.writes
    assert Counted(monkeypatch, cluster).to(25) == ["read", "record"]
    assert cluster.writes == writes


def test_shift_is_fenced_by_the_read_right_before_its_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch rolls back between the two."""
    cluster = ServiceCluster.at_share(make_plan(), 5)
    shift = Counted(monkeypatch, cluster)

    def roll_back() -> None:
        cluster.write(routes.rollback(cluster.now, cluster.plan.claim(cluster.claim), routes.BRAKED))

    cluster.api.before(ROUTE, roll_back, method="PATCH")
    with pytest.raises(TemporaryError):
        shift.to(25)
    with pytest.raises(FencedError, match="is braked"):
        shift.to(25)
    assert cluster.weights()[cluster.plan.candidate] == 0


def test_shift_of_a_run_that_lost_the_route_starts_no_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = ServiceCluster.at_share(make_plan(), 5).annotate(routes.PHASE, routes.BRAKED)
    cluster.replicas[cluster.plan.candidate] = 0
    with pytest.raises(FencedError, match="is braked"):
        Counted(monkeypatch, cluster).to(25)
    assert cluster.replicas[cluster.plan.candidate] == 0


def test_every_table_knows_every_router() -> None:
    declared = set(get_args(DeploymentSpec.model_fields["router"].annotation))
    assert [set(table) for table in (ROUTERS, STEPS, ROUTE_KINDS, LEASE_SUFFIXES)] == [declared] * 4
