"""The plan: spec, request and build result of one deployment, frozen.

Every task after ``plan`` reads the plan and never the YAML, which may change during the run.
"""

from collections.abc import Mapping

from pydantic import Field

from airflow_deploy.domain.config.request import DeployRequest
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.labels import NAME, VERSION
from airflow_deploy.domain.names import deployment_id, image_tag, version_name
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.routers import ROUTERS, Router
from airflow_deploy.domain.values import Model


class DeploymentPlan(Model):
    """One deployment. It travels through XCom as plain JSON."""

    dag_id: str
    run_id: str
    requester: str | None
    """Who triggered the run, as Airflow authenticated them; None if the request was not authenticated."""
    created: int
    """Unix seconds of the trigger; part of the image's tag and the version's name."""
    spec: DeploymentSpec
    request: DeployRequest
    commit: str
    """The full hash."""
    stable: str
    """The Service that serves now; empty if none does: the candidate is the service's first version.

    With ``router: replicas``, it is the Deployment whose pods serve."""
    adopted: dict[str, dict[str, str]] = Field(default_factory=dict)
    """With ``router: replicas``: by name, the labels by which the Service knows the versions that the team has brought.

    Under an empty name, those by which it would know a version that is not there yet."""
    stable_port: int
    stable_ready: int = 1
    """How many of its pods were ready when the run was planned: a rollback needs as many."""
    pods_named: bool = True
    """Whether the candidate's pods carry the service's name as a label."""
    digest: str | None = None
    """``sha256:…`` of the pushed image; None until it is built."""

    @property
    def deployment_id(self) -> str:
        """``DEP-…``, the name of all artifacts of this deployment."""
        return deployment_id(self.dag_id, self.run_id, self.created)

    @property
    def candidate(self) -> str:
        """The name of the new version: of its Deployment, Service and ConfigMap."""
        return version_name(self.spec.service, self.commit, self.created)

    def claim(self, owner: str | None = None) -> Claim:
        """Return this deployment's claim of its route.

        :param owner: ``<DEP-id>/<epoch>``, once it has claimed the route.
        :raises FencedError: the owner is another deployment.
        """
        claim = Claim(owner or f"{self.deployment_id}/0", self.stable, self.candidate, self.spec.place)
        if claim.deployment_id != self.deployment_id:
            raise FencedError(f"claim {owner} is not one of {self.deployment_id}; trigger a new run")
        return claim

    @property
    def versions(self) -> tuple[str, ...]:
        """Candidate and stable, if there is one."""
        return (self.candidate, self.stable) if self.stable else (self.candidate,)

    @property
    def router(self) -> Router:
        """How its traffic is divided."""
        spec = self.spec
        return ROUTERS[spec.router](
            route=spec.route.name,
            stable=self.stable,
            candidate=self.candidate,
            adopted=self.adopted,
            stable_ready=self.stable_ready,
            replicas=spec.replicas,
            full=spec.capacity == "full",
        )

    @property
    def stable_service(self) -> str:
        """The Service behind which the stable's pods are until the first share."""
        return self.router.stable_service

    def share(self, stage: int) -> int:
        """Return the share in % that a stage gives: all of it, if there is no stable to keep the rest."""
        return self.router.shares(stage)[-1]

    def pods_for(self, share: int) -> int:
        """Return how many pods the candidate needs for ``share`` % of the traffic."""
        return self.router.pods_for(share)

    def labels_of(self, version: str) -> Mapping[str, str] | None:
        """Return the labels by which the version's pods are known; None if a Service of its own knows them."""
        return self.router.labels_of(version)

    @property
    def pod_labels(self) -> dict[str, str]:
        """The labels of the candidate's pods; the version alone tells them from all others."""
        named = {NAME: self.spec.service} if self.pods_named else {}
        return named | self.router.pod_labels() | {VERSION: self.candidate}

    @property
    def image_tag(self) -> str:
        """``<registry>/<service>:<commit>-<unix seconds>``."""
        return image_tag(self.spec.registry, self.spec.service, self.commit, self.created)

    @property
    def image(self) -> str:
        """The image by digest, as it is deployed.

        :raises ValueError: it is not built yet.
        """
        if self.digest is None:
            raise ValueError("the image is not built yet")
        return f"{self.spec.registry}/{self.spec.service}@{self.digest}"
