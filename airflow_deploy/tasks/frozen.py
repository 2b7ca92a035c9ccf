"""What a run freezes in the artifact store: its plan, claim and baseline.

A task finds them by its own run's identity and compares their SHA-256 with what the writer pushed to XCom. So an XCom
alone cannot change what is deployed, or where: a digest that differs from the file's stops the task.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from airflow.sdk import Context

from airflow_deploy.clients.artifacts import DeploymentFolder
from airflow_deploy.domain.errors import PermanentError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.xcom_keys import (
    BASELINE_DIGEST_KEY,
    CLAIM_DIGEST_KEY,
    CLAIM_KEY,
    PLAN_DIGEST_KEY,
    PLAN_KEY,
)
from airflow_deploy.domain.names import DAG_PREFIX, deployment_id, digest
from airflow_deploy.domain.values import printable
from airflow_deploy.tasks.documents import read_document, write_document


class Document(NamedTuple):
    """One frozen file, ``<name>_<DEP-id>.json``."""

    name: str
    writer: str
    """Id of the task that writes it."""
    digest_key: str


PLANNED = Document("planned", "plan", PLAN_DIGEST_KEY)
BUILT = Document("built", "build_image", PLAN_DIGEST_KEY)
"""The plan with the image's digest. ``plan_<DEP-id>.json`` is its copy from ``apply_manifest`` on."""
BASELINE = Document("baseline", "capture_baseline", BASELINE_DIGEST_KEY)
CLAIM = Document("claim", "claim_route", CLAIM_DIGEST_KEY)

PLANS = {document.writer: document for document in (PLANNED, BUILT)}


def freeze(context: Context, plan: DeploymentPlan, document: Document, content: dict[str, Any]) -> None:
    """Write a document and push its digest. A task that runs again replaces both.

    :raises TemporaryError: the store did not take it.
    """
    folder, name = DeploymentFolder(plan.spec.service, plan.deployment_id), _name(document, plan.deployment_id)
    context["ti"].xcom_push(key=document.digest_key, value=write_document(folder, name, content))


def freeze_plan(context: Context, plan: DeploymentPlan, document: Document) -> None:
    """Freeze the plan as it is now, and push a copy of it."""
    freeze(context, plan, document, plan.dump())
    context["ti"].xcom_push(key=PLAN_KEY, value=plan.dump())


def freeze_claim(context: Context, plan: DeploymentPlan, owner: str) -> None:
    """Freeze the owner of the route, and push a copy of it."""
    freeze(context, plan, CLAIM, {"owner": owner})
    context["ti"].xcom_push(key=CLAIM_KEY, value=owner)


def read_plan(context: Context, document: Document) -> DeploymentPlan:
    """Return the plan that this run has frozen.

    :raises PermanentError: there is none yet, or it is not what was frozen.
    :raises TemporaryError: the store did not give it.
    """
    plan = DeploymentPlan.load(read(context, document))
    check_identity(context, plan)
    return plan


def check_identity(context: Context, plan: DeploymentPlan) -> None:
    """Compare a plan with the run that reads it.

    :raises PermanentError: it is another run's.
    """
    run = context["dag_run"]
    own, found = _identity(context), plan.deployment_id
    if found != own or f"{DAG_PREFIX}{plan.spec.service}" != run.dag_id:
        raise PermanentError(f"plan: {found} of {plan.spec.service} is not this run, {own} of {run.dag_id}")


def read(context: Context, document: Document) -> Any:
    """Return what this run has frozen as ``document``.

    :raises PermanentError: its writer has not finished, or the file is not what the writer wrote.
    :raises TemporaryError: the store did not give it.
    """
    expected = context["ti"].xcom_pull(task_ids=document.writer, key=document.digest_key)
    if not expected:
        raise PermanentError(f"the {document.name} document is missing: {document.writer} has not finished")
    identity = _identity(context)
    folder = DeploymentFolder(context["dag_run"].dag_id.removeprefix(DAG_PREFIX), identity)
    name = _name(document, identity)
    if (text := read_document(folder, name)) is None:
        raise TemporaryError(f"artifact store: cannot read {name} in {folder.path}: it is not there; mount the store")
    if digest(text) != expected:
        raise PermanentError(
            f"artifact store: {name} in {folder.path} is not what {document.writer} wrote: its SHA-256 is"
            f" {digest(text)[:12]}…, not {printable(str(expected), 12)}; trigger a new run"
        )
    return json.loads(text)


def _identity(context: Context) -> str:
    run = context["dag_run"]
    return deployment_id(run.dag_id, run.run_id, int(run.run_after.timestamp()))


def _name(document: Document, identity: str) -> str:
    return f"{document.name}_{identity}.json"
