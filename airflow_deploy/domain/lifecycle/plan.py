"""The plan: spec, request and build result of one deployment, frozen.

Every task after ``plan`` reads the plan and never the YAML, which may change during the run.
"""

from collections.abc import Mapping

from pydantic import Field

from airflow_deploy.domain.config.request import DeployRequest
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.labels import NAME, VERSION
from airflow_deploy.domain.names import deployment_id, image_tag, version_name
from airflow_deploy.domain.routing import pod_shares as division
from airflow_deploy.domain.routing.service_route import shared_pod_labels
from airflow_deploy.domain.values import Model


class DeploymentPlan(Model):
    """One deployment. It travels through XCom as plain JSON."""

    dag_id: str
    run_id: str
    requester: str | None
    """The user who triggered the run, as Airflow authenticated them; None if the trigger was unauthenticated."""
    created: int
    """Unix seconds of the trigger; part of the image's tag and the version's name."""
    spec: DeploymentSpec
    request: DeployRequest
    commit: str
    """The full hash."""
    stable: str
    """The stable: the Service that has all traffic when the run is planned; empty for a service's first version.

    With ``router: replicas`` it is the stable's Deployment."""
    adopted: dict[str, dict[str, str]] = Field(default_factory=dict)
    """With ``router: replicas``: by Deployment, the labels by which the Service selects the team's own pods.

    The labels under an empty name are those by which it would select pods that do not exist yet."""
    stable_port: int
    stable_ready: int = 1
    """Number of the stable's pods that were ready when the run was planned, so that they can serve all traffic."""
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

    @property
    def versions(self) -> tuple[str, ...]:
        """The candidate, then the stable if there is one."""
        return (self.candidate, self.stable) if self.stable else (self.candidate,)

    @property
    def after_rollback(self) -> str:
        """The state of the traffic after a rollback, as a phrase."""
        return f"{self.stable} has all traffic" if self.stable else "no version has traffic, as before"

    @property
    def divides_pods(self) -> bool:
        """Whether the number of pods divides the traffic, so that the candidate starts none before its first share."""
        return self.spec.router == "replicas"

    @property
    def stable_service(self) -> str:
        """The Service that selects the stable's pods until the first share."""
        return self.spec.route.name if self.divides_pods else self.stable

    def share(self, stage: int) -> int:
        """Return the share in % that the candidate has after a stage; 100 for a service's first version."""
        return self.shares(stage)[-1]

    def shares(self, stage: int) -> tuple[int, ...]:
        """Return the shares in % through which a stage is reached, in order.

        With ``router: replicas`` the last stage has two: all pods of the candidate beside the stable's, then 100 %.
        """
        if not self.stable:
            return (100,)
        if not self.divides_pods:
            return (stage,)
        alongside = division.share_of(
            division.pods_for_stage(stage, self.stable_ready, self.spec.replicas), self.stable_ready
        )
        return (alongside, 100) if stage == 100 else (alongside,)

    def pods_for(self, share: int) -> int:
        """Return how many pods the candidate needs for ``share`` % of traffic."""
        most = self.spec.replicas
        if self.divides_pods and self.stable:
            alongside = (pods for pods in range(1, most) if division.share_of(pods, self.stable_ready) >= share)
            return next(alongside, most)
        return most if self.spec.capacity == "full" else max(1, -(-most * share // 100))

    def labels_of(self, version: str) -> Mapping[str, str] | None:
        """Return the labels that select the version's pods; None if the version has a Service of its own for that."""
        if not self.divides_pods:
            return None
        return self.adopted.get(version) or {VERSION: version}

    @property
    def pod_labels(self) -> dict[str, str]:
        """The labels of the candidate's pods. The version's label alone identifies them."""
        labels = {NAME: self.spec.service} if self.pods_named else {}
        if self.divides_pods:
            # The team may apply the Service's old manifest again, whose selector needs these labels on all pods.
            for known in self.adopted.values():
                labels |= known
            labels |= shared_pod_labels(self.candidate) | (
                self.adopted.get(self.stable) or shared_pod_labels(self.stable)
            )
        return labels | {VERSION: self.candidate}

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
