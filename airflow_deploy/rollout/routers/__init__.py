"""What a rollout does with the cluster for each router. The pure part is ``airflow_deploy.domain.routing.routers``."""

from __future__ import annotations

from collections.abc import Mapping

from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.rollout.routers.base import RouterSteps
from airflow_deploy.rollout.routers.gateway import GatewaySteps
from airflow_deploy.rollout.routers.replicas import ReplicasSteps

STEPS: Mapping[str, RouterSteps] = {"gateway": GatewaySteps(), "replicas": ReplicasSteps()}
"""By the spec's ``router``."""


def steps_of(spec: DeploymentSpec) -> RouterSteps:
    """Return what a rollout does for the spec's router."""
    return STEPS[spec.router]
