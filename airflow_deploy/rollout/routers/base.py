"""The steps of a rollout in which routers differ."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.team_route import TeamRoute


class RouterSteps(ABC):
    """What one router needs of a cluster. It has no state: each call reads what it needs."""

    @abstractmethod
    def find_stable(self, cluster: KubernetesClient, spec: DeploymentSpec, route: TeamRoute) -> dict[str, Any]:
        """Return what a plan says of the version that serves now; nothing is written.

        :raises RefusedError: it is not clear which version serves, or none could be deployed beside it.
        """

    @abstractmethod
    def check_plan(self, cluster: KubernetesClient, plan: DeploymentPlan, route: TeamRoute) -> None:
        """Check that the route can divide traffic as the plan needs it; nothing is written.

        :raises RefusedError: it cannot, and what to do.
        """

    @abstractmethod
    def route_to_claim(self, cluster: KubernetesClient, plan: DeploymentPlan) -> TeamRoute:
        """Return the route as it is now; that of a first version may be made."""

    @abstractmethod
    def adopt(self, cluster: KubernetesClient, plan: DeploymentPlan, route: TeamRoute) -> TeamRoute:
        """Return the route, after it has recorded how it knows the stable.

        :raises RefusedError: it is not clear which version serves.
        :raises TemporaryError: the route was written since it was read.
        """

    @abstractmethod
    def scale(self, cluster: KubernetesClient, namespace: str, version: str, pods: int) -> None:
        """Give a version so many pods for a share of its own.

        :raises TemporaryError: they were taken away by a rollback.
        """

    @abstractmethod
    def confirm_delivery(
        self, cluster: KubernetesClient, plan: DeploymentPlan, claim: Claim, *, mirrored: bool
    ) -> list[str]:
        """Check before the first share that requests arrive at the candidate; return in sentences what was seen.

        :raises ProbeFailedError: they do not.
        :raises FencedError: another deployment has the route.
        """

    @abstractmethod
    def wait_until_drained(self, plan: DeploymentPlan) -> str | None:
        """Wait until no request reaches the candidate; return why that was not seen, None if it was."""

    @abstractmethod
    def delete_testers_route(
        self, cluster: KubernetesClient, spec: DeploymentSpec, over: Callable[[str], bool]
    ) -> str | None:
        """Delete the route for testers, and return its name; None if there is none of a deployment that is over."""
