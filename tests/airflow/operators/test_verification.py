"""The scheduled DAG: it looks at every service by itself, takes back a few, holds if many breach, and says so."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, Context, RetryAction, TriggerRule
from airflow.sdk.exceptions import AirflowNotFoundException
from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
from airflow.serialization.serialized_objects import DagSerialization

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.domain.analysis.evidence import replay
from airflow_deploy.domain.errors import HarmError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.names import digest
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.factory.verification import verification_dag
from airflow_deploy.operators import verification
from airflow_deploy.operators.verification import ReportOperator
from airflow_deploy.rollout.history import promoted_deployments
from airflow_deploy.tasks.base import ROLLBACK_RETRIES
from tests.airflow.factory.test_deployment import DAGS, serialised
from tests.support.dag_runs import play
from tests.support.fleet import AGE, folder, planned, summary, transitions, verified
from tests.support.judgement import GOOD_BASELINE, START
from tests.support.other_writers import claimed_by_the_next
from tests.support.verification_pass import DAG_ID, Fleet, Pass

Make = Callable[..., Fleet]
SERVICES = ("accounts", "orders", "payments", "search")


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch, store: Path) -> Make:
    """Make some promoted services, of which some have turned bad."""

    def make(*plans: DeploymentPlan, bad: Collection[str] = ()) -> Fleet:
        for plan in plans:
            verified(plan)
        fleet = Fleet(monkeypatch, *plans)
        fleet.turns_bad(*[plan for plan in plans if plan.spec.service in bad])
        return fleet

    return make


def four(**spec: Any) -> list[DeploymentPlan]:
    return [planned(service, **spec) for service in SERVICES]


class TestAPass:
    def test_changes_nothing_if_every_service_is_healthy(self, fleet: Make) -> None:
        plans = four()
        made = fleet(*plans)
        before = made.state(), [(summary(plan), transitions(plan)) for plan in plans]
        assert Pass(made).run() == []
        assert (made.state(), [(summary(plan), transitions(plan)) for plan in plans]) == before
        assert [path for plan in plans for path in folder(plan).rglob("*verify_deployments*")] == []

    def test_without_any_deployment_is_a_good_one(self, fleet: Make) -> None:
        assert Pass(fleet()).run() == []

    @pytest.mark.parametrize("bad", [("payments",), ("accounts", "search"), ("accounts", "orders", "search")])
    def test_takes_back_those_that_breach_and_no_other(self, fleet: Make, bad: tuple[str, ...]) -> None:
        plans = four()
        made = fleet(*plans, bad=bad)
        assert Pass(made).run() == list(bad)
        for plan in plans:
            taken_back = plan.spec.service in bad
            assert made.weights(plan) == {plan.stable: 100 * taken_back, plan.candidate: 100 * (not taken_back)}
            assert summary(plan)["state"] == ("ROLLED_BACK" if taken_back else "VERIFIED")
        assert Pass(made).run() == []

    def test_keeps_the_evidence_of_what_it_takes_back(self, fleet: Make) -> None:
        plan = planned()
        (target,) = Pass(fleet(plan, bad=["payments"])).check()
        event = target["event"]
        lines = Artifacts(plan).read(event["evidence"])
        assert digest(lines) == event["evidence_sha256"]
        head, look = replay(lines.splitlines(keepends=True))
        assert (head.difference, look.difference, look.verdict) == (None, None, event["verdict"])
        assert datetime.fromisoformat(event["at"]) == datetime.fromtimestamp(START, UTC)

    def test_records_its_verdict_on_the_route(self, fleet: Make) -> None:
        plan = planned()
        made = fleet(plan, bad=["payments"])
        one = Pass(made)
        (target,) = one.check()
        left, event = json.loads(made.of(plan).now.final_verdict or ""), target["event"]
        assert [left[key] for key in ("verdict", "reason", "at")] == [event[key] for key in ("verdict", "reason", "at")]
        assert "error_rate" in json.loads(made.of(plan).now.final_verdict or "")["reason"]

    @pytest.mark.parametrize("what", ["write", "read"])
    def test_whose_evidence_cannot_be_kept_has_its_verdict_all_the_same(
        self, fleet: Make, monkeypatch: pytest.MonkeyPatch, what: str
    ) -> None:
        """Users are harmed, whether the store has room or not."""

        def full(*_: object) -> str:
            raise OSError("no space left")

        plan = planned()
        made = fleet(plan, bad=["payments"])
        monkeypatch.setattr(Artifacts, what, full)
        (target,) = Pass(made).check()
        assert target["event"]["verdict"] == "BREACHED"
        if what == "write":
            assert (target["event"]["evidence"], target["event"]["evidence_sha256"]) == (None, None)

    @pytest.mark.parametrize(("later", "looked"), [(-1, True), (86_400 - AGE - 1, True), (86_400 - AGE, False)])
    def test_looks_within_the_rollback_window_only(self, fleet: Make, later: float, looked: bool) -> None:
        plan = planned()
        made = fleet(plan)
        made.now = START + later
        Pass(made).check()
        assert bool(made.gateways[plan.deployment_id].asked) is looked


class TestHolding:
    @pytest.mark.parametrize("limit", [0, 1, 3])
    def test_if_more_breach_than_permitted_nothing_is_taken_back_and_all_are_named(
        self, fleet: Make, limit: int
    ) -> None:
        plans = four()
        made = fleet(*plans, bad=SERVICES)
        before = made.state()
        with pytest.raises(HarmError) as caught:
            Pass(made, limit=limit).run()
        assert all(service in str(caught.value) for service in SERVICES)
        assert str(limit) in str(caught.value)
        assert made.state() == before
        assert {summary(plan)["state"] for plan in plans} == {"VERIFIED"}

    def test_as_many_as_permitted_are_taken_back(self, fleet: Make) -> None:
        assert Pass(fleet(*four(), bad=SERVICES), limit=4).run() == list(SERVICES)

    def test_a_hold_is_for_a_person_and_not_tried_again(self) -> None:
        policy: Any = verification_dag().get_task("check").retry_policy
        assert policy.evaluate(HarmError("many"), try_number=1, max_tries=3).action == RetryAction.FAIL
        assert policy.evaluate(TemporaryError("later"), try_number=1, max_tries=3).action == RetryAction.RETRY


class TestLeftAlone:
    def test_what_has_a_live_run_is_not_even_looked_at(self, fleet: Make) -> None:
        plan = planned()
        made = fleet(plan, bad=["payments"])
        made.live.add("deploy_payments")
        before = made.state()
        assert Pass(made).run() == []
        assert made.state() == before
        assert made.gateways[plan.deployment_id].asked == []

    def test_a_live_run_of_another_service_is_no_reason(self, fleet: Make) -> None:
        made = fleet(*four(), bad=["payments"])
        made.live.add("deploy_orders")
        assert Pass(made).run() == ["payments"]

    @pytest.mark.parametrize("share", [0, 50, 100])
    def test_what_a_later_deployment_has_claimed(self, fleet: Make, share: int) -> None:
        plan = planned()
        made = fleet(plan, bad=["payments"])
        claimed_by_the_next(made.of(plan), share)
        before = made.state()
        assert Pass(made).run() == []
        assert made.state() == before

    def test_what_a_later_deployment_has_replaced_although_its_artifacts_are_lost(self, fleet: Make) -> None:
        plan = planned()
        made = fleet(plan, bad=["payments"])
        cluster = made.of(plan)
        later = claimed_by_the_next(cluster, 100)
        cluster.write(routes.promote(cluster.now, later.claim(cluster.claim)))
        cluster.write(routes.confirm(cluster.now, later.claim(cluster.claim)))
        assert Pass(made).run() == []

    @pytest.mark.parametrize(
        "phase", [routes.CANARY, routes.BRAKED, routes.PROMOTED, routes.ABANDONED, None, "a\n::error::forged"]
    )
    def test_what_is_in_no_phase_to_be_judged(self, fleet: Make, phase: str | None) -> None:
        plan = planned()
        made = fleet(plan, bad=["payments"])
        made.of(plan).annotate(routes.PHASE, phase)
        before = made.state()
        assert Pass(made).run() == []
        assert made.state() == before


def shared_by_hand(made: Fleet, plan: DeploymentPlan) -> None:
    made.of(plan).edit(lambda body: body["spec"]["rules"][0]["backendRefs"][0].update(weight=1))


def unseen(made: Fleet, plan: DeploymentPlan) -> None:
    made.gateways[plan.deployment_id].away = [(-1e9, 1e9)]


def stale(made: Fleet, plan: DeploymentPlan) -> None:
    made.gateways[plan.deployment_id].frozen_at = -310


def no_cluster(made: Fleet, plan: DeploymentPlan) -> None:
    made.fail(plan, "httproutes/")


def forbidden(made: Fleet, plan: DeploymentPlan) -> None:
    made.fail(plan, "httproutes/", 403)


def unforeseen(made: Fleet, plan: DeploymentPlan) -> None:
    made.fail(plan, "httproutes/", exception=ZeroDivisionError("unexpected"))


def garbled_baseline(made: Fleet, plan: DeploymentPlan) -> None:
    told = summary(plan)
    told["baseline"]["counts"] |= {"requests": "many", "errors": []}
    Artifacts(plan).write(f"{plan.deployment_id}.json", json.dumps(told))


def no_connection(made: Fleet, plan: DeploymentPlan) -> None:
    made.connections["lost"] = AirflowNotFoundException("The conn_id `lost` isn't defined")


def no_url(made: Fleet, plan: DeploymentPlan) -> None:
    made.connections["lost"] = RefusedError("the Prometheus connection's URL is not usable")


BLIND = (shared_by_hand, unseen, stale, no_cluster, forbidden, unforeseen, garbled_baseline, no_connection, no_url)


class TestBlindness:
    """``payments`` is bad and cannot be seen; ``orders`` is bad and can."""

    @pytest.fixture
    def plan(self) -> DeploymentPlan:
        return planned("payments", connections={"kubernetes": "lost", "prometheus": "lost"})

    @pytest.mark.parametrize("blinded", BLIND)
    def test_changes_nothing_and_keeps_no_other_service_from_being_taken_back(
        self,
        fleet: Make,
        plan: DeploymentPlan,
        blinded: Callable[[Fleet, DeploymentPlan], None],
    ) -> None:
        made = fleet(plan, planned("orders"), bad=["payments", "orders"])
        blinded(made, plan)
        before = made.state()["payments"]
        assert Pass(made).run() == ["orders"]
        assert made.state()["payments"] == before
        assert summary(plan)["state"] == "VERIFIED"

    @pytest.mark.parametrize("blinded", BLIND)
    def test_ends_the_pass_as_a_good_one(
        self, fleet: Make, plan: DeploymentPlan, blinded: Callable[[Fleet, DeploymentPlan], None]
    ) -> None:
        made = fleet(plan, bad=["payments"])
        blinded(made, plan)
        assert Pass(made).run() == []

    def test_a_cluster_that_does_not_answer_is_no_breach_of_all_services(self, fleet: Make) -> None:
        plans = four()
        made = fleet(*plans, bad=SERVICES)
        for plan in plans:
            made.fail(plan, "httproutes/")
        assert Pass(made, limit=0).run() == []


class TestLog:
    def lines(self, made: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What the pass logs of each service."""
        said: list[str] = []
        log = logging.getLogger("a pass")
        monkeypatch.setattr(log, "info", lambda text, *given: said.append(text % given))
        monkeypatch.setattr(verification.CheckPromotedOperator, "log", log)
        Pass(made).check()
        return said

    def test_each_service_has_one_line_even_if_its_route_was_garbled(
        self, fleet: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plans = four()
        made = fleet(*plans, bad=["accounts"])
        made.live.add("deploy_orders")
        made.of(plans[3]).annotate(routes.PHASE, "a\n::endgroup::\nforged " + "x" * 10_000)
        said = self.lines(made, monkeypatch)
        assert said[0] == "::group::4 services within their rollback window"
        assert [line.split()[:2] for line in said[1:-1]] == [
            ["accounts", "BREACHED"],
            ["orders", "LEFT"],
            ["payments", "HEALTHY"],
            ["search", "LEFT"],
        ]
        assert all(line.isprintable() and len(line) < 600 for line in said)


class TestThreads:
    def test_airflow_is_asked_in_the_tasks_own_thread_and_each_connection_once(
        self, fleet: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = fleet(*four())
        asked: list[tuple[str, threading.Thread]] = []

        def counted(connection: str) -> KubernetesClient:
            asked.append((connection, threading.current_thread()))
            return connect(connection)

        monkeypatch.setattr(verification, "connect", counted)
        Pass(made).check()
        assert asked == [("kubernetes_default", threading.current_thread())]

    def test_more_services_than_threads_are_looked_at_each_once(self, fleet: Make) -> None:
        plans = [planned(f"s{number:03}") for number in range(40)]
        made = fleet(*plans, bad=["s007", "s038"])
        assert Pass(made).run() == ["s007", "s038"]
        for plan in plans:
            assert [until for _, until in made.gateways[plan.deployment_id].asked] == [-1200, -600, 0]


class TestReport:
    def report(self, monkeypatch: pytest.MonkeyPatch, returned: list[str] | None) -> None:
        """Let Airflow's own task instance read the results of the mapped task."""
        monkeypatch.setattr("airflow.sdk.execution_time.task_runner.XCom.get_all", lambda **_: returned)
        known: dict[str, Any] = {"dag_id": DAG_ID, "run_id": "scheduled__1", "task_id": "report", "map_index": -1}
        ti = RuntimeTaskInstance.model_construct(**known)
        ReportOperator(task_id="report", rolled_back="roll_back").execute(cast("Context", {"ti": ti}))

    def test_is_a_good_end_if_nothing_was_taken_back(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.report(monkeypatch, None)

    @pytest.mark.parametrize("returned", [["payments: back"], ["orders: back", "payments: back"]])
    def test_fails_with_what_was_taken_back(self, monkeypatch: pytest.MonkeyPatch, returned: list[str]) -> None:
        with pytest.raises(HarmError) as caught:
            self.report(monkeypatch, returned)
        assert str(caught.value) == "; ".join(returned)


@pytest.fixture(scope="module")
def dag() -> DAG:
    return verification_dag()


def again(dag: DAG) -> Any:
    """What the scheduler reads."""
    return DagSerialization.from_dict(DagSerialization.to_dict(dag))


class TestTheDag:
    def test_is_found_by_airflow(self) -> None:
        bag = DagBag(DAGS / "verification.py", bundle_path=DAGS, bundle_name="tests")
        assert bag.import_errors == {}
        assert set(bag.dags) == {DAG_ID}
        assert serialised(bag.dags[DAG_ID]).count('"task_id": "roll_back"') >= 1

    def test_is_one_line(self, dag: DAG) -> None:
        assert {task.task_id: set(task.upstream_task_ids) for task in dag.tasks} == {
            "check": set(),
            "roll_back": {"check"},
            "report": {"roll_back"},
            "cleanup": {"roll_back"},
        }

    def test_runs_by_itself_one_pass_at_a_time_and_never_for_the_past(self, dag: DAG) -> None:
        assert dag.is_paused_upon_creation is False
        assert (dag.max_active_runs, dag.catchup, dag.dagrun_timeout) == (1, False, None)
        scheduler = again(dag)
        first = scheduler.next_dagrun_info(last_automated_run_info=None)
        assert abs(datetime.now(UTC) - first.run_after) < timedelta(minutes=2)
        following = scheduler.next_dagrun_info(last_automated_run_info=first)
        assert following.run_after - first.run_after == timedelta(minutes=1)

    def test_may_look_as_often_and_take_back_as_many_as_a_site_likes(self) -> None:
        assert verification_dag(schedule=None).schedule is None
        assert verification_dag(schedule=timedelta(minutes=5)).schedule == timedelta(minutes=5)
        check: Any = verification_dag(limit=7).get_task("check")
        assert check.limit == 7

    def test_two_serialisations_are_equal(self, dag: DAG) -> None:
        assert serialised(dag) == serialised(dag) == serialised(verification_dag())

    def test_a_rollback_is_tried_for_longer_than_an_api_server_restarts(self, dag: DAG) -> None:
        """It is mapped: what its operator sets in its constructor comes too late, and is written over."""
        mapped: Any = dag.get_task("roll_back")
        for task in (mapped, again(dag).get_task("roll_back")):
            assert task.retries * task.retry_delay.total_seconds() >= 120
        made = mapped.unmap({"target": {"service": "payments"}})
        assert (made.retries, made.retry_delay) == (ROLLBACK_RETRIES["retries"], ROLLBACK_RETRIES["retry_delay"])
        for error in (RefusedError("403"), TemporaryError("later"), OSError("the store is away")):
            assert made.retry_policy.evaluate(error, try_number=1, max_tries=30).action != RetryAction.FAIL

    @pytest.mark.parametrize("task_id", ["check", "report", "cleanup"])
    def test_every_other_task_is_tried_again_soon(self, dag: DAG, task_id: str) -> None:
        task = again(dag).get_task(task_id)
        assert (task.retries, task.retry_delay) == (8, timedelta(seconds=2))

    def test_each_rollback_bears_its_services_name(self, dag: DAG) -> None:
        mapped: Any = dag.get_task("roll_back")
        made = mapped.unmap({"target": {"service": "payments"}})
        template = dag.get_template_env().from_string(mapped.partial_kwargs["map_index_template"])
        assert template.render({"task": made}) == "payments"

    def test_no_text_of_a_target_is_taken_for_a_template(self, dag: DAG) -> None:
        """Reasons hold what servers and people wrote."""
        mapped: Any = dag.get_task("roll_back")
        target = {"service": "payments", "event": {"reason": "{{ var.value.secret }}"}}
        made = mapped.unmap({"target": target})
        assert not made.template_fields
        made.render_template_fields({})
        assert made.target == target


class TestStateOfTheRun:
    def test_nothing_to_take_back_is_a_success(self, dag: DAG) -> None:
        assert dag.get_task("report").trigger_rule == TriggerRule.NONE_FAILED
        ends = {"check": "success", "roll_back": "skipped", "report": "success", "cleanup": "success"}
        ended = play(dag, mapped={"check": 0})
        assert (ended.run, ended.tasks) == ("success", ends)

    def test_what_was_taken_back_fails_it(self, dag: DAG) -> None:
        ended = play(dag, fail=["report"], mapped={"check": 1})
        assert (ended["report"], ended["cleanup"], ended.run) == ("failed", "success", "failed")
        assert play(dag, mapped={"check": 1})["report"] == "success"  # it runs, and decides

    @pytest.mark.parametrize("failing", ["check", "roll_back"])
    def test_a_task_that_fails_fails_the_run(self, dag: DAG, failing: str) -> None:
        assert play(dag, fail=[failing], mapped={"check": 1})["report"] == "upstream_failed"

    @pytest.mark.parametrize("failing", ["check", "roll_back", "report"])
    def test_cleanup_runs_after_any_failure(self, dag: DAG, failing: str) -> None:
        assert play(dag, fail=[failing], mapped={"check": 1})["cleanup"] == "success"

    def test_a_cleanup_that_fails_undoes_no_verification(self, dag: DAG) -> None:
        ends = {"check": "success", "roll_back": "success", "report": "success", "cleanup": "failed"}
        assert play(dag, fail=["cleanup"], mapped={"check": 1}).tasks == ends


class TestFrozenByTheAudit:
    def test_is_what_the_verification_reads(self, store: Path) -> None:
        plan = planned(rollback={"window": "2h"})
        verified(plan, at=START)
        (item,) = promoted_deployments(START + 10)
        assert (item.plan, item.baseline, item.verified_at, item.until) == (
            plan,
            GOOD_BASELINE,
            START,
            START + 7200,
        )

    @pytest.mark.parametrize("key", ["plan", "baseline", "ended_at"])
    def test_an_older_record_without_it_is_left_out(self, store: Path, key: str) -> None:
        plan = planned()
        verified(plan)
        told = summary(plan)
        del told[key]
        Artifacts(plan).write(f"{plan.deployment_id}.json", json.dumps(told))
        assert promoted_deployments(START) == []

    def test_holds_no_more_than_the_run_knew(self, store: Path) -> None:
        plan = planned()
        verified(plan)
        told = summary(plan)
        assert told["plan"] == plan.dump()
        assert told["ended_at"] == transitions(plan)[-1]["at"].replace("Z", "+00:00")
