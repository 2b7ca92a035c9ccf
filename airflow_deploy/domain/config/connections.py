"""Part of the spec: the Airflow connections that a service's deployments use."""

from typing import Annotated

from pydantic import StringConstraints

from airflow_deploy.domain.values import Model

ConnectionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,200}$")]


class Connections(Model):
    """Ids of the Airflow connections that this service's deployments use."""

    kubernetes: ConnectionId = "kubernetes_default"
    """Airflow connection to the cluster."""
    prometheus: ConnectionId = "prometheus_default"
    """Airflow connection to Prometheus."""
    docker: ConnectionId = "docker_default"
    """Airflow connection to the registry."""
