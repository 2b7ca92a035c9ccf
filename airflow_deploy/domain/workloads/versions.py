"""A service's versions as the cluster has them: which may be stopped, which deleted, and which were changed by hand."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from airflow_deploy.domain.routing.record import PREFIX, SETTLED
from airflow_deploy.domain.routing.team_route import TeamRoute

MANAGER = "airflow-deploy"
NAME, VERSION, MANAGED_BY = (f"app.kubernetes.io/{key}" for key in ("name", "version", "managed-by"))
"""The labels by which what we made is known."""
DEPLOYMENT = "airflow-deploy/deployment"
"""The annotation that says which deployment made an object."""
WITHDRAWN = f"{PREFIX}/withdrawn"
"""The annotation of a version's Deployment that says whether its pods were taken away for good."""
SETTLES_ITSELF = 900.0
"""Seconds within which a run applies, claims and, where that fails, stops its candidate, whoever runs it.

Whoever starts a version by hand has as long to give it traffic.
"""
FIRST_PODS = 60.0
"""Seconds after a version is made in which its first pods are. Where all are younger, it was started again."""

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Version:
    """All objects of one version, by kind. Where a deletion was cut short, some are missing.

    ``started_at`` is when the oldest of its pods was made, in unix seconds; 0 where it has none.
    """

    name: str
    objects: Mapping[str, Object]
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
class Previous:
    """The version before the one that serves, and when the rollback window ends, in unix seconds."""

    name: str
    until: float


@dataclass(frozen=True)
class Chores:
    """What is to be done.

    ``selected`` are those that users get to, though another version should serve: somebody has changed what selects
    them. They are not ours to stop: what should serve may have no pod. Nor are those ``elsewhere``, which get users by
    a route that the service had before.
    """

    stop: tuple[Version, ...]
    delete: tuple[Version, ...]
    selected: tuple[Version, ...] = ()
    elsewhere: tuple[Version, ...] = ()


def versions_of(service: str, objects: Iterable[Object], started: Mapping[str, float]) -> list[Version]:
    """Return the versions of ``service`` that we made, the latest one first; whatever else there is, is left out.

    :param started: when the oldest pod of each was made, by its name.
    """
    found: dict[str, dict[str, Object]] = {}
    for item in objects:
        labels, name = item["metadata"].get("labels") or {}, item["metadata"]["name"]
        ours = labels.get(MANAGED_BY) == MANAGER and labels.get(NAME) == service and labels.get(VERSION) == name
        if ours and re.fullmatch(f"{re.escape(service)}-[0-9a-f]{{7}}-[0-9]{{1,12}}", name):
            found.setdefault(name, {})[item["kind"]] = item
    latest_first = sorted(found, key=lambda name: (int(name.rpartition("-")[2]), name), reverse=True)
    return [Version(name, found[name], started.get(name, 0.0)) for name in latest_first]


def chores(
    versions: Sequence[Version],
    route: TeamRoute,
    previous: Previous | None,
    keep: int,
    at: float,
    others: Sequence[TeamRoute] = (),
) -> Chores:
    """Say what is to be stopped and deleted ``at`` (unix seconds), while no run of the service is live.

    :param versions: the latest one first.
    :param previous: the one that a rollback would return to.
    :param keep: how many versions are kept beside the one that serves.
    :param others: routes that the service had before.
    """

    def settled(version: Version) -> bool:
        if version.pods and not version.started_at:
            return False  # somebody is just starting it; and where it cannot start, there is nothing to stop
        again = version.started_at > version.made_at + FIRST_PODS
        if again and at < version.started_at + SETTLES_ITSELF:
            return False
        if previous and version.name == previous.name:
            return at >= previous.until
        return version.stopped or at >= version.made_at + SETTLES_ITSELF

    def selected(version: Version) -> bool:
        taken_back = route.phase == SETTLED and route.names(version.name) and route.versions[1] == version.name
        return bool(version.pods) and route.selects(version.labels) and not taken_back

    def elsewhere(version: Version) -> bool:
        return bool(version.pods) and any(one.serves(version.name) or one.selects(version.labels) for one in others)

    def users(version: Version) -> bool:
        return selected(version) or elsewhere(version)

    idle = [version for version in versions if not route.serves(version.name)]
    return Chores(
        stop=tuple(version for version in idle if version.pods and settled(version) and not users(version)),
        selected=tuple(version for version in idle if selected(version)),
        elsewhere=tuple(version for version in idle if elsewhere(version)),
        delete=tuple(
            version
            for version in idle[keep:]
            if not version.pods and settled(version) and not any(one.mentions(version.name) for one in (route, *others))
        ),
    )


OTHERS_SET = frozenset(
    {
        "Deployment.spec.replicas",
        f"Deployment.metadata.annotations.{WITHDRAWN}",
        "HorizontalPodAutoscaler.spec.minReplicas",
    }
)
"""What is declared once and then changed on purpose: by a run, by the autoscaler, or by whoever scales."""


def drift(declared: Iterable[Object], version: Version) -> list[str]:
    """Return what somebody has changed of a version since it was applied: one phrase for each field.

    A ConfigMap is not read: it cannot be changed, and whether it is there is the caller's to ask.
    """
    found: list[str] = []
    for item in (item for item in declared if item["kind"] != "ConfigMap"):
        live = version.objects.get(item["kind"])
        if live is None:
            found.append(f"{item['kind']} is missing")
        else:
            found += _differences({key: item[key] for key in item if key != "apiVersion"}, live, item["kind"])
    return found


def _differences(declared: Any, live: Any, path: str) -> Iterator[str]:
    if path in OTHERS_SET or (not declared and not live):  # the server leaves out what is empty
        return
    if isinstance(declared, Mapping) and isinstance(live, Mapping):
        for key, value in declared.items():
            yield from _differences(value, live.get(key), f"{path}.{key}")
    elif isinstance(declared, list) and isinstance(live, list) and len(declared) == len(live):
        for index, (one, other) in enumerate(zip(declared, live, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif declared != live and not (QUANTITIES.search(path) and _quantity(declared) == _quantity(live)):
        yield f"{path} was changed"


QUANTITIES = re.compile(r"\.(limits|requests)\.[a-z]+$|\.sizeLimit$")
"""Fields that the server may write in another way than we do."""

_POWERS = {suffix: Decimal(1000) ** power for power, suffix in enumerate(["n", "u", "m", "", "k", "M", "G", "T"], -3)}
_POWERS |= {suffix: Decimal(1024) ** power for power, suffix in enumerate(["Ki", "Mi", "Gi", "Ti"], 1)}


def _quantity(value: Any) -> Any:
    """Return the number that a quantity such as ``0.5`` or ``500m`` stands for; anything else as it is."""
    matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]{0,2})", value) if isinstance(value, str) else None
    return Decimal(matched[1]) * _POWERS[matched[2]] if matched and matched[2] in _POWERS else value
