"""``plan`` refuses what cannot go well before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import Context

from airflow_deploy.clients.observer import Observer
from airflow_deploy.clients.source import Repository
from airflow_deploy.domain.errors import FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.states import State
from airflow_deploy.operators import canary
from airflow_deploy.operators import plan as planning
from airflow_deploy.operators.base import recorded
from airflow_deploy.operators.canary import ClaimRouteOperator
from airflow_deploy.operators.plan import PlanDeploymentOperator
from tests.airflow.fake_cluster import FakeCluster
from tests.airflow.test_operators import Run
from tests.unit.builders import COMMIT, CONF, changed, make_plan, make_spec


class FakeObserver:
    """Prometheus accepts every query, unless told otherwise."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None

    def check_edges(self) -> None:
        """Every limit is an edge."""

    def number(self, query: str) -> float | None:
        if self.refusal:
            raise self.refusal
        return None


class World:
    """What surrounds ``plan``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run = Run()
        self.cluster = FakeCluster(make_plan())
        self.observer = FakeObserver()
        monkeypatch.setattr(planning, "Cluster", lambda _: self.cluster)
        monkeypatch.setattr(Repository, "fetched", self.fetched)
        monkeypatch.setattr(Observer, "connect", lambda _: self.observer)

    @staticmethod
    @contextmanager
    def fetched(_: Any) -> Iterator[Any]:
        yield SimpleNamespace(resolve=lambda commit: COMMIT)

    def plan(self, conf: dict[str, Any] | None = None, **spec: Any) -> DeploymentPlan:
        dag_run = SimpleNamespace(
            conf=conf or CONF,
            dag_id="deploy_payments",
            run_id="manual__1",
            triggering_user_name="ada",
            run_after=datetime.fromtimestamp(1_795_417_200, UTC),
        )
        context = cast("Context", {**self.run.at("plan"), "dag_run": dag_run})
        operator = PlanDeploymentOperator(task_id="plan", spec=make_spec(**spec).dump())
        return DeploymentPlan.load(operator.execute(context))

    def steps(self) -> list[State]:
        return [step.to for step in recorded(self.run.context, ["plan"])]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_a_good_request_is_frozen(world: World) -> None:
    plan = world.plan()
    assert (plan.stable, plan.stable_port, plan.commit, plan.requester) == ("payments", 80, COMMIT, "ada")
    assert world.steps() == [State.INIT]
    assert world.cluster.writes == 0


def test_a_version_that_serves_already_is_refused(world: World) -> None:
    """The same commit, in a run of the same second: its name is the stable's."""
    candidate = make_plan().candidate
    world.cluster.body["spec"]["rules"][0]["backendRefs"][0]["name"] = candidate
    with pytest.raises(RefusedError, match=r"serves already; trigger a new run to deploy it anew"):
        world.plan()
    assert world.steps() == []


def test_a_service_reached_by_several_ports_is_refused(world: World) -> None:
    other = {"kind": "Service", "name": "payments", "port": 8443, "weight": 1}
    world.cluster.body["spec"]["rules"].append({"backendRefs": [other]})
    with pytest.raises(RefusedError, match="by several ports"):
        world.plan()
    assert world.steps() == []


def test_a_route_that_two_versions_share_is_refused(world: World) -> None:
    world.cluster = FakeCluster.at_share(make_plan(run_id="another"), 25)
    with pytest.raises(RefusedError, match="give one Service the whole weight"):
        world.plan()


@pytest.mark.parametrize(("seconds", "fits"), [(240, True), (241, False)])
def test_a_condition_that_no_verification_can_wait_for_is_refused(world: World, seconds: int, fits: bool) -> None:
    """It would roll every good fix back."""
    conf = changed(CONF, ("incident", "resolved_when", "for"), seconds)
    spec = {"canary": {"bake": 60, "max_bake": 300}}
    if fits:
        assert world.plan(conf, **spec)
    else:
        with pytest.raises(RefusedError, match=r"incident\.resolved_when\.for is 241 s, .* waits 240 s at most"):
            world.plan(conf, **spec)


def test_a_condition_that_prometheus_refuses_is_refused(world: World) -> None:
    world.observer.refusal = RefusedError("parse error")
    with pytest.raises(RefusedError, match=r"incident\.resolved_when\.query is not usable: parse error"):
        world.plan()


def test_a_prometheus_that_is_away_is_asked_again(world: World) -> None:
    world.observer.refusal = TemporaryError("no answer")
    with pytest.raises(TemporaryError):
        world.plan()


class TestClaim:
    def claim(self, plan: DeploymentPlan, cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setattr(canary, "Cluster", lambda _: cluster)
        return ClaimRouteOperator(task_id="claim_route", plan=plan.dump()).execute(Run().at("claim_route"))

    def test_claimed_twice_the_first_claim_stands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = make_plan()
        cluster = FakeCluster(plan)
        owner = self.claim(plan, cluster, monkeypatch)
        assert self.claim(plan, cluster, monkeypatch) == owner == cluster.claim
        assert cluster.writes == 1

    @pytest.mark.parametrize("phase", ["braked", "settled", "verified", "abandoned"])
    def test_a_run_that_is_over_is_not_taken_up_again(self, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
        plan = make_plan()
        cluster = FakeCluster.at_share(plan, 0).annotate("airflow-deploy/phase", phase)
        with pytest.raises(FencedError, match=f"is {phase} by this deployment; trigger a new run"):
            self.claim(plan, cluster, monkeypatch)

    def test_a_version_that_serves_already_is_not_claimed_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = make_plan(stable=make_plan().candidate)
        cluster = FakeCluster(plan)
        with pytest.raises(FencedError, match="serves already"):
            self.claim(plan, cluster, monkeypatch)
        assert cluster.writes == 0
