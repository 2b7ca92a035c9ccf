"""The DAG factory: one DAG per spec, as the design draws it.

plan -> build_image -> score_confidence -> route_on_confidence -> [approve] -> capture_baseline -> apply_manifest
  -> wait_ready -> claim_route -> +- watch -----------------------------------------+-> verify -> audit -> settle
                                  +- canary_5 … canary_100 -> score_promotion … promote
rollback runs as soon as anything after apply_manifest fails; settle is the teardown and runs whatever happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from airflow.sdk import DAG, BaseOperator, Param, TaskGroup, TriggerRule, chain

from airflow_deploy.domain.request import DeployRequest
from airflow_deploy.domain.spec import DeploymentSpec
from airflow_deploy.domain.states import State
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.audit import AuditOperator
from airflow_deploy.operators.base import output_of
from airflow_deploy.operators.baseline import CaptureBaselineOperator
from airflow_deploy.operators.build import BuildImageOperator
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator, ShiftCanaryOperator
from airflow_deploy.operators.confidence import (
    DeploymentApprovalOperator,
    RefuseOperator,
    RouteOnConfidenceOperator,
    ScoreConfidenceOperator,
)
from airflow_deploy.operators.plan import PlanDeploymentOperator
from airflow_deploy.operators.settle import RollbackOperator, SettleOperator
from airflow_deploy.sensors.gates import HealthGateSensor, VerifySensor, WatchSensor
from airflow_deploy.sensors.ready import WaitReadySensor

EITHER_WAY = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
"""The rule of a task that both a go and a person's yes lead to."""

DOC = """### Deploy {service}

Trigger it with the incident's conf. The fix is built, scored, given 5/25/50/100 % of real traffic through health gates,
and promoted or taken back by itself. The answer to *what happened* is in the `audit` task's artifacts.

- `watch` looks every second from the first shift to the promotion, and returns the traffic by itself.
- An approval, where one is asked for, waits under *Required actions*.
"""


def dag_id(spec: DeploymentSpec) -> str:
    """Return the id of the spec's DAG."""
    return f"deploy_{spec.service}"


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
    """Return ``schema`` with its references replaced by what they name, without titles and prose."""
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
        doc_md=DOC.format(service=spec.service),
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


class Decision(NamedTuple):
    """Score, branch, question and refusal: the same before the canary and before the promotion."""

    score: BaseOperator
    route: BaseOperator
    ask: BaseOperator
    refuse: BaseOperator


class Stage(NamedTuple):
    """One share of the traffic."""

    shift: BaseOperator
    gate: BaseOperator


def _tasks(spec: DeploymentSpec) -> None:
    plan = PlanDeploymentOperator(task_id="plan", spec=spec.dump())
    build = BuildImageOperator(task_id="build_image", plan=output_of("plan"))
    planned: dict[str, Any] = {"plan": output_of("build_image")}
    owned = {**planned, "claim": output_of("claim_route")}
    judged = {**owned, "baseline": output_of("capture_baseline"), "deferrable": True}

    with _group("confidence", "may it be deployed?"):
        deploy = _decision(spec, planned, "", go="capture_baseline")
    with _group("candidate", "the new version beside the old one, without traffic"):
        baseline = CaptureBaselineOperator(task_id="capture_baseline", trigger_rule=EITHER_WAY, **planned)
        apply = ApplyManifestOperator(task_id="apply_manifest", **planned)
        ready = WaitReadySensor(task_id="wait_ready", deferrable=True, **planned)
        claim = ClaimRouteOperator(task_id="claim_route", **planned)
    watch = WatchSensor(task_id="watch", **judged)
    stages = _stages(spec, owned, judged)
    gates = [stage.gate for stage in stages]
    staged = [task for stage in stages for task in stage]
    with _group("promotion", "may it stay?"):
        promotion = _decision(spec, planned, "_promotion", go="promote", gates=[gate.task_id for gate in gates])
        promote = PromoteOperator(task_id="promote", trigger_rule=EITHER_WAY, **owned)
    verify = VerifySensor(task_id="verify", **judged)

    chain(plan, build, deploy.score, deploy.route, [deploy.ask, baseline, deploy.refuse])
    chain(deploy.ask, baseline, apply, ready, claim, [watch, stages[0].shift])
    chain(*staged, promotion.score, promotion.route, [promotion.ask, promote, promotion.refuse])
    chain(promotion.ask, promote, verify)
    watch >> verify

    judges = [task.task_id for task in (watch, verify, *gates)]
    recording = [plan, build, deploy.ask, deploy.refuse, apply, *staged, promotion.ask]
    recording += [promote, watch, verify]
    ending: dict[str, Any] = {
        "plans_of": ["build_image", "plan"],
        "steps_of": [*(task.task_id for task in recording), "rollback"],
    }
    rollback = RollbackOperator(
        task_id="rollback",
        judges=judges,
        questions=[promotion.ask.task_id],
        trigger_rule=TriggerRule.ONE_FAILED,
        **ending,
    )
    [apply, ready, claim, watch, *staged, *promotion, promote, verify] >> rollback
    audit = AuditOperator(task_id="audit", trigger_rule=TriggerRule.ALL_DONE, **ending)
    settle = SettleOperator(task_id="settle", audit=audit.task_id, **ending)
    [deploy.refuse, rollback, verify, watch, *gates] >> audit >> settle
    # A teardown without a setup: with one, clearing any task would run the setup again, and if that failed, neither
    # rollback nor settle would run.
    settle.as_teardown(on_failure_fail_dagrun=True)


def _group(name: str, tooltip: str) -> TaskGroup:
    """Fold tasks in the graph; their ids stay as they are."""
    return TaskGroup(name, prefix_group_id=False, tooltip=tooltip)


def _decision(
    spec: DeploymentSpec, planned: dict[str, Any], when: str, *, go: str, gates: Sequence[str] = ()
) -> Decision:
    """Make one decision; ``when`` is the suffix of its tasks' names, ``go`` the task that follows a go."""
    score = ScoreConfidenceOperator(task_id=f"score{when or '_confidence'}", gates=gates, **planned)
    confidence = output_of(score.task_id)
    ask = DeploymentApprovalOperator(
        task_id=f"approve{when}",
        subject=f"{'Promote' if when else 'Deploy'} {spec.service}?",
        confidence=confidence,
        timeout=timedelta(seconds=spec.approval_timeout),
    )
    # Before the canary a refusal ends the run; after it, the rollback records what follows.
    state = None if when else State.REJECTED
    refuse = RefuseOperator(task_id=f"refuse{when}", confidence=confidence, state=state, **planned)
    route = RouteOnConfidenceOperator(
        task_id=f"route_on{when or '_confidence'}",
        confidence=confidence,
        routes={"go": go, "ask": ask.task_id, "refuse": refuse.task_id},
    )
    return Decision(score, route, ask, refuse)


def _stages(spec: DeploymentSpec, owned: dict[str, Any], judged: dict[str, Any]) -> list[Stage]:
    stages = []
    for share, next_share in zip(spec.canary.stages, [*spec.canary.stages[1:], 100], strict=True):
        with TaskGroup(f"canary_{share}", tooltip=f"{share} % of real traffic"):
            shift = ShiftCanaryOperator(task_id="shift", share=share, **owned)
            gate = HealthGateSensor(task_id="gate", next_share=next_share, **judged)
            stages.append(Stage(shift, gate))
    return stages
