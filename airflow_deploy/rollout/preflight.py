"""The preflight of a rollback: if the stable could not take all traffic, nothing starts."""

from __future__ import annotations

import logging

from airflow_deploy.clients.docker import Images
from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.pods import config_map_exists, parts_of, ready_pods
from airflow_deploy.domain.errors import PermanentError, RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan

log = logging.getLogger(__name__)


def check_rollback_possible(cluster: KubernetesClient, plan: DeploymentPlan) -> None:
    """Check that the stable has ready pods, and that what they are made of is still there to make another one.

    The rollback of a service's first version is to no traffic, which is always possible.

    :raises RefusedError: it is not, and what to do.
    :raises TemporaryError: the cluster or the registry does not answer.
    """
    namespace, stable = plan.spec.namespace, plan.stable
    if not stable:
        return
    if not ready_pods(cluster, namespace, stable, plan.labels_of(stable)):
        raise RefusedError(
            f"{stable} has no ready pod, so no rollback would be possible; start it, or give the traffic of route"
            f" {plan.spec.route.name} to a Service that serves, then deploy again"
        )
    parts = parts_of(cluster, namespace, plan.stable_service)
    for name in parts.config_maps:
        if not config_map_exists(cluster, namespace, name):
            raise RefusedError(
                f"ConfigMap {namespace}/{name} is gone, and no pod of {stable} could start without it, so no"
                " rollback would be possible; restore it, then deploy again"
            )
    images = Images(plan.spec.connections.docker)
    for image in parts.images:
        try:
            there = images.digest(image) is not None
        except PermanentError as error:
            # The nodes may have a login that we lack: that it may not be asked for does not mean that it is gone.
            log.warning("whether the registry still has the image of %s is not known: %s", stable, error)
        else:
            if not there:
                raise RefusedError(
                    f"the registry has {image} no more, and no pod of {stable} could start anew without it, so no"
                    " rollback would be possible; push it again, then deploy again"
                )
    log.info("rollback target ready: %s with %d pods", stable, plan.stable_ready)
