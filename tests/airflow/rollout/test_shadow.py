"""The shadow stage: the mirror is seen to answer, the route names it for a while, and it is deleted at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.kubernetes.errors import ForbiddenError, UnknownApiError
from airflow_deploy.clients.kubernetes.versions import apply_all
from airflow_deploy.domain.errors import NotFinalizedError, ProbeFailedError, RefusedError
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
from tests.support import world as worlds
from tests.support.builders import make_plan, make_spec
from tests.support.cluster import cluster_on
from tests.support.delivery import Answer, FirstShare, Gateway, serving
from tests.support.gateways import ENVOY, taken_by
from tests.support.guards import Post
from tests.support.judgement import SCRAPE, START
from tests.support.kubernetes_api import KubernetesApi, Object
from tests.support.planning import Planning
from tests.support.service_cluster import ServiceCluster
from tests.support.world import Clock, records

SHADOW = {"share": 25, "safe_to_mirror": True}
SEEN = {"name": "payments-route", "url": "http://gateway.example.com"}
PLAN = make_plan(make_spec(shadow=SHADOW, route=SEEN))
MIRROR, LEASE = mirror_name(PLAN.candidate), PLAN.spec.lease
BOTH = {"Service", "TraefikService"}
"""The kinds of a mirror for Traefik."""
C = TypeVar("C", bound=ServiceCluster)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let the time pass at once in which a gateway hears of a change."""
    clock = Clock()
    monkeypatch.setattr(mirror, "time", SimpleNamespace(sleep=clock.sleep))
    return clock


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with serving() as server:
        yield server


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, gateway: Gateway, request: pytest.FixtureRequest) -> FirstShare:
    made_so = FirstShare(monkeypatch, gateway.url, request.node.name, shadow=SHADOW)
    refuse_harm(made_so.cluster)
    gateway.answer = lambda: answered(made_so)
    return made_so


def refuse_harm(cluster: C) -> C:
    """Fail as soon as a mirror that the route names would be deleted: users would get no answer."""

    def check() -> None:
        assert not cluster.team.is_there or "-shadow" not in json.dumps(cluster.body["spec"])

    cluster.api.before(r"-shadow(\?|$)", check, method="DELETE", times=None)
    return cluster


def answered(stage: FirstShare, *, empty: bool = True) -> Answer:
    """Answer as the gateway to which the testers' route leads.

    :param empty: whether it also answers through a mirror without pods.
    """
    (led,) = backends_of(stage.cluster.testers or {"spec": {}})
    if led.endswith("-shadow") and not (empty or copied(stage)):
        return 404, {}
    return 200, {VERSION_HEADER: led}


def copied(stage: FirstShare) -> bool:
    """Whether the mirror has pods to copy to."""
    selector: dict[str, str] = stage.cluster.mirror["Service"]["spec"]["selector"]
    return selector.items() <= stage.plan.pod_labels.items()


def shadowed(at: float = 0.0) -> ServiceCluster:
    """A deployment that gets copies."""
    cluster = ServiceCluster.at_share(PLAN, 0).shift(25, at, mirrored=True)
    apply_all(cluster.client, mirror_objects(PLAN, copied=True))
    return refuse_harm(cluster)


class TestSetUp:
    def test_stable_is_seen_to_answer_before_there_is_a_pod_to_copy_to(
        self, stage: FirstShare, gateway: Gateway
    ) -> None:
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

    def test_gateway_that_answers_no_request_without_pods_gets_no_mirror(
        self, stage: FirstShare, gateway: Gateway
    ) -> None:
        gateway.answer = lambda: answered(stage, empty=False)
        with pytest.raises(ProbeFailedError, match=r"nothing is mirrored: .* HTTP 404, not from .*allowEmptyServices"):
            stage.shift(25, mirrored=True)
        assert (stage.cluster.now.shifts, stage.cluster.now.mentions(mirror_name(stage.plan.candidate))) == ([], False)
        assert recorded_steps(stage.run.context, ["shift"]) == []

    def test_mirror_is_refused_if_the_teams_rules_divide_by_the_testers_header(self, stage: FirstShare) -> None:
        """No request of ours could show that it answers."""

        def change(body: Object) -> None:
            (rule,) = body["spec"]["rules"]
            rule["matches"] = [{"headers": [{"name": "X-Canary", "value": "always"}]}]

        stage.cluster.edit(change)
        with pytest.raises(ProbeFailedError, match="nothing is mirrored: no GET of ours could show that the gateway"):
            stage.shift(25, mirrored=True)
        assert stage.cluster.now.shifts == []

    def test_mirror_that_gets_copies_is_not_set_up_again(self, stage: FirstShare, gateway: Gateway) -> None:
        stage.shift(25, mirrored=True)
        asked = len(gateway.asked)
        stage.shift(25, mirrored=True)
        assert (len(gateway.asked), copied(stage)) == (asked, True)

    def test_first_share_takes_the_mirror_out_of_the_route_and_deletes_nothing(self, stage: FirstShare) -> None:
        """The gateway may not have heard yet that the route does not name it."""
        stage.shift(25, mirrored=True)
        stage.shift(5)
        assert stage.cluster.weights() == {"payments": 95, stage.plan.candidate: 5}
        assert stage.cluster.mirror.keys() == BOTH


def take(cluster: ServiceCluster) -> None:
    """Let the route be that of a gateway which mirrors by the standard filter."""
    cluster.edit(lambda body: body.update(taken_by(ENVOY, body)))


class TestFilter:
    def test_gateway_with_the_standard_filter_needs_a_service_alone(self, stage: FirstShare, gateway: Gateway) -> None:
        take(stage.cluster)
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

    def test_guard_removes_the_filter(self) -> None:
        cluster = ServiceCluster.at_share(PLAN, 0)
        take(cluster)
        cluster.shift(25, 0.0, mirrored=True)
        assert cluster.now.mirrors_to(PLAN.candidate)
        Post(cluster).passes(LEASE + 1)
        assert (cluster.now.mirrors_to(PLAN.candidate), cluster.now.phase) == (False, routes.BRAKED)


def close(cluster: ServiceCluster, service: str = "payments", over: bool = True) -> list[str]:
    return mirror.delete_mirrors(
        cluster.client, "shop", service, "payments-route", lambda by: over and by == PLAN.deployment_id
    )


def settled(cluster: ServiceCluster) -> ServiceCluster:
    cluster.write(routes.rollback(cluster.now, PLAN.claim(cluster.claim), SETTLED))
    return cluster


class TestDelete:
    def test_mirror_is_deleted_once_the_gateway_has_heard(self, clock: Clock) -> None:
        cluster = settled(shadowed())
        assert close(cluster) == [MIRROR]
        assert (cluster.mirror, clock.now - START) == ({}, mirror.GATEWAY_DELAY_SECONDS)
        assert (close(cluster), clock.now - START) == ([], mirror.GATEWAY_DELAY_SECONDS)

    def test_mirror_that_the_route_names_is_left(self) -> None:
        cluster = shadowed().annotate(routes.PHASE, routes.ABANDONED)
        assert (close(cluster), {*cluster.mirror}) == ([], BOTH)

    def test_mirror_that_the_route_may_name_in_a_moment_is_left(self) -> None:
        cluster = ServiceCluster.at_share(PLAN, 0)
        apply_all(cluster.client, mirror_objects(PLAN, copied=False))
        assert (close(cluster), {*cluster.mirror}) == ([], BOTH)

    @pytest.mark.parametrize(("service", "over"), [("orders", True), ("payments", False)])
    def test_mirror_of_another_service_or_of_a_run_that_is_not_over_is_left(self, service: str, over: bool) -> None:
        cluster = settled(shadowed())
        assert (close(cluster, service, over), {*cluster.mirror}) == ([], BOTH)

    def test_mirror_without_a_route_is_deleted(self) -> None:
        """The team deletes its namespace, which waits for the finalizer."""
        cluster = shadowed().without_route()
        assert close(cluster) == [MIRROR]
        assert cluster.mirror == {}


class TestEnd:
    def finalize(self, stage: FirstShare, *rolled_back: State) -> None:
        ending = stage.ending(*rolled_back)
        stage.run.returned("audit", "there")
        FinalizeOperator(task_id="finalize", audit="audit", **ending).execute(stage.run.at("finalize"))

    def test_end_of_the_run_deletes_the_mirror(self, stage: FirstShare) -> None:
        stage.shift(25, mirrored=True)
        cluster, plan = stage.cluster, stage.plan
        cluster.write(routes.rollback(cluster.now, plan.claim(cluster.claim), SETTLED))
        with pytest.raises(NotFinalizedError, match="did not reach VERIFIED"):
            self.finalize(stage, State.ROLLING_BACK, State.ROLLED_BACK)
        assert (cluster.mirror, cluster.testers) == ({}, None)

    def test_end_of_a_run_in_mid_shadow_takes_the_mirror_out_of_the_route_and_deletes_it(
        self, stage: FirstShare
    ) -> None:
        stage.shift(25, mirrored=True)
        with pytest.raises(NotFinalizedError, match="did not reach VERIFIED"):
            self.finalize(stage)
        assert stage.cluster.weights() == {"payments": 100, stage.plan.candidate: 0}
        assert stage.cluster.mirror == {}

    def test_end_of_a_run_whose_route_is_gone_deletes_the_mirror(self, stage: FirstShare) -> None:
        stage.shift(25, mirrored=True)
        stage.cluster.without_route()
        with pytest.raises(NotFinalizedError):
            self.finalize(stage)
        assert stage.cluster.mirror == {}

    def test_end_of_a_run_that_cannot_be_rolled_back_leaves_the_mirror_by_which_users_are_answered(
        self, stage: FirstShare
    ) -> None:
        stage.shift(25, mirrored=True)
        stage.cluster.api.fail("httproutes/payments-route", 403, method="PATCH")
        with pytest.raises(ForbiddenError):
            self.finalize(stage)
        assert stage.cluster.mirror.keys() == BOTH

    @pytest.mark.usefixtures("store")
    @pytest.mark.parametrize("gone", [False, True], ids=["settled", "without its route"])
    def test_cleanup_deletes_the_mirror_of_a_run_that_died(self, gone: bool) -> None:
        cluster = refuse_harm(ServiceCluster(PLAN))
        Artifacts(PLAN).freeze(render_version(PLAN))
        _, claim = routes.claim(cluster.now, PLAN.claim())
        cluster.write(claim)
        cluster.shift(25, 0.0, mirrored=True)
        apply_all(cluster.client, mirror_objects(PLAN, copied=True))
        if gone:
            cluster.without_route()
        else:
            settled(cluster)
        tidied = clean_up(survey(cluster.client, PLAN), START)
        assert (tidied.done, cluster.mirror) == ([f"deleted mirror {MIRROR}"], {})
        assert tidied.left == ("route shop/payments-route is not there" if gone else None)

    def test_guard_ends_copies_when_the_watch_is_dead(self) -> None:
        cluster = shadowed()
        Post(cluster).passes(LEASE)
        assert cluster.weights()[MIRROR] == 25
        Post(cluster).passes(LEASE + 1)
        assert cluster.weights() == {PLAN.stable: 100, PLAN.candidate: 0}


class World(worlds.World):
    """A deployment that gets copies of 25 %: a fifth of what is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *story: worlds.Stage) -> None:
        super().__init__(monkeypatch, PLAN, *story or (worlds.Stage(0, 20),))
        self.use(shadowed(START))


class TestLooks:
    def test_looks_count_copies_as_what_the_route_declares(
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

    def test_watch_takes_the_mirror_out_of_the_route_if_copies_fail(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch, worlds.Stage(0, 20, errors=0.3))
        loop = world.loop("watch")
        outcome = world.look(loop, 120)
        assert outcome is not None
        assert (outcome.verdict, outcome.reason.partition(":")[0]) == ("BREACHED", "error_rate")
        assert loop.brake(outcome)
        assert world.cluster.weights() == {PLAN.stable: 100, PLAN.candidate: 0}

    def test_watch_ends_copies_that_do_not_arrive_for_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Also if blindness is to hold what users have: copies that never end are not counted, and pile up."""
        assert PLAN.spec.blindness.then == "hold"
        world = World(monkeypatch, worlds.Stage(0, 0))
        outcome = world.look(world.loop("watch"), 800, step=SCRAPE)
        assert outcome is None
        outcome = world.look(world.loop("watch"), 2 * PLAN.spec.blindness.max_blind, step=SCRAPE)
        assert outcome is not None
        assert outcome.verdict == "BLIND"

    def test_watch_ends_copies_if_the_candidate_has_no_pods(self, monkeypatch: pytest.MonkeyPatch) -> None:
        world = World(monkeypatch)
        loop = world.loop("watch")
        world.look(loop, 4 * SCRAPE)
        world.cluster.replicas[PLAN.candidate] = 0
        outcome = world.look(loop, 120)
        assert outcome is not None
        assert (outcome.verdict, outcome.reason.partition(":")[0]) == ("BREACHED", "ready_pods")


@pytest.fixture
def planning(monkeypatch: pytest.MonkeyPatch, store: Path) -> Planning:
    return Planning(monkeypatch, ServiceCluster(make_plan()))


class TestPlan:
    def refused(self, planning: Planning, why: str) -> None:
        with pytest.raises(RefusedError, match=why):
            planning.plan(shadow=SHADOW, route=SEEN)
        assert (planning.steps(), planning.cluster.api.writes) == ([], [])

    def test_plan_asks_the_cluster_for_a_mirror_and_writes_nothing(self, planning: Planning) -> None:
        assert planning.plan(shadow=SHADOW, route=SEEN).spec.shadow is not None
        assert self.asked(planning) == ["services", "traefikservices"]
        assert (planning.cluster.api.writes, planning.cluster.mirror) == ([], {})

    def test_plan_needs_no_traefik_service_if_the_gateway_has_the_filter(self, planning: Planning) -> None:
        take(planning.cluster)
        planning.plan(shadow=SHADOW, route=SEEN)
        assert self.asked(planning) == ["services"]

    def asked(self, planning: Planning) -> list[str]:
        """Return what was applied as a dry run."""
        dry = [request for request in planning.cluster.api.requests if request.dry_run and request.method == "PATCH"]
        return [request.path.split("/")[-2] for request in dry]

    def test_shadow_of_a_first_version_is_refused(self, planning: Planning) -> None:
        planning.cluster.edit(lambda body: body["spec"].update(rules=[{}]))
        self.refused(planning, "shadow: no version serves yet whose requests could be copied; remove shadow")

    def test_shadow_on_a_cluster_that_knows_no_mirror_is_refused(self, planning: Planning) -> None:
        planning.cluster.api.uninstall("TraefikService")
        self.refused(planning, "shadow: applying TraefikService shop/.*: HTTP 404 .* shadow needs .* Traefik .* remove")

    def test_shadow_of_a_backend_with_filters_of_its_own_is_refused(self, planning: Planning) -> None:
        def change(body: Object) -> None:
            body["spec"]["rules"][0]["backendRefs"][0]["filters"] = [{"type": "RequestHeaderModifier"}]

        planning.cluster.edit(change)
        self.refused(planning, "shadow: route shop/payments-route has filters at the backend payments, .* to the rule")


def test_kind_that_the_cluster_does_not_serve_is_an_unknown_api(monkeypatch: pytest.MonkeyPatch) -> None:
    server = KubernetesApi()
    server.uninstall("TraefikService")
    with pytest.raises(UnknownApiError, match="applying TraefikService shop/"):
        apply_all(cluster_on(server, monkeypatch), mirror_objects(PLAN, copied=True)[1:])
    assert server.all("Service") == []
