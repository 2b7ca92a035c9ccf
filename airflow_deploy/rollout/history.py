"""The deployments that were verified, as their artifacts tell: what the scheduled verification goes on checking."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from airflow.sdk import ObjectStoragePath

from airflow_deploy.clients.artifacts import deployment_ids, store
from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.values import printable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PromotedDeployment:
    """A deployment that ended VERIFIED at ``verified_at`` (unix seconds).

    ``baseline`` is what the service was like before, and ``disturbed_until`` is when the last later deployment that
    has answered users or copies, and that came to nothing, had ended.
    """

    plan: DeploymentPlan
    baseline: Baseline
    verified_at: float
    disturbed_until: float = 0.0

    @property
    def until(self) -> float:
        """When its rollback window ends, in unix seconds."""
        return self.verified_at + self.plan.spec.rollback.window


def promoted_deployments(at: float) -> list[PromotedDeployment]:
    """Return each service's latest verified deployment that is within its rollback window ``at`` (unix seconds)."""
    if not store().exists():
        return []
    found = (_latest(folder) for folder in sorted(store().iterdir(), key=str) if folder.is_dir())
    return [item for item in found if item and item.verified_at <= at < item.until]


def promoted_deployment(service: str, deployment_id: str) -> PromotedDeployment | None:
    """Return one deployment, None if it is not VERIFIED any more."""
    said = _summary(store() / service / deployment_id)
    return _verified(said) if said else None


def _latest(service: ObjectStoragePath) -> PromotedDeployment | None:
    disturbed_until = 0.0
    for name in reversed(deployment_ids(service.name)):
        said = _summary(service / name) or {}
        if said.get("state") == State.VERIFIED:
            found = _verified(said)
            return found and replace(found, disturbed_until=disturbed_until)
        if said.get("first_exposed_at") or said.get("mirrored_at"):
            with suppress(ValueError, KeyError, TypeError, OverflowError):
                disturbed_until = max(disturbed_until, datetime.fromisoformat(said["ended_at"]).timestamp())
    return None


def _summary(folder: ObjectStoragePath) -> dict[str, Any] | None:
    try:
        said = json.loads((folder / f"{folder.name}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # its run has not ended, or it is no deployment
        return None
    except (ValueError, RecursionError) as error:
        log.warning("%s is not readable: %s", folder, error)
        return None
    return said if isinstance(said, dict) else None


def _verified(summary: dict[str, Any]) -> PromotedDeployment | None:
    """Return the deployment, None if it ended otherwise, or an old release recorded too little."""
    try:
        if summary["state"] != State.VERIFIED:
            return None
        ended = datetime.fromisoformat(summary["ended_at"]).timestamp()
        return PromotedDeployment(DeploymentPlan.load(summary["plan"]), Baseline.load(summary["baseline"]), ended)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        log.warning("%s cannot be verified: %s", summary.get("deployment_id"), printable(repr(error), 300))
        return None
