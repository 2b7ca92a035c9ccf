"""The DAG factory: one DAG per spec, as the design draws it.

plan -> build_image -> score_confidence -> [approve] -> capture_baseline -> apply_manifest
  -> wait_ready -> claim_route -> +- watch -------------------------------------------------------+-> audit -> finalize
                                  +- [shadow] -> canary_5 … canary_100 -> score_promotion … verify-+
A stage is shift, gate, [ask]. A HEALTHY gate leads straight to the next shift; if a gate cannot decide, a person does.
After the last stage the score of the promotion decides. rollback runs as soon as anything after apply_manifest fails;
finalize is the teardown and always runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, zip_longest
from typing import Any, Literal, NamedTuple

from airflow.sdk import DAG, BaseOperator, Param, TaskGroup, TriggerRule, chain

from airflow_deploy.domain.config.request import DeployRequest
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.lifecycle.question import About
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.names import DAG_PREFIX, SHADOW
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.approval import DeploymentApprovalOperator
from airflow_deploy.operators.audit import AuditOperator
from airflow_deploy.operators.baseline import CaptureBaselineOperator
from airflow_deploy.operators.build import BuildImageOperator
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator, ShiftCanaryOperator
from airflow_deploy.operators.confidence import RefuseOperator, ScoreConfidenceOperator
from airflow_deploy.operators.finalize import FinalizeOperator
from airflow_deploy.operators.plan import PlanDeploymentOperator
from airflow_deploy.operators.rollback import RollbackOperator
from airflow_deploy.sensors.gates import HealthGateSensor, VerifySensor, WatchSensor
from airflow_deploy.sensors.ready import WaitReadySensor

EITHER_WAY = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
"""The rule of a task that follows a score or a gate, or a person's yes."""

DEPLOYMENT_DOC = """### Deploy {service}

Trigger it with the incident's conf. The fix is built, scored, given 5/25/50/100 % of real traffic through health gates,
and promoted or rolled back automatically. The artifacts of the `audit` task tell what happened.

- `watch` checks every second from the first shift until the promotion is verified. On harm it rolls back at once.
- If an approval is needed, it waits under *Required actions*.
"""


def dag_id(spec: DeploymentSpec) -> str:
    """Return the id of the spec's DAG."""
    return f"{DAG_PREFIX}{spec.service}"


def _params() -> dict[str, Param]:
    """Return the conf's fields for Airflow's form and its first check; ``plan`` checks all of it again.

    Airflow stores the schema with every task, so each field carries no more of it than it needs.
    """
    schema = DeployRequest.model_json_schema(by_alias=True)
    required: dict[str, Any] = {"description": "required"}
    return {
        name: Param(
            **(required if name in schema["required"] else {"default": None}), **_inline(field, schema["$defs"])
        )
        for name, field in schema["properties"].items()
    }


def _inline(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return ``schema`` with its references resolved, without titles and prose."""
    if "$ref" in schema:
        return _inline(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    plain = {key: value for key, value in schema.items() if key not in ("title", "description", "default")}
    if "properties" in plain:
        plain["properties"] = {name: _inline(field, definitions) for name, field in plain["properties"].items()}
    if "anyOf" in plain:
        plain["anyOf"] = [_inline(field, definitions) for field in plain["anyOf"]]
    return plain


def build_dag(spec: DeploymentSpec) -> DAG:
    """Return the DAG that deploys one service."""
    dag = DAG(
        dag_id=dag_id(spec),
        description=f"Deploy {spec.service} progressively to {spec.namespace}",
        doc_md=DEPLOYMENT_DOC.format(service=spec.service),
        schedule=None,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags=["airflow-deploy", spec.criticality],
        params=_params(),
    )
    with dag:
        _tasks(spec)
    return dag


class DecisionTasks(NamedTuple):
    """Score, question and refusal: the same before the canary and before the promotion."""

    score: BaseOperator
    ask: BaseOperator
    refuse: BaseOperator

    @property
    def agreed(self) -> tuple[str, str]:
        """Ids of the tasks that may let the deployment go on."""
        return self.score.task_id, self.ask.task_id


class Stage(NamedTuple):
    """One share of the traffic; the last one has no question of its own, since the promotion asks."""

    shift: BaseOperator
    gate: BaseOperator
    ask: BaseOperator | None

    @property
    def tasks(self) -> list[BaseOperator]:
        """All of them, in their order."""
        return [task for task in self if task]

    @property
    def agreed(self) -> tuple[str, str]:
        """Ids of the tasks that may let the next share be given."""
        return self.gate.task_id, self.ask.task_id if self.ask else ""


def _tasks(spec: DeploymentSpec) -> None:
    plan = PlanDeploymentOperator(task_id="plan", spec=spec.dump())
    build = BuildImageOperator(task_id="build_image")

    with _group("confidence", "may it be deployed?"):
        deploy = _decision(spec, "deployment", go="capture_baseline")
    with _group("candidate", "the new version beside the old one, without traffic"):
        baseline = CaptureBaselineOperator(task_id="capture_baseline", trigger_rule=EITHER_WAY)
        apply = ApplyManifestOperator(task_id="apply_manifest", agreed=deploy.agreed)
        ready = WaitReadySensor(task_id="wait_ready", deferrable=True)
        claim = ClaimRouteOperator(task_id="claim_route")
    watch = WatchSensor(task_id="watch", deferrable=True)
    stages = _stages(spec, deploy.agreed)
    gates = [stage.gate for stage in stages]
    staged = [task for stage in stages for task in stage.tasks]
    with _group("promotion", "may it stay?"):
        promotion = _decision(spec, "promotion", go="promote", stages=stages)
        promote = PromoteOperator(task_id="promote", agreed=promotion.agreed, trigger_rule=EITHER_WAY)
    verify = VerifySensor(task_id="verify", deferrable=True)

    chain(plan, build, deploy.score, [deploy.ask, baseline, deploy.refuse])
    chain(deploy.ask, baseline, apply, ready, claim, [watch, stages[0].shift])
    for stage, following in pairwise(stages):
        chain(*stage.tasks, following.shift)
        stage.gate >> following.shift
    chain(*stages[-1].tasks, promotion.score, [promotion.ask, promote, promotion.refuse])
    chain(promotion.ask, promote, verify)

    recording = [plan, build, deploy.ask, deploy.refuse, apply, *staged, promotion.ask]
    recording += [promote, watch, verify]
    plans_of = ["build_image", "plan"]
    steps_of = [*(task.task_id for task in recording), "rollback"]
    rollback = RollbackOperator(
        task_id="rollback",
        judges=[verify.task_id, watch.task_id],
        gates=[gate.task_id for gate in gates],
        trigger_rule=TriggerRule.ONE_FAILED,
        plans_of=plans_of,
        steps_of=steps_of,
        spec=spec.dump(),
    )
    [apply, ready, claim, watch, *staged, *promotion, promote, verify] >> rollback
    audit = AuditOperator(
        task_id="audit", trigger_rule=TriggerRule.ALL_DONE, plans_of=plans_of, steps_of=steps_of, spec=spec.dump()
    )
    finalize = FinalizeOperator(
        task_id="finalize", audit=audit.task_id, plans_of=plans_of, steps_of=steps_of, spec=spec.dump()
    )
    [deploy.refuse, rollback, verify, watch, *staged, promotion.ask] >> audit >> finalize
    # A teardown without a setup: with one, clearing any task would run the setup again, and if that failed, neither
    # rollback nor finalize would run.
    finalize.as_teardown(on_failure_fail_dagrun=True)


def _group(name: str, tooltip: str) -> TaskGroup:
    """Fold tasks in the graph; their ids stay as they are."""
    return TaskGroup(name, prefix_group_id=False, tooltip=tooltip)


def _decision(
    spec: DeploymentSpec,
    about: Literal["deployment", "promotion"],
    *,
    go: str,
    stages: Sequence[Stage] = (),
) -> DecisionTasks:
    """Make the tasks of one decision.

    :param go: the task that follows a go.
    :param stages: those that have been judged by then.
    """
    when = "" if about == "deployment" else f"_{about}"
    branches = {"go": go, "ask": f"approve{when}", "refuse": f"refuse{when}"}
    gates = [stage.gate.task_id for stage in stages]
    score = ScoreConfidenceOperator(task_id=f"score{when or '_confidence'}", branches=branches, gates=gates)
    ask = _question(spec, branches["ask"], about, score.task_id, _judging(stages))
    # Before the canary a refusal ends the run; after it, the rollback records what follows.
    refuse = RefuseOperator(task_id=branches["refuse"], score=score.task_id, state=None if when else State.REJECTED)
    return DecisionTasks(score, ask, refuse)


class StageTraffic(NamedTuple):
    """What one stage gives: its share in %, of copies or of the traffic itself."""

    share: int
    mirrored: bool

    @property
    def group(self) -> str:
        """The name of the stage's group of tasks."""
        return SHADOW if self.mirrored else f"canary_{self.share}"


def _stages(spec: DeploymentSpec, deployed: tuple[str, str]) -> list[Stage]:
    """Make the stages; ``deployed`` is what let the first of them begin."""
    stages: list[Stage] = []
    copied = [StageTraffic(spec.shadow.share, mirrored=True)] if spec.shadow else []
    given = [*copied, *(StageTraffic(share, mirrored=False) for share in spec.canary.stages)]
    for now, following in zip_longest(given, given[1:]):
        agreed = stages[-1].agreed if stages else deployed
        tooltip = f"{'copies of ' if now.mirrored else ''}{now.share} % of real traffic"
        with TaskGroup(now.group, tooltip=tooltip):
            shift = ShiftCanaryOperator(
                task_id="shift", share=now.share, mirrored=now.mirrored, agreed=agreed, trigger_rule=EITHER_WAY
            )
            gate = HealthGateSensor(
                task_id="gate",
                next_share=following.share if following else 100,
                branches=(f"{following.group}.shift", f"{now.group}.ask") if following else None,
                deferrable=True,
            )
            seen = [*_judging(stages), gate.task_id]
            ask = _question(spec, "ask", following.share, "score_confidence", seen) if following else None
            stages.append(Stage(shift, gate, ask))
    return stages


def _question(spec: DeploymentSpec, name: str, about: About, score: str, seen: Sequence[str]) -> BaseOperator:
    return DeploymentApprovalOperator(task_id=name, about=about, timeout=spec.approval_timeout, score=score, seen=seen)


def _judging(stages: Sequence[Stage]) -> list[str]:
    """Return the ids of what judges and asks in these stages."""
    return [task.task_id for stage in stages for task in stage.tasks if task is not stage.shift]
