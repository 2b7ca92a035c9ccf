"""What a run stores of its push, so that a task that is tried again knows its own image.

``push_<DEP-id>.json`` names the images that the run has built before it pushes one, and then the digest that the push
returned. XComs of a try are gone in the next one, so the artifact store alone holds it.
"""

from __future__ import annotations

import json
import logging
from typing import Annotated

from pydantic import StringConstraints, ValidationError

from airflow_deploy.clients.artifacts import DeploymentFolder
from airflow_deploy.domain.config.git_source import Source
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.values import Model, printable
from airflow_deploy.tasks.documents import read_document, write_document

log = logging.getLogger(__name__)

Sha256 = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class PushRecord(Model):
    """The push of one run."""

    tag: str
    source: Source
    """What was built: a record of another Dockerfile, say, is of another image."""
    built: tuple[Sha256, ...] = ()
    """Ids of the images that this run has built to push them under the tag; each try of the task may add one."""
    digest: Sha256 | None = None
    """The digest that this run's own push returned; None before that."""


def read_push(plan: DeploymentPlan) -> PushRecord:
    """Return what this run has stored of its push; an empty record if it has not pushed.

    :raises TemporaryError: the store did not give it.
    """
    folder, empty = _folder(plan), PushRecord(tag=plan.image_tag, source=plan.spec.source)
    if (text := read_document(folder, _name(plan))) is None:
        return empty
    try:
        record = PushRecord.load(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        log.warning("artifact store: %s in %s is not used: %s", _name(plan), folder.path, printable(str(error), 300))
        return empty
    return record if (record.tag, record.source) == (empty.tag, empty.source) else empty


def store_push(plan: DeploymentPlan, record: PushRecord) -> None:
    """Store what this run has done, or is about to do.

    :raises TemporaryError: the store did not take it.
    """
    write_document(_folder(plan), _name(plan), record.dump())


def _folder(plan: DeploymentPlan) -> DeploymentFolder:
    return DeploymentFolder(plan.spec.service, plan.deployment_id)


def _name(plan: DeploymentPlan) -> str:
    return f"push_{plan.deployment_id}.json"
