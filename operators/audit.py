"""``audit``: check that the recorded steps are a legal path, and write the deployment's artifacts."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.config.spec_file import parse_spec
from airflow_deploy.domain.errors import DeployError, IllegalTransitionError, PermanentError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import EXITS, UNDEPLOYED, State, Step, Transition, assemble, chain
from airflow_deploy.domain.lifecycle.xcom_keys import CONFIDENCE_KEY, PLAN_KEY, VERDICT_KEY
from airflow_deploy.domain.names import SHADOW
from airflow_deploy.domain.workloads.manifests import render_version
from airflow_deploy.tasks.base import DeployOperator, recorded_steps
from airflow_deploy.tasks.frozen import BASELINE, PLANS, check_identity, read, read_plan

log = logging.getLogger(__name__)

SCORES = ("score_confidence", "score_promotion")
"""Ids of the tasks that score."""


def write_audit(context: Context, plan: DeploymentPlan, steps_of: Sequence[str]) -> str:
    """Write the four artifacts and return their folder. A second call replaces them.

    :param steps_of: ids of the tasks that record steps, in the DAG's order.
    :raises IllegalTransitionError: the steps are no path (a person marked a task as done, say). The artifacts are
        written all the same, and say so.
    """
    steps = recorded_steps(context, steps_of)
    if steps and steps[-1].to in UNDEPLOYED and not {step.to for step in steps} & {State.DEPLOYING, *EXITS}:
        steps.append(_rejection(context))
    path, irregular = _joined(steps)
    artifacts = Artifacts(plan)
    identity = plan.deployment_id
    judgements = {task: event for task in steps_of if (event := _judgement(context, task))}
    score = {task: context["ti"].xcom_pull(task_ids=task, key=CONFIDENCE_KEY) for task in SCORES}
    artifacts.write(f"confidence_{identity}.json", _json({task: item for task, item in score.items() if item}))
    if plan.digest:
        artifacts.write(f"manifest_{identity}.yaml", render_version(plan))
    artifacts.write(f"transitions_{identity}.jsonl", _lines(path))
    # The scheduled verification needs both.
    frozen = {"plan": plan.dump(), "baseline": _baseline(context)}
    summary = {**_summary(plan, path, judgements), **frozen, "irregular": irregular and str(irregular)}
    artifacts.write(f"{identity}.json", _json(summary))
    if irregular:
        raise irregular
    return artifacts.path


def amend_audit(plan: DeploymentPlan, steps: Sequence[Step], judgement: dict[str, Any]) -> str:
    """Add steps that were taken after the run had ended to its artifacts, and return their folder.

    It may run again, and then writes the same. The summary comes last, since a deployment counts as VERIFIED by it.

    :param steps: the steps, all recorded by one task.
    :param judgement: the verdict that they rest on, as an event.
    :raises IllegalTransitionError: with the steps of the run they are no path. The artifacts say so.
    """
    artifacts, identity = Artifacts(plan), plan.deployment_id
    before = [
        Transition.model_validate_json(line) for line in artifacts.read(f"transitions_{identity}.jsonl").splitlines()
    ]
    kept = [Step(**item.model_dump(exclude={"from_"})) for item in before if item.task != steps[0].task]
    path, irregular = _joined([*kept, *steps])
    artifacts.write(f"transitions_{identity}.jsonl", _lines(path))
    summary = json.loads(artifacts.read(f"{identity}.json"))
    judgements = {**summary["judgements"], steps[0].task: judgement}
    amended = {**summary, **_summary(plan, path, judgements), "irregular": irregular and str(irregular)}
    artifacts.write(f"{identity}.json", _json(amended))
    if irregular:
        raise irregular
    return artifacts.path


def _joined(steps: Sequence[Step]) -> tuple[list[Transition], IllegalTransitionError | None]:
    """Return the transitions that the steps make, and the error if they are no path."""
    try:
        return assemble(steps), None
    except IllegalTransitionError as error:
        return chain(steps), error


def _lines(path: Sequence[Transition]) -> str:
    return "".join(json.dumps(item.model_dump(mode="json", by_alias=True), sort_keys=True) + "\n" for item in path)


def _rejection(context: Context) -> Step:
    ti = context["ti"]
    reason = "a step before the deployment failed, or a person ended the run"
    return Step(to=State.REJECTED, at=datetime.now(UTC), task=ti.task_id, try_number=ti.try_number, reason=reason)


def _judgement(context: Context, task: str) -> dict[str, Any] | None:
    value = context["ti"].xcom_pull(task_ids=task, key=VERDICT_KEY)
    return value if isinstance(value, dict) and "verdict" in value else None


def _baseline(context: Context) -> Any:
    """Return the baseline; None if the run did not come so far, or the file was changed since."""
    if not context["ti"].xcom_pull(task_ids=BASELINE.writer, key=BASELINE.digest_key):
        return None
    try:
        return read(context, BASELINE)
    except PermanentError as error:
        log.warning("%s; the summary has no baseline", error)
        return None


def _summary(plan: DeploymentPlan, path: Sequence[Transition], judgements: dict[str, Any]) -> dict[str, Any]:
    restored = [event["restored_at"] for event in judgements.values() if event.get("restored_at")]
    breached = [event["at"] for event in judgements.values() if event["verdict"] == "BREACHED"]
    given = [item for item in path if item.to == State.CANARY]
    mirrored = [item.at.isoformat() for item in given if item.task.startswith(f"{SHADOW}.")]
    exposed = [item.at.isoformat() for item in given if not item.task.startswith(f"{SHADOW}.")]
    settled = [item.at.isoformat() for item in path if item.to == State.ROLLED_BACK]
    return {
        "deployment_id": plan.deployment_id,
        "dag_id": plan.dag_id,
        "run_id": plan.run_id,
        "state": path[-1].to,
        "requester": plan.requester,
        "incident": plan.request.incident.dump(),
        "emergency": plan.request.emergency and plan.request.emergency.dump(),
        "commit": plan.commit,
        "image_tag": plan.image_tag,
        "image": plan.image if plan.digest else None,
        "candidate": plan.candidate,
        "stable": plan.stable,
        "mirrored_at": min(mirrored, default=None),
        "first_exposed_at": min(exposed, default=None),
        "verdict_at": min(breached, default=None),
        "restored_at": min(restored or settled, default=None),
        "ended_at": path[-1].at.isoformat(),
        "reason": path[-1].reason,
        "judgements": judgements,
        "approvals": [_approval(item) for item in path if item.to == State.AWAITING_APPROVAL],
    }


def _approval(item: Transition) -> dict[str, Any]:
    answers = [answer.model_dump(mode="json") for answer in item.answers]
    return {"task": item.task, "asked_at": item.at.isoformat(), "answers": answers}


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


class RecordingOperator(DeployOperator):
    """A task that comes after all the others, however far they came.

    :param plans_of: ids of the tasks that freeze the plan, the latest one first.
    :param steps_of: ids of all tasks that record steps, in the DAG's order.
    :param spec: the service's spec as JSON, from the DAG. It checks the copy of the plan that is used while the
        artifact store is away.
    """

    def __init__(
        self,
        *,
        plans_of: Sequence[str],
        steps_of: Sequence[str],
        spec: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.plans_of = list(plans_of)
        self.steps_of = list(steps_of)
        self.spec = spec

    def latest_plan(self, context: Context) -> DeploymentPlan:
        """Return the plan, with the image's digest if the build came so far.

        A rollback must not wait for the artifact store. If the store does not give the plan, its copy in XCom serves,
        provided that it names this run and the service, namespace, route and connections of this DAG.

        :raises AirflowSkipException: the request was refused before anything was planned.
        :raises DeployError: neither the store nor the copy gives this run's plan.
        """
        for task in self.plans_of:
            if copy := context["ti"].xcom_pull(task_ids=task, key=PLAN_KEY):
                try:
                    return read_plan(context, PLANS[task])
                except DeployError as error:
                    self.log.warning("%s; using the copy in XCom", error)
                    return self._checked(context, copy, error)
        raise AirflowSkipException("nothing was planned, so nothing was done")

    def _checked(self, context: Context, copy: Any, error: DeployError) -> DeploymentPlan:
        if self.spec is None:
            raise error
        try:
            plan = DeploymentPlan.load(copy)
        except (ValueError, RecursionError):
            raise error from None
        check_identity(context, plan)
        if _place(plan.spec) != _place(parse_spec(self.spec, f"{plan.dag_id}'s YAML")):
            raise TemporaryError(
                f"{error}; the copy of the plan in XCom names another place than this DAG's YAML, so it is not used"
            ) from error
        return plan


def _place(spec: DeploymentSpec) -> tuple[object, ...]:
    """Return where a spec deploys, and through which connections."""
    return spec.service, spec.namespace, spec.router, spec.route, spec.connections


class AuditOperator(RecordingOperator):
    """Write the artifacts and return their folder."""

    def execute(self, context: Context) -> str:
        """Return the artifacts' folder."""
        folder = write_audit(context, self.latest_plan(context), self.steps_of)
        self.log.info("artifacts: %s", folder)
        return folder
