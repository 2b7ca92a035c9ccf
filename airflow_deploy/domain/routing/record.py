"""The record that a deployment keeps on what divides its traffic: who owns it, how far it has shifted, and why.

It lives in annotations of the team's own object; how that moves traffic is in ``http_route`` and ``service_route``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.labels import ANNOTATION_PREFIX
from airflow_deploy.domain.object_names import epoch_of, object_name

OWNER, PHASE, SHIFTS, FINAL_VERDICT = (
    f"{ANNOTATION_PREFIX}/owner",
    f"{ANNOTATION_PREFIX}/phase",
    f"{ANNOTATION_PREFIX}/shifts",
    f"{ANNOTATION_PREFIX}/word",
)
VERSIONS = f"{ANNOTATION_PREFIX}/versions"
STOPPED = f"{ANNOTATION_PREFIX}/stopped"

CANARY, BRAKED, PROMOTED, VERIFIED = "canary", "braked", "promoted", "verified"
SETTLED, ABANDONED = "settled", "abandoned"
"""Phases: traffic may rise; it was rolled back; the candidate is the stable; it was verified since; the rollback is
complete, and pods may end; a person must correct the route, which was changed by hand under the deployment."""

WATCHED_PHASES = frozenset({CANARY, PROMOTED})
"""Phases in which a watch must judge the deployment, and renews the Lease."""
ACTIVE_PHASES = frozenset({CANARY, BRAKED, PROMOTED})
RESTING_PHASES = frozenset({None, VERIFIED, SETTLED})
"""Phases in which a run has something to do, and in which none has; None before the first claim."""

ANNOTATION_ERRORS = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading an annotation that was written by hand may raise."""

Patch = list[dict[str, Any]]


@dataclass(frozen=True)
class Shift:
    """From ``at`` (unix seconds) on, ``share`` % of traffic was the candidate's; if ``mirrored``, as copies."""

    share: int
    at: float
    mirrored: bool = False

    @property
    def counted(self) -> float:
        """The candidate's share in % of the requests that are counted: a copy is one more of them."""
        return round(100 * self.share / (100 + self.share), 2) if self.mirrored else self.share

    def dump(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"share": self.share, "at": self.at, **({"mirrored": True} if self.mirrored else {})}


@dataclass(frozen=True)
class Record:
    """What a route says of itself, as it was read. ``body`` is the object."""

    body: Mapping[str, Any]

    @property
    def name(self) -> str:
        """``namespace/name``, for messages."""
        return f"{self.body['metadata']['namespace']}/{self.body['metadata']['name']}"

    @property
    def is_there(self) -> bool:
        """Whether the cluster has it."""
        return "resourceVersion" in self.body["metadata"]

    @property
    def annotations(self) -> Mapping[str, str]:
        """The object's annotations."""
        return self.body["metadata"].get("annotations") or {}

    @property
    def owner(self) -> str | None:
        """``<DEP-id>/<epoch>`` of the latest claim, None before the first."""
        return self.annotations.get(OWNER)

    @property
    def epoch(self) -> int:
        """How often the route was claimed."""
        return epoch_of(self.owner)

    @property
    def phase(self) -> str | None:
        """The latest claim's phase, None before the first claim."""
        return self.annotations.get(PHASE)

    @property
    def shifts(self) -> list[Shift]:
        """The owner's shifts, oldest first.

        :raises FencedError: the annotation was changed by hand.
        """
        try:
            recorded = json.loads(self.annotations.get(SHIFTS, "[]"))
            return [Shift(int(i["share"]), float(i["at"]), i.get("mirrored", False) is True) for i in recorded]
        except ANNOTATION_ERRORS as error:
            raise FencedError(f"route {self.name}: the annotation {SHIFTS} was changed by hand") from error

    @property
    def stopped(self) -> str | None:
        """The version before the one that serves, once its window is over and no rollback may return to it."""
        return self.annotations.get(STOPPED)

    @property
    def final_verdict(self) -> str | None:
        """The final verdict as JSON, as the rollback has left it for later readers."""
        return self.annotations.get(FINAL_VERDICT)

    @property
    def versions(self) -> tuple[str, str]:
        """The owner's stable, empty if there was none, and candidate, as its claim has named them.

        :raises FencedError: the annotation was changed by hand, or the claim is of a release that wrote none.
        """
        try:
            named = json.loads(self.annotations[VERSIONS])
            stable, candidate = named["stable"], named["candidate"]
        except ANNOTATION_ERRORS as error:
            raise FencedError(f"route {self.name}: the annotation {VERSIONS} does not name two versions") from error
        source = f"route {self.name}: the annotation {VERSIONS}"
        return (object_name(stable, source) if stable != "" else ""), object_name(candidate, source)

    def owned_by(self, deployment_id: str) -> bool:
        """Whether the latest claim is this deployment's."""
        return (self.owner or "").rpartition("/")[0] == deployment_id


def fence(route: Record, owner: str, phase: str) -> Patch:
    """Return the tests that every write of an owner begins with.

    :raises FencedError: what was read shows already that the tests would fail.
    """
    if route.owner != owner:
        raise FencedError(f"route {route.name} belongs to {route.owner or 'no deployment'} now, not to {owner}")
    if route.phase != phase:
        raise FencedError(f"route {route.name} is {route.phase}, and this step needs it {phase}")
    return [test_op(annotation_path(OWNER), owner), test_op(annotation_path(PHASE), phase)]


def annotation_path(key: str) -> str:
    """Return an annotation's path in a patch."""
    return f"/metadata/annotations/{_escaped(key)}"


def label_path(key: str) -> str:
    """Return a label's path in a patch."""
    return f"/metadata/labels/{_escaped(key)}"


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")


def test_op(path: str, value: Any) -> dict[str, Any]:
    """Return the operation that lets a patch fail if ``path`` has another value."""
    return {"op": "test", "path": path, "value": value}


def annotate_op(key: str, value: str) -> dict[str, Any]:
    """Return the operation that writes an annotation."""
    return {"op": "add", "path": annotation_path(key), "value": value}
