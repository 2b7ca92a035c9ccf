"""An analysis loop goes on after any failure, reaches each verdict in time, and rolls back until it is done."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.errors import PROMPT_TIMEOUT, REQUEST_TIMEOUT, Timeout
from airflow_deploy.domain.analysis.evidence import replay
from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.errors import DeployError, RefusedError, TemporaryError
from airflow_deploy.domain.metrics.counters import CounterReader, Series
from airflow_deploy.domain.metrics.sources import SOURCES
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.rollout.analysis import loop as looks
from airflow_deploy.rollout.analysis.deciding import UNVERIFIED_SECONDS
from airflow_deploy.rollout.analysis.loop import BRAKE_SECONDS
from airflow_deploy.rollout.analysis.loop_roles import GATE_GRACE_SECONDS, ROLES, Role
from airflow_deploy.rollout.analysis.observer import CHUNK_SECONDS, LOOKBACK
from tests.support.builders import CONF, changed
from tests.support.judgement import SCRAPE, START
from tests.support.kubernetes_api import NEVER_READY
from tests.support.loops import BAKE, HARMFUL, HEALTHY, MAX_BAKE, MAX_BLIND, elapsed, planned, said
from tests.support.other_writers import with_a_rule_for_the_candidate_alone
from tests.support.service_cluster import ServiceCluster
from tests.support.world import Stage, World, records, ticks, verdicts


class TestWatch:
    def test_reports_harm_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        outcome = world.look(world.loop("watch"), 120)
        assert said(outcome) == "BREACHED"
        assert elapsed(outcome) <= 6 * SCRAPE
        assert outcome is not None
        assert re.match(r"error_rate: [\d,]+ of [\d,]+ requests failed \(stable ", outcome.reason)
        assert outcome.numbers["errors"] > 0

    def test_does_not_end_for_a_healthy_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        loop = world.loop("watch")
        assert world.look(loop, 2 * MAX_BAKE) is None
        assert set(verdicts(loop.evidence)) == {"HEALTHY"}

    def test_gauges_that_show_nothing_do_not_disarm_the_counters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        world.observer.gauge_at = lambda _: None
        assert said(world.look(world.loop("watch"), 60)) == "BREACHED"

    def test_a_gauge_that_stays_beyond_its_limit_is_harm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.observer.gauge_at = lambda _: 0.99
        assert said(world.look(world.loop("watch"), 120)) == "BREACHED"

    def test_harm_that_begins_late_is_seen_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY, Stage(400, 25, errors=0.3))
        outcome = world.look(world.loop("watch"), 600)
        assert said(outcome) == "BREACHED"
        assert 400 < elapsed(outcome) <= 440


class TestVersionsScrapedApart:
    """The candidate's pods are scraped two seconds after the stable's, and count themselves."""

    def world(self, monkeypatch: pytest.MonkeyPatch, stage: Stage) -> World:
        world = World(monkeypatch, planned(metrics="application"), stage)
        preset, plan = world.plan.spec.metrics.names, world.plan
        where = plan.spec.namespace, plan.spec.route.name, (plan.candidate, plan.stable)
        traefik = SOURCES["traefik"]

        def counted_itself(item: Series) -> Series:
            service = str(traefik.service_of(item.labels, *where))
            name = item.labels["__name__"].replace(traefik.requests, preset.requests)
            own = {"__name__": name.replace(traefik.duration, preset.duration), "service": service, "instance": service}
            late = 2.0 * (service == plan.candidate)
            return Series({**item.labels, **own}, [(at + late, value) for at, value in item.samples])

        world.observer.series = [counted_itself(item) for item in world.observer.series]
        monkeypatch.setattr(
            world.observer, "reader", lambda newborn=True: CounterReader(preset, *where, newborn=plan.candidate)
        )
        return world

    def test_harm_is_seen_three_scrapes_later_and_can_be_recomputed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.world(monkeypatch, HARMFUL)
        loop = world.loop("watch")
        outcome = world.look(loop, 120)
        assert said(outcome) == "BREACHED"
        assert elapsed(outcome) <= 9 * SCRAPE
        assert [line.difference for line in replay(loop.evidence.splitlines(keepends=True)) if line.difference] == []

    def test_a_restarted_loop_says_the_same_of_the_same_ticks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.world(monkeypatch, HEALTHY)
        first, second = world.loop("watch"), world.loop("watch")
        assert world.look(first, 200) is None
        assert world.look(second, 300) is None
        assert ticks(second.evidence)[: len(ticks(first.evidence))] == ticks(first.evidence)
        assert len(ticks(first.evidence)) >= 30

    def test_a_version_that_is_no_longer_scraped_is_blindness(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.world(monkeypatch, HEALTHY)
        mine = world.plan.candidate
        world.observer.series = [
            Series(item.labels, [s for s in item.samples if s[0] < START + 60])
            if item.labels["service"] == mine
            else item
            for item in world.observer.series
        ]
        loop = world.loop("watch")
        assert world.look(loop, 100) is None
        assert verdicts(loop.evidence)[-1] == "BLIND"


class TestReadyPods:
    """The gateway's own answers have no name: if all pods are gone, the counters show silence."""

    def dead_after(
        self, monkeypatch: pytest.MonkeyPatch, seconds: float, share: int = 50, promoted: bool = False, **spec: Any
    ) -> World:
        world = World(monkeypatch, planned(**spec), Stage(0, share), promoted=promoted)
        alive = [world.plan.candidate]

        def die() -> None:
            if alive and world.clock.now >= START + seconds:
                world.cluster.workloads.let(alive.pop(), **NEVER_READY)

        world.cluster.api.before("/endpointslices", die, times=None)
        return world

    @pytest.mark.parametrize(("role", "promoted"), [("watch", False), ("verify", True)])
    @pytest.mark.parametrize("away", [False, True])
    def test_none_of_the_candidates_is_harm_even_without_prometheus(
        self, monkeypatch: pytest.MonkeyPatch, role: Role, promoted: bool, away: bool
    ) -> None:
        world = self.dead_after(monkeypatch, 20, 100 if promoted else 50, promoted)
        world.observer.away = [(10, 1e9)] if away else []
        loop = world.loop(role)
        outcome = world.look(loop, 60)
        assert (said(outcome), elapsed(outcome)) == ("BREACHED", 23)
        assert outcome is not None
        assert outcome.reason.startswith(f"ready_pods: 0 of 2 pods of {world.plan.candidate} are ready")
        assert [line.difference for line in replay(loop.evidence.splitlines(keepends=True)) if line.difference] == []

    def test_are_left_to_the_watch_by_the_gate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.dead_after(monkeypatch, 0)
        gate = world.loop("gate", 100)
        world.look(gate, 30)
        assert "BREACHED" not in verdicts(gate.evidence)

    def test_are_not_needed_without_traffic(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.dead_after(monkeypatch, 0, share=0)
        assert world.look(world.loop("watch"), 60) is None

    def test_must_be_as_many_as_the_share_needs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for capacity, verdict in (("full", "BREACHED"), ("proportional", None)):
            world = World(monkeypatch, planned(capacity=capacity, replicas=8), Stage(0, 25))
            world.cluster.replicas[world.plan.candidate] = 2
            outcome = world.look(world.loop("watch"), 60)
            assert (outcome and outcome.verdict) == verdict

    @pytest.mark.parametrize("status", [403, 503])
    def test_that_cannot_be_counted_leave_the_verdict_to_the_counters(
        self, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.cluster.api.fail("/endpointslices", status, times=None)
        loop = world.loop("watch")
        assert world.look(loop, 90) is None
        assert set(verdicts(loop.evidence)) == {"HEALTHY"}


class TestClosedRoute:
    @pytest.mark.parametrize("role", ["watch", "gate", "verify"])
    @pytest.mark.parametrize("phase", [routes.SETTLED, routes.ABANDONED, routes.VERIFIED, "nonsense"])
    def test_in_an_ended_phase_ends_the_loop(self, monkeypatch: pytest.MonkeyPatch, role: Role, phase: str) -> None:
        world = World(monkeypatch, planned(), HARMFUL, promoted=False)
        loop = world.loop(role)
        world.cluster.annotate(routes.PHASE, phase)
        outcome = loop.look()
        assert outcome is not None
        assert (outcome.verdict, outcome.numbers["phase"]) == ("CLOSED", phase)

    @pytest.mark.parametrize("owner", [None, "DEP-2-ffffffff/9"])
    def test_of_another_owner_ends_the_loop(self, monkeypatch: pytest.MonkeyPatch, owner: str | None) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        loop = world.loop("watch")
        world.cluster.annotate(routes.OWNER, owner)
        outcome = loop.look()
        assert outcome is not None
        assert (outcome.verdict, outcome.numbers["phase"]) == ("CLOSED", f"owned by {owner or 'no deployment'}")

    def test_by_promotion_ends_the_gates_and_the_watch_goes_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), Stage(0, 100), promoted=True)
        assert said(world.loop("gate").look()) == "CLOSED"
        for role in ("watch", "verify"):
            assert world.loop(role).look() is None


class TestPromotedRoute:
    def test_harm_is_reported_by_the_watch_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The task that verifies may not have begun yet."""
        world = World(monkeypatch, planned(), replace(HARMFUL, share=100), promoted=True)
        assert said(world.look(world.loop("watch"), 60)) == "BREACHED"

    def test_without_verification_is_not_watched_for_ever(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), Stage(0, 100), promoted=True, until=2000)
        outcome = world.look(world.loop("watch"), 2000, step=5)
        assert said(outcome) == "UNDECIDED"
        assert elapsed(outcome) == pytest.approx(MAX_BAKE + UNVERIFIED_SECONDS, abs=10)


class TestBlindness:
    @pytest.mark.parametrize("status", [403, 404, 503])
    def test_a_route_that_cannot_be_read_is_read_again_by_the_next_look(
        self, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        loop = world.loop("watch")
        assert world.look(loop, 30) is None
        world.cluster.api.fail("/httproutes/", status, method="GET", times=20)
        assert world.look(loop, 50) is None
        assert world.look(loop, 80) is None
        assert verdicts(loop.evidence) == ["HEALTHY", "BLIND", "HEALTHY"]

    def test_harm_that_was_seen_is_reported_although_the_route_cannot_be_read(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The gate had left it to the watch: HANDOVER must not be lost to an API server that restarts."""
        world = World(monkeypatch, planned(), HARMFUL)
        gate = world.loop("gate", 50)
        while "BREACHED" not in verdicts(gate.evidence):
            assert gate.look() is None
            world.clock.sleep(1)
        world.cluster.api.fail("/httproutes/", method="GET", times=60)
        assert said(world.look(gate, 60)) == "BREACHED"

    def test_a_garbled_record_of_shifts_ends_no_loop(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.cluster.annotate(routes.SHIFTS, '[{"share": []}]')
        loop = world.loop("watch")
        assert world.look(loop, 30) is None
        assert verdicts(loop.evidence) == ["BLIND"]

    def test_does_not_begin_before_the_first_share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Its pods may take minutes, and a gateway that does not deliver is found out within one."""
        world = World(monkeypatch, planned("rollback"), HEALTHY)
        world.use(ServiceCluster.at_share(world.plan, 0))
        loop = world.loop("watch")
        assert world.look(loop, 2 * MAX_BLIND) is None
        world.cluster.shift(25, world.clock.now)
        assert world.look(loop, 2 * MAX_BLIND + 60) is None
        assert verdicts(loop.evidence) == ["HEALTHY"]

    @pytest.mark.parametrize("how", ["away", "refusing", "stale"])
    def test_no_fresh_counters_are_blindness(self, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        if how == "stale":
            world.observer.frozen_at = 60
        else:
            world.observer.away = [(60, 120)]
            world.observer.error = RefusedError("422") if how == "refusing" else TemporaryError("no answer")
        loop = world.loop("watch")
        assert world.look(loop, 110) is None
        assert verdicts(loop.evidence)[-1] == "BLIND"

    @pytest.mark.parametrize("role", ["watch", "gate", "verify"])
    def test_with_then_hold_ends_no_loop(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
        """Neither a promotion nor a rollback, however long it lasts."""
        world = World(monkeypatch, planned("hold"), Stage(0, 100), promoted=role == "verify")
        world.observer.away = [(0, 1e9)]
        loop = world.loop(role)
        assert world.look(loop, 6 * 3600, step=60) is None
        assert verdicts(loop.evidence) == ["BLIND"]

    @pytest.mark.parametrize("role", ["watch", "verify"])
    def test_with_then_rollback_ends_the_loop_at_max_blind(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
        world = World(monkeypatch, planned("rollback"), Stage(0, 100), promoted=role == "verify")
        world.observer.away = [(30, 1e9)]
        outcome = world.look(world.loop(role), 600)
        assert said(outcome) == "BLIND"
        assert elapsed(outcome) == 30 + MAX_BLIND

    def test_is_counted_anew_after_a_moment_of_sight(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned("rollback"), HEALTHY)
        world.observer.away = [(30, 140), (145, 260)]
        assert world.look(world.loop("watch"), 400) is None

    def test_is_left_to_the_watch_by_the_gate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned("rollback"), HEALTHY)
        world.observer.away = [(30, 1e9)]
        assert world.look(world.loop("gate", 50), 3600, step=10) is None

    def test_a_gauge_is_not_beyond_its_limit_during_a_gap_of_its_samples(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Seen beyond it before and after a gap, it may have been fine all the time between."""
        world = World(monkeypatch, planned(), HEALTHY)
        world.observer.gauge_at = lambda at: None if 20 <= at < 100 else 0.99 if 14 <= at <= 106 else 0.3
        assert world.look(world.loop("watch"), 200) is None


class TestGate:
    def test_is_healthy_only_after_bake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        loop = world.loop("gate", 50)
        outcome = world.look(loop, MAX_BAKE)
        assert (said(outcome), elapsed(outcome)) == ("HEALTHY", BAKE)
        first = next(record for record in records(loop.evidence, "look") if record["verdict"] == "HEALTHY")
        assert first["at"] < START + BAKE  # it was long before it was said

    def test_is_undecided_after_max_bake(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.observer.gauge_at = lambda _: None
        outcome = world.look(world.loop("gate", 50), 2 * MAX_BAKE)
        assert (said(outcome), elapsed(outcome)) == ("UNDECIDED", MAX_BAKE)

    def test_only_the_time_that_was_seen_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        world.observer.gauge_at = lambda _: None
        world.observer.away = [(100, 250)]
        outcome = world.look(world.loop("gate", 50), 3 * MAX_BAKE)
        assert said(outcome) == "UNDECIDED"
        assert MAX_BAKE + 140 <= elapsed(outcome) <= MAX_BAKE + 160

    def test_a_pause_of_the_triggerer_is_not_held_against_the_version(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Rebuilt after max_bake, the first looks must not end it."""
        world = World(monkeypatch, planned(), HEALTHY)
        world.observer.gauge_at = lambda _: None
        world.clock.sleep(2 * MAX_BAKE)
        loop = world.loop("gate", 50)
        assert loop.look() is None
        world.observer.gauge_at = lambda _: 0.3
        assert said(world.look(loop, 2 * MAX_BAKE + 30)) == "HEALTHY"

    def test_leaves_harm_to_the_watch_for_a_moment_and_then_reports_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        breached_at = elapsed(world.look(world.loop("watch"), 60))
        world.clock.now = START
        outcome = world.look(world.loop("gate", 50), 120)
        assert said(outcome) == "BREACHED"
        assert elapsed(outcome) == breached_at + GATE_GRACE_SECONDS

    def test_does_not_pass_while_it_is_breached(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(ROLES, "gate", replace(ROLES["gate"], grace=1e9))
        world = World(monkeypatch, planned(), HARMFUL)
        assert world.look(world.loop("gate", 50), 3 * MAX_BAKE) is None


class TestVerify:
    QUERY = "sum(rate(errors[1m]))"

    def world(self, monkeypatch: pytest.MonkeyPatch, seconds: int = 120) -> World:
        conf = changed(CONF, ("incident", "resolved_when", "for"), seconds)
        return World(monkeypatch, planned(conf=conf), Stage(0, 100), promoted=True)

    def test_is_healthy_when_the_incident_has_been_over_for_long_enough(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.world(monkeypatch)
        world.observer.answer = 0.005
        outcome = world.look(world.loop("verify"), MAX_BAKE)
        assert said(outcome) == "HEALTHY"
        assert 120 <= elapsed(outcome) <= 120 + 2 * SCRAPE

    @pytest.mark.parametrize("answer", [0.02, 0.01, None, float("nan"), RefusedError("422"), TemporaryError("away")])
    def test_an_incident_that_goes_on_is_not_healthy(
        self, monkeypatch: pytest.MonkeyPatch, answer: float | DeployError | None
    ) -> None:
        world = self.world(monkeypatch)
        world.observer.answer = answer
        outcome = world.look(world.loop("verify"), 2 * MAX_BAKE)
        assert (said(outcome), elapsed(outcome)) == ("UNDECIDED", MAX_BAKE)
        assert outcome is not None
        assert "the incident is not resolved" in outcome.reason

    @pytest.mark.parametrize("broken", [0.5, None, TemporaryError("away")])
    def test_a_moment_in_which_the_condition_does_not_hold_begins_anew(
        self, monkeypatch: pytest.MonkeyPatch, broken: float | DeployError | None
    ) -> None:
        world = self.world(monkeypatch)
        loop = world.loop("verify")
        world.observer.answer = 0.005
        assert world.look(loop, 99) is None
        world.observer.answer = broken
        assert loop.look() is None
        world.clock.sleep(1)
        world.observer.answer = 0.005
        outcome = world.look(loop, MAX_BAKE)
        assert (said(outcome), elapsed(outcome)) == ("HEALTHY", 101 + 120)

    def test_a_blind_moment_begins_anew(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.world(monkeypatch)
        world.observer.answer = 0.005
        world.observer.away = [(60, 70)]
        outcome = world.look(world.loop("verify"), MAX_BAKE)
        assert (said(outcome), elapsed(outcome)) == ("HEALTHY", 70 + 120)

    def test_harm_at_full_traffic_is_reported_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), Stage(0, 100, errors=0.2), promoted=True)
        outcome = world.look(world.loop("verify"), 60)
        assert said(outcome) == "BREACHED"
        assert elapsed(outcome) <= 6 * SCRAPE


WORD = FinalVerdict("BREACHED", "error_rate: worse", START + 17, numbers={"requests": 10.0, "errors": 5.0})


class TestBrake:
    def test_returns_the_traffic_and_records_its_verdict(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        assert world.loop("watch").brake(WORD) == world.clock.now
        assert world.cluster.now.phase == routes.BRAKED
        assert world.cluster.weights() == {world.plan.stable: 100, world.plan.candidate: 0}
        left = FinalVerdict.from_event(json.loads(world.cluster.now.final_verdict or ""))
        assert left == replace(WORD, restored_at=world.clock.now)

    @pytest.mark.parametrize("method", ["GET", "PATCH"])
    @pytest.mark.parametrize("status", [429, 403])
    def test_does_not_give_up_while_the_cluster_refuses(
        self, monkeypatch: pytest.MonkeyPatch, method: str, status: int
    ) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        world.cluster.api.fail("/httproutes/", status, method=method, times=100)
        braked_at = world.loop("watch").brake(WORD)
        assert braked_at == world.clock.now > START + 20
        assert world.cluster.now.phase == routes.BRAKED

    @pytest.mark.parametrize("role", ["watch", "gate"])
    def test_a_look_ends_the_loop_if_the_route_is_gone(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
        """No version has traffic, and no look would ever see any."""
        world = World(monkeypatch, planned(), HEALTHY)
        loop = world.loop(role)
        world.cluster.without_route()
        outcome = loop.look()
        assert outcome is not None
        assert (outcome.verdict, outcome.numbers) == ("CLOSED", {"phase": "gone"})

    def test_an_answer_that_was_lost_is_found_done(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        world.cluster.api.fail("/httproutes/", method="PATCH", exception=TimeoutError, done=True)
        before = world.cluster.writes
        assert world.loop("watch").brake(WORD) is not None
        assert world.cluster.writes == before + 1

    def test_stops_at_once_if_a_person_is_needed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        with_a_rule_for_the_candidate_alone(world.cluster)
        assert world.loop("watch").brake(WORD) is None
        assert world.clock.now == START

    @pytest.mark.parametrize("owner", [None, "DEP-2-ffffffff/9"])
    def test_leaves_a_route_that_was_lost(self, monkeypatch: pytest.MonkeyPatch, owner: str | None) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        loop = world.loop("watch")
        world.cluster.annotate(routes.OWNER, owner)
        before = world.cluster.writes
        assert loop.brake(WORD) is None
        assert (world.cluster.writes, world.clock.now) == (before, START)

    def test_waits_for_a_pod_that_takes_the_traffic(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        stable, sleep = world.plan.stable, world.clock.sleep
        world.cluster.replicas[stable] = 0

        def until_started(seconds: float) -> None:
            assert world.cluster.weights()[stable] == 75
            sleep(seconds)
            world.cluster.replicas[stable] = int(world.clock.now > START + 60)

        monkeypatch.setattr("airflow_deploy.rollout.analysis.loop.time.sleep", until_started)
        braked_at = world.loop("watch").brake(WORD)
        assert braked_at is not None
        assert START + 60 < braked_at < START + 61
        assert world.cluster.weights()[stable] == 100

    @pytest.mark.parametrize("status", [503, 403])
    def test_does_not_wait_if_the_stables_pods_cannot_be_counted(
        self, monkeypatch: pytest.MonkeyPatch, status: int
    ) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        world.cluster.api.fail("/endpointslices", status, times=None)
        assert world.loop("watch").brake(WORD) == START
        assert world.cluster.now.phase == routes.BRAKED

    def test_gives_up_after_its_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        world.cluster.api.before("/httproutes/", lambda: world.clock.sleep(3), method="PATCH", times=None)
        world.cluster.api.fail("/httproutes/", method="PATCH", exception=TimeoutError, times=None)
        assert world.loop("watch").brake(WORD) is None
        assert world.clock.now >= START + BRAKE_SECONDS


class TestVerdictOnTheRoute:
    def braked(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> World:
        world = World(monkeypatch, planned(), HARMFUL, promoted=role == "verify")
        world.loop(role).brake(WORD)
        world.clock.sleep(30)
        return world

    @pytest.mark.parametrize("role", ["watch", "verify"])
    def test_is_that_of_the_next_loop(self, monkeypatch: pytest.MonkeyPatch, role: Role) -> None:
        world = self.braked(monkeypatch, role)
        assert world.loop(role).look() == replace(WORD, restored_at=START)

    def test_is_not_read_by_a_gate(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = self.braked(monkeypatch, "watch")
        assert said(world.loop("gate", 50).look()) == "CLOSED"

    @pytest.mark.parametrize(
        "word",
        [
            "",
            "harm",
            "null",
            "5",
            "[]",
            '"text"',
            "{}",
            '{"verdict": "BREACHED"}',
            json.dumps({**WORD.event(), "at": "yesterday"}),
            json.dumps({**WORD.event(), "at": 5}),
            json.dumps({**WORD.event(), "restored_at": "soon"}),
            json.dumps({**WORD.event(), "restored_at": True}),
            json.dumps({**WORD.event(), "numbers": 5}),
            json.dumps({**WORD.event(), "numbers": "many"}),
            json.dumps({**WORD.event(), "verdict": ["BREACHED"]}),
            json.dumps({**WORD.event(), "verdict": "GARBLED"}),
            "[" * 20_000,
        ],
    )
    def test_is_ignored_if_it_is_garbled(self, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
        world = self.braked(monkeypatch, "watch")
        world.cluster.annotate(routes.FINAL_VERDICT, word)
        outcome = world.loop("watch").look()
        assert outcome is not None
        assert (outcome.verdict, outcome.numbers["phase"]) == ("CLOSED", routes.BRAKED)
        assert json.loads(json.dumps(outcome.event()))


class TestRebuiltLoop:
    """A triggerer that was restarted knows nothing but the route and Prometheus."""

    story = (Stage(0, 5), Stage(500, 25), Stage(1100, 50), Stage(1700, 50, errors=0.004))

    def test_judges_the_same_from_the_same_history(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), *self.story, until=2000)
        patient = world.loop("watch")
        assert world.look(patient, 1950) is None
        rebuilt = world.loop("watch")
        rebuilt.look()
        patient.look()
        assert records(rebuilt.evidence, "tick") == records(patient.evidence, "tick")
        assert len(ticks(rebuilt.evidence)) >= 1900 / SCRAPE
        assert verdicts(rebuilt.evidence)[-1] == verdicts(patient.evidence)[-1]

    def test_harm_of_the_past_is_still_harm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), Stage(0, 25, errors=0.2), Stage(60, 25), until=2000)
        first = world.look(world.loop("watch"), 120)
        world.clock.now = START + 70
        again = world.loop("watch").look()
        assert said(first) == said(again) == "BREACHED"

    def test_no_query_asks_for_more_than_a_chunk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), *self.story, until=2000)
        world.clock.sleep(1950)
        world.loop("watch").look()
        asked = world.observer.asked
        assert max(end - begin for begin, end in asked) <= CHUNK_SECONDS + LOOKBACK
        assert asked[0][0] <= -LOOKBACK
        assert asked[-1][1] == 1950
        assert all(later <= earlier for (_, earlier), (later, _) in pairwise(asked))

    def test_a_prometheus_that_fails_between_is_asked_on_from_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, planned(), *self.story, until=2000)
        world.clock.sleep(1950)
        loop = world.loop("watch")
        ask = world.observer.ask
        answers = iter([True, False])

        def once(seconds: int, until: float | None = None, step: int = 1) -> Any:
            if next(answers, True):
                return ask(seconds, until, step)
            raise TemporaryError("no answer")

        monkeypatch.setattr(world.observer, "ask", once)
        assert loop.look() is None
        assert verdicts(loop.evidence) == ["BLIND"]
        world.clock.sleep(1)
        assert loop.look() is None
        whole = world.loop("watch")
        whole.look()
        assert ticks(loop.evidence) == ticks(whole.evidence)
        assert verdicts(loop.evidence)[-1] == "HEALTHY"


def test_a_final_verdict_survives_json() -> None:
    braked = replace(WORD, restored_at=START + 18)
    for outcome in (WORD, braked):
        assert FinalVerdict.from_event(json.loads(json.dumps(outcome.event()))) == outcome


def test_a_brake_gives_up_soon_what_is_not_answered_and_then_waits_for_a_slow_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, planned(), HEALTHY)
    made: list[tuple[str, Timeout]] = []
    awaited: list[Timeout] = []

    def connected(connection: str, purpose: str, timeout: Timeout) -> KubernetesClient:
        made.append((purpose, timeout))
        return connect(connection, purpose, timeout)

    def answer_slowly() -> None:
        awaited.append(world.cluster.api.requests[-1].timeout)
        if awaited[-1] == PROMPT_TIMEOUT:
            raise TimeoutError

    monkeypatch.setattr(looks, "connect", connected)
    world.cluster.api.before("/httproutes/", answer_slowly, method="PATCH", times=None)
    assert world.loop("watch").brake(WORD) is not None
    assert world.cluster.now.phase == routes.BRAKED
    assert awaited == [PROMPT_TIMEOUT, REQUEST_TIMEOUT]
    assert [timeout for purpose, timeout in made if purpose == "brake"] == awaited
