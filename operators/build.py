"""``build_image``: one commit, one image, pushed once."""

from __future__ import annotations

import tempfile
from pathlib import Path

from airflow.sdk import Context

from airflow_deploy.clients.build_context import find_context
from airflow_deploy.clients.docker import Images
from airflow_deploy.clients.git import Repository
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.tasks.base import DeployOperator, record_step
from airflow_deploy.tasks.frozen import BUILT, PLANNED, freeze_plan
from airflow_deploy.tasks.push_record import read_push, store_push


class BuildImageOperator(DeployOperator):
    """Build exactly the plan's commit, push it, and freeze the plan with the image's digest."""

    reads = PLANNED

    def execute(self, context: Context) -> str:
        """Return the image."""
        plan = self.load_plan()
        record_step(context, State.BUILDING, f"building {plan.image_tag}")
        digest = self._push(plan)
        self.log.info("%s is %s", plan.image_tag, digest)
        built = plan.model_copy(update={"digest": digest})
        freeze_plan(context, built, BUILT)
        return built.image

    def _push(self, plan: DeploymentPlan) -> str:
        """Build the image, push it once, and return the digest that the push returned.

        Each step is stored before the next one begins, so a task that was killed anywhere goes on: it finds its own
        image under the tag, or none and builds again. It knows its own by the ids that it stored before each push.

        :raises RefusedError: an image that is not this run's own stands under the tag.
        """
        images = Images(plan.spec.connections.docker)
        try:
            digest = read_push(plan).digest or _own_digest(images, plan)
            if digest is None:
                image_id = self._build(images, plan)
                record = read_push(plan)
                store_push(plan, record.model_copy(update={"built": (*record.built, image_id)}))
                digest = _own_digest(images, plan) or images.push(plan.image_tag, plan.spec.build.timeout)
            store_push(plan, read_push(plan).model_copy(update={"digest": digest}))
        finally:
            images.remove(plan.image_tag)
        return digest

    def _build(self, images: Images, plan: DeploymentPlan) -> str:
        """Build the image, and return its id."""
        source = plan.spec.source
        labels = {
            "org.opencontainers.image.revision": plan.commit,
            "org.opencontainers.image.source": source.repository,
            "org.opencontainers.image.version": plan.candidate,
        }
        with Repository.fetched(source) as repository, tempfile.TemporaryDirectory(prefix="airflow-deploy-") as folder:
            tree = Path(folder).resolve()
            checkout = repository.checkout(repository.resolve(plan.commit), tree)
            context = find_context(tree, source, plan.commit)
            checkout.refuse_stand_ins(*context)
            return images.build(context, plan.image_tag, labels, {"COMMIT": plan.commit}, plan.spec.build)


def _own_digest(images: Images, plan: DeploymentPlan) -> str | None:
    """Return the digest of what this run has pushed already; None if nothing stands under its tag.

    :raises RefusedError: what stands there is not this run's own.
    """
    found = images.find(plan.image_tag)
    if found is None:
        return None
    built = read_push(plan).built
    repository = plan.image_tag.rpartition(":")[0]
    # With containerd's image store an image's id is its digest; else it is that of its configuration.
    if found.digest in built or (
        built and found.single and images.pulled_id(repository, found.digest, plan.spec.build.timeout) in built
    ):
        return found.digest
    raise RefusedError(
        f"the registry has {plan.image_tag} already, and not from this run; find out who pushed it, then trigger a new"
        " run"
    )
