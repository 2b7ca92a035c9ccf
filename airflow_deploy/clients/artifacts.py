"""Where a deployment's artifacts are kept: any store that Airflow's ObjectStoragePath reaches."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from airflow.sdk import ObjectStoragePath, conf

from airflow_deploy.domain.confidence import Outcomes
from airflow_deploy.domain.names import digest, triggered_at
from airflow_deploy.domain.plan import DeploymentPlan

LOCAL = frozenset({"", "file", "local"})
"""Protocols of file systems, where a write has a middle; an object store takes an object whole, or not at all."""
HISTORY = 20
"""How many earlier deployments count as a service's history."""


def store() -> ObjectStoragePath:
    """Return the folder that holds one folder per service."""
    return ObjectStoragePath(conf.get("airflow_deploy", "artifact_store").rstrip("/"))


def deployment_ids(service: str) -> list[str]:
    """Return the ids of a service's deployments, which sort by their time: the latest one last."""
    folder = store() / service
    if not folder.exists():
        return []
    # Names alone: a path for each of thousands of deployments would take seconds.
    names = (path.rstrip("/").rpartition("/")[2] for path in folder.fs.ls(folder.path, detail=False))
    return sorted(name for name in names if triggered_at(name))


class Artifacts:
    """The folder ``<store>/<service>/<DEP-id>``."""

    def __init__(self, plan: DeploymentPlan) -> None:
        self._plan = plan
        self._service = store() / plan.spec.service
        self._folder = self._service / plan.deployment_id

    @property
    def path(self) -> str:
        """The folder, as a person would look for it."""
        return str(self._folder)

    def write(self, name: str, text: str) -> str:
        """Write one artifact, whole, and return its SHA-256. Written twice, the later one stays."""
        target = self._folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.protocol in LOCAL:
            # Whoever is killed here, or finds the disk full, must not leave half of what others read again.
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

    def others(self) -> list[str]:
        """Return the ids of the service's other deployments, the latest one last."""
        return [name for name in deployment_ids(self._plan.spec.service) if name != self._plan.deployment_id]

    def earlier(self) -> Outcomes:
        """Return how the service's latest deployments before this one ended."""
        states = [self._state(name) for name in self.others()[-HISTORY:]]
        return Outcomes(verified=states.count("VERIFIED"), undone=states.count("ROLLED_BACK") + states.count("FAILED"))

    def _state(self, deployment_id: str) -> Any:
        path = self._service / deployment_id / f"{deployment_id}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")).get("state")
        except (OSError, ValueError, AttributeError):  # none, or half written: it says nothing of the service
            return None
