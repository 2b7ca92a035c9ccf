"""The artifact store: any store that Airflow's ObjectStoragePath reaches."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import Any
from uuid import uuid4

from airflow.sdk import ObjectStoragePath, conf

from airflow_deploy.domain.lifecycle.confidence import PastDeployments
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.names import digest, triggered_at
from airflow_deploy.domain.values import printable

log = logging.getLogger(__name__)

LOCAL_PROTOCOLS = frozenset({"", "file", "local"})
"""Protocols of file systems, on which a write can stop half way; an object store takes all of it or nothing."""
HISTORY_LENGTH = 20
"""How many earlier deployments count as a service's history."""


def store() -> ObjectStoragePath:
    """Return the folder that holds one folder per service."""
    return ObjectStoragePath(conf.get("airflow_deploy", "artifact_store").rstrip("/"))


def deployment_ids(service: str) -> list[str]:
    """Return the ids of a service's deployments, the latest one last."""
    folder = store() / service
    if not folder.exists():
        return []
    # Names alone: a path for each of thousands of deployments would take seconds.
    names = (path.rstrip("/").rpartition("/")[2] for path in folder.fs.ls(folder.path, detail=False))
    return sorted(name for name in names if triggered_at(name))


def latest_plans() -> list[DeploymentPlan]:
    """Return, for each service, the plan of its latest deployment that applied something."""
    if not store().exists():
        return []
    services = [folder.name for folder in sorted(store().iterdir(), key=str) if folder.is_dir()]
    plans = (map(partial(frozen_plan, service), reversed(deployment_ids(service))) for service in services)
    return [plan for found in plans if (plan := next(filter(None, found), None))]


def frozen_plan(service: str, deployment_id: str) -> DeploymentPlan | None:
    """Return the plan that a deployment applied; None if there is no record of it."""
    text = _frozen(service, deployment_id, "plan", "json")
    try:
        return DeploymentPlan.load(json.loads(text)) if text else None
    except (ValueError, RecursionError) as error:
        log.warning("cannot read the plan of %s: %s", deployment_id, printable(str(error), 300))
        return None


def frozen_manifest(service: str, deployment_id: str) -> str | None:
    """Return the YAML that a deployment applied; None if there is no record of it."""
    return _frozen(service, deployment_id, "manifest", "yaml")


def _frozen(service: str, deployment_id: str, what: str, suffix: str) -> str | None:
    if not triggered_at(deployment_id):  # it may come from the cluster, where others can write it
        return None
    try:
        path = store() / service / deployment_id / f"{what}_{deployment_id}.{suffix}"
        return str(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


class DeploymentFolder:
    """The folder ``<store>/<service>/<DEP-id>``."""

    def __init__(self, service: str, deployment_id: str) -> None:
        self._service = store() / service
        self._folder = self._service / deployment_id

    @property
    def path(self) -> str:
        """The folder's address in the store."""
        return str(self._folder)

    def write(self, name: str, text: str) -> str:
        """Write one artifact as a whole and return its SHA-256. A second write replaces the first."""
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.protocol in LOCAL_PROTOCOLS:
            # A writer that is killed, or finds the disk full, must not leave half a file.
            part = target.with_name(f".{target.name}.{uuid4().hex}")
            part.write_text(text, encoding="utf-8")
            part.replace(target)
        else:
            target.write_text(text, encoding="utf-8")
        return digest(text)

    def read(self, name: str) -> str:
        """Return one artifact's text.

        :raises OSError: there is none.
        """
        return str((self._folder / name).read_text(encoding="utf-8"))


class Artifacts(DeploymentFolder):
    """What one deployment leaves behind, and the history of its service."""

    def __init__(self, plan: DeploymentPlan) -> None:
        super().__init__(plan.spec.service, plan.deployment_id)
        self._plan = plan

    def freeze(self, manifest: str) -> None:
        """Record the plan and its manifest before anything is applied: every object in a cluster has its record.

        ``plan_<DEP-id>.json`` says that something may have been applied; what a run froze before that has other names.
        """
        identity = self._plan.deployment_id
        self.write(f"plan_{identity}.json", json.dumps(self._plan.dump(), indent=2, sort_keys=True) + "\n")
        self.write(f"manifest_{identity}.yaml", manifest)

    def others(self) -> list[str]:
        """Return the ids of the service's other deployments, the latest one last."""
        return [name for name in deployment_ids(self._plan.spec.service) if name != self._plan.deployment_id]

    def earlier(self) -> PastDeployments:
        """Return how the service's latest deployments before this one ended."""
        states = [self._state(name) for name in self.others()[-HISTORY_LENGTH:]]
        return PastDeployments(
            verified=states.count("VERIFIED"), undone=states.count("ROLLED_BACK") + states.count("FAILED")
        )

    def _state(self, deployment_id: str) -> Any:
        path = self._service / deployment_id / f"{deployment_id}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")).get("state")
        except (OSError, ValueError, AttributeError):  # missing or half written: no evidence about the service
            return None
