"""The deployments that were verified, as their artifacts tell: what the verification goes on looking at."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from datetime import datetime

from airflow.sdk import ObjectStoragePath

from airflow_deploy.clients.artifacts import store
from airflow_deploy.domain.evidence import counts_from
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.telemetry import Counts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Promoted:
    """A deployment that ended VERIFIED at ``verified_at`` (unix seconds).

    ``baseline`` is what the version before it answered.
    """

    plan: DeploymentPlan
    baseline: Counts
    verified_at: float

    @property
    def until(self) -> float:
        """When its rollback window ends, in unix seconds."""
        return self.verified_at + self.plan.spec.rollback.window


def promoted(at: float) -> list[Promoted]:
    """Return each service's latest verified deployment that is within its rollback window ``at`` (unix seconds)."""
    if not store().exists():
        return []
    found = (_latest(folder) for folder in sorted(store().iterdir(), key=str) if folder.is_dir())
    return [item for item in found if item and item.verified_at <= at < item.until]


def one_promoted(service: str, deployment_id: str) -> Promoted | None:
    """Return one deployment, None where it is not VERIFIED any more."""
    return _read(store() / service / deployment_id)


def _latest(service: ObjectStoragePath) -> Promoted | None:
    # The ids of a service's deployments sort by their time.
    newest_first = sorted((path for path in service.iterdir() if path.is_dir()), key=str, reverse=True)
    return next((item for item in map(_read, newest_first) if item), None)


def _read(folder: ObjectStoragePath) -> Promoted | None:
    try:
        said = json.loads((folder / f"{folder.name}.json").read_text(encoding="utf-8"))
        if said["state"] != "VERIFIED":
            return None
        ended = datetime.fromisoformat(said["ended_at"]).timestamp()
        return Promoted(DeploymentPlan.load(said["plan"]), counts_from(said["baseline"]), ended)
    except FileNotFoundError:  # its run has not ended
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # half written, or by another version
        log.warning("%s tells nothing that could be verified: %r", folder, error)
        return None
