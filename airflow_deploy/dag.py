"""The DAG factory: one DAG per spec, as the design draws it.

plan -> build_image -> score_confidence -> route_on_confidence -> [approve] -> capture_baseline -> apply_manifest
  -> wait_ready -> claim_route -> +- watch -----------------------------------------+-> verify -> audit -> settle
                                  +- canary_5 … canary_100 -> score_promotion … promote
rollback runs as soon as anything after apply_manifest fails; settle is the teardown and runs whatever happens.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, BaseOperator, Param, TaskGroup, TriggerRule, chain

from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.request import DeployRequest
from airflow_deploy.domain.spec import DeploymentSpec
from airflow_deploy.domain.states import State
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.audit import AuditOperator
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

DOC = """### Deploy {service}

Trigger it with the incident's conf. The fix is built, scored, given 5/25/50/100 % of real traffic through health gates,
and promoted or taken back by itself. The answer to *what happened* is in the `audit` task's artifacts.

- `watch` looks every second from the first shift to the promotion, and returns the traffic by itself.
- An approval, where one is asked for, waits under *Required actions*.
"""


def dag_id(spec: DeploymentSpec) -> str:
    """Return the id of the spec's DAG."""
    return f"deploy_{spec.service}"


def invalid_dag(name: str, error: RefusedError) -> DAG:
    """Return a DAG that says what is wrong with the YAML file ``name``, where people look for the one it makes."""
    dag = DAG(
        dag_id="invalid_" + re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:200],
        description=str(error),
        doc_md=f"### This service cannot be deployed\n\n{error}",
        schedule=None,
        tags=["airflow-deploy", "invalid"],
    )
    EmptyOperator(task_id="correct_the_yaml", dag=dag)
    return dag


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
    agreed: BaseOperator
    """Joins the score's go and a person's yes. It runs nowhere: what follows has other parents as well, which succeeded
    long ago, so that its own trigger rule could not tell that nobody agreed."""


class Stage(NamedTuple):
    """One share of the traffic."""

    shift: BaseOperator
    gate: BaseOperator


def _tasks(spec: DeploymentSpec) -> None:
    plan = PlanDeploymentOperator(task_id="plan", spec=spec.dump())
    build = BuildImageOperator(task_id="build_image", plan=plan.output)
    planned: dict[str, Any] = {"plan": build.output}
    deploy = _decision(spec, planned, "")
    baseline = CaptureBaselineOperator(task_id="capture_baseline", **planned)
    apply = ApplyManifestOperator(task_id="apply_manifest", **planned)
    ready = WaitReadySensor(task_id="wait_ready", deferrable=True, **planned)
    claim = ClaimRouteOperator(task_id="claim_route", **planned)
    owned = {**planned, "claim": claim.output}
    judged = {**owned, "baseline": baseline.output, "deferrable": True}
    watch = WatchSensor(task_id="watch", **judged)
    stages = _stages(spec, owned, judged)
    gates = [stage.gate for stage in stages]
    promotion = _decision(spec, planned, "_promotion", [gate.task_id for gate in gates])
    promote = PromoteOperator(task_id="promote", **owned)
    verify = VerifySensor(task_id="verify", **judged)

    chain(plan, build, deploy.score, deploy.route)
    chain(deploy.agreed, baseline, apply, ready, claim, [watch, stages[0].shift])
    chain(*(task for stage in stages for task in stage), promotion.score, promotion.route)
    chain(promotion.agreed, promote, verify)
    watch >> verify

    staged = [task for stage in stages for task in stage]
    judges = [task.task_id for task in (watch, verify, *gates)]
    rollback = RollbackOperator(task_id="rollback", judges=judges, trigger_rule=TriggerRule.ONE_FAILED, **planned)
    [apply, ready, claim, watch, *staged, *promotion, promote, verify] >> rollback

    recording = [plan, build, deploy.ask, deploy.refuse, apply, *staged, promotion.ask]
    recording += [promote, verify, rollback, watch]
    steps_of = [task.task_id for task in recording]
    plans_of = [build.task_id, plan.task_id]
    audit = AuditOperator(task_id="audit", plans_of=plans_of, steps_of=steps_of, trigger_rule=TriggerRule.ALL_DONE)
    settle = SettleOperator(task_id="settle", plans_of=plans_of, steps_of=steps_of)
    [deploy.refuse, rollback, verify, watch, *gates] >> audit >> settle
    plan.as_setup()  # type: ignore[no-untyped-call]
    settle.as_teardown(setups=plan, on_failure_fail_dagrun=True)


def _decision(spec: DeploymentSpec, planned: dict[str, Any], when: str, gates: Sequence[str] = ()) -> Decision:
    """Make one decision; ``when`` is the suffix of its tasks' names."""
    score = ScoreConfidenceOperator(task_id=f"score{when or '_confidence'}", gates=gates, **planned)
    ask = DeploymentApprovalOperator(
        task_id=f"approve{when}",
        subject=f"{'Promote' if when else 'Deploy'} {spec.service}?",
        confidence=score.output,
        timeout=timedelta(seconds=spec.approval_timeout),
    )
    # Before the canary a refusal ends the run; after it, the rollback records what follows.
    state = None if when else State.REJECTED
    refuse = RefuseOperator(task_id=f"refuse{when}", confidence=score.output, state=state, **planned)
    agreed = EmptyOperator(task_id=f"agreed{when}", trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS)
    route = RouteOnConfidenceOperator(
        task_id=f"route_on{when or '_confidence'}",
        confidence=score.output,
        routes={"go": agreed.task_id, "ask": ask.task_id, "refuse": refuse.task_id},
    )
    chain(route, [ask, agreed, refuse])
    chain(ask, agreed)
    return Decision(score, route, ask, refuse, agreed)


def _stages(spec: DeploymentSpec, owned: dict[str, Any], judged: dict[str, Any]) -> list[Stage]:
    stages = []
    for share, next_share in zip(spec.canary.stages, [*spec.canary.stages[1:], 100], strict=True):
        with TaskGroup(f"canary_{share}", tooltip=f"{share} % of real traffic"):
            shift = ShiftCanaryOperator(task_id="shift", share=share, **owned)
            gate = HealthGateSensor(task_id="gate", next_share=next_share, **judged)
            stages.append(Stage(shift, gate))
    return stages
