"""``apply_manifest``: the candidate's objects, hardened, beside the stable and without traffic."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.versions import apply_all, create_once
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.workloads.manifests import render_version, version_objects
from airflow_deploy.operators.approval import check_agreed
from airflow_deploy.rollout.autoscalers import hold_autoscalers
from airflow_deploy.rollout.capacity import scale_up
from airflow_deploy.tasks.base import DeployOperator, record_step


class ApplyManifestOperator(DeployOperator):
    """Server-side apply the version's ConfigMap, Service, PodDisruptionBudget and NetworkPolicy; make its Deployment.

    :param agreed: ids of the judge and of the question before, one of which must have let it.
    """

    def __init__(self, *, agreed: tuple[str, str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.agreed = agreed

    def execute(self, context: Context) -> str:
        """Return the version's name. Applied twice, the same objects stand."""
        plan = self.load_plan()
        check_agreed(plan, *self.agreed)
        cluster = connect(plan.spec.connections.kubernetes)
        manifest = version_objects(plan)
        apply_all(cluster, manifest, dry_run=True)  # the server's no comes before the first object is written
        Artifacts(plan).freeze(render_version(plan))
        record_step(context, State.DEPLOYING, f"applying {plan.candidate} with {plan.image}")
        hold_autoscalers(cluster, plan)
        # Applied again (a person clears the run, say), it would lose the pods that serve by then: it is made once, and
        # then scaled alone.
        apply_all(cluster, [item for item in manifest if item["kind"] != "Deployment"])
        create_once(cluster, next(item for item in manifest if item["kind"] == "Deployment"))
        if plan.router.pods_before_share:
            scale_up(cluster, plan, plan.share(plan.spec.canary.stages[0]))
        for item in manifest:
            self.log.info("applied %s %s", item["kind"], item["metadata"]["name"])
        return plan.candidate
