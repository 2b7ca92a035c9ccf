"""The shadow stage on a cluster in memory: the mirror is seen to answer, named for a while, and taken away at last."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.kubernetes.errors import UnknownApiError
from airflow_deploy.domain.errors import NotFinalizedError, ProbeFailedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.names import mirror_name
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.record import SETTLED
from airflow_deploy.domain.routing.testers import VERSION_HEADER, backends_of
from airflow_deploy.domain.workloads.manifests import render_version
from airflow_deploy.domain.workloads.mirror import mirror_objects
from airflow_deploy.operators.finalize import FinalizeOperator
from airflow_deploy.rollout.cleanup import clean_up, survey
from airflow_deploy.rollout.routers import mirror
from airflow_deploy.tasks.base import recorded_steps
from tests.airflow.operators.test_operators import ENDING
from tests.airflow.operators.test_plan import World as PlanWorld
from tests.airflow.rollout.test_guard import Post
from tests.airflow.rollout.test_probe import Answer, Gateway, Stage, gateway
from tests.airflow.rollout.test_rollback import real
from tests.support import fake_world
from tests.support.builders import make_plan, make_spec
from tests.support.cluster import cluster_on
from tests.support.fake_cluster import FakeCluster
from tests.support.fake_versions import FakeVersions
from tests.support.fake_world import Clock, records
from tests.support.judgement import SCRAPE, START
from tests.support.kubernetes_api import KubernetesApi
from tests.unit.routing.test_zero_weight import ENVOY, taken_by

__all__ = ["gateway"]  # the fixture

SHADOW = {"share": 25, "safe_to_mirror": True}
SEEN = {"name": "payments-route", "url": "http://gateway.example.com"}
PLAN = make_plan(make_spec(shadow=SHADOW, route=SEEN))
MIRROR, LEASE = mirror_name(PLAN.candidate), PLAN.spec.lease


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let nobody wait until the gateway has heard."""
    clock = Clock()
    monkeypatch.setattr(mirror, "time", SimpleNamespace(sleep=clock.sleep))
    return clock


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, gateway: Gateway, request: pytest.FixtureRequest) -> Stage:
    made_so = Stage(monkeypatch, gateway.url, request.node.name, shadow=SHADOW)
    gateway.answer = lambda: answered(made_so)
    return made_so


def answered(stage: Stage, *, empty: bool = True) -> Answer:
    """Answer as the gateway does where the testers' route leads; ``empty``: also through a mirror without pods."""
    (led,) = backends_of(stage.cluster.testers or {"spec": {}})
    if led.endswith("-shadow") and not (empty or copied(stage)):
        return 404, {}
    return 200, {VERSION_HEADER: led}


def copied(stage: Stage) -> bool:
    """Whether the mirror has pods to copy to."""
    selector: dict[str, str] = stage.cluster.mirror["Service"]["spec"]["selector"]
    return selector.items() <= stage.plan.pod_labels.items()


def shadowed(at: float = 0.0) -> FakeCluster:
    """A deployment that gets copies."""
    cluster = FakeCluster.at_share(PLAN, 0).shift(25, at, mirrored=True)
    cluster.apply(mirror_objects(PLAN, copied=True))
    return cluster


class TestSetUp:
    def test_sees_the_stable_answer_before_there_is_a_pod_to_copy_to(self, stage: Stage, gateway: Gateway) -> None:
        asked: list[tuple[str, bool]] = []

        def answer() -> Answer:
            asked.append((backends_of(stage.cluster.testers or {})[0], copied(stage)))
            assert stage.share == 0
            return answered(stage)

        gateway.answer = answer
        stage.shift(25, mirrored=True)
        candidate = stage.plan.candidate
        assert asked == [(mirror_name(candidate), False), (candidate, True)]
        assert copied(stage)
        assert stage.cluster.weights() == {"payments": 75, candidate: 0, mirror_name(candidate): 25}
        began, declared = recorded_steps(stage.run.context, ["shift"])
        assert began.reason == (
            f"shifting copies of 25 % to {candidate}; a request to {gateway.url} was seen to be answered through the"
            f" mirror; a request to {gateway.url} with x-canary: always was seen to arrive"
        )
        assert declared.reason == f"route set to copies of 25 % of traffic for {candidate}"

    def test_on_a_gateway_that_serves_nobody_without_pods_copies_nothing(self, stage: Stage, gateway: Gateway) -> None:
        gateway.answer = lambda: answered(stage, empty=False)
        with pytest.raises(ProbeFailedError, match=r"nothing is mirrored: .* HTTP 404, not from .*allowEmptyServices"):
            stage.shift(25, mirrored=True)
        assert (stage.cluster.now.shifts, stage.cluster.now.mentions(mirror_name(stage.plan.candidate))) == ([], False)
        assert recorded_steps(stage.run.context, ["shift"]) == []

    def test_is_refused_where_the_teams_rules_divide_by_the_header(self, stage: Stage) -> None:
        """No request of ours could show it."""
        (rule,) = stage.cluster.body["spec"]["rules"]
        rule["matches"] = [{"headers": [{"name": "X-Canary", "value": "always"}]}]
        with pytest.raises(ProbeFailedError, match="nothing is mirrored: no GET of ours could show that the gateway"):
            stage.shift(25, mirrored=True)
        assert stage.cluster.now.shifts == []

    def test_is_not_done_again_while_copies_are_given(self, stage: Stage, gateway: Gateway) -> None:
        stage.shift(25, mirrored=True)
        asked = len(gateway.asked)
        stage.shift(25, mirrored=True)
        assert (len(gateway.asked), copied(stage)) == (asked, True)

    def test_the_first_share_takes_the_mirror_out_and_leaves_it_there(self, stage: Stage) -> None:
        """The gateway has not heard yet that nobody names it."""
        stage.shift(25, mirrored=True)
        stage.shift(5)
        assert stage.cluster.weights() == {"payments": 95, stage.plan.candidate: 5}
        assert stage.cluster.mirror.keys() == {"Service", "TraefikService"}


def taken(cluster: FakeCluster) -> None:
    """Let the route be that of a gateway which mirrors by the standard filter."""
    cluster.body |= taken_by(ENVOY, cluster.body)


class TestByFilter:
    def test_a_gateway_that_has_the_standard_filter_needs_a_service_alone(self, stage: Stage, gateway: Gateway) -> None:
        taken(stage.cluster)
        asked: list[tuple[str, bool]] = []

        def answer() -> Answer:
            assert stage.cluster.testers is not None
            (rule,) = stage.cluster.testers["spec"]["rules"]
            asked.append((rule["backendRefs"][0]["name"], copied(stage)))
            return 200, {VERSION_HEADER: rule["filters"][-1]["responseHeaderModifier"]["set"][0]["value"]}

        gateway.answer = answer
        candidate = stage.plan.candidate
        stage.shift(25, mirrored=True)
        assert asked == [("payments", False), (candidate, True)]
        assert stage.cluster.mirror.keys() == {"Service"}
        assert stage.cluster.weights() == {"payments": 100, candidate: 0}
        assert stage.cluster.now.mirrors_to(candidate)
        stage.shift(5)
        assert (stage.cluster.weights(), stage.cluster.now.mirrors_to(candidate)) == (
            {"payments": 95, candidate: 5},
            False,
        )

    def test_the_guard_takes_the_filter_out(self) -> None:
        cluster = FakeCluster.at_share(PLAN, 0)
        taken(cluster)
        cluster.shift(25, 0.0, mirrored=True)
        assert cluster.now.mirrors_to(PLAN.candidate)
        Post(cluster).passes(LEASE + 1)
        assert (cluster.now.mirrors_to(PLAN.candidate), cluster.now.phase) == (False, routes.BRAKED)


def close(cluster: FakeCluster, service: str = "payments", over: bool = True) -> list[str]:
    return mirror.delete_mirrors(
        real(cluster), "shop", service, "payments-route", lambda by: over and by == PLAN.deployment_id
    )


def settled(cluster: FakeCluster) -> FakeCluster:
    cluster.patch_route(cluster.now, routes.rollback(cluster.now, PLAN.claim(cluster.claim), SETTLED))
    return cluster


class TestClose:
    def test_deletes_it_once_the_gateway_has_heard(self, clock: Clock) -> None:
        cluster = settled(shadowed())
        assert close(cluster) == [MIRROR]
        assert (cluster.mirror, clock.now - START) == ({}, mirror.GATEWAY_DELAY_SECONDS)
        assert (close(cluster), clock.now - START) == ([], mirror.GATEWAY_DELAY_SECONDS)

    def test_leaves_one_that_is_named(self) -> None:
        cluster = shadowed().annotate(routes.PHASE, routes.ABANDONED)
        assert (close(cluster), cluster.mirror != {}) == ([], True)

    def test_leaves_one_that_may_be_named_the_next_moment(self) -> None:
        cluster = FakeCluster.at_share(PLAN, 0)
        cluster.apply(mirror_objects(PLAN, copied=False))
        assert (close(cluster), cluster.mirror != {}) == ([], True)

    @pytest.mark.parametrize(("service", "over"), [("orders", True), ("payments", False)])
    def test_leaves_another_services_and_one_that_is_not_over(self, service: str, over: bool) -> None:
        cluster = settled(shadowed())
        assert (close(cluster, service, over), cluster.mirror != {}) == ([], True)

    def test_without_a_route_nobody_is_served_anyway(self) -> None:
        """The team deletes its namespace, which waits for the finalizer."""
        cluster = shadowed().without_route()
        assert close(cluster) == [MIRROR]


class TestEnd:
    def settle(self, stage: Stage, *states: State) -> None:
        run = stage.run
        run.planned(stage.plan)
        run.reach("apply", State.INIT, State.BUILDING, State.DEPLOYING)
        if states:
            run.reach("rollback", *states)
        run.returned("audit", "there")
        ending: dict[str, Any] = {**ENDING, "steps_of": ["apply", "shift", "rollback"]}
        FinalizeOperator(task_id="finalize", audit="audit", **ending).execute(run.at("finalize"))

    def test_of_the_run_takes_the_mirror_away(self, stage: Stage) -> None:
        stage.shift(25, mirrored=True)
        cluster, plan = stage.cluster, stage.plan
        cluster.patch_route(cluster.now, routes.rollback(cluster.now, plan.claim(cluster.claim), SETTLED))
        with pytest.raises(NotFinalizedError, match="did not reach VERIFIED"):
            self.settle(stage, State.ROLLING_BACK, State.ROLLED_BACK)
        assert (cluster.mirror, cluster.testers) == ({}, None)

    def test_of_a_run_in_mid_shadow_takes_it_out_first(self, stage: Stage) -> None:
        stage.shift(25, mirrored=True)
        with pytest.raises(NotFinalizedError, match="did not reach VERIFIED"):
            self.settle(stage)
        assert stage.cluster.weights() == {"payments": 100, stage.plan.candidate: 0}
        assert stage.cluster.mirror == {}

    def test_of_a_run_whose_route_is_gone_takes_it_away_all_the_same(self, stage: Stage) -> None:
        stage.shift(25, mirrored=True)
        stage.cluster.without_route()
        with pytest.raises(NotFinalizedError):
            self.settle(stage)
        assert stage.cluster.mirror == {}

    def test_of_a_run_that_cannot_settle_leaves_what_users_are_answered_by(self, stage: Stage) -> None:
        stage.shift(25, mirrored=True)
        stage.cluster.fail("patch_route", TemporaryError("503"))
        with pytest.raises(TemporaryError):
            self.settle(stage)
        assert stage.cluster.mirror.keys() == {"Service", "TraefikService"}

    @pytest.mark.usefixtures("store")
    @pytest.mark.parametrize("gone", [False, True], ids=["settled", "without its route"])
    def test_of_a_run_that_died_is_tidied_up(self, gone: bool) -> None:
        cluster = FakeVersions(PLAN)
        Artifacts(PLAN).freeze(render_version(PLAN))
        cluster.claimed(PLAN)
        cluster.shift(25, 0.0, mirrored=True)
        cluster.apply(mirror_objects(PLAN, copied=True))
        if gone:
            cluster.without_route()
            cluster.body["metadata"] = {"name": "payments-route", "namespace": "shop"}
        else:
            settled(cluster)
        tidied = clean_up(survey(real(cluster), PLAN), START)
        assert (tidied.done, cluster.mirror) == ([f"deleted mirror {MIRROR}"], {})
        assert tidied.left == ("route shop/payments-route is not there" if gone else None)

    def test_of_airflow_is_the_guards_to_answer(self) -> None:
        """Copies that nobody looks at end when the Lease does."""
        cluster = shadowed()
        Post(cluster).passes(LEASE)
        assert cluster.weights()[MIRROR] == 25
        Post(cluster).passes(LEASE + 1)
        assert cluster.weights() == {PLAN.stable: 100, PLAN.candidate: 0}


class World(fake_world.World):
    """A deployment that gets copies of 25 %: a fifth of what is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *story: fake_world.Stage) -> None:
        super().__init__(monkeypatch, PLAN, *story or (fake_world.Stage(0, 20),))
        self.cluster = shadowed(START)


class TestLooks:
    def test_count_copies_as_what_was_declared(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        world = World(monkeypatch)
        loop = world.loop("gate", 5)
        outcome = world.look(loop, 120)
        assert outcome is not None
        assert outcome.verdict == "HEALTHY"
        assert "look: copies of 25 % HEALTHY, candidate" in caplog.text
        assert "requests and copies reached the candidate; the route declares 20%" in outcome.reason
        ticks = [tick for look in records(loop.evidence, "look") for tick in look["ticks"]]
        assert {(tick["share"], tick["mirrored"]) for tick in ticks} == {(20.0, True)}

    def test_take_the_mirror_out_where_copies_fail(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, fake_world.Stage(0, 20, errors=0.3))
        loop = world.loop("watch")
        outcome = world.look(loop, 120)
        assert outcome is not None
        assert (outcome.verdict, outcome.reason.partition(":")[0]) == ("BREACHED", "error_rate")
        assert loop.brake(outcome)
        assert world.cluster.weights() == {PLAN.stable: 100, PLAN.candidate: 0}

    def test_take_it_out_where_copies_do_not_arrive_for_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also where blindness is to hold what users have: copies that never end are not counted, and pile up."""
        assert PLAN.spec.blindness.then == "hold"
        world = World(monkeypatch, fake_world.Stage(0, 0))
        outcome = world.look(world.loop("watch"), 800)
        assert outcome is None
        outcome = world.look(world.loop("watch"), 2 * PLAN.spec.blindness.max_blind)
        assert outcome is not None
        assert outcome.verdict == "BLIND"

    def test_take_it_out_where_the_candidate_has_no_pods(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch)
        loop = world.loop("watch")
        world.look(loop, 4 * SCRAPE)
        world.cluster.replicas[PLAN.candidate] = 0
        outcome = world.look(loop, 120)
        assert outcome is not None
        assert (outcome.verdict, outcome.reason.partition(":")[0]) == ("BREACHED", "ready_pods")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> PlanWorld:
    return PlanWorld(monkeypatch, tmp_path)


class TestPlan:
    def refused(self, world: PlanWorld, why: str) -> None:
        with pytest.raises(RefusedError, match=why):
            world.plan(shadow=SHADOW, route=SEEN)
        assert (world.steps(), world.cluster.writes, world.cluster.mirror) == ([], 0, {})

    def test_asks_the_cluster_and_writes_nothing(self, world: PlanWorld) -> None:
        assert world.plan(shadow=SHADOW, route=SEEN).spec.shadow is not None
        assert (world.cluster.writes, world.cluster.mirror) == (0, {})

    def test_asks_for_no_traefik_service_where_the_gateway_has_the_filter(
        self, world: PlanWorld, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[str] = []
        monkeypatch.setattr(world.cluster, "apply", lambda objects, **_: asked.extend(item["kind"] for item in objects))
        taken(world.cluster)
        world.plan(shadow=SHADOW, route=SEEN)
        assert asked == ["Service"]

    def test_of_a_first_version_is_refused(self, world: PlanWorld) -> None:
        world.cluster.body["spec"]["rules"] = [{}]
        self.refused(world, "shadow: no version serves yet whose requests could be copied; remove shadow")

    def test_where_the_cluster_knows_no_mirror_is_refused(self, world: PlanWorld) -> None:
        world.cluster.fail("apply", UnknownApiError("applying TraefikService: the cluster knows none"))
        self.refused(
            world, "shadow: applying TraefikService: the cluster knows none; shadow needs .* Traefik .* remove"
        )

    def test_where_the_backend_has_filters_of_its_own_is_refused(self, world: PlanWorld) -> None:
        ref = world.cluster.body["spec"]["rules"][0]["backendRefs"][0]
        ref["filters"] = [{"type": "RequestHeaderModifier"}]
        self.refused(world, "shadow: route shop/payments-route has filters at the backend payments, .* to the rule")


def test_a_kind_that_the_cluster_does_not_serve_is_an_unknown_api(monkeypatch: pytest.MonkeyPatch) -> None:
    server = KubernetesApi()
    server.uninstall("TraefikService")
    with pytest.raises(UnknownApiError, match="applying TraefikService shop/"):
        cluster_on(server, monkeypatch).apply(mirror_objects(PLAN, copied=True)[1:])
    assert server.all("Service") == []
