"""The autoscalers of the stable: kept from shrinking it while a rollback may need it, and then released."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.errors import NOT_ACCEPTED
from airflow_deploy.clients.kubernetes.pods import ready_pods
from airflow_deploy.clients.kubernetes.versions import autoscalers_behind, list_autoscalers, patch_autoscaler
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.workloads.autoscaling import hold_patch, holder_of, release_patch

log = logging.getLogger(__name__)


def check_autoscalers(cluster: KubernetesClient, plan: DeploymentPlan) -> None:
    """Check that the stable's autoscalers may be kept from shrinking it while it idles; nothing is written.

    :raises RefusedError: they may not, and what to do.
    """
    for item in _stables(cluster, plan):
        name = item["metadata"]["name"]
        try:
            patch_autoscaler(cluster, item, hold_patch(item, plan.deployment_id, plan.stable_ready), dry_run=True)
        except NOT_ACCEPTED as error:
            raise RefusedError(
                f"HorizontalPodAutoscaler {plan.spec.namespace}/{name} could shrink {plan.stable} while it has no"
                f" traffic, and may not be kept from it; apply what `airflow-deploy rbac` prints, or set its"
                f" minReplicas to {plan.stable_ready}: {error}"
            ) from error


def hold_autoscalers(cluster: KubernetesClient, plan: DeploymentPlan) -> None:
    """Let none of them shrink the stable below what it has now, or had when the run was planned.

    They are released when the deployment has failed, or its rollback window is over.
    """
    for item in _stables(cluster, plan):
        now = ready_pods(cluster, plan.spec.namespace, plan.stable, plan.labels_of(plan.stable))
        if patch := hold_patch(item, plan.deployment_id, pods := max(now, plan.stable_ready)):
            patch_autoscaler(cluster, item, patch)
            log.info("%s keeps at least %d pods", item["metadata"]["name"], pods)


def _stables(cluster: KubernetesClient, plan: DeploymentPlan) -> list[dict[str, Any]]:
    return autoscalers_behind(cluster, plan.spec.namespace, plan.stable_service) if plan.stable else []


def release_autoscalers(cluster: KubernetesClient, namespace: str, over: Callable[[str], bool]) -> list[str]:
    """Give back their minimum to those that a deployment holds which is over, and return their names.

    :param over: whether a deployment is, by its id.
    """
    released: list[str] = []
    for item in list_autoscalers(cluster, namespace):
        by = holder_of(item)
        if by and over(by):
            patch_autoscaler(cluster, item, release_patch(item))
            released.append(item["metadata"]["name"])
    return released
