"""The plan: spec, request and build result of one deployment, frozen.

Every task after ``plan`` reads this and never the YAML, which may change while the run goes on.
"""

from airflow_deploy.domain.names import deployment_id, image_tag, version_name
from airflow_deploy.domain.request import DeployRequest
from airflow_deploy.domain.spec import DeploymentSpec
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
    """The Service that serves now; empty where nobody does: the candidate is the service's first version."""
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
    def returned(self) -> str:
        """What is so after a rollback."""
        return f"{self.stable} has all traffic" if self.stable else "nobody has traffic, as before"

    def share(self, stage: int) -> int:
        """Return the share in % that a stage gives: all of it, where nobody serves who could keep the rest."""
        return stage if self.stable else 100

    @property
    def pod_labels(self) -> dict[str, str]:
        """The labels of the candidate's pods; the version alone tells them from all others."""
        version = {"app.kubernetes.io/version": self.candidate}
        return {"app.kubernetes.io/name": self.spec.service, **version} if self.pods_named else version

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
