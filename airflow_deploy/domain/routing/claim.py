"""The claim: who owns a route, for which stable and candidate. Every write of a route carries one."""

from __future__ import annotations

from dataclasses import dataclass, replace

from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.object_names import Place, epoch_of
from airflow_deploy.domain.routing.record import Record


@dataclass(frozen=True)
class Claim:
    """One deployment's claim of a route.

    :param owner: ``<DEP-id>/<epoch>``, as the route's record has it; every claim raises the epoch.
    :param stable: the version that serves without the candidate; empty if the candidate is the service's first.
    """

    owner: str
    stable: str
    candidate: str
    place: Place

    @property
    def deployment_id(self) -> str:
        """The deployment whose claim it is."""
        return self.owner.rpartition("/")[0]

    @property
    def epoch(self) -> int:
        """How many claims the route has had, this one included; 0 before the deployment has claimed it."""
        return epoch_of(self.owner)

    def renewed(self, route: Record) -> Claim:
        """Return the same deployment's next claim of ``route``: it fences all that were made before."""
        return replace(self, owner=f"{self.deployment_id}/{route.epoch + 1}")

    def as_held(self, route: Record) -> Claim:
        """Return this claim at the route's present epoch: the guard may have renewed it in the deployment's name.

        :raises FencedError: another deployment owns the route.
        """
        if route.owner is None or not route.owned_by(self.deployment_id):
            raise FencedError(f"route {route.name} belongs to {route.owner or 'no deployment'}, not to {self.owner}")
        return replace(self, owner=route.owner)
