"""The generated DAGs: they parse, serialise the same everywhere, and have the designed shape."""

from __future__ import annotations

import copy
import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, TriggerRule
from airflow.sdk.exceptions import ParamValidationError, TaskDeferred
from airflow.serialization.serialized_objects import DagSerialization

from airflow_deploy.domain.config.request import parse_request
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.errors import PermanentError
from airflow_deploy.domain.lifecycle.confidence import PastDeployments, ScoreInputs, score
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.question import verbatim
from airflow_deploy.factory.deployment import build_dag
from tests.airflow.operators.test_operators import Run as Recorded
from tests.support.builders import CONF, MISSING, SPEC, changed, make_plan, make_spec
from tests.support.dag_runs import RAN, Run, ancestors, descendants, play
from tests.support.hostile import PARTS, drawn, odd_confs

REPOSITORY = Path(__file__).parents[3]
DAGS = REPOSITORY / "dags"
SHARES = (5, 25, 50, 100)
STAGED = [f"canary_{share}.{step}" for share in SHARES for step in ("shift", "gate")]
ASKS = [f"canary_{share}.ask" for share in SHARES[:-1]]
"""The last stage has none: the promotion asks."""
QUESTIONS = [*ASKS, "approve_promotion"]
GATES = [f"canary_{share}.gate" for share in SHARES]
SHIFTS = [f"canary_{share}.shift" for share in SHARES]
SCORED = {"score_confidence": "capture_baseline", "score_promotion": "promote"}
HEALTHY = SCORED | dict(zip(GATES, SHIFTS[1:], strict=False))
"""The branches of a fix that every gate and score accepts."""
AFTER_APPLY = ["wait_ready", "claim_route", "watch", *STAGED, "score_promotion", "promote", "verify"]
WRITING = ["apply_manifest", "claim_route", *SHIFTS, "promote"]


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(DAGS, bundle_path=DAGS, bundle_name="tests")


@pytest.fixture(scope="module")
def dag(bag: DagBag) -> DAG:
    return bag.dags["deploy_payments"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the DAGs' folder, for tests that add invalid files."""
    shutil.copytree(DAGS, tmp_path / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "dags"


def parsed(folder: Path) -> dict[str, DAG]:
    found = runpy.run_path(str(folder / "deployments.py"))
    return {name: value for name, value in found.items() if isinstance(value, DAG) and name == value.dag_id}


def upstream(dag: DAG, task_id: str) -> set[str]:
    return set(dag.get_task(task_id).upstream_task_ids)


def serialised(dag: DAG) -> str:
    return json.dumps(DagSerialization.to_dict(dag), sort_keys=True)


class TestParsing:
    def test_dag_files_make_one_dag_per_yaml(self, bag: DagBag) -> None:
        assert bag.import_errors == {}
        services = {f"deploy_{path.stem}" for path in (DAGS / "deployments").glob("*.yaml")}
        assert services <= set(bag.dags)
        assert not [name for name in bag.dags if name.startswith("invalid_")]

    def test_dag_files_import_no_client_and_do_not_depend_on_the_hash_seed(self) -> None:
        """Each seed has its own process, as in the DAG processor."""
        script = (
            "import json, runpy, sys\n"
            f"found = runpy.run_path({str(DAGS / 'deployments.py')!r})\n"
            f"found |= runpy.run_path({str(DAGS / 'verification.py')!r})\n"
            "heavy = [name for name in ('kubernetes', 'kubernetes_asyncio', 'docker', 'prometheus_api_client',"
            " 'airflow.providers.cncf.kubernetes.hooks.kubernetes', 'pandas', 'matplotlib')"
            " if name in sys.modules]\n"
            "from airflow.serialization.serialized_objects import DagSerialization\n"
            "dags = [DagSerialization.to_dict(found[name]) for name in ('deploy_payments', 'dag')]\n"
            "print('RESULT' + json.dumps([heavy, dags], sort_keys=True))\n"
        )
        results = []
        for seed in ("1", "4242"):
            environment = {**os.environ, "PYTHONHASHSEED": seed}
            done = subprocess.run(
                [sys.executable, "-c", script],
                env=environment,
                cwd=REPOSITORY,
                capture_output=True,
                text=True,
                check=True,
            )
            results.append(next(line for line in done.stdout.splitlines() if line.startswith("RESULT")))
        heavy, written = json.loads(results[0].removeprefix("RESULT"))
        assert heavy == []
        assert [each["dag"]["dag_id"] for each in written] == ["deploy_payments", "verify_deployments"]
        assert results[0] == results[1]

    def test_two_serialisations_are_equal(self, dag: DAG) -> None:
        assert serialised(dag) == serialised(dag)
        spec = make_spec(config={"B": "2", "A": "1"}, gates={"memory": 0.5})
        assert serialised(build_dag(spec)) == serialised(
            build_dag(make_spec(config={"B": "2", "A": "1"}, gates={"memory": 0.5}))
        )

    def test_dag_survives_serialisation(self, dag: DAG) -> None:
        again = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        assert set(again.task_ids) == set(dag.task_ids)
        assert again.max_active_runs == 1

    def test_worker_builds_only_the_dag_of_its_task(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = (folder / "deployments" / "payments.yaml").read_text()
        (folder / "deployments" / "orders.yaml").write_text(text.replace("service: payments", "service: orders"))
        assert set(parsed(folder)) == {"deploy_payments", "deploy_orders"}
        monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "deploy_orders")
        assert set(parsed(folder)) == {"deploy_orders"}


INVALID_SPECS = {
    "no YAML": "service: [",
    "no spec": "service: orders",
    "no text": "\x00",
    "empty": "",
    "an impossible date": "service: 2026-13-45",
    "nested without end": "[" * 5000,
}


class TestOneTeamsMistake:
    @pytest.fixture(params=list(INVALID_SPECS.values()), ids=list(INVALID_SPECS))
    def with_invalid_spec(self, request: pytest.FixtureRequest, folder: Path) -> Path:
        (folder / "deployments" / "aaa.yaml").write_text(request.param)
        return folder

    def test_invalid_spec_keeps_the_other_dags(self, with_invalid_spec: Path) -> None:
        assert "deploy_payments" in parsed(with_invalid_spec)

    def test_invalid_spec_keeps_the_dag_of_a_running_deployment(
        self, with_invalid_spec: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "deploy_payments")
        assert "deploy_payments" in parsed(with_invalid_spec)

    def test_invalid_spec_has_a_dag_that_names_its_file(self, with_invalid_spec: Path) -> None:
        (shown,) = [dag for name, dag in parsed(with_invalid_spec).items() if name != "deploy_payments"]
        assert "aaa.yaml" in (shown.doc_md or "")

    @pytest.mark.parametrize(
        "name", ["my service.yaml", "naïve.yaml", "a" * 240 + ".yaml", "dangling.yaml", "folder.yaml"]
    )
    def test_unusual_file_keeps_the_other_dags(self, folder: Path, name: str) -> None:
        path = folder / "deployments" / name
        if name == "dangling.yaml":
            path.symlink_to(folder / "nowhere")
        elif name == "folder.yaml":
            path.mkdir()
        else:
            path.write_text("service: [")
        assert "deploy_payments" in parsed(folder)

    def test_two_files_for_one_service_are_both_shown(self, folder: Path) -> None:
        text = (folder / "deployments" / "payments.yaml").read_text()
        (folder / "deployments" / "zzz.yaml").write_text(text.replace("namespace: payments", "namespace: other"))
        found = parsed(folder)
        assert len(found) == 2
        assert "zzz.yaml" in " ".join(dag.doc_md or "" for dag in found.values())


class TestShape:
    def test_dag_has_the_designed_tasks(self, dag: DAG) -> None:
        before = ["plan", "build_image", "score_confidence", "approve", "refuse"]
        around = [
            "capture_baseline",
            "apply_manifest",
            "approve_promotion",
            "refuse_promotion",
            "rollback",
            "audit",
            "finalize",
        ]
        assert set(dag.task_ids) == {*before, *around, *ASKS, *AFTER_APPLY}

    def test_tasks_from_plan_to_finalize_are_one_line(self, dag: DAG) -> None:
        line = ["plan", "build_image", "score_confidence", "capture_baseline", "apply_manifest", "wait_ready"]
        line += ["claim_route", *STAGED, "score_promotion", "promote", "verify", "audit", "finalize"]
        for before, after in pairwise(line):
            assert before in upstream(dag, after)

    def test_watch_runs_in_parallel_to_all_stages(self, dag: DAG) -> None:
        watched = {*STAGED, *QUESTIONS, "score_promotion", "promote", "verify"}
        assert "claim_route" in upstream(dag, "watch")
        assert not watched & {task.task_id for task in dag.get_task("watch").get_flat_relatives(upstream=True)}
        assert not watched & descendants(dag, "watch")
        assert "watch" in upstream(dag, "audit")

    def test_rollback_runs_after_a_failure_of_any_task_from_apply_on(self, dag: DAG) -> None:
        assert dag.get_task("rollback").trigger_rule == TriggerRule.ONE_FAILED
        assert {"apply_manifest", *AFTER_APPLY, *QUESTIONS, "refuse_promotion"} <= upstream(dag, "rollback")

    def test_audit_always_runs_after_every_task_that_records(self, dag: DAG) -> None:
        audit = dag.get_task("audit")
        assert audit.trigger_rule == TriggerRule.ALL_DONE
        assert {"rollback", "verify", "watch", "refuse", *GATES, *QUESTIONS} <= upstream(dag, "audit")
        assert set(dag.task_ids) - ancestors(dag, "audit") <= {"audit", "finalize"}

    def test_finalize_is_a_teardown_without_a_setup_and_fails_the_run(self, dag: DAG) -> None:
        finalize = dag.get_task("finalize")
        assert finalize.is_teardown
        assert finalize.on_failure_fail_dagrun
        assert upstream(dag, "finalize") == {"audit"}
        assert [task.task_id for task in dag.tasks if task.is_setup or task.is_teardown] == ["finalize"]
        assert not finalize.downstream_task_ids

    @pytest.mark.parametrize(
        "cleared", ["canary_5.gate", "canary_5.ask", "canary_25.shift", "watch", "promote", "verify", "rollback"]
    )
    def test_cleared_task_does_not_run_plan_again(self, dag: DAG, cleared: str) -> None:
        """During the canary two versions serve: plan would refuse, and neither rollback nor finalize would run."""
        again = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        subset = again.partial_subset([cleared], include_downstream=True, include_upstream=False)
        assert {"finalize", cleared} <= set(subset.task_ids)
        assert not {"plan", "build_image", "capture_baseline", "apply_manifest"} & set(subset.task_ids)

    def test_rollback_audit_and_finalize_read_plan_and_steps_of_every_task(self, dag: DAG) -> None:
        for task_id in ("rollback", "audit", "finalize"):
            task: Any = dag.get_task(task_id)
            assert task.plans_of == ["build_image", "plan"]
            steps_of = {"plan", "approve", "apply_manifest", *STAGED, *QUESTIONS, "promote", "verify", "rollback"}
            assert steps_of <= set(task.steps_of)
            assert DeploymentSpec.load(task.spec).place == ("payments", "payments", "gateway")

    def test_tasks_have_no_template_fields(self, dag: DAG) -> None:
        """A rendered XCom could change what the task deploys, or its cluster."""
        assert {task.task_id: task.template_fields for task in dag.tasks if task.template_fields} == {}

    def test_rollback_reads_the_verdicts_of_every_judge(self, dag: DAG) -> None:
        rollback: Any = dag.get_task("rollback")
        assert (rollback.judges, rollback.gates) == (["verify", "watch"], GATES)

    def test_finalize_knows_the_audit_whose_artifacts_it_completes(self, dag: DAG) -> None:
        finalize: Any = dag.get_task("finalize")
        assert finalize.audit == "audit"

    @pytest.mark.parametrize("task_id", ["rollback", "finalize"])
    def test_retries_of_rollback_and_finalize_outlast_an_api_server_restart(self, dag: DAG, task_id: str) -> None:
        task = dag.get_task(task_id)
        assert (task.retries or 0) * task.retry_delay.total_seconds() >= 120

    def test_dag_has_one_active_run_no_schedule_and_no_timeout(self, dag: DAG) -> None:
        assert dag.max_active_runs == 1
        assert dag.is_paused_upon_creation is False
        assert dag.dagrun_timeout is None
        assert dag.schedule is None
        assert dag.catchup is False

    def test_every_task_has_retries_within_10_seconds(self, dag: DAG) -> None:
        ours = [task for task in dag.tasks if type(task).__module__.startswith("airflow_deploy")]
        assert ours == dag.tasks
        for task in ours:
            assert (task.retries or 0) >= 3
            assert task.retry_delay.total_seconds() <= 10
            assert task.execution_timeout is None or task.execution_timeout.total_seconds() > 600

    @pytest.mark.parametrize(
        ("task", "parents"),
        [
            ("capture_baseline", {"score_confidence", "approve"}),
            *((f"canary_{share}.shift", {GATES[at], ASKS[at]}) for at, share in enumerate(SHARES[1:])),
            ("promote", {"score_promotion", "approve_promotion"}),
        ],
    )
    def test_task_after_a_decision_has_no_other_parents(self, dag: DAG, task: str, parents: set[str]) -> None:
        """Any other parent has already succeeded: "one success" would then be true without an approval."""
        assert dag.get_task(task).trigger_rule == TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
        assert upstream(dag, task) == parents

    def test_only_these_tasks_have_a_special_trigger_rule(self, dag: DAG) -> None:
        special = {
            task.task_id: task.trigger_rule for task in dag.tasks if task.trigger_rule != TriggerRule.ALL_SUCCESS
        }
        assert set(special) == {"capture_baseline", "promote", "rollback", "audit", "finalize", *SHIFTS}

    def test_waiting_tasks_are_deferrable(self, dag: DAG) -> None:
        waiting = {task.task_id for task in dag.tasks if getattr(task, "deferrable", False)}
        assert waiting == {"wait_ready", "watch", "verify", *GATES}

    @pytest.mark.parametrize("stages", [[100], [1, 100], [1, 2, 5, 10, 20, 50, 100]])
    def test_each_gate_judges_for_the_next_share(self, stages: list[int]) -> None:
        made = build_dag(make_spec(canary={"stages": stages}))
        following: list[Any] = [made.get_task(f"canary_{share}.gate") for share in stages]
        assert [gate.next_share for gate in following] == [*stages[1:], 100]
        shifts: list[Any] = [made.get_task(f"canary_{share}.shift") for share in stages]
        assert [shift.share for shift in shifts] == stages
        asking: list[Any] = [task for task in made.tasks if task.task_id.endswith(".ask")]
        assert {task.task_id: task.about for task in asking} == {
            f"canary_{share}.ask": following for share, following in pairwise(stages)
        }
        leads = {f"canary_{share}.gate": f"canary_{following}.shift" for share, following in pairwise(stages)}
        ended = play(made, branches=SCORED | leads)
        assert (ended.run, ended["verify"]) == ("success", "success")

    def test_each_question_shows_what_was_seen_before_it_and_ends_with_the_route(self, dag: DAG) -> None:
        asking: dict[str, Any] = {task: dag.get_task(task) for task in ("approve", *QUESTIONS)}
        assert {task: asked.about for task, asked in asking.items()} == {
            "approve": "deployment",
            "canary_5.ask": 25,
            "canary_25.ask": 50,
            "canary_50.ask": 100,
            "approve_promotion": "promotion",
        }
        assert asking["approve"].seen == []
        assert asking["canary_25.ask"].seen == ["canary_5.gate", "canary_5.ask", "canary_25.gate"]
        assert asking["approve_promotion"].seen == [
            *(f"canary_{share}.{task}" for share in SHARES[:-1] for task in ("gate", "ask")),
            "canary_100.gate",
        ]
        assert {asked.timeout for asked in asking.values()} == {3600}

    def test_every_writing_task_follows_the_decision_of_a_judge_or_person(self, dag: DAG) -> None:
        writing: dict[str, Any] = {task: dag.get_task(task) for task in WRITING if task != "claim_route"}
        assert {task: made.agreed for task, made in writing.items()} == {
            "apply_manifest": ("score_confidence", "approve"),
            "canary_5.shift": ("score_confidence", "approve"),
            "canary_25.shift": ("canary_5.gate", "canary_5.ask"),
            "canary_50.shift": ("canary_25.gate", "canary_25.ask"),
            "canary_100.shift": ("canary_50.gate", "canary_50.ask"),
            "promote": ("score_promotion", "approve_promotion"),
        }
        for task, made in writing.items():
            assert set(made.agreed) <= ancestors(dag, task)

    def test_plan_reads_the_spec_frozen_into_the_dag(self, dag: DAG) -> None:
        plan: Any = dag.get_task("plan")
        assert plan.spec["service"] == "payments"


HOSTILE = "{{ 7*7 }} {% raw %} </script> ' \" \\ 💥 \u2028"


class TestWhatATaskReads:
    """Tasks of the DAG read what their own run has frozen, hostile texts as well."""

    @pytest.fixture
    def run(self) -> Recorded:
        return Recorded()

    @pytest.fixture
    def plan(self) -> DeploymentPlan:
        conf = changed(CONF, ("incident", "title"), HOSTILE.replace("\u2028", ""))
        return make_plan(make_spec(config={"EVIL": HOSTILE}), parse_request(conf))

    def task(self, plan: DeploymentPlan, task_id: str, run: Recorded) -> Any:
        task: Any = copy.copy(build_dag(plan.spec).get_task(task_id))
        task.pre_execute(run.at(task_id))
        return task

    @pytest.mark.parametrize("task_id", ["apply_manifest", "canary_5.shift", "watch", "promote", "verify"])
    def test_task_reads_the_plan_unchanged(self, run: Recorded, plan: DeploymentPlan, task_id: str) -> None:
        run.planned(plan)
        assert self.task(plan, task_id, run).load_plan() == plan

    def test_build_reads_the_plan_without_an_image(self, run: Recorded, plan: DeploymentPlan) -> None:
        run.planned(plan)
        assert self.task(plan, "build_image", run).load_plan() == plan.model_copy(update={"digest": None})

    @pytest.mark.parametrize("task_id", ["build_image", "apply_manifest", "canary_5.shift", "watch"])
    def test_task_without_a_plan_fails(self, run: Recorded, plan: DeploymentPlan, task_id: str) -> None:
        run.of(plan)
        with pytest.raises(PermanentError, match="has not finished"):
            self.task(plan, task_id, run).load_plan()

    @pytest.mark.parametrize("task_id", ["approve", "canary_5.ask", "approve_promotion"])
    def test_question_shows_hostile_texts_verbatim(
        self, run: Recorded, plan: DeploymentPlan, task_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put: list[Any] = []
        monkeypatch.setattr("airflow.sdk.execution_time.hitl.upsert_hitl_detail", lambda **asked: put.append(asked))
        run.planned(plan)
        run.claimed(plan, "DEP-1/7")
        for scoring in ("score_confidence", "score_promotion"):
            run.scored(scoring, score(ScoreInputs(plan, PastDeployments())))
        with pytest.raises(TaskDeferred) as waiting:
            self.task(plan, task_id, run).execute(run.at(task_id))
        (asked,) = put
        assert verbatim(plan.request.incident.title) in asked["body"]
        assert waiting.value.trigger.held == (None if task_id == "approve" else "DEP-1/7")

    def test_watch_is_assigned_claim_baseline_and_plan(self, run: Recorded, plan: DeploymentPlan) -> None:
        baseline = {"requests": 10.0, "errors": 1.0, "timed": 10.0, "within": {"0.5": 9.0}}
        run.planned(plan)
        run.claimed(plan, "DEP-1/7")
        run.measured(plan, baseline)
        assignment = self.task(plan, "watch", run).trigger(run.at("watch")).assignment
        assert (assignment["claim"], assignment["baseline"]) == ("DEP-1/7", baseline)
        assert DeploymentPlan.load(assignment["plan"]) == plan
        assert json.loads(json.dumps(assignment)) == assignment


class TestWhatARunComesTo:
    def test_good_fix_is_promoted_without_a_question(self, dag: DAG) -> None:
        ended = play(dag, branches=HEALTHY)
        aside = {"approve", "refuse", "approve_promotion", "refuse_promotion", "rollback", *ASKS}
        assert {task for task, end in ended.tasks.items() if end == "skipped"} == aside
        assert {end for task, end in ended.tasks.items() if task not in aside} == {"success"}
        assert ended.run == "success"

    def test_shift_follows_a_healthy_gate_in_the_next_scheduler_pass(self, dag: DAG) -> None:
        """No question starts and then skips itself."""
        passes = play(dag, branches=HEALTHY).passes
        following = [*SHIFTS[1:], "score_promotion"]
        assert [passes[task] - passes[gate] for gate, task in zip(GATES, following, strict=True)] == [1, 1, 1, 1]
        assert not set(QUESTIONS) & set(passes)

    @pytest.mark.parametrize("scoring", SCORED)
    def test_approval_replaces_a_go_of_the_score(self, dag: DAG, scoring: str) -> None:
        ask = "approve" if scoring == "score_confidence" else "approve_promotion"
        ended = play(dag, branches=HEALTHY | {scoring: ask})
        assert [ended[task] for task in (ask, "promote", "verify", "rollback")] == [*["success"] * 3, "skipped"]

    @pytest.mark.parametrize("at", range(len(ASKS)), ids=ASKS)
    def test_approval_replaces_a_healthy_gate(self, dag: DAG, at: int) -> None:
        ended = play(dag, branches=HEALTHY | {GATES[at]: ASKS[at]})
        assert [ended[task] for task in (ASKS[at], "promote", "verify", "rollback")] == [*["success"] * 3, "skipped"]
        assert ended.passes[SHIFTS[at + 1]] > ended.passes[ASKS[at]]

    @pytest.mark.parametrize("at", range(len(ASKS)), ids=ASKS)
    def test_rejection_in_the_canary_gives_no_further_share_and_rolls_back(self, dag: DAG, at: int) -> None:
        """A rejection, a timeout or a withdrawn question."""
        ended = play(dag, fail=[ASKS[at]], branches=HEALTHY | {GATES[at]: ASKS[at]})
        assert not [task for task in WRITING if task in descendants(dag, ASKS[at]) and ended[task] in RAN]
        assert [ended[task] for task in ("rollback", "audit", "finalize")] == ["success"] * 3

    def test_gate_marked_as_success_by_hand_asks(self, dag: DAG) -> None:
        ended = play(dag, branches=SCORED)
        assert [ended[ask] for ask in ASKS] == ["success"] * 3
        assert all(ended.passes[shift] > ended.passes[ask] for ask, shift in zip(ASKS, SHIFTS[1:], strict=True))

    @pytest.mark.parametrize("choice", ["approve", "refuse"])
    def test_rejection_before_the_canary_writes_nothing(self, dag: DAG, choice: str) -> None:
        ended = play(dag, fail=[choice, "finalize"], branches=HEALTHY | {"score_confidence": choice})
        assert not [task for task in WRITING if ended[task] in RAN]
        assert (ended["audit"], ended.run) == ("success", "failed")

    @pytest.mark.parametrize("choice", ["approve_promotion", "refuse_promotion"])
    def test_rejection_before_the_promotion_rolls_back(self, dag: DAG, choice: str) -> None:
        ended = play(dag, fail=[choice], branches=HEALTHY | {"score_promotion": choice})
        assert ended["promote"] not in RAN
        assert [ended[task] for task in ("rollback", "audit", "finalize")] == ["success"] * 3

    @pytest.mark.parametrize("failing", ["build_image", "score_confidence", "capture_baseline"])
    def test_failure_before_apply_writes_nothing(self, dag: DAG, failing: str) -> None:
        ended = play(dag, fail=[failing], branches=HEALTHY)
        assert not [task for task in WRITING if ended[task] in RAN]
        assert ended["audit"] == ended["finalize"] == "success"

    def test_refused_request_runs_no_other_forward_task(self, dag: DAG) -> None:
        ended = play(dag, fail=["plan", "finalize"], branches=HEALTHY)
        assert {task for task, end in ended.tasks.items() if end in RAN} == {"plan", "rollback", "audit", "finalize"}
        assert ended.run == "failed"

    @pytest.mark.parametrize("failing", ["apply_manifest", *AFTER_APPLY])
    @pytest.mark.parametrize("branches", [HEALTHY, SCORED], ids=["healthy", "asked"])
    def test_any_failure_from_apply_on_rolls_back_at_once_and_is_audited(
        self, dag: DAG, failing: str, branches: dict[str, str]
    ) -> None:
        ended = play(dag, fail=[failing], branches=branches)
        assert ended["rollback"] == ended["audit"] == ended["finalize"] == "success"
        assert ended.passes["rollback"] <= ended.passes[failing] + 2
        if failing != "watch":  # it runs in parallel to them; the braked route stops them
            assert ended["verify"] in ("failed", "upstream_failed")
            assert not [task for task in WRITING if task in descendants(dag, failing) and ended[task] in RAN]

    @pytest.mark.parametrize("gate", GATES)
    def test_rollback_by_the_watch_stops_shifts_questions_and_promotion(self, dag: DAG, gate: str) -> None:
        """The gate finds the route braked and skips itself; the watch fails."""
        ended = play(dag, fail=["watch"], skip=[gate], branches=HEALTHY)
        assert not [task for task in WRITING if task in descendants(dag, gate) and ended[task] in RAN]
        assert not [task for task in QUESTIONS if task in descendants(dag, gate) and ended[task] in RAN]
        assert ended["promote"] == "skipped"
        assert ended["rollback"] == ended["audit"] == "success"

    def test_failed_finalize_fails_the_run(self, dag: DAG) -> None:
        assert play(dag, fail=["finalize"], branches=HEALTHY).run == "failed"


class TestClearing:
    """A person clears tasks of a run, with those after them."""

    def test_cleared_gate_decides_again(self, dag: DAG) -> None:
        with Run(dag) as run:
            assert run.finish(branches=HEALTHY)["canary_25.ask"] == "skipped"
            run.clear("canary_25.gate")
            again = run.finish(branches=HEALTHY | {"canary_25.gate": "canary_25.ask"})
            assert (again["canary_25.ask"], again["canary_50.ask"], again.run) == ("success", "skipped", "success")
            run.clear("canary_25.gate")
            assert run.finish(branches=HEALTHY)["canary_25.ask"] == "skipped"

    def test_cleared_question_stays_skipped_after_a_healthy_gate(self, dag: DAG) -> None:
        with Run(dag) as run:
            run.finish(branches=HEALTHY)
            run.clear("canary_25.ask")
            again = run.finish(branches=HEALTHY)
            assert (again["canary_25.ask"], again["canary_50.shift"], again.run) == ("skipped", "success", "success")
            assert "canary_50.shift" in again.passes

    def test_cleared_score_decides_again(self, dag: DAG) -> None:
        with Run(dag) as run:
            run.finish(fail=["approve_promotion"], branches=HEALTHY | {"score_promotion": "approve_promotion"})
            run.clear("score_promotion")
            again = run.finish(branches=HEALTHY)
            assert (again["approve_promotion"], again["promote"], again.run) == ("skipped", "success", "success")


@cache
def params_of(dag: DAG) -> Any:
    return DagSerialization.from_dict(DagSerialization.to_dict(dag)).params


def merged(dag: DAG, conf: dict[str, Any]) -> dict[str, Any]:
    """The conf after Airflow's own check: its REST API validates it against the serialised params."""
    params = copy.deepcopy(params_of(dag))
    checked: dict[str, Any] = params.deep_merge(conf).validate()
    return checked


class TestParams:
    @pytest.mark.parametrize("field", [None, "emergency"])
    def test_example_conf_is_accepted_by_airflow(self, dag: DAG, field: str | None) -> None:
        conf = changed(CONF, (field,), MISSING) if field else CONF
        assert merged(dag, conf)["incident"] == CONF["incident"]

    @pytest.mark.parametrize("duration", ["5m", 300, "90s"])
    def test_duration_may_have_a_unit_in_airflow(self, dag: DAG, duration: str | int) -> None:
        conf = changed(CONF, ("incident", "resolved_when", "for"), duration)
        assert merged(dag, conf)["incident"]["resolved_when"]["for"] == duration

    @pytest.mark.parametrize(
        "conf",
        [
            {},
            changed(CONF, ("commit",), MISSING),
            changed(CONF, ("commit",), "main"),
            changed(CONF, ("commit",), "ABC123"),
            changed(CONF, ("incident",), MISSING),
            changed(CONF, ("incident", "id"), MISSING),
            changed(CONF, ("incident", "severity"), "urgent"),
            changed(CONF, ("incident", "extra"), 1),
            changed(CONF, ("incident", "title"), "a\nb"),
            changed(CONF, ("change",), MISSING),
            changed(CONF, ("change", "files"), "3"),
            changed(CONF, ("change", "files"), -1),
            changed(CONF, ("safety_gate", "coverage"), 85),
            changed(CONF, ("safety_gate", "tests"), 127),
            changed(CONF, ("incident", "resolved_when", "op"), "=="),
            changed(CONF, ("incident", "resolved_when", "for"), True),
            changed(CONF, ("incident", "resolved_when", "for"), "5 m"),
            changed(CONF, ("emergency",), "now"),
        ],
        ids=range(18),
    )
    def test_invalid_conf_is_refused_by_airflow(self, dag: DAG, conf: dict[str, Any]) -> None:
        with pytest.raises(ParamValidationError):
            merged(dag, conf)

    @pytest.mark.parametrize("part", PARTS, ids=".".join)
    def test_unknown_nested_key_is_refused_by_airflow(self, dag: DAG, part: tuple[str, ...]) -> None:
        with pytest.raises(ParamValidationError, match=f"^Invalid input for param {part[0]}: "):
            merged(dag, changed(CONF, (*part, "__proto__"), 1))

    def test_unusual_but_valid_conf_is_accepted_by_airflow(self, dag: DAG) -> None:
        for conf in drawn(odd_confs(), 200):
            assert merged(dag, conf)["incident"] == conf["incident"]

    def test_trigger_form_has_exactly_the_fields_of_the_request(self, dag: DAG) -> None:
        assert set(dag.params) == set(CONF)


@pytest.fixture(autouse=True)
def _no_parsing_context() -> Iterator[None]:
    assert "_AIRFLOW_PARSING_CONTEXT_DAG_ID" not in os.environ
    yield
    os.environ.pop("_AIRFLOW_PARSING_CONTEXT_DAG_ID", None)


def test_spec_of_every_criticality_makes_a_dag() -> None:
    for criticality in ("low", "medium", "high"):
        made = build_dag(make_spec(criticality=criticality))
        assert made.dag_id == f"deploy_{SPEC['service']}"
        assert made.tags == {"airflow-deploy", criticality}
