"""What lets a deployment go on: the decision of each gate, score and question, kept in the artifact store.

The store alone counts. Who may trigger a run may also write its XComs, so these are for show.
"""

from __future__ import annotations

import json

from pydantic import ValidationError

from airflow_deploy.clients.artifacts import DeploymentFolder
from airflow_deploy.domain.errors import PermanentError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.values import Model
from airflow_deploy.tasks.documents import read_document, write_document


class Decision(Model):
    """What one task has decided."""

    deployment: str
    task: str
    said: str | None
    """A verdict, the route of a score, or the sentence of an answer; None while there is none."""
    goes_on: bool
    """Whether the deployment may go on by it."""


def store_decision(plan: DeploymentPlan, task: str, said: str | None, *, goes_on: bool) -> None:
    """Store a task's decision. A task that runs again replaces it.

    :raises TemporaryError: the store did not take it.
    """
    folder, name = _place(plan, task)
    decision = Decision(deployment=plan.deployment_id, task=task, said=said, goes_on=goes_on)
    write_document(folder, name, decision.dump())


def read_decision(plan: DeploymentPlan, task: str) -> Decision | None:
    """Return a task's decision, None if it has stored none.

    :raises PermanentError: what is stored is no decision of this task.
    :raises TemporaryError: the store did not give it.
    """
    folder, name = _place(plan, task)
    if (text := read_document(folder, name)) is None:
        return None
    try:
        decision = Decision.load(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        raise PermanentError(
            f"artifact store: {name} in {folder.path} is no decision; clear the task {task}"
        ) from error
    if (decision.deployment, decision.task) != (plan.deployment_id, task):
        raise PermanentError(f"artifact store: {name} in {folder.path} is another task's; clear the task {task}")
    return decision


def _place(plan: DeploymentPlan, task: str) -> tuple[DeploymentFolder, str]:
    return DeploymentFolder(plan.spec.service, plan.deployment_id), f"decision_{task}_{plan.deployment_id}.json"
