"""The team's object that divides the traffic of a service between two versions, of any kind."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, TypeVar

from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.object_names import Place
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.record import Patch, Record, Shift, test_op


class TeamRoute(Record, ABC):
    """An object whose one write moves traffic, and which keeps the record of the deployment that has it.

    Patches are the parts that move traffic; ``transitions`` fences them, and adds what is recorded.
    """

    ROUTER: ClassVar[str]
    """What the spec calls it."""
    ENDS_BY_PODS: ClassVar[bool]
    """Whether a rollback is complete only when the candidate's pods are gone, whose connections would go on."""
    DIVIDES: ClassVar[str]
    """The field of its spec that divides the traffic."""
    IGNORED: ClassVar[str]
    """What a GitOps tool must not set back."""

    @property
    def place(self) -> Place:
        """Which object it is."""
        metadata = self.body["metadata"]
        return Place(metadata["namespace"], metadata["name"], self.ROUTER)

    def latest_claim(self) -> Claim:
        """Return the latest claim, as the route's own record tells it.

        :raises FencedError: the route has no owner, or its record names no two versions that could exist.
        """
        if not self.owner:
            raise FencedError(f"route {self.name} has no owner")
        stable, candidate = self.versions
        return Claim(self.owner, stable, candidate, self.place)

    @abstractmethod
    def serving(self) -> str:
        """Return the one version that serves now; an empty name if none does, or it is not clear which.

        :raises RefusedError: several share the traffic unasked.
        """

    @abstractmethod
    def stable(self) -> str:
        """Return the one version that serves now.

        :raises RefusedError: there is none, or several are.
        """

    @abstractmethod
    def serves(self, version: str) -> bool:
        """Whether ``version`` gets any traffic."""

    @abstractmethod
    def names(self, version: str) -> bool:
        """Whether ``version`` is one of those between which traffic is divided, at any share."""

    @abstractmethod
    def mentions(self, version: str) -> bool:
        """Whether ``version`` is named at all, so that it must not be deleted."""

    @abstractmethod
    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether pods with these labels get traffic by them alone, of any version."""

    @abstractmethod
    def mirrors_to(self, version: str) -> bool:
        """Whether requests are copied to ``version``; their senders are answered by the stable."""

    @abstractmethod
    def labels_of(self, version: str) -> Mapping[str, str] | None:
        """Return the labels by which the version's pods are known; None if a Service of its own knows them."""

    @abstractmethod
    def attach_patch(self, claim: Claim) -> Patch:
        """Return the part of a claim that lets the candidate have a share later; it has none yet."""

    @abstractmethod
    def check_share(self, claim: Claim, shift: Shift) -> None:
        """Check that the traffic is divided as that shift has left it.

        :raises FencedError: it was changed by hand.
        """

    @abstractmethod
    def shift_patch(self, claim: Claim, shift: Shift) -> Patch:
        """Return the part of a shift that divides the traffic, while it is divided as it was read."""

    @abstractmethod
    def unchanged_tests(self, candidate: str) -> Patch:
        """Return tests that fail as soon as the traffic is not divided as it was read."""

    @abstractmethod
    def is_whole(self, claim: Claim) -> bool:
        """Whether the stable has all traffic; without one, whether the candidate has none."""

    @abstractmethod
    def restore_patch(self, claim: Claim, *, for_good: bool) -> Patch:
        """Return the part that gives the stable all traffic, however it is divided by now.

        :param for_good: whether the candidate's pods are about to end.
        """

    @abstractmethod
    def has_foreign_rule(self, claim: Claim) -> bool:
        """Whether a rule that the team added, without the stable, still sends requests to the candidate."""

    @abstractmethod
    def reclaim_patch(self, claim: Claim) -> Patch:
        """Return the part that gives all traffic of a promotion back to the stable, which may not be named any more."""

    @abstractmethod
    def detach_patch(self, version: str) -> Patch:
        """Return the part by which a version that gets no traffic may lose its pods too."""

    def as_read_tests(self) -> Patch:
        """Return tests that fail as soon as the record, or what divides the traffic, is not as it was read."""
        read = (
            ("/metadata/annotations", self.annotations),
            (f"/spec/{self.DIVIDES}", self.body["spec"].get(self.DIVIDES)),
        )
        return [test_op(path, value) for path, value in read if value]

    def gitops_managers(self) -> list[str]:
        """Return the GitOps tools that own what divides the traffic, and would set it back."""
        return [
            entry["manager"]
            for entry in self.body["metadata"].get("managedFields") or []
            if entry.get("manager", "").startswith(GITOPS_MANAGERS)
            and f"f:{self.DIVIDES}" in (entry.get("fieldsV1") or {}).get("f:spec", {})
        ]


Route = TypeVar("Route", bound=TeamRoute)


def absent_route(kind: type[Route], namespace: str, name: str) -> Route:
    """Return what stands for a route that is not there: it has no owner, and sends no request anywhere."""
    return kind({"metadata": {"namespace": namespace, "name": name}, "spec": {}})


GITOPS_MANAGERS = ("argocd", "kustomize-controller", "helm-controller")
