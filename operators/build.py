"""``build_image``: one commit, one image, pushed once."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import Context

from airflow_deploy.clients.docker import Images
from airflow_deploy.clients.git import Repository
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.tasks.base import DeployOperator, record_step
from airflow_deploy.tasks.frozen import BUILT, PLANNED, freeze_plan


class BuildImageOperator(DeployOperator):
    """Build exactly the plan's commit, push it, and freeze the plan with the image's digest."""

    reads = PLANNED

    def execute(self, context: Context) -> str:
        """Return the image. A tag that the registry has already is not built again."""
        plan = self.load_plan()
        record_step(context, State.BUILDING, f"building {plan.image_tag}")
        images = Images(plan.spec.connections.docker)
        digest = images.digest(plan.image_tag) or self._build(images, plan)
        self.log.info("%s is %s", plan.image_tag, digest)
        built = plan.model_copy(update={"digest": digest})
        freeze_plan(context, built, BUILT)
        return built.image

    def _build(self, images: Images, plan: DeploymentPlan) -> str:
        source = plan.spec.source
        labels = {
            "org.opencontainers.image.revision": plan.commit,
            "org.opencontainers.image.source": source.repository,
            "org.opencontainers.image.version": plan.candidate,
        }
        with Repository.fetched(source) as repository, tempfile.TemporaryDirectory(prefix="airflow-deploy-") as folder:
            tree = Path(folder).resolve()
            repository.checkout(plan.commit, tree)
            context, dockerfile = _within(tree, source.context), _within(tree, source.dockerfile)
            if not (context and context.is_dir() and dockerfile and dockerfile.is_file()):
                raise RefusedError(
                    f"source: commit {plan.commit[:12]} has no file {source.dockerfile} or no folder {source.context};"
                    " add it (`airflow-deploy dockerfile . > Dockerfile` writes one), or correct source.dockerfile or"
                    " source.context"
                )
            images.build(context, str(dockerfile), plan.image_tag, labels, {"COMMIT": plan.commit})
            return images.push(plan.image_tag)


def _within(tree: Path, name: str) -> Path | None:
    """Return the path of ``name``; None if a link, which the commit's author decides, leads out of the checkout."""
    try:
        path = (tree / name).resolve()
    except (OSError, RuntimeError):  # a link to itself
        return None
    return path if path.is_relative_to(tree) else None
