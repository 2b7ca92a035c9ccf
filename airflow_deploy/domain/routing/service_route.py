"""The route without a gateway: the team's Service, behind which the numbers of pods divide the traffic.

A Service's selector knows three states, and is written together with the record, as a gateway's weights are:

- the stable alone, by what its pods have and no other version's;
- both: each pod gets as much as any other, so that the candidate's share is that of its pods;
- the candidate alone, at 100 % and after the promotion.

A version's pods carry the labels of all three from the start, and those that the Service had before us: if the team
applies its old manifest, these are added to the selector. A stable that the team has brought has no others, and is
never changed: for it, the selector that the Service had is used for the first two, so that the candidate is rolled back
by taking its pods away. That is the rollback's second write, for all stables alike.

A service's first version has no stable: from its claim on, and after its rollback, the Service selects no pod.
"""

import json
from collections.abc import Mapping
from typing import ClassVar

from airflow_deploy.domain.errors import FencedError, RefusedError
from airflow_deploy.domain.labels import ANNOTATION_PREFIX, VERSION
from airflow_deploy.domain.object_names import object_name
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.record import ANNOTATION_ERRORS, CANARY, Patch, Shift, annotate_op, test_op
from airflow_deploy.domain.routing.team_route import TeamRoute

ADOPTED = f"{ANNOTATION_PREFIX}/adopted"
"""The annotation that says by which labels the Service knew what served before us."""
BESIDE = "beside.airflow-deploy/"
LINKED = "yes"
MATCH_NO_POD = {f"{ANNOTATION_PREFIX}/serves": "nobody"}
"""Labels that no pod has."""

SELECTOR = "/spec/selector"


def shared_pod_labels(stable: str) -> dict[str, str]:
    """Return the labels that only a stable of ours and the version that is deployed beside it have in common."""
    return {f"{BESIDE}{stable}": LINKED}


class ServiceRoute(TeamRoute):
    """A team's Service, as it was read."""

    ROUTER: ClassVar[str] = "replicas"
    ENDS_BY_PODS: ClassVar[bool] = True
    DIVIDES: ClassVar[str] = "selector"
    IGNORED: ClassVar[str] = SELECTOR

    @property
    def selector(self) -> Mapping[str, str]:
        """The labels of the pods that are served."""
        return self.body["spec"].get("selector") or {}

    @property
    def asked(self) -> Mapping[str, str]:
        """The labels by which the team would have its pods served; those of before, while no pod is selected."""
        labels = {key: value for key, value in self.selector.items() if key not in MATCH_NO_POD}
        return labels or self.adopted.get("", {})

    @property
    def adopted(self) -> Mapping[str, Mapping[str, str]]:
        """By its name, the labels of what served before us; empty before the first claim.

        Under an empty name, those that were selected when no pod had them.

        :raises FencedError: the annotation was changed by hand.
        """
        try:
            found = {name: dict(labels) for name, labels in json.loads(self.annotations.get(ADOPTED, "{}")).items()}
        except ANNOTATION_ERRORS as error:
            raise FencedError(f"route {self.name}: the annotation {ADOPTED} was changed by hand") from error
        source = f"route {self.name}: the annotation {ADOPTED}"
        return {(object_name(name, source) if name else ""): labels for name, labels in found.items()}

    def adopt(self, stable: str) -> Patch:
        """Return the patch that says that the selector knows ``stable``, the team's own; empty if it says so already.

        :param stable: empty if no pod is selected.
        """
        if (self.serving() == stable) if stable else (self.selector == MATCH_NO_POD):
            return []
        patch: Patch = [test_op("/metadata/resourceVersion", self.body["metadata"]["resourceVersion"])]
        if not self.annotations:
            patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
        return [*patch, annotate_op(ADOPTED, json.dumps({**self.adopted, stable: dict(self.asked)}))]

    def serving(self) -> str:
        """Return the version that serves, the stable while two do; an empty name if no version that we know does.

        A Deployment that the team has brought is a version too.
        """
        if not (adopted := self.adopted) or not self.selector:
            return ""
        for name, labels in adopted.items():
            if name and self.selector == labels:
                return name
        mine = [(key, value) for key, value in self.selector.items() if key == VERSION or key.startswith(BESIDE)]
        known = {pair for labels in adopted.values() for pair in labels.items()}
        if len(mine) != 1 or not self.selector.items() <= known | set(mine):
            return ""
        ((key, value),) = mine
        return value if key == VERSION else key.removeprefix(BESIDE)

    def stable(self) -> str:
        """Return the version that serves.

        :raises RefusedError: the selector was changed by hand.
        """
        if serving := self.serving():
            return serving
        raise RefusedError(
            f"route {self.name}: its Service selects {_said(self.selector)}, which no deployment has set; the next"
            " deployment adopts what it finds there"
        )

    def serves(self, version: str) -> bool:
        """Whether ``version`` gets any traffic."""
        if version == self.serving():
            return True
        mine = self.phase == CANARY and version == self.versions[1]
        return mine and any(shift.share for shift in self.shifts[-1:])

    def names(self, version: str) -> bool:
        """Whether the latest claim is of ``version``."""
        return self.owner is not None and version in self.versions

    def mentions(self, version: str) -> bool:
        """Whether ``version`` serves, or the latest claim is of it."""
        return version == self.serving() or self.names(version)

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether pods with these labels get traffic, even if the selector was set by hand."""
        return bool(self.selector) and self.selector.items() <= labels.items()

    def mirrors_to(self, version: str) -> bool:
        """Return False: a Service copies nothing."""
        return False

    def labels_of(self, version: str) -> Mapping[str, str]:
        """Return the labels of the version's pods; with those of what the team has brought, others' may have them.

        :param version: empty for no version.
        """
        return (self.adopted.get(version) or {VERSION: version}) if version else MATCH_NO_POD

    def attach_patch(self, claim: Claim) -> Patch:
        """Return the part that selects the stable as our own writes do; a version without pods has no share yet."""
        return [*self.unchanged_tests(claim.candidate), _select(self.labels_of(claim.stable))]

    def check_share(self, claim: Claim, shift: Shift) -> None:
        """Check that the selector is that of the shift."""
        if self.selector != (ours := self._selector(claim, shift)):
            raise FencedError(
                f"route {self.name}: its Service selects {_said(self.selector)}, and the last shift set {_said(ours)};"
                " it was changed by hand"
            )

    def shift_patch(self, claim: Claim, shift: Shift) -> Patch:
        """Return the part of a shift that sets the selector."""
        return [*self.unchanged_tests(claim.candidate), _select(self._selector(claim, shift))]

    def unchanged_tests(self, candidate: str) -> Patch:
        """Return a test that fails as soon as the selector is not as it was read."""
        return [test_op(SELECTOR, dict(self.selector))]

    def is_whole(self, claim: Claim) -> bool:
        """Whether the selector is the stable's."""
        return self.selector == self.labels_of(claim.stable)

    def restore_patch(self, claim: Claim, *, for_good: bool) -> Patch:
        """Return the part that selects the stable, at any present selector."""
        return [_select(self.labels_of(claim.stable))]

    def has_foreign_rule(self, claim: Claim) -> bool:
        """Return False: the selector is one."""
        return False

    def reclaim_patch(self, claim: Claim) -> Patch:
        """Return the part that selects the stable instead of the candidate."""
        return [*self.unchanged_tests(claim.candidate), _select(self.labels_of(claim.stable))]

    def detach_patch(self, version: str) -> Patch:
        """Return nothing: a version without traffic is not selected."""
        return []

    def _selector(self, claim: Claim, shift: Shift) -> Mapping[str, str]:
        if shift.share == 0:
            return self.labels_of(claim.stable)
        if shift.share == 100:
            return {VERSION: claim.candidate}
        return self.adopted.get(claim.stable) or shared_pod_labels(claim.stable)


def _select(labels: Mapping[str, str]) -> dict[str, object]:
    return {"op": "add", "path": SELECTOR, "value": dict(labels)}


def _said(labels: Mapping[str, str]) -> str:
    return ",".join(f"{key}={labels[key]}" for key in sorted(labels)) or "nothing"
