"""Part of the spec: where the metrics come from, and what happens while they cannot be trusted."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from airflow_deploy.domain.metrics.sources import SOURCES, MetricsSource
from airflow_deploy.domain.values import DURATION, Model

MetricName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$", max_length=200)]
LabelName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=200)]


class Metrics(Model):
    """The metrics source that counts the requests, and the names that differ from its preset."""

    preset: Literal[tuple(SOURCES)] = "traefik"  # type: ignore[valid-type]
    """Metrics source: the gateway or the pods that count the requests."""
    requests: MetricName | None = None
    """Name of the counter of requests, if it differs from the preset's."""
    duration: MetricName | None = None
    """Name of the histogram of durations in seconds, if it differs from the preset's."""
    label: LabelName | None = None
    """Label that tells versions apart, if it differs from the preset's."""
    code: LabelName | None = None
    """Label of the status code, if it differs from the preset's."""

    @property
    def names(self) -> MetricsSource:
        """The preset's names, with those of the spec in their places."""
        given = self.model_dump(exclude={"preset"}, exclude_none=True)
        return replace(SOURCES[self.preset], **given)


class Blindness(Model):
    """What happens while the metrics cannot be trusted (BLIND)."""

    stale_after: Annotated[int | None, Field(ge=5, le=600), DURATION] = None
    """Age at which the newest scrape is BLIND; by default two scrape intervals and 2 s."""
    max_blind: Annotated[int, Field(ge=10, le=86_400), DURATION] = 900
    """How long blindness may last."""
    then: Literal["hold", "rollback"] = "hold"
    """What happens after ``max_blind``: hold the share, or roll back."""
