"""The rollback of a verified promotion: traffic first, completed after any interruption, and recorded in the end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import ObjectStoragePath
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.domain.errors import (
    FencedError,
    IllegalTransitionError,
    NotFinalizedError,
    RefusedError,
    TemporaryError,
)
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State, Step, assemble
from airflow_deploy.domain.names import digest
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.rollout.history import promoted_deployment
from tests.support.claims import recorded_reason, undo
from tests.support.ending import deploying, execute
from tests.support.fleet import folder, planned, summary, transitions, verified
from tests.support.judgement import START
from tests.support.kubernetes_api import Request
from tests.support.kubernetes_api.transport import Answer
from tests.support.other_writers import claimed_by_the_next, newer
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster
from tests.support.verification_pass import DAG_ID, Fleet, Pass

S = State
pytestmark = pytest.mark.usefixtures("store")


def then_settled(cluster: ServiceCluster, plan: DeploymentPlan) -> None:
    cluster.write(routes.rollback(cluster.now, plan.claim(cluster.claim), routes.SETTLED))


def set_weight(cluster: ServiceCluster, backend: int, weight: int) -> None:
    """Write a weight of the first rule by hand."""
    cluster.edit(lambda body: body["spec"]["rules"][0]["backendRefs"][backend].update(weight=weight))


class TestRollbackOfAPromotion:
    def test_returns_the_traffic_to_the_version_before_at_once(self) -> None:
        plan = planned()
        cluster = ServiceCluster.verified(plan)
        writes = cluster.writes
        assert undo(cluster.client, plan)
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}
        assert (cluster.now.phase, recorded_reason(cluster.now), cluster.writes) == (
            routes.SETTLED,
            "worse",
            writes + 1,
        )

    def test_returns_the_traffic_even_after_a_later_deployment_was_rolled_back(self) -> None:
        plan = planned()
        cluster = ServiceCluster.verified(plan)
        later = claimed_by_the_next(cluster, 50)
        then_settled(cluster, later)
        assert undo(cluster.client, plan)
        assert cluster.weights() == {plan.stable: 100, plan.candidate: 0}

    def test_done_twice_changes_nothing_more(self) -> None:
        plan = planned()
        cluster = ServiceCluster.verified(plan)
        assert undo(cluster.client, plan)
        writes = cluster.writes
        assert undo(cluster.client, plan, "much worse")
        assert (cluster.writes, recorded_reason(cluster.now)) == (writes, "worse")

    def test_needs_a_ready_pod_of_the_version_before(self) -> None:
        plan = planned()
        cluster = ServiceCluster.verified(plan)
        cluster.replicas[plan.stable] = 0
        before = cluster.body
        with pytest.raises(NotFinalizedError, match=f"{plan.stable} has no ready pod .* nothing was changed"):
            undo(cluster.client, plan)
        assert cluster.body == before

    @pytest.mark.parametrize("share", [0, 5, 100])
    def test_leaves_the_traffic_of_a_later_deployment_alone(self, share: int) -> None:
        plan = planned()
        cluster = ServiceCluster.verified(plan)
        claimed_by_the_next(cluster, share)
        before = cluster.body
        assert not undo(cluster.client, plan)
        assert cluster.body == before

    def test_refuses_traffic_that_was_divided_by_hand(self) -> None:
        plan = planned()
        cluster = ServiceCluster.verified(plan)
        set_weight(cluster, 0, 1)
        before = cluster.body
        with pytest.raises(RefusedError, match="give one Service the whole weight"):
            undo(cluster.client, plan)
        assert cluster.body == before

    def test_does_not_overwrite_what_changed_meanwhile(self) -> None:
        plan = planned()
        cluster = ServiceCluster.verified(plan)
        cluster.api.before("/endpointslices", lambda: set_weight(cluster, 1, 99))
        before = cluster.writes
        with pytest.raises(TemporaryError):
            undo(cluster.client, plan)
        assert (cluster.writes, cluster.now.phase) == (before, routes.VERIFIED)


@pytest.fixture
def plan() -> DeploymentPlan:
    return planned()


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan, store: Path) -> Fleet:
    """One promoted service that has turned bad."""
    verified(plan)
    fleet = Fleet(monkeypatch, plan)
    fleet.turns_bad(plan)
    return fleet


def found(fleet: Fleet, plan: DeploymentPlan) -> dict[str, Any]:
    """Return the target of a check that could not return the traffic itself."""
    fleet.fail(plan, "httproutes/", method="PATCH")
    (target,) = Pass(fleet).check()
    return target


def check_taken_back(fleet: Fleet, plan: DeploymentPlan) -> None:
    """Traffic, pods and artifacts agree."""
    assert fleet.weights(plan) == {plan.stable: 100, plan.candidate: 0}
    assert fleet.of(plan).replicas == {plan.stable: 2, plan.candidate: 0}
    steps = transitions(plan)
    assert [step["to"] for step in steps[-3:]] == ["VERIFIED", "ROLLING_BACK", "ROLLED_BACK"]
    assemble([Step(**{key: value for key, value in step.items() if key != "from"}) for step in steps])
    assert all(before["to"] == after["from"] for before, after in pairwise(steps))
    assert {step["task"] for step in steps[-2:]} == {f"{DAG_ID}.roll_back"}
    said = summary(plan)
    event = said["judgements"][f"{DAG_ID}.roll_back"]
    assert (said["state"], said["irregular"]) == ("ROLLED_BACK", None)
    done = rf"{re.escape(event['reason'])}; rolled back to {plan.stable}( in [0-9]+\.[0-9] s)?"
    assert re.fullmatch(done, said["reason"])
    assert said["verdict_at"] == event["at"]
    assert said["restored_at"] == event["restored_at"] == said["ended_at"]
    assert event["verdict"] == "BREACHED"
    assert steps[-2]["reason"] == f"verification: {event['reason']}"
    assert steps[-2]["evidence"] == event["evidence_sha256"] == digest(Artifacts(plan).read(event["evidence"]))
    assert DeploymentPlan.load(said["plan"]) == plan


class TestBrake:
    """The check returns the traffic itself, at once."""

    def test_returns_the_traffic_before_anything_is_recorded(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        one = Pass(fleet)
        (target,) = one.check()
        assert fleet.weights(plan) == {plan.stable: 100, plan.candidate: 0}
        assert summary(plan)["state"] == "VERIFIED"
        one.take_back(target)
        check_taken_back(fleet, plan)
        assert summary(plan)["restored_at"] == target["event"]["restored_at"]

    def test_has_a_client_of_its_own_that_sends_once(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        """The next task tries again: meanwhile no other service's users wait."""
        fleet.turns_bad(plan)
        fleet.purposes.clear()
        Pass(fleet).check()
        assert fleet.purposes[-1] == "brake"

    def test_without_an_answer_leaves_the_rollback_to_the_next_task(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        target = found(fleet, plan)
        assert target["event"]["restored_at"] is None
        assert fleet.weights(plan) == {plan.stable: 0, plan.candidate: 100}
        Pass(fleet).take_back(target)
        check_taken_back(fleet, plan)

    def test_after_which_the_check_dies_is_recorded_by_its_next_try(
        self, fleet: Fleet, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as dying:
            dying.setattr(Artifacts, "write", lambda *_: (_ for _ in ()).throw(Killed))
            with pytest.raises(Killed):
                Pass(fleet).check()
        assert fleet.weights(plan) == {plan.stable: 100, plan.candidate: 0}
        assert Pass(fleet, try_number=2).run() == ["payments"]
        assert (summary(plan)["state"], fleet.of(plan).replicas[plan.candidate]) == ("ROLLED_BACK", 0)
        assert "error_rate" in transitions(plan)[-2]["reason"]
        assert Pass(fleet).run() == []


class TestRecord:
    def test_tells_what_happened(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        assert Pass(fleet).run() == ["payments"]
        check_taken_back(fleet, plan)
        assert "error_rate" in transitions(plan)[-2]["reason"]
        assert list(folder(plan).rglob("*.part")) == []

    def test_returns_one_sentence(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        one = Pass(fleet)
        one.run()
        (said,) = one.said
        assert re.fullmatch(
            rf"payments: {plan.deployment_id}: .*error_rate: .*; rolled back to payments in \d+\.\d s", said
        )

    def test_keeps_what_the_run_has_written(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        before, steps = summary(plan), transitions(plan)
        files = {path.name: path.read_text() for path in folder(plan).iterdir() if path.is_file()}
        Pass(fleet).run()
        after = summary(plan)
        changing = {"state", "reason", "ended_at", "restored_at", "verdict_at", "judgements"}
        assert {key: value for key, value in before.items() if key not in changing} == {
            key: value for key, value in after.items() if key not in changing
        }
        assert transitions(plan)[: len(steps)] == steps
        for name in (f"confidence_{plan.deployment_id}.json", f"manifest_{plan.deployment_id}.yaml"):
            assert (folder(plan) / name).read_text() == files[name]

    def test_counts_as_undone_in_the_services_history(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        following = planned(number=1)
        assert (Artifacts(following).earlier().verified, Artifacts(following).earlier().undone) == (1, 0)
        Pass(fleet).run()
        assert (Artifacts(following).earlier().verified, Artifacts(following).earlier().undone) == (0, 1)

    def test_of_a_run_whose_record_was_irregular_is_written_and_said(
        self, monkeypatch: pytest.MonkeyPatch, plan: DeploymentPlan
    ) -> None:
        """A person had marked a task as done: else each pass would take it back, and never have done so."""
        verified(plan, lost=S.PROMOTING)
        fleet = Fleet(monkeypatch, plan)
        fleet.turns_bad(plan)
        with pytest.raises(IllegalTransitionError):
            Pass(fleet).run()
        assert (summary(plan)["state"], transitions(plan)[-1]["to"]) == ("ROLLED_BACK", "ROLLED_BACK")
        assert "may not be followed by PROMOTED" in summary(plan)["irregular"]
        assert fleet.weights(plan) == {plan.stable: 100, plan.candidate: 0}
        assert Pass(fleet).run() == []

    def test_without_a_ready_pod_of_the_version_before_nothing_is_written(
        self, fleet: Fleet, plan: DeploymentPlan
    ) -> None:
        fleet.of(plan).replicas[plan.stable] = 0
        before, texts = fleet.state(), (summary(plan), transitions(plan))
        with pytest.raises(NotFinalizedError, match="has no ready pod"):
            Pass(fleet).run()
        assert (fleet.state(), (summary(plan), transitions(plan))) == (before, texts)


class TestOvertaken:
    """Between the check and the way back, or while a task waits to be tried again."""

    @pytest.mark.parametrize("share", [0, 50, 100])
    def test_by_a_later_deployment_nothing_is_written(self, fleet: Fleet, plan: DeploymentPlan, share: int) -> None:
        one = Pass(fleet)
        target = found(fleet, plan)
        claimed_by_the_next(fleet.of(plan), share)
        before, texts = fleet.state(), (summary(plan), transitions(plan))
        with pytest.raises(AirflowSkipException, match=r"is not rolled back: route .* is canary by DEP-"):
            one.take_back(target)
        assert (fleet.state(), (summary(plan), transitions(plan))) == (before, texts)

    def test_by_a_later_verified_deployment_nothing_is_written(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        one = Pass(fleet)
        target = found(fleet, plan)
        cluster = fleet.of(plan)
        later = claimed_by_the_next(cluster, 100)
        patch = routes.promote(cluster.now, later.claim(cluster.claim))
        cluster.write(patch)
        cluster.write(routes.confirm(cluster.now, later.claim(cluster.claim)))
        before = fleet.state()
        with pytest.raises(AirflowSkipException):
            one.take_back(target)
        assert fleet.state() == before

    def test_by_another_pass_the_rollback_is_done_once(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        """A worker that was given up runs to its end beside the next try."""
        one, other = Pass(fleet), Pass(fleet, try_number=2)
        target = found(fleet, plan)
        one.take_back(target)
        writes, texts = fleet.of(plan).writes, (summary(plan), transitions(plan))
        with pytest.raises(AirflowSkipException, match="recorded"):
            other.take_back(target)
        assert (fleet.of(plan).writes, (summary(plan), transitions(plan))) == (writes, texts)

    def test_by_a_person_who_rolled_back_by_hand_nothing_is_written(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        one = Pass(fleet)
        target = found(fleet, plan)
        set_weight(fleet.of(plan), 0, 100)
        set_weight(fleet.of(plan), 1, 0)
        before = fleet.state()
        with pytest.raises(AirflowSkipException):
            one.take_back(target)
        assert fleet.state() == before
        assert summary(plan)["state"] == "VERIFIED"


class Killed(BaseException):
    """The process ended here."""


@dataclass(frozen=True)
class End:
    """How a call to the outside world ends that does not end well.

    :param request: what its connection raises if it is a request to the API server.
    :param raised: what the code sees of that.
    :param file: what is raised if it is a file's.
    """

    request: Callable[[], BaseException]
    raised: type[BaseException]
    file: Callable[[], BaseException]


KILLED = End(Killed, Killed, Killed)


class Calls:
    """Counts the calls to the outside world, and ends one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fleet: Fleet) -> None:
        self.made: list[str] = []
        self.at: int | None = None
        self.after = False
        self.end = KILLED
        self._serve = fleet.api.serve
        monkeypatch.setattr(fleet.api, "serve", self._served)
        for name in FILES:
            monkeypatch.setattr(ObjectStoragePath, name, self._counted(name, getattr(ObjectStoragePath, name)))

    def _served(self, request: Request) -> Answer:
        _, resource, *more = request.path.partition("/namespaces/")[2].split("/")  # a name, and what is below it
        ends = self._ends(f"{request.method} {'/'.join([resource, *more[1:]])}")
        if ends and not self.after:
            raise self.end.request()
        answer = self._serve(request)
        if ends:
            raise self.end.request()
        return answer

    def _counted(self, name: str, actual: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            ends = self._ends(name)
            if ends and not self.after:
                if name == "write_text":  # half of it was written
                    path, text = given
                    actual(path, text[: len(text) // 2], **named)
                raise self.end.file()
            answer = actual(*given, **named)
            if ends:
                raise self.end.file()
            return answer

        return call

    def _ends(self, name: str) -> bool:
        self.made.append(name)
        return len(self.made) - 1 == self.at

    @contextmanager
    def ended(self, at: int, after: bool, end: End = KILLED) -> Iterator[None]:
        """End the call of this number, before or after it was carried out."""
        self.made.clear()
        self.at, self.after, self.end = at, after, end
        with pytest.raises(type(end.file()) if MADE[at] in FILES else end.raised):
            yield
        assert len(self.made) == at + 1
        self.at = None


FILES = ("read_text", "write_text", "replace")
RETURNED = "PATCH httproutes"
MADE = [
    "read_text",  # is it VERIFIED still
    "GET httproutes",
    "GET endpointslices",
    RETURNED,
    "GET httproutes",  # settle
    "GET httproutes",
    "GET deployments",
    "PATCH deployments",
    "read_text",  # the transitions
    "write_text",
    "replace",
    "read_text",  # the summary
    "write_text",
    "replace",
]
ENDS = {
    "killed": KILLED,
    "no answer": End(TimeoutError, TemporaryError, lambda: TemporaryError("no answer")),
    "the disk is full": End(ConnectionResetError, TemporaryError, lambda: OSError("the disk is full")),
}


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, fleet: Fleet) -> Calls:
    return Calls(monkeypatch, fleet)


class TestInterrupted:
    def test_calls_are_all_known(self, fleet: Fleet, plan: DeploymentPlan, calls: Calls) -> None:
        one = Pass(fleet)
        target = found(fleet, plan)
        calls.made.clear()
        one.take_back(target)
        assert calls.made == MADE

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("at", range(len(MADE)), ids=lambda at: f"{at}-{MADE[at]}")
    @pytest.mark.parametrize("end", list(ENDS.values()), ids=list(ENDS))
    def test_anywhere_the_next_try_completes_it(
        self,
        fleet: Fleet,
        plan: DeploymentPlan,
        calls: Calls,
        at: int,
        after: bool,
        end: End,
    ) -> None:
        one = Pass(fleet)
        target = found(fleet, plan)
        with calls.ended(at, after, end):
            one.take_back(target)
        one.try_number = 2
        if at == len(MADE) - 1 and after:  # it had nothing left to do but to say so
            with pytest.raises(AirflowSkipException):
                one.take_back(target)
        else:
            one.take_back(target)
        check_taken_back(fleet, plan)
        assert [step["reason"] for step in transitions(plan)[-2:]] == self.undisturbed(target, plan)

    @pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize("at", range(len(MADE)), ids=lambda at: f"{at}-{MADE[at]}")
    def test_anywhere_a_later_pass_completes_it(
        self, fleet: Fleet, plan: DeploymentPlan, calls: Calls, at: int, after: bool
    ) -> None:
        """A person failed the task, or its tries were used up."""
        one = Pass(fleet)
        target = found(fleet, plan)
        with calls.ended(at, after):
            one.take_back(target)
        fleet.now += 60
        Pass(fleet).run()
        check_taken_back(fleet, plan)
        traffic_was_back = at > MADE.index(RETURNED) or (after and MADE[at] == RETURNED)
        if traffic_was_back:  # then its own reason, time and evidence stand
            assert summary(plan)["verdict_at"] == target["event"]["at"]
            assert [step["reason"] for step in transitions(plan)[-2:]] == self.undisturbed(target, plan)
        assert Pass(fleet).run() == []

    def test_before_its_next_try_the_traffic_is_back_already(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        one = Pass(fleet)
        target = found(fleet, plan)
        fleet.fail(plan, "deployments/", method="PATCH")
        with pytest.raises(TemporaryError):
            one.take_back(target)
        assert fleet.weights(plan) == {plan.stable: 100, plan.candidate: 0}

    @staticmethod
    def undisturbed(target: dict[str, Any], plan: DeploymentPlan) -> list[str]:
        return [
            f"verification: {target['event']['reason']}",
            f"{target['event']['reason']}; rolled back to {plan.stable} in 0.0 s",
        ]


WORDS = [
    "",
    "{}",
    "null",
    "[1]",
    "worse",
    '{"reason": 5}',
    '{"reason": "x", "at": "yesterday"}',
    '{"reason": "x", "at": 5}',
    '{"reason": "x", "at": "9999-12-31T23:59:59-23:59"}',
    '{"reason": "x", "at": "0001-01-01T00:00:00+23:59"}',
    '{"at": "2026-11-23T06:59:00+00:00"}',
    json.dumps({"reason": "a\n::error::forged\x1b[31m" * 1000, "at": "2026-11-23T06:59:00+00:00"}),
    "[" * 100_000,
]


class TestUnfinished:
    """The traffic is back, and the artifacts do not say so."""

    def unfinished(self, fleet: Fleet, plan: DeploymentPlan, word: str | None) -> None:
        undo(fleet.of(plan).client, plan, "")
        fleet.of(plan).annotate(routes.FINAL_VERDICT, word)

    @pytest.mark.parametrize("word", [*WORDS, None], ids=range(len(WORDS) + 1))
    def test_is_finished_even_if_the_route_was_garbled(
        self, fleet: Fleet, plan: DeploymentPlan, word: str | None
    ) -> None:
        self.unfinished(fleet, plan, word)
        one = Pass(fleet)
        assert one.run() == ["payments"]
        assert (summary(plan)["state"], transitions(plan)[-1]["to"]) == ("ROLLED_BACK", "ROLLED_BACK")
        assert fleet.of(plan).replicas[plan.candidate] == 0
        reason = transitions(plan)[-2]["reason"]
        assert len(reason) < 600
        assert reason.isprintable()
        assert one.said[0].isprintable()
        verdict_at = summary(plan)["verdict_at"]
        assert "2026-11-23T06:00:00+00:00" <= verdict_at <= "2026-11-23T07:00:00+00:00"  # since the verification

    def test_does_not_count_towards_the_limit(self, monkeypatch: pytest.MonkeyPatch, store: Path) -> None:
        """The store was away for a while: what is back already breaks nothing any more."""
        plans = [planned(name) for name in ("a", "b", "c", "d")]
        for plan in plans:
            verified(plan)
        fleet = Fleet(monkeypatch, *plans)
        for plan in plans[:3]:
            self.unfinished(fleet, plan, "")
        fleet.turns_bad(plans[3])
        assert Pass(fleet, limit=1).run() == ["a", "b", "c", "d"]
        assert {summary(plan)["state"] for plan in plans} == {"ROLLED_BACK"}

    def test_waits_for_a_live_run(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        self.unfinished(fleet, plan, "")
        fleet.live.add(plan.dag_id)
        assert Pass(fleet).run() == []
        assert summary(plan)["state"] == "VERIFIED"


class TestCleared:
    def test_a_rollback_that_is_cleared_does_nothing_more(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        one = Pass(fleet)
        (target,) = one.check()
        one.take_back(target)
        state, texts = fleet.state(), (summary(plan), transitions(plan))
        with pytest.raises(AirflowSkipException):
            Pass(fleet, try_number=2).take_back(target)
        assert (fleet.state(), (summary(plan), transitions(plan))) == (state, texts)

    @pytest.mark.parametrize("task", ["rollback", "finalize"])
    def test_the_deployments_own_rollback_finds_all_done(
        self, fleet: Fleet, plan: DeploymentPlan, monkeypatch: pytest.MonkeyPatch, task: str
    ) -> None:
        Pass(fleet).run()
        before = fleet.state()
        run = Run()
        deploying(run, plan)
        if task == "rollback":
            execute(run, task, fleet.of(plan), monkeypatch)
        else:
            with pytest.raises(NotFinalizedError):
                execute(run, task, fleet.of(plan), monkeypatch)
        assert fleet.state() == before

    def test_an_audit_that_overwrites_the_record_is_corrected_by_the_next_pass(
        self, fleet: Fleet, plan: DeploymentPlan
    ) -> None:
        Pass(fleet).run()
        before = fleet.state()
        verified(plan)
        assert summary(plan)["state"] == "VERIFIED"
        fleet.now += 60
        Pass(fleet).run()
        check_taken_back(fleet, plan)
        assert fleet.state() == before

    def test_the_deployments_whole_run_cannot_claim_the_route_again(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        Pass(fleet).run()
        route = fleet.of(plan).now
        assert route.owned_by(plan.deployment_id)
        with pytest.raises(FencedError):
            routes.shift(route, plan.claim(f"{plan.deployment_id}/1"), 5, START)


class TestALaterDeployment:
    def test_goes_on_from_what_was_restored(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        Pass(fleet).run()
        cluster = fleet.of(plan)
        later = newer(plan).model_copy(update={"stable": plan.stable})
        _, claim = routes.claim(cluster.now, later.claim())
        cluster.write(claim)
        assert cluster.weights() == {later.stable: 100, later.candidate: 0}

    def test_that_was_planned_before_is_refused_the_route(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        """It counts on a stable that has just been found to be bad."""
        later = newer(plan)
        Pass(fleet).run()
        with pytest.raises(FencedError, match="served by payments now"):
            routes.claim(fleet.of(plan).now, later.claim())

    def test_may_follow_since_no_promoted_version_is_left(self, fleet: Fleet, plan: DeploymentPlan) -> None:
        Pass(fleet).run()
        assert promoted_deployment("payments", plan.deployment_id) is None
