"""A version's pods end only when the gateway is seen to send them no more requests."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.rollout.routers import draining
from airflow_deploy.rollout.routers.draining import DRAIN_WAIT_SECONDS, QUIET_SECONDS, wait_until_drained
from tests.support.builders import make_plan
from tests.support.judgement import SCRAPE, START
from tests.support.world import Clock, FakeObserver, Stage

RETURNED = 60.0
"""Seconds after START at which the route says that the candidate has no traffic."""

Make = Callable[..., FakeObserver]


@pytest.fixture
def plan() -> DeploymentPlan:
    return make_plan()


@pytest.fixture
def gateway(plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return what shows a gateway that has half of the traffic taken from the candidate so many seconds late."""

    def make(late: float) -> FakeObserver:
        clock = Clock()
        clock.sleep(RETURNED)
        story = [Stage(0, 50), Stage(RETURNED + late, 0)]
        observer = FakeObserver(plan, clock, story, RETURNED + late + 600)
        stopped = SimpleNamespace(time=clock.time, monotonic=clock.time, sleep=clock.sleep)
        monkeypatch.setattr(draining, "time", stopped)
        monkeypatch.setattr(Observer, "connect", lambda _: observer)
        return observer

    return make


def waited(observer: FakeObserver) -> float:
    return observer.clock.now - START - RETURNED


@pytest.mark.parametrize("late", [0, 5, 30, 60])
def test_waits_until_none_comes_any_more(gateway: Make, plan: DeploymentPlan, late: float) -> None:
    observer = gateway(late)
    assert wait_until_drained(plan) is None
    assert late + QUIET_SECONDS <= waited(observer) <= late + QUIET_SECONDS + 2 * SCRAPE


def test_gives_up_on_a_gateway_that_hears_nothing(gateway: Make, plan: DeploymentPlan) -> None:
    observer = gateway(3600)
    said = wait_until_drained(plan) or ""
    assert said.startswith(
        f"the gateway was not seen to stop sending requests to {plan.candidate} in {DRAIN_WAIT_SECONDS:.0f} s: the last"
    )
    assert waited(observer) == DRAIN_WAIT_SECONDS


def test_waits_for_a_prometheus_that_is_away(gateway: Make, plan: DeploymentPlan) -> None:
    observer = gateway(5)
    observer.away = [(0, RETURNED + 40)]
    assert wait_until_drained(plan) is None
    assert waited(observer) == 40


@pytest.mark.parametrize("told", ["Prometheus does not answer", "there are no counters"])
def test_says_why_nothing_was_seen(gateway: Make, plan: DeploymentPlan, told: str) -> None:
    observer = gateway(0)
    if told.startswith("Prometheus"):
        observer.away = [(0, 3600)]
    else:
        observer.series = []
    assert (wait_until_drained(plan) or "").endswith(f"in {DRAIN_WAIT_SECONDS:.0f} s: {told}")
    assert waited(observer) == DRAIN_WAIT_SECONDS


def test_counters_that_stand_still_show_nothing(gateway: Make, plan: DeploymentPlan) -> None:
    observer = gateway(0)
    observer.frozen_at = RETURNED
    assert wait_until_drained(plan) is not None
    assert waited(observer) == DRAIN_WAIT_SECONDS


def test_a_connection_that_is_not_usable_keeps_nobody(
    gateway: Make, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway(0)

    def lost(_: DeploymentPlan) -> Observer:
        raise RefusedError("the Prometheus connection's URL is not usable")

    monkeypatch.setattr(Observer, "connect", lost)
    assert (wait_until_drained(plan) or "").endswith("the Prometheus connection's URL is not usable")
