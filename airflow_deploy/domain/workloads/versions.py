"""A service's versions in the cluster: which may be stopped, and which deleted."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from airflow_deploy.domain.labels import DEPLOYMENT, MANAGED_BY, MANAGER, NAME, VERSION
from airflow_deploy.domain.routing.record import SETTLED
from airflow_deploy.domain.routing.team_route import TeamRoute

RUN_GRACE_SECONDS = 900.0
"""Seconds within which a run applies and claims its candidate, or stops it if that fails.

A person who starts a version by hand has as long to give it traffic.
"""
FIRST_PODS_SECONDS = 60.0
"""Seconds after a version is created in which its first pods are. If all are younger, it was started again."""

KubernetesObject = Mapping[str, Any]


@dataclass(frozen=True)
class Version:
    """All objects of one version, by kind. If a deletion was interrupted, some are missing.

    ``started_at`` is when the oldest of its pods was created, in unix seconds; 0 if it has none.
    """

    name: str
    objects: Mapping[str, KubernetesObject]
    started_at: float = 0.0

    @property
    def deployment_id(self) -> str:
        """``DEP-…`` of the deployment that made it."""
        some = next(iter(self.objects.values()))
        return str((some["metadata"].get("annotations") or {}).get(DEPLOYMENT, ""))

    @property
    def pods(self) -> int:
        """How many pods it has, or is to have."""
        deployment = self.objects.get("Deployment", {})
        wanted = deployment.get("spec", {}).get("replicas", 0)
        return max(int(wanted), int(deployment.get("status", {}).get("replicas", 0)))

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels of its pods."""
        template = self.objects.get("Deployment", {}).get("spec", {}).get("template", {})
        return (template.get("metadata") or {}).get("labels") or {}

    @property
    def stopped(self) -> bool:
        """Whether its pods were taken from it; one that is just being applied may have none yet."""
        return "Deployment" in self.objects and not self.pods

    @property
    def made_at(self) -> float:
        """When the first of its objects was made, in unix seconds."""
        times = (item["metadata"]["creationTimestamp"] for item in self.objects.values())
        return min(datetime.fromisoformat(moment).timestamp() for moment in times)


@dataclass(frozen=True)
class PreviousVersion:
    """The version before the one that serves, and when the rollback window ends, in unix seconds."""

    name: str
    until: float


@dataclass(frozen=True)
class CleanupPlan:
    """The versions to stop and to delete, and those that must stay although another version should serve.

    ``selected`` have users because the Service's selector was changed; the version that should serve may have no pod.
    ``elsewhere`` have users by a route that the service had before.
    """

    stop: tuple[Version, ...]
    delete: tuple[Version, ...]
    selected: tuple[Version, ...] = ()
    elsewhere: tuple[Version, ...] = ()


def versions_of(service: str, objects: Iterable[KubernetesObject], started: Mapping[str, float]) -> list[Version]:
    """Return the versions of ``service`` that we created, the latest first; other objects are left out.

    :param started: when the oldest pod of each was created, by its name.
    """
    found: dict[str, dict[str, KubernetesObject]] = {}
    for item in objects:
        labels, name = item["metadata"].get("labels") or {}, item["metadata"]["name"]
        ours = labels.get(MANAGED_BY) == MANAGER and labels.get(NAME) == service and labels.get(VERSION) == name
        if ours and re.fullmatch(f"{re.escape(service)}-[0-9a-f]{{7}}-[0-9]{{1,12}}", name):
            found.setdefault(name, {})[item["kind"]] = item
    latest_first = sorted(found, key=lambda name: (int(name.rpartition("-")[2]), name), reverse=True)
    return [Version(name, found[name], started.get(name, 0.0)) for name in latest_first]


def plan_cleanup(
    versions: Sequence[Version],
    route: TeamRoute,
    previous: PreviousVersion | None,
    keep: int,
    at: float,
    others: Sequence[TeamRoute] = (),
) -> CleanupPlan:
    """Return what to stop and to delete ``at`` (unix seconds), while no run of the service is live.

    :param versions: the latest one first.
    :param previous: the one that a rollback would return to.
    :param keep: how many versions are kept beside the one that serves.
    :param others: routes that the service had before.
    """

    def settled(version: Version) -> bool:
        if version.pods and not version.started_at:
            return False  # a person is just starting it; if it cannot start, there is nothing to stop
        again = version.started_at > version.made_at + FIRST_PODS_SECONDS
        if again and at < version.started_at + RUN_GRACE_SECONDS:
            return False
        if previous and version.name == previous.name:
            return at >= previous.until
        return version.stopped or at >= version.made_at + RUN_GRACE_SECONDS

    def selected(version: Version) -> bool:
        taken_back = route.phase == SETTLED and route.names(version.name) and route.versions[1] == version.name
        return bool(version.pods) and route.selects(version.labels) and not taken_back

    def elsewhere(version: Version) -> bool:
        return bool(version.pods) and any(one.serves(version.name) or one.selects(version.labels) for one in others)

    def users(version: Version) -> bool:
        return selected(version) or elsewhere(version)

    idle = [version for version in versions if not route.serves(version.name)]
    return CleanupPlan(
        stop=tuple(version for version in idle if version.pods and settled(version) and not users(version)),
        selected=tuple(version for version in idle if selected(version)),
        elsewhere=tuple(version for version in idle if elsewhere(version)),
        delete=tuple(
            version
            for version in idle[keep:]
            if not version.pods and settled(version) and not any(one.mentions(version.name) for one in (route, *others))
        ),
    )
