"""``audit``: check that what was recorded is a legal path, and write the deployment's artifacts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.domain.errors import IllegalTransitionError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import EXITS, UNDEPLOYED, State, Step, Transition, assemble, chain
from airflow_deploy.domain.names import SHADOW
from airflow_deploy.domain.workloads.manifests import render_version
from airflow_deploy.tasks.base import DeployOperator, recorded_steps


def write_audit(context: Context, plan: DeploymentPlan, steps_of: Sequence[str]) -> str:
    """Write the four artifacts and return their folder. Written twice, the later ones stay.

    :param steps_of: ids of the tasks that record steps, in the DAG's order.
    :raises IllegalTransition: what was recorded is no path (a person marked a task as done, say). The artifacts are
        written all the same, and say so.
    """
    steps = recorded_steps(context, steps_of)
    if steps and steps[-1].to in UNDEPLOYED and not {step.to for step in steps} & {State.DEPLOYING, *EXITS}:
        steps.append(_rejection(context))
    path, irregular = _joined(steps)
    artifacts = Artifacts(plan)
    identity = plan.deployment_id
    judgements = {task: event for task in steps_of if (event := _judgement(context, task))}
    score = {task: context["ti"].xcom_pull(task_ids=task) for task in ("score_confidence", "score_promotion")}
    artifacts.write(f"confidence_{identity}.json", _json({task: item for task, item in score.items() if item}))
    if plan.digest:
        artifacts.write(f"manifest_{identity}.yaml", render_version(plan))
    artifacts.write(f"transitions_{identity}.jsonl", _lines(path))
    # What the verification needs to go on looking at this deployment, and to take it back.
    frozen = {"plan": plan.dump(), "baseline": context["ti"].xcom_pull(task_ids="capture_baseline")}
    summary = {**_summary(plan, path, judgements), **frozen, "irregular": irregular and str(irregular)}
    artifacts.write(f"{identity}.json", _json(summary))
    if irregular:
        raise irregular
    return artifacts.path


def amend_audit(plan: DeploymentPlan, steps: Sequence[Step], judgement: dict[str, Any]) -> str:
    """Add to a deployment's artifacts what was done after its run had ended, and return their folder.

    It may run twice: what a first try has written is written again. The summary comes last, since it is by the summary
    that a deployment counts as VERIFIED.

    :param steps: what the task recorded; all of them by the same task.
    :param judgement: what it rests on, as the judges' events are.
    :raises IllegalTransition: they make no path together with what was recorded. The artifacts say so.
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
    """Return the transitions that the steps make, and why they are no path, None where they are one."""
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
    value = context["ti"].xcom_pull(task_ids=task)
    return value if isinstance(value, dict) and "verdict" in value else None


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

    :param plans_of: ids of the tasks that return the plan, the latest one first.
    :param steps_of: ids of all tasks that record steps, in the DAG's order.
    """

    # No plan among them: which of two tasks has the latest one is known only when this one runs.
    template_fields: Sequence[str] = ()

    def __init__(self, *, plans_of: Sequence[str], steps_of: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.plans_of = list(plans_of)
        self.steps_of = list(steps_of)

    def latest_plan(self, context: Context) -> DeploymentPlan:
        """Return the plan, with the image's digest where the build came so far.

        :raises AirflowSkipException: the request was refused before anything was planned.
        """
        for task in self.plans_of:
            if plan := context["ti"].xcom_pull(task_ids=task):
                return DeploymentPlan.load(plan)
        raise AirflowSkipException("nothing was planned, so nothing was done")


class AuditOperator(RecordingOperator):
    """Write the artifacts and return their folder."""

    def execute(self, context: Context) -> str:
        """Return the artifacts' folder."""
        folder = write_audit(context, self.latest_plan(context), self.steps_of)
        self.log.info("artifacts: %s", folder)
        return folder
