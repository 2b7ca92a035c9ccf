"""The routers: what follows for shares, pods and labels from what divides the traffic.

Another router is one class here and one entry of ``ROUTERS``; the spec names it. What a rollout does with the cluster
for it is in ``airflow_deploy.rollout.routers``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from airflow_deploy.domain.labels import VERSION
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.pod_shares import pods_for_stage, share_of
from airflow_deploy.domain.routing.service_route import ServiceRoute, shared_pod_labels
from airflow_deploy.domain.routing.team_route import TeamRoute


@dataclass(frozen=True)
class Router(ABC):
    """How the traffic of one deployment is divided between its stable and its candidate.

    :param route: name of the team's object that divides it.
    :param stable: the version that serves; empty if the candidate is the service's first.
    :param adopted: by name, the labels by which the team's Service knows the versions that the team has brought.
    :param stable_ready: how many pods of the stable were ready when the run was planned.
    :param replicas: how many pods the candidate has at 100 %.
    :param full: whether it has as many for each share.
    """

    route: str
    stable: str
    candidate: str
    adopted: Mapping[str, Mapping[str, str]]
    stable_ready: int
    replicas: int
    full: bool

    ROUTE: ClassVar[type[TeamRoute]]
    """What divides the traffic."""

    def shares(self, stage: int) -> tuple[int, ...]:
        """Return the shares in % by which a stage is reached: all of it, if there is no stable to keep the rest."""
        return self._shares_beside(stage) if self.stable else (100,)

    @abstractmethod
    def _shares_beside(self, stage: int) -> tuple[int, ...]:
        """Return the shares in % by which a stage is reached beside the stable."""

    def pods_for(self, share: int) -> int:
        """Return how many pods the candidate needs for ``share`` % of the traffic."""
        return self.replicas if self.full else max(1, -(-self.replicas * share // 100))

    @property
    @abstractmethod
    def pods_before_share(self) -> int:
        """How many pods the candidate may have at most before its first share; 0 if they are its share."""

    @abstractmethod
    def pods_follow(self, share: int) -> bool:
        """Whether the candidate's pods start after the write that gives it the share, instead of before."""

    @abstractmethod
    def counts_pods(self, share: int, complete: int) -> bool:
        """Whether missing pods are harm at ``share`` %, once all pods for ``complete`` % were seen."""

    @abstractmethod
    def labels_of(self, version: str) -> Mapping[str, str] | None:
        """Return the labels by which the version's pods are known; None if a Service of its own knows them."""

    @abstractmethod
    def pod_labels(self) -> dict[str, str]:
        """Return the labels that the candidate's pods need to get traffic, beside their own version's."""

    @property
    @abstractmethod
    def stable_service(self) -> str:
        """The Service behind which the stable's pods are until the first share."""


class GatewayRouter(Router):
    """The weights of an HTTPRoute divide the traffic; each version has a Service of its own."""

    ROUTE = HttpRoute

    def _shares_beside(self, stage: int) -> tuple[int, ...]:
        return (stage,)

    @property
    def pods_before_share(self) -> int:
        """All of them."""
        return self.replicas

    def pods_follow(self, share: int) -> bool:
        """Return False: capacity before weight."""
        return False

    def counts_pods(self, share: int, complete: int) -> bool:
        """Return True: they were ready before the share."""
        return True

    def labels_of(self, version: str) -> None:
        """Return None."""
        return

    def pod_labels(self) -> dict[str, str]:
        """Return none."""
        return {}

    @property
    def stable_service(self) -> str:
        """The stable's own."""
        return self.stable


class ReplicasRouter(Router):
    """The numbers of pods behind the team's one Service divide the traffic: none starts before it has a share."""

    ROUTE = ServiceRoute

    def _shares_beside(self, stage: int) -> tuple[int, ...]:
        """Before it is alone, the candidate has all pods of its own beside the stable's."""
        alongside = share_of(pods_for_stage(stage, self.stable_ready, self.replicas), self.stable_ready)
        return (alongside, 100) if stage == 100 else (alongside,)

    def pods_for(self, share: int) -> int:
        """Return the least number that gives the share beside the stable's pods."""
        if not self.stable:
            return super().pods_for(share)
        enough = (pods for pods in range(1, self.replicas) if share_of(pods, self.stable_ready) >= share)
        return next(enough, self.replicas)

    @property
    def pods_before_share(self) -> int:
        """None."""
        return 0

    def pods_follow(self, share: int) -> bool:
        """Return True while the stable has a share: each pod takes one. Alone, the candidate has them all before."""
        return share < 100

    def counts_pods(self, share: int, complete: int) -> bool:
        """Return False while those of a new share are still to come."""
        return share in (complete, 100)

    def labels_of(self, version: str) -> Mapping[str, str]:
        """Return those that the team gave what it brought, or the version."""
        return self.adopted.get(version) or {VERSION: version}

    def pod_labels(self) -> dict[str, str]:
        """Return the labels of all selectors that the Service may get."""
        labels: dict[str, str] = {}
        # The team may apply the Service's old manifest, which adds its labels to the selector: no version lacks any.
        for known in self.adopted.values():
            labels |= known
        labels |= shared_pod_labels(self.candidate)
        labels |= self.adopted.get(self.stable) or shared_pod_labels(self.stable)
        return labels

    @property
    def stable_service(self) -> str:
        """The team's own."""
        return self.route


ROUTERS: Mapping[str, type[Router]] = {kind.ROUTE.ROUTER: kind for kind in (GatewayRouter, ReplicasRouter)}
"""By the spec's ``router``."""
