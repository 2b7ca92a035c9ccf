"""What old deployments leave is stopped and deleted in time, and nothing else is touched, whatever happens."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import Context

from airflow_deploy.clients.artifacts import Artifacts, frozen_plan
from airflow_deploy.clients.kubernetes.versions import VERSION_KINDS
from airflow_deploy.domain.errors import NotFinalizedError, PermanentError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.service_route import ServiceRoute
from airflow_deploy.domain.routing.team_route import TeamRoute, absent_route
from airflow_deploy.domain.routing.testers import route_for_testers
from airflow_deploy.domain.workloads.versions import RUN_GRACE_SECONDS, PreviousVersion, plan_cleanup
from airflow_deploy.operators import apply as applying
from airflow_deploy.operators import cleanup as tidying
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.cleanup import CleanupOperator
from airflow_deploy.rollout import cleanup as versions
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.cleanup import CleanupResult, Survey, clean_up, survey
from tests.airflow.operators.test_approval import AGREED
from tests.airflow.operators.test_operators import Run
from tests.airflow.rollout.test_rollback import real
from tests.support.claims import undo
from tests.support.fake_fleet import planned, verified
from tests.support.fake_versions import FakeVersions
from tests.support.fake_world import Clock
from tests.support.judgement import START

WINDOW = 3600
ALL = sorted(VERSION_KINDS)
pytestmark = pytest.mark.usefixtures("store")


class Service:
    """One service and its deployments, an hour or more apart."""

    def __init__(self, name: str = "payments", keep: int = 1) -> None:
        self.name, self.keep = name, keep
        self.plans: list[DeploymentPlan] = []
        self.now = START
        self.cluster = FakeVersions(self.planned())

    def planned(self) -> DeploymentPlan:
        number = len(self.plans)
        rollback = {"window": WINDOW, "keep": self.keep}
        plan = planned(self.name, 100 * number, rollback=rollback, scaling={"max": 4})
        stable = self.cluster.now.stable() if self.plans else self.name
        return plan.model_copy(update={"commit": f"{number:040x}", "stable": stable})

    def applied(self) -> DeploymentPlan:
        self.plans.append(plan := self.planned())
        self.cluster.applied(plan, self.now)
        return plan

    def deployed(self, *, held: bool = True) -> DeploymentPlan:
        """Let one more deployment come to its end."""
        plan = self.applied()
        if held:
            self.cluster.then_verified(plan)
            verified(plan, at=self.now)
        else:
            self.cluster.claimed(plan, 50)
            self.cluster.then_settled(plan)
        return plan

    def tidied(self, after: float = 0.0) -> CleanupResult:
        self.now += after
        return clean_up(survey(real(self.cluster), self.plans[-1]), self.now)

    def state(self) -> Any:
        return copy.deepcopy((self.cluster.body, self.cluster.made))


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Let nobody wait for a sign of life that does not come."""
    clock = Clock()
    monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=clock.time, sleep=clock.sleep))
    return clock


class TestTheLifeOfAVersion:
    def test_it_stays_warm_while_it_is_the_way_back(self, service: Service) -> None:
        first, second = service.deployed(), service.deployed()
        before = service.state()
        assert service.tidied(WINDOW - 1) == CleanupResult()
        assert service.state() == before
        assert service.cluster.pods() == {first.candidate: 2, second.candidate: 2}

    def test_then_it_is_stopped_and_the_route_says_so(self, service: Service) -> None:
        first, second = service.deployed(), service.deployed()
        assert service.tidied(WINDOW).done == [f"stopped {first.candidate}"]
        assert service.cluster.pods() == {first.candidate: 0, second.candidate: 2}
        assert service.cluster.weights() == {first.candidate: 0, second.candidate: 100}
        assert service.cluster.now.stopped == first.candidate
        before = service.state()
        assert service.tidied(60) == CleanupResult()
        assert service.state() == before

    def test_it_is_not_deleted_while_the_route_names_it(self, service: Service) -> None:
        """Some gateways answer 500 to everybody for a Service that is missing."""
        first, _, older, _ = service.deployed(), service.deployed(), service.applied(), service.applied()
        for _ in range(2):
            service.tidied(WINDOW)
        assert (service.cluster.has(older), service.cluster.has(first)) == ([], ALL)
        assert service.cluster.weights()[first.candidate] == 0
        assert service.cluster.pods()[first.candidate] == 0

    def test_beyond_those_that_are_kept_it_is_deleted_whole(self, service: Service) -> None:
        first, second = service.deployed(), service.deployed()
        service.tidied(WINDOW)
        service.now -= WINDOW - 1  # not long after it was made, too
        third = service.deployed()
        assert service.tidied().done == [f"deleted {first.candidate}"]
        assert [service.cluster.has(plan) for plan in (first, second, third)] == [[], ALL, ALL]
        assert service.cluster.pods() == {second.candidate: 2, third.candidate: 2}

    def test_as_many_are_kept_as_the_service_says(self) -> None:
        service = Service(keep=3)
        plans = [service.deployed() for _ in range(6)]
        service.tidied(WINDOW)
        service.tidied()
        assert [bool(service.cluster.has(plan)) for plan in plans] == [False, False, True, True, True, True]

    def test_what_came_to_nothing_counts_too(self, service: Service) -> None:
        first = service.deployed()
        failed = [service.deployed(held=False) for _ in range(3)]
        service.tidied(WINDOW)
        assert [service.cluster.has(plan) for plan in (first, *failed)] == [ALL, [], [], ALL]
        assert service.cluster.pods()[first.candidate] == 2

    def test_after_the_window_a_version_that_was_overtaken_twice_does_not_run_either(self, service: Service) -> None:
        first, second, third = (service.deployed() for _ in range(3))
        service.tidied(RUN_GRACE_SECONDS)
        assert service.cluster.pods() == {first.candidate: 0, second.candidate: 2, third.candidate: 2}

    def test_the_teams_own_workload_is_never_touched(self, service: Service) -> None:
        plan = service.deployed()
        for _ in range(3):
            service.tidied(2 * WINDOW)
        assert service.cluster.replicas == {"payments": 2, plan.candidate: 2}
        assert not service.cluster.now.stopped

    def test_after_a_way_back_to_the_teams_own_the_version_may_go(self, service: Service) -> None:
        plan = service.deployed()
        undo(service.cluster, plan)
        service.tidied(RUN_GRACE_SECONDS)
        assert service.cluster.pods() == {plan.candidate: 0}
        assert service.cluster.weights() == {"payments": 100, plan.candidate: 0}


class TestTheRecord:
    """What was applied by a run that then dies without a trace could be found by nobody else."""

    @pytest.fixture
    def written(self) -> list[bool]:
        """Whether the plan was on record, whenever something was written to the cluster."""
        return []

    @pytest.fixture
    def apply(self, service: Service, written: list[bool], monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
        plan = service.planned()

        def write(_: Any, *, dry_run: bool = False) -> None:
            if not dry_run:
                written.append(frozen_plan(service.name, plan.deployment_id) == plan)

        service.cluster.replicas[plan.candidate] = 2
        monkeypatch.setattr(service.cluster, "apply", write)
        monkeypatch.setattr(service.cluster, "make", write)
        monkeypatch.setattr(applying, "Cluster", lambda _: service.cluster)
        monkeypatch.setattr(applying, "check_agreed", lambda *_: None)
        operator = ApplyManifestOperator(task_id="apply", agreed=AGREED, plan=plan.dump())
        return lambda: operator.execute(Run().at("apply"))

    def test_comes_before_the_first_object(self, apply: Callable[[], object], written: list[bool]) -> None:
        apply()
        assert set(written) == {True}

    def test_that_cannot_be_kept_keeps_everything_else_from_being_written(
        self, apply: Callable[[], object], written: list[bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> str:
            raise OSError("no space left")

        monkeypatch.setattr(Artifacts, "write", full)
        with pytest.raises(OSError, match="no space left"):
            apply()
        assert written == []


class TestWhatLooksLikeOurs:
    @pytest.mark.parametrize(
        "change",
        [
            {"app.kubernetes.io/managed-by": "Helm"},
            {"app.kubernetes.io/name": "orders"},
            {"app.kubernetes.io/version": "payments-0000000-1"},
        ],
    )
    def test_by_its_name_alone_is_left(self, service: Service, change: dict[str, str]) -> None:
        plan = service.applied()
        for item in service.cluster.made.values():
            item["metadata"]["labels"].update(change)
        assert service.tidied(10 * WINDOW) == CleanupResult()
        assert service.cluster.pods() == {plan.candidate: 2}

    def test_by_its_labels_alone_is_left(self, service: Service) -> None:
        """A team may copy our labels to what it runs by itself."""
        service.applied()
        team = service.cluster.made.pop(("Deployment", service.plans[0].candidate))
        team["metadata"]["name"] = team["metadata"]["labels"]["app.kubernetes.io/version"] = "payments-batch"
        service.cluster.made["Deployment", "payments-batch"] = team
        service.tidied(10 * WINDOW)
        assert service.cluster.pods() == {"payments-batch": 2}


class TestLeftAlone:
    @pytest.mark.parametrize("phase", [routes.CANARY, routes.BRAKED, routes.PROMOTED, routes.ABANDONED, "odd"])
    def test_while_the_route_is_not_at_rest(self, service: Service, phase: str) -> None:
        service.deployed()
        service.deployed()
        service.deployed()
        service.cluster.annotate(routes.PHASE, phase).annotate(routes.OWNER, "DEP-5-ffffffff/9")
        before = service.state()
        assert service.tidied(10 * WINDOW).left
        assert service.state() == before

    def test_where_somebody_has_divided_the_traffic(self, service: Service) -> None:
        service.deployed()
        service.deployed()
        service.cluster.body["spec"]["rules"][0]["backendRefs"][0]["weight"] = 1
        before = service.state()
        assert "give one Service the whole weight" in (service.tidied(10 * WINDOW).left or "")
        assert service.state() == before

    def test_where_the_record_of_what_serves_is_lost(self, service: Service) -> None:
        service.deployed()
        plan = service.deployed()
        Artifacts(plan).write(f"{plan.deployment_id}.json", "{}")
        before = service.state()
        assert "no deployment is recorded" in (service.tidied(10 * WINDOW).left or "")
        assert service.state() == before

    def test_what_a_mirror_sends_requests_to_is_not_deleted(self, service: Service) -> None:
        first = service.deployed()
        mirror = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": first.candidate, "port": 80}}}
        service.deployed()
        service.deployed()
        service.cluster.body["spec"]["rules"][0]["filters"] = [mirror]
        for _ in range(2):
            service.tidied(WINDOW)
        assert service.cluster.has(first) == ALL


class TestOrphans:
    def test_what_was_applied_and_never_claimed_is_stopped_once_nobody_can_be_at_it(self, service: Service) -> None:
        plan = service.applied()
        assert service.tidied(RUN_GRACE_SECONDS - 1) == CleanupResult()
        assert service.tidied(1).done == [f"stopped {plan.candidate}"]
        assert service.cluster.pods() == {plan.candidate: 0}

    def test_what_is_just_being_applied_is_not_deleted(self, service: Service) -> None:
        """By another Airflow, say: its Deployment comes last, and later versions exist already."""
        plan = service.applied()
        service.applied()
        del service.cluster.made["Deployment", plan.candidate]
        kinds = service.cluster.has(plan)
        service.tidied(RUN_GRACE_SECONDS - 1)
        assert service.cluster.has(plan) == kinds
        service.tidied(1)
        assert service.cluster.has(plan) == []

    @pytest.mark.parametrize("share", [0, 5, 100])
    def test_the_traffic_of_a_run_that_is_no_more_is_taken_back(self, service: Service, share: int) -> None:
        first, second = service.deployed(), service.applied()
        service.cluster.claimed(second, share)
        assert service.tidied(RUN_GRACE_SECONDS - 1).left
        (said,) = service.tidied(1).alarms
        assert said.startswith(f"{second.deployment_id} was canary, and Airflow has no live run of it")
        assert service.cluster.weights() == {first.candidate: 100, second.candidate: 0}
        assert service.cluster.pods() == {first.candidate: 2, second.candidate: 0}
        assert service.tidied(60) == CleanupResult()

    def test_the_traffic_of_a_run_that_another_airflow_looks_at_is_its_own(
        self, service: Service, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service.deployed()
        service.cluster.claimed(service.applied(), 50)
        service.cluster.hold_lease(service.cluster.claim)

        def sleep(seconds: float) -> None:
            clock.sleep(seconds)
            lease.renew(real(service.cluster), service.cluster.plan, service.cluster.claim)

        monkeypatch.setattr(lease, "time", SimpleNamespace(monotonic=clock.time, sleep=sleep))
        before = service.state()
        assert "whose watch is alive" in (service.tidied(10 * WINDOW).left or "")
        assert service.state() == before

    @pytest.mark.parametrize("owner", [None, "DEP-5-ffffffff/9", "../../../etc/x/1", "nonsense"])
    def test_whose_it_is_must_be_known(self, service: Service, owner: str | None) -> None:
        service.deployed()
        service.cluster.claimed(service.applied(), 50)
        service.cluster.annotate(routes.OWNER, owner)
        before = service.state()
        assert service.tidied(10 * WINDOW).left
        assert service.state() == before


class TestTesters:
    @pytest.fixture
    def service(self) -> Service:
        """One deployment that held, and died before it could delete the testers' route."""
        service = Service()
        plan = service.applied()
        service.cluster.claimed(plan, 50)
        testers = route_for_testers(service.cluster.now, plan.claim(service.cluster.claim))
        service.cluster.then_settled(plan)
        service.cluster.create_route(testers or {})
        return service

    def test_lose_their_route_where_its_run_is_no_more(self, service: Service) -> None:
        assert service.tidied().done == [f"deleted route {service.name}/testers-payments-route"]
        assert (service.cluster.testers, service.tidied().done) == (None, [])

    def test_keep_one_of_which_nobody_knows(self, service: Service) -> None:
        assert service.cluster.testers is not None
        service.cluster.testers["metadata"]["annotations"]["airflow-deploy/owner"] = "DEP-1-00000000/1"
        assert service.tidied().done == []
        assert service.cluster.testers is not None


class TestBetweenTheSurveyAndTheDeed:
    def test_a_version_that_was_changed_is_not_stopped(self, service: Service) -> None:
        plan = service.applied()
        service.now += WINDOW
        seen = survey(real(service.cluster), plan)
        service.cluster.wrote("Deployment", plan.candidate)
        with pytest.raises(TemporaryError):
            clean_up(seen, service.now)
        assert service.cluster.pods() == {plan.candidate: 2}

    @pytest.mark.parametrize("kind", sorted(set(VERSION_KINDS) - {"ConfigMap"}))
    def test_a_version_that_was_changed_is_not_deleted(self, service: Service, kind: str) -> None:
        first = service.deployed()
        service.deployed()
        service.tidied(WINDOW)
        service.deployed()
        seen = survey(real(service.cluster), service.plans[-1])
        service.cluster.wrote(kind, first.candidate)
        with pytest.raises(TemporaryError):
            clean_up(seen, service.now)
        assert kind in service.cluster.has(first)

    def test_the_way_back_of_a_run_that_began_is_not_stopped(self, service: Service) -> None:
        first = service.deployed()
        service.deployed()
        service.now += WINDOW
        seen = survey(real(service.cluster), service.plans[-1])
        service.cluster.claimed(service.applied())
        with pytest.raises(TemporaryError):
            clean_up(seen, service.now)
        assert service.cluster.pods()[first.candidate] == 2

    def test_a_version_that_traffic_returned_to_is_not_stopped(self, service: Service) -> None:
        first, second = service.deployed(), service.deployed()
        service.now += WINDOW
        seen = survey(real(service.cluster), second)
        assert undo(service.cluster, second)
        with pytest.raises(TemporaryError):
            clean_up(seen, service.now)
        assert service.cluster.pods()[first.candidate] == 2

    def test_traffic_does_not_return_to_a_version_that_is_being_stopped(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The verification has read the route, and found pods that are ready."""
        first, second = service.deployed(), service.deployed()
        ready = service.cluster.ready_endpoints

        def and_meanwhile(*arguments: Any) -> int:
            found = ready(*arguments)
            service.tidied(WINDOW)
            return found

        monkeypatch.setattr(service.cluster, "ready_endpoints", and_meanwhile)
        with pytest.raises(TemporaryError):
            undo(service.cluster, second)
        assert service.cluster.weights() == {first.candidate: 0, second.candidate: 100}
        with pytest.raises(NotFinalizedError, match="is over; nothing was changed"):
            undo(service.cluster, second)

    def test_what_was_stopped_once_may_be_a_way_back_again(self, service: Service) -> None:
        """A person starts an old version and gives it the traffic; then the next fix comes."""
        first = service.deployed()
        service.deployed()
        service.tidied(WINDOW)
        service.cluster.scale("payments", first.candidate, 2)
        for ref in service.cluster.body["spec"]["rules"][0]["backendRefs"]:
            ref["weight"] = 100 * (ref["name"] == first.candidate)
        third = service.deployed()
        assert undo(service.cluster, third)


def by_hand(service: Service, plan: DeploymentPlan) -> None:
    """Start a version as ``kubectl scale`` does."""
    service.cluster.scale("payments", plan.candidate, 2)
    service.cluster.born[plan.candidate] = [service.now + 1, service.now]


def given_to(service: Service, plan: DeploymentPlan) -> None:
    """Give a version the traffic as a person does, without a word in the record."""
    service.cluster.body["spec"]["rules"][0]["backendRefs"] = [{"name": plan.candidate, "port": 80, "weight": 100}]


class TestByHand:
    @pytest.fixture
    def old(self, service: Service) -> DeploymentPlan:
        """A version that was stopped long ago."""
        old = service.deployed()
        service.deployed()
        service.tidied(WINDOW)
        assert service.cluster.pods()[old.candidate] == 0
        return old

    def test_whoever_starts_a_version_has_time_to_give_it_traffic(self, service: Service, old: DeploymentPlan) -> None:
        by_hand(service, old)
        assert service.tidied(RUN_GRACE_SECONDS - 1) == CleanupResult()
        assert service.cluster.pods()[old.candidate] == 2
        given_to(service, old)
        service.tidied(WINDOW)
        assert service.cluster.pods()[old.candidate] == 2

    def test_a_version_that_is_given_none_is_stopped_again(self, service: Service, old: DeploymentPlan) -> None:
        by_hand(service, old)
        assert service.tidied(RUN_GRACE_SECONDS).done == [f"stopped {old.candidate}"]

    def test_whoever_has_started_it_in_this_moment_has_time_too(self, service: Service, old: DeploymentPlan) -> None:
        """Its Deployment wants pods, and none of them is there yet."""
        service.cluster.scale("payments", old.candidate, 2)
        assert service.tidied(1) == CleanupResult()
        by_hand(service, old)
        assert service.tidied(RUN_GRACE_SECONDS - 1) == CleanupResult()
        assert service.tidied(1).done == [f"stopped {old.candidate}"]

    def test_one_that_was_just_made_was_started_by_nobody(self, service: Service) -> None:
        """Windows may be short."""
        service.applied()
        for age in (0.0, 60.0):
            service.cluster.born[service.plans[0].candidate] = [START + age]
            version = survey(real(service.cluster), service.plans[0]).versions[0]
            previous = PreviousVersion(version.name, START + 1)
            assert plan_cleanup([version], service.cluster.now, previous, 1, START + 61).stop == (version,)
        service.cluster.born[service.plans[0].candidate] = [START + 61]
        version = survey(real(service.cluster), service.plans[0]).versions[0]
        assert plan_cleanup([version], service.cluster.now, previous, 1, START + 61).stop == ()

    def test_a_pod_that_was_replaced_keeps_none_alive(self, service: Service) -> None:
        """A node was drained, say, or an autoscaler has added one."""
        old = service.applied()
        service.now += RUN_GRACE_SECONDS
        service.cluster.born[old.candidate][0] = service.now
        assert service.tidied().done == [f"stopped {old.candidate}"]

    @pytest.mark.parametrize("which", ["the previous one", "an older one"])
    def test_a_version_that_is_given_traffic_in_this_moment_is_not_stopped(self, service: Service, which: str) -> None:
        plans = [service.deployed() for _ in range(3)]
        chosen = plans[1 if which == "the previous one" else 0]
        service.now += WINDOW
        seen = survey(real(service.cluster), plans[-1])
        given_to(service, chosen)
        with pytest.raises(TemporaryError):
            clean_up(seen, service.now)
        assert service.cluster.pods()[chosen.candidate] == 2


class TestTheRouteThatItHadBefore:
    """A team gives its service another route or router, and users still come by the old one."""

    def survey(self, service: Service, old: dict[str, Any] | None) -> Survey:
        """Survey it with a latest plan that has a new route, where the team's own serves."""
        plan = service.plans[0]
        ref = {"kind": "Service", "name": "web", "port": 80, "weight": 1}
        new: dict[str, Any] = {"metadata": {"name": "new", "namespace": "payments", "resourceVersion": "1"}, "spec": {}}
        new["spec"] = {"rules": [{"backendRefs": [ref]}]}
        spec = plan.spec.model_copy(update={"route": plan.spec.route.model_copy(update={"name": "new"})})
        bodies = {"new": new, plan.spec.route.name: old}
        service.cluster.body, service.cluster.plan = new, plan.model_copy(update={"spec": spec})

        def read(namespace: str, name: str, router: str) -> TeamRoute:
            body, kind = bodies[name], HttpRoute if router == "gateway" else ServiceRoute
            return kind(body) if body else absent_route(kind, namespace, name)

        service.cluster.team_route_or_absent = read  # type: ignore[method-assign]
        return survey(real(service.cluster), service.cluster.plan)

    def test_keeps_who_serves_there(self, service: Service) -> None:
        plan = service.deployed()
        seen = self.survey(service, service.cluster.body)
        tidied = clean_up(seen, service.now + 10 * WINDOW)
        assert tidied.done == []
        assert tidied.alarms == [
            f"{plan.candidate} is not stopped: it has users by a route that its service had before; let them come by"
            " route payments/new"
        ]
        assert service.cluster.pods() == {plan.candidate: 2}

    def test_keeps_whom_its_service_selects(self, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        plan = service.deployed()
        moved = plan.spec.model_copy(update={"router": "replicas"})
        monkeypatch.setattr(versions, "frozen_plan", lambda *_: plan.model_copy(update={"spec": moved}))
        selector = {"app.kubernetes.io/version": plan.candidate}
        body = {"metadata": {**service.cluster.body["metadata"], "annotations": {}}, "spec": {"selector": selector}}
        tidied = clean_up(self.survey(service, body), service.now + 10 * WINDOW)
        assert (tidied.done, len(tidied.alarms)) == ([], 1)
        assert service.cluster.pods() == {plan.candidate: 2}

    @pytest.mark.parametrize("gone", [False, True], ids=["serves another", "is gone"])
    def test_and_stops_it_when_that_one(self, service: Service, gone: bool) -> None:
        plan = service.deployed()
        given_to(service, plan.model_copy(update={"commit": "f" * 40}))
        seen = self.survey(service, None if gone else service.cluster.body)
        tidied = clean_up(seen, service.now + 10 * WINDOW)
        assert (tidied.done, tidied.alarms) == ([f"stopped {plan.candidate}"], [])

    def test_does_not_delete_what_is_named_there(self, service: Service) -> None:
        plan = service.deployed()
        later = service.applied()
        for one in (plan, later):
            service.cluster.scale("payments", one.candidate, 0)
        for ref in service.cluster.body["spec"]["rules"][0]["backendRefs"]:
            ref["weight"] = int(ref["name"] != plan.candidate)
        assert clean_up(self.survey(service, service.cluster.body), service.now + 10 * WINDOW) == CleanupResult()
        assert clean_up(self.survey(service, None), service.now + 10 * WINDOW).done == [f"deleted {plan.candidate}"]


class Killed(BaseException):
    """The process ended here."""


class TestDying:
    CALLS = ("patch_route", "scale", *["delete"] * len(VERSION_KINDS))

    def prepared(self) -> Service:
        """A version to be stopped, and one to be deleted."""
        service = Service()
        service.deployed()
        service.deployed()
        service.deployed()
        service.cluster.scale("payments", service.plans[0].candidate, 0)
        service.now += WINDOW
        return service

    def done(self, service: Service) -> None:
        first, second, third = service.plans
        assert service.cluster.has(first) == []
        assert service.cluster.pods() == {second.candidate: 0, third.candidate: 2}
        assert service.cluster.now.stopped == second.candidate

    def test_these_are_all_the_writes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        service = self.prepared()
        route_for_testers: list[str] = []

        def noted(name: str, actual: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any) -> Any:
                route_for_testers.append(name)
                return actual(*given)

            return call

        for name in ("patch_route", "scale", "delete"):
            monkeypatch.setattr(service.cluster, name, noted(name, getattr(service.cluster, name)))
        service.tidied()
        assert tuple(route_for_testers) == self.CALLS
        self.done(service)

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("at", range(len(CALLS)), ids=lambda at: f"{at}-{TestDying.CALLS[at]}")
    @pytest.mark.parametrize("other", [False, True], ids=["", "another-pass-meanwhile"])
    def test_anywhere_the_next_pass_completes_it(
        self, monkeypatch: pytest.MonkeyPatch, at: int, after: bool, other: bool
    ) -> None:
        service = self.prepared()
        seen = survey(real(service.cluster), service.plans[-1])
        number = 0

        def counted(actual: Callable[..., Any]) -> Callable[..., Any]:
            def call(*given: Any) -> Any:
                nonlocal number
                number += 1
                if number == at + 1:
                    answer = actual(*given) if after else None
                    if not other:
                        raise Killed
                    number = -100
                    self.attempt(lambda: service.tidied())
                    return answer if after else actual(*given)
                return actual(*given)

            return call

        for name in ("patch_route", "scale", "delete"):
            monkeypatch.setattr(service.cluster, name, counted(getattr(service.cluster, name)))
        self.attempt(lambda: clean_up(seen, service.now))
        assert number < 0 or not other
        number = -100
        service.tidied()
        self.done(service)
        assert service.tidied() == CleanupResult()

    @staticmethod
    def attempt(do: Callable[[], Any]) -> None:
        with suppress(Killed, TemporaryError):
            do()


@pytest.mark.parametrize("which", [0, 1], ids=["warm", "serving"])
class TestDrift:
    @pytest.fixture
    def changed(self, service: Service, which: int) -> Callable[..., list[str]]:
        service.deployed()
        service.deployed()

        def change(kind: str, path: str, value: Any) -> list[str]:
            target: Any = service.cluster.made[kind, service.plans[which].candidate]
            *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
            for part in parents:
                target = target[part]
            target[last] = value
            return service.tidied(60).alarms

        return change

    @pytest.mark.parametrize(
        ("kind", "path", "value"),
        [
            ("Deployment", "spec/template/spec/containers/0/image", "evil:latest"),
            ("Deployment", "spec/template/spec/containers/0/env", []),
            ("Deployment", "spec/template/spec/containers/0/resources/limits/cpu", "2"),
            ("Deployment", "spec/template/spec/containers/0/securityContext/allowPrivilegeEscalation", True),
            ("Service", "spec/selector", {"app": "other"}),
            ("PodDisruptionBudget", "spec/minAvailable", 0),
            ("NetworkPolicy", "spec/ingress/0/ports/0/port", 22),
            ("Deployment", "metadata/labels/app.kubernetes.io~1x", None),
        ],
    )
    def test_of_what_was_declared_is_said(
        self, service: Service, changed: Callable[..., list[str]], which: int, kind: str, path: str, value: Any
    ) -> None:
        alarms = changed(kind, path, value)
        if value is None:  # nobody declared that
            assert alarms == []
            return
        (said,) = alarms
        name = service.plans[which].candidate
        assert said.startswith(f"{name} is not as it was applied: {kind}.{path.split('/')[0]}")
        assert str(value) not in said or not isinstance(value, str)

    @pytest.mark.parametrize(
        ("kind", "path", "value"),
        [
            ("Deployment", "spec/replicas", 7),
            ("Deployment", "spec/template/spec/containers/0/resources/limits/cpu", "0.5"),
            ("Deployment", "spec/revisionHistoryLimit", 10),
            ("Service", "spec/clusterIP", "10.0.0.1"),
        ],
    )
    def test_what_others_add_or_write_differently_is_none(
        self, changed: Callable[..., list[str]], which: int, kind: str, path: str, value: Any
    ) -> None:
        assert changed(kind, path, value) == []

    @pytest.mark.parametrize("kind", ["ConfigMap", "Service", "NetworkPolicy", "PodDisruptionBudget"])
    def test_what_is_missing_is_said(self, service: Service, which: int, kind: str) -> None:
        service.deployed()
        service.deployed()
        del service.cluster.made[kind, service.plans[which].candidate]
        (said,) = service.tidied(60).alarms
        assert f"{kind} is missing" in said


@pytest.fixture
def one_pass(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Run the task over some services; return what it logs of them."""
    lines: list[str] = []
    log = logging.getLogger("a pass of tidying")
    monkeypatch.setattr(log, "info", lambda text, *given: lines.append(text % given))
    monkeypatch.setattr(CleanupOperator, "log", log)

    def run(*services: Service, live: dict[str, str] | None = None) -> list[str]:
        lines.clear()
        clusters = {f"to-{service.name}": service.cluster for service in services}
        now = max(service.now for service in services) if services else START
        monkeypatch.setattr(tidying, "time", SimpleNamespace(time=lambda: now))
        monkeypatch.setattr(tidying, "Cluster", lambda connection: clusters[connection])

        def count(dag_id: str, *, states: list[str]) -> int:
            return int((live or {}).get(dag_id) in states)

        context = cast("Context", {"ti": SimpleNamespace(get_dr_count=count)})
        CleanupOperator(task_id="cleanup").execute(context)
        return lines[1:-1]

    yield run
    assert all(line.isprintable() for line in lines)


def to_own_cluster(service: Service) -> Service:
    """Let the service's plans name a connection of its own."""
    for plan in service.plans:
        spec = plan.spec.model_copy(
            update={"connections": plan.spec.connections.model_copy(update={"kubernetes": f"to-{service.name}"})}
        )
        moved = plan.model_copy(update={"spec": spec})
        Artifacts(moved).freeze(Artifacts(plan).read(f"manifest_{plan.deployment_id}.yaml"))
    return service


def old(name: str) -> Service:
    """A service with a version that is to be stopped."""
    service = Service(name)
    service.deployed()
    service.deployed()
    service.now += WINDOW
    return to_own_cluster(service)


class TestThePass:
    def test_looks_after_every_service(self, one_pass: Callable[..., list[str]]) -> None:
        services = [old("orders"), old("payments")]
        assert [line.split()[:3] for line in one_pass(*services)] == [
            ["orders", "TIDIED", "stopped"],
            ["payments", "TIDIED", "stopped"],
        ]
        assert [line.split()[:2] for line in one_pass(*services)] == [["orders", "TIDY"], ["payments", "TIDY"]]

    def test_without_any_deployment_is_a_good_one(self, one_pass: Callable[..., list[str]]) -> None:
        assert one_pass() == []

    @pytest.mark.parametrize("state", ["queued", "running"])
    def test_leaves_what_has_a_live_run(self, one_pass: Callable[..., list[str]], state: str) -> None:
        services = [old("orders"), old("payments")]
        before = services[0].state()
        said = one_pass(*services, live={"deploy_orders": state})
        assert [line.split()[1] for line in said] == ["LEFT", "TIDIED"]
        assert services[0].state() == before

    def test_asks_for_live_runs_after_it_has_looked(
        self, one_pass: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run that begins in between has its candidate among what was seen."""
        service = old("payments")
        live: dict[str, str] = {}
        actual = service.cluster.route

        def route(namespace: str, name: str) -> Any:
            live["deploy_payments"] = "running"
            return actual(namespace, name)

        monkeypatch.setattr(service.cluster, "route", route)
        (said,) = one_pass(service, live=live)
        assert said.split()[1] == "LEFT"

    @pytest.mark.parametrize("method", ["started", "objects", "route", "patch_route", "scale"])
    @pytest.mark.parametrize("error", [TemporaryError("no answer"), ZeroDivisionError("a\nb")])
    def test_leaves_to_a_later_one_what_does_not_answer(
        self, one_pass: Callable[..., list[str]], method: str, error: Exception
    ) -> None:
        services = [old("orders"), old("payments")]
        services[0].cluster.fail(method, error)
        assert [line.split()[1] for line in one_pass(*services)] == ["LEFT", "TIDIED"]
        assert [line.split()[1] for line in one_pass(*services)] == ["TIDIED", "TIDY"]

    @pytest.mark.parametrize("method", ["objects", "route"])
    def test_of_a_namespace_that_is_gone_is_a_good_one(self, one_pass: Callable[..., list[str]], method: str) -> None:
        service = old("payments")
        service.cluster.fail(method, RefusedError("403"))
        assert [line.split()[1] for line in one_pass(service)] == ["LEFT"]

    def test_that_may_not_do_what_it_should_fails_at_its_end(self, one_pass: Callable[..., list[str]]) -> None:
        services = [old("orders"), old("payments")]
        services[0].cluster.fail("scale", RefusedError("scaling: 403"))
        with pytest.raises(PermanentError, match="orders: scaling: 403"):
            one_pass(*services)
        assert services[1].cluster.now.stopped == services[1].plans[0].candidate

    def test_that_finds_a_change_fails_at_its_end_and_names_the_field(self, one_pass: Callable[..., list[str]]) -> None:
        services = [old("orders"), old("payments")]
        name = services[0].plans[1].candidate
        services[0].cluster.made["Service", name]["spec"]["selector"] = {}
        with pytest.raises(PermanentError, match=rf"^orders: {name} is not as it was applied: Service\.spec\.selector"):
            one_pass(*services)
        assert services[1].cluster.now.stopped == services[1].plans[0].candidate

    def test_whose_record_is_garbled_leaves_that_service(self, one_pass: Callable[..., list[str]], store: Path) -> None:
        services = [old("orders"), old("payments")]
        for path in (store / "orders").glob("*/plan_*.json"):
            path.write_text("[" * 20_000)
        assert [line.split()[0] for line in one_pass(*services)] == ["payments"]
