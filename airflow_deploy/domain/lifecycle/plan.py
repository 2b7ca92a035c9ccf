"""The plan: spec, request and build result of one deployment, frozen.

Every task after ``plan`` reads this and never the YAML, which may change while the run goes on.
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
    """Who triggered the run, as Airflow authenticated them; None where nobody who has signed in did."""
    created: int
    """Unix seconds of the trigger; part of the image's tag and the version's name."""
    spec: DeploymentSpec
    request: DeployRequest
    commit: str
    """The full hash."""
    stable: str
    """The Service that serves now; empty where nobody does: the candidate is the service's first version.

    Where pods divide the traffic, it is their Deployment."""
    adopted: dict[str, dict[str, str]] = Field(default_factory=dict)
    """Where pods divide the traffic: by its name, the labels by which the Service knows what the team has brought.

    Under an empty name, those by which it would know what is not there yet."""
    stable_port: int
    stable_ready: int = 1
    """How many of its pods were ready when the run was planned: as many could take everything back."""
    pods_named: bool = True
    """Whether the candidate's pods carry the service's name as a label, as all pods of an application should."""
    digest: str | None = None
    """``sha256:…`` of the pushed image; None until it is built."""

    @property
    def deployment_id(self) -> str:
        """``DEP-…``, the name of everything that this deployment leaves behind."""
        return deployment_id(self.dag_id, self.run_id, self.created)

    @property
    def candidate(self) -> str:
        """The version's name: its Deployment, Service and ConfigMap."""
        return version_name(self.spec.service, self.commit, self.created)

    @property
    def versions(self) -> tuple[str, ...]:
        """Candidate and stable, where there is one."""
        return (self.candidate, self.stable) if self.stable else (self.candidate,)

    @property
    def after_rollback(self) -> str:
        """What is so after a rollback."""
        return f"{self.stable} has all traffic" if self.stable else "nobody has traffic, as before"

    @property
    def divides_pods(self) -> bool:
        """Whether the candidate's pods are its share, so that none starts before it has one."""
        return self.spec.router == "replicas"

    @property
    def stable_service(self) -> str:
        """The Service behind which the stable's pods are until the first share."""
        return self.spec.route.name if self.divides_pods else self.stable

    def share(self, stage: int) -> int:
        """Return the share in % that a stage gives: all of it, where nobody serves who could keep the rest."""
        return self.shares(stage)[-1]

    def shares(self, stage: int) -> tuple[int, ...]:
        """Return the shares in % by which a stage is reached.

        Where pods divide the traffic, the candidate has all of its own before it is alone.
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
        """Return how many pods the candidate has for ``share`` % of the traffic."""
        most = self.spec.replicas
        if self.divides_pods and self.stable:
            alongside = (pods for pods in range(1, most) if division.share_of(pods, self.stable_ready) >= share)
            return next(alongside, most)
        return most if self.spec.capacity == "full" else max(1, -(-most * share // 100))

    def labels_of(self, version: str) -> Mapping[str, str] | None:
        """Return the labels by which the version's pods are known; None where a Service of its own knows them."""
        if not self.divides_pods:
            return None
        return self.adopted.get(version) or {VERSION: version}

    @property
    def pod_labels(self) -> dict[str, str]:
        """The labels of the candidate's pods; the version alone tells them from all others."""
        labels = {NAME: self.spec.service} if self.pods_named else {}
        if self.divides_pods:
            # Whoever applies the Service's old manifest may add its labels to the selector: no version lacks any.
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
        """The image by digest, as it is deployed."""
        if self.digest is None:
            raise ValueError("the image is not built yet")
        return f"{self.spec.registry}/{self.spec.service}@{self.digest}"
