"""Part of the spec: the resources of a version's pods, and the autoscaler that sets their number."""

from typing import Annotated

from pydantic import Field, StringConstraints

from airflow_deploy.domain.values import Model

Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi)?$", max_length=20)]


class Scaling(Model):
    """The autoscaler of each version. Its minimum is the service's ``replicas``."""

    max: Annotated[int, Field(ge=1, le=500)]
    """Most pods of a version; at least ``replicas``."""
    cpu: Annotated[int, Field(ge=1, le=100)] = 70
    """CPU use in % above which pods are added."""


class Resources(Model):
    """The limits of each pod; its requests are the same."""

    cpu: Quantity = "500m"
    """CPU request and limit of a pod."""
    memory: Quantity = "256Mi"
    """Memory request and limit of a pod."""
