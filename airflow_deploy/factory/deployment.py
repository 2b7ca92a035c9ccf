"""The DAG factory: one DAG per spec, as the design draws it.

plan -> build_image -> score_confidence -> route_on_confidence -> [approve] -> capture_baseline -> apply_manifest
  -> wait_ready -> claim_route -> +- watch -------------------------------------------------------+-> audit -> finalize
                                  +- [shadow] -> canary_5 … canary_100 -> score_promotion … verify-+
A stage is shift, gate, [ask]: where its gate cannot decide, a person does. At the last stage the promotion asks for it.
rollback runs as soon as anything after apply_manifest fails; finalize is the teardown and runs whatever happens.
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
from airflow_deploy.domain.names import SHADOW
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.approval import DeploymentApprovalOperator
from airflow_deploy.operators.audit import AuditOperator
from airflow_deploy.operators.baseline import CaptureBaselineOperator
from airflow_deploy.operators.build import BuildImageOperator
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator, ShiftCanaryOperator
from airflow_deploy.operators.confidence import (
    RefuseOperator,
    RouteOnConfidenceOperator,
    ScoreConfidenceOperator,
)
from airflow_deploy.operators.finalize import FinalizeOperator, RollbackOperator
from airflow_deploy.operators.plan import PlanDeploymentOperator
from airflow_deploy.sensors.gates import HealthGateSensor, VerifySensor, WatchSensor
from airflow_deploy.sensors.ready import WaitReadySensor
from airflow_deploy.tasks.base import output_of

EITHER_WAY = TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
"""The rule of a task that both a go, of a score or a gate, and a person's yes lead to."""

DEPLOYMENT_DOC = """### Deploy {service}

Trigger it with the incident's conf. The fix is built, scored, given 5/25/50/100 % of real traffic through health gates,
and promoted or taken back by itself. The answer to *what happened* is in the `audit` task's artifacts.

- `watch` looks every second from the first shift until the promotion is verified, and returns the traffic by itself.
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


class Decision(NamedTuple):
    """Score, branch, question and refusal: the same before the canary and before the promotion."""

    score: BaseOperator
    route: BaseOperator
    ask: BaseOperator
    refuse: BaseOperator

    @property
    def agreed(self) -> tuple[str, str]:
        """What may let the deployment go on."""
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
        """What may let the next share be given."""
        return self.gate.task_id, self.ask.task_id if self.ask else ""


def _tasks(spec: DeploymentSpec) -> None:
    plan = PlanDeploymentOperator(task_id="plan", spec=spec.dump())
    build = BuildImageOperator(task_id="build_image", plan=output_of("plan"))
    planned: dict[str, Any] = {"plan": output_of("build_image")}
    owned = {**planned, "claim": output_of("claim_route")}
    judged = {**owned, "baseline": output_of("capture_baseline"), "deferrable": True}

    with _group("confidence", "may it be deployed?"):
        deploy = _decision(spec, planned, "deployment", go="capture_baseline")
    with _group("candidate", "the new version beside the old one, without traffic"):
        baseline = CaptureBaselineOperator(task_id="capture_baseline", trigger_rule=EITHER_WAY, **planned)
        apply = ApplyManifestOperator(task_id="apply_manifest", agreed=deploy.agreed, **planned)
        ready = WaitReadySensor(task_id="wait_ready", deferrable=True, **planned)
        claim = ClaimRouteOperator(task_id="claim_route", **planned)
    watch = WatchSensor(task_id="watch", **judged)
    stages = _stages(spec, owned, judged, deploy.agreed)
    gates = [stage.gate for stage in stages]
    staged = [task for stage in stages for task in stage.tasks]
    with _group("promotion", "may it stay?"):
        promotion = _decision(spec, owned, "promotion", go="promote", stages=stages)
        promote = PromoteOperator(task_id="promote", agreed=promotion.agreed, trigger_rule=EITHER_WAY, **owned)
    verify = VerifySensor(task_id="verify", **judged)

    chain(plan, build, deploy.score, deploy.route, [deploy.ask, baseline, deploy.refuse])
    chain(deploy.ask, baseline, apply, ready, claim, [watch, stages[0].shift])
    for stage, following in pairwise(stages):
        chain(*stage.tasks, following.shift)
        stage.gate >> following.shift
    chain(*stages[-1].tasks, promotion.score, promotion.route, [promotion.ask, promote, promotion.refuse])
    chain(promotion.ask, promote, verify)

    recording = [plan, build, deploy.ask, deploy.refuse, apply, *staged, promotion.ask]
    recording += [promote, watch, verify]
    ending: dict[str, Any] = {
        "plans_of": ["build_image", "plan"],
        "steps_of": [*(task.task_id for task in recording), "rollback"],
    }
    rollback = RollbackOperator(
        task_id="rollback",
        judges=[verify.task_id, watch.task_id],
        gates=[gate.task_id for gate in gates],
        trigger_rule=TriggerRule.ONE_FAILED,
        **ending,
    )
    [apply, ready, claim, watch, *staged, *promotion, promote, verify] >> rollback
    audit = AuditOperator(task_id="audit", trigger_rule=TriggerRule.ALL_DONE, **ending)
    finalize = FinalizeOperator(task_id="finalize", audit=audit.task_id, **ending)
    [deploy.refuse, rollback, verify, watch, *staged, promotion.ask] >> audit >> finalize
    # A teardown without a setup: with one, clearing any task would run the setup again, and if that failed, neither
    # rollback nor settle would run.
    finalize.as_teardown(on_failure_fail_dagrun=True)


def _group(name: str, tooltip: str) -> TaskGroup:
    """Fold tasks in the graph; their ids stay as they are."""
    return TaskGroup(name, prefix_group_id=False, tooltip=tooltip)


def _decision(
    spec: DeploymentSpec,
    known: dict[str, Any],
    about: Literal["deployment", "promotion"],
    *,
    go: str,
    stages: Sequence[Stage] = (),
) -> Decision:
    """Make one decision; ``go`` is the task that follows a go, and ``stages`` those that have judged by then."""
    when = "" if about == "deployment" else f"_{about}"
    planned = {"plan": known["plan"]}
    gates = [stage.gate.task_id for stage in stages]
    score = ScoreConfidenceOperator(task_id=f"score{when or '_confidence'}", gates=gates, **planned)
    ask = _question(spec, known, f"approve{when}", about, score.task_id, _judging(stages))
    # Before the canary a refusal ends the run; after it, the rollback records what follows.
    state = None if when else State.REJECTED
    confidence = output_of(score.task_id)
    refuse = RefuseOperator(task_id=f"refuse{when}", confidence=confidence, state=state, **planned)
    route = RouteOnConfidenceOperator(
        task_id=f"route_on{when or '_confidence'}",
        confidence=confidence,
        routes={"go": go, "ask": ask.task_id, "refuse": refuse.task_id},
    )
    return Decision(score, route, ask, refuse)


def _stages(
    spec: DeploymentSpec, owned: dict[str, Any], judged: dict[str, Any], deployed: tuple[str, str]
) -> list[Stage]:
    """Make the stages; ``deployed`` is what let the first of them begin."""
    stages: list[Stage] = []
    given = [(share, following, False) for share, following in zip_longest(spec.canary.stages, spec.canary.stages[1:])]
    copied = [(spec.shadow.share, spec.canary.stages[0], True)] if spec.shadow else []
    for share, following, mirrored in [*copied, *given]:
        agreed = stages[-1].agreed if stages else deployed
        name, of = (SHADOW, "copies of ") if mirrored else (f"canary_{share}", "")
        with TaskGroup(name, tooltip=f"{of}{share} % of real traffic"):
            shift = ShiftCanaryOperator(
                task_id="shift", share=share, mirrored=mirrored, agreed=agreed, trigger_rule=EITHER_WAY, **owned
            )
            gate = HealthGateSensor(task_id="gate", next_share=following or 100, **judged)
            seen = [*_judging(stages), gate.task_id]
            ask = _question(spec, owned, "ask", following, "score_confidence", seen) if following else None
            stages.append(Stage(shift, gate, ask))
    return stages


def _question(
    spec: DeploymentSpec, known: dict[str, Any], name: str, about: About, score: str, seen: Sequence[str]
) -> BaseOperator:
    return DeploymentApprovalOperator(
        task_id=name, about=about, timeout=spec.approval_timeout, confidence=output_of(score), seen=seen, **known
    )


def _judging(stages: Sequence[Stage]) -> list[str]:
    """Return the ids of what judges and asks in these stages."""
    return [task.task_id for stage in stages for task in stage.tasks if task is not stage.shift]
