"""Part of the spec: how much time, memory and CPU the build of the image may use."""

from typing import Annotated

from pydantic import Field

from airflow_deploy.domain.values import DURATION, Model, Size


class BuildSpec(Model):
    """The bounds of the image's build on the Docker daemon."""

    timeout: Annotated[int, Field(ge=10, le=6 * 3600), DURATION] = 1200
    """Longest time of the build, and of the push after it."""
    memory: Size = "2Gi"
    """Memory of each step of the build; it gets no swap."""
    cpu: Annotated[float, Field(ge=0.1, le=256)] = 2
    """CPUs that a step of the build may use."""
