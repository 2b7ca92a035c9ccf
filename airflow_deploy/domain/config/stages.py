"""Part of the spec: the shadow stage, the stages of the canary, and how long a rollback stays possible after them."""

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from airflow_deploy.domain.values import DURATION, LIST, Model


class CanarySpec(Model):
    """The stages of the canary, as shares in %, and how long each may take, in seconds."""

    stages: Annotated[tuple[int, ...], Field(min_length=1, max_length=20), LIST] = (5, 25, 50, 100)
    """Shares of the traffic in %, rising to 100. ``criticality`` caps the first."""
    bake: Annotated[int, Field(ge=5, le=6 * 3600), DURATION] = 60
    """Least time at a stage."""
    warm_up: Annotated[int, Field(ge=0, le=3600), DURATION] = 10
    """Time after the candidate's first request in which latency and CPU are not judged."""
    max_bake: Annotated[int, Field(ge=10, le=6 * 3600), DURATION] = 1800
    """Time of sight at a stage after which a person is asked."""

    @model_validator(mode="after")
    def _check(self) -> "CanarySpec":
        if list(self.stages) != sorted(set(self.stages)) or self.stages[0] < 1 or self.stages[-1] != 100:
            raise ValueError("stages do not rise from at least 1 to exactly 100; write shares such as [5, 25, 50, 100]")
        if self.max_bake < self.bake:
            raise ValueError("max_bake is shorter than bake; lengthen max_bake or shorten bake")
        if self.warm_up >= self.max_bake:
            raise ValueError("warm_up is not shorter than max_bake, so latency would never be judged; shorten warm_up")
        return self


class ShadowSpec(Model):
    """A stage before the first share: the candidate gets copies of requests, and users get the stable's answers."""

    share: Annotated[int, Field(ge=1, le=50)]
    """Share of the requests that are copied to the candidate, in %."""
    safe_to_mirror: Annotated[bool, Field(validate_default=True)] = False
    """Must be true: no request does harm if it is processed twice."""

    @field_validator("safe_to_mirror")
    @classmethod
    def _declared(cls, safe: bool) -> bool:
        if not safe:
            raise ValueError(
                "shadow copies every kind of request to the new version, also those that write; set"
                " safe_to_mirror: true if it is safe to handle each request twice, or remove shadow"
            )
        return safe


class RollbackSpec(Model):
    """How long a promoted version is verified and may be rolled back, and how many versions are kept."""

    window: Annotated[int, Field(ge=60, le=7 * 86_400), DURATION] = 86_400
    """How long a promoted version is verified, and the version before it stays warm."""
    keep: Annotated[int, Field(ge=1, le=50)] = 3
    """Number of versions that are kept beside the stable."""
