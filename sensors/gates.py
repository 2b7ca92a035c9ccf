"""The watch, the health gates and the verification: three questions asked of the same looks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from airflow.sdk import Context, XComArg
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.domain.errors import FencedError, HarmError
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.rollout.analysis.loop import Assignment, Role
from airflow_deploy.sensors.base import DeploySensor
from airflow_deploy.sensors.graph_link import PrometheusGraphLink
from airflow_deploy.tasks.base import record_step, resolved
from airflow_deploy.tasks.triggers import AnalysisTrigger


class AnalysisSensor(DeploySensor):
    """Look at the deployment until there is a word to say.

    :param claim: the owner that ``claim_route`` returned.
    :param baseline: what ``capture_baseline`` returned.
    """

    template_fields: Sequence[str] = ("plan", "claim", "baseline")
    template_fields_renderers = {"plan": "json", "baseline": "json"}  # noqa: RUF012 - Airflow declares it so
    operator_extra_links = (PrometheusGraphLink(),)
    role: Role
    next_share: int | None = None

    def __init__(self, *, claim: str | XComArg, baseline: dict[str, Any] | str | XComArg, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.claim: Any = claim
        self.baseline: Any = baseline

    def trigger(self, context: Context) -> AnalysisTrigger:
        """Return the loop of looks."""
        plan = self.load_plan()
        assignment = Assignment(
            role=self.role,
            plan=plan.dump(),
            baseline=resolved(self.baseline),
            claim=resolved(self.claim),
            started=time.time(),
            next_share=self.next_share and plan.share(self.next_share),
        )
        return AnalysisTrigger(asdict(assignment), context["ti"].task_id)

    def keep(self, context: Context, event: dict[str, Any]) -> str:
        """Push the event, so that it is kept also where the task fails, and return its sentence."""
        context["ti"].xcom_push(key="return_value", value=event)
        self.log.info("%s: %s", event["verdict"], event["reason"])
        return f"{event['verdict']}: {event['reason']}"


class WatchSensor(AnalysisSensor):
    """Judge harm and sight from the first shift until the promotion is verified, and hold the brake."""

    role = "watch"

    def finish(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the event of a deployment that was verified.

        :raises HarmError: the candidate was braked.
        """
        said = self.keep(context, event)
        if event["verdict"] != "CLOSED":
            raise HarmError(said)
        if event["numbers"]["phase"] != routes.VERIFIED:
            raise FencedError(said)
        return event


class HealthGateSensor(AnalysisSensor):
    """Wait until the next share may be given, or it is clear that a person must decide.

    :param next_share: that share in %.
    """

    role = "gate"

    def __init__(self, *, next_share: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.next_share = next_share

    def finish(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return the event: HEALTHY, or UNDECIDED where ``max_bake`` is over, so that a person is asked.

        :raises HarmError: the gate has seen harm.
        """
        said = self.keep(context, event)
        if event["verdict"] == "CLOSED":
            raise AirflowSkipException(said)
        record_step(context, State.CANARY_EVALUATING, said, evidence=event["evidence_sha256"])
        if event["verdict"] not in ("HEALTHY", "UNDECIDED"):
            raise HarmError(said)
        return event


class VerifySensor(AnalysisSensor):
    """After the promotion: is it still healthy, and is the incident over?"""

    role = "verify"
    next_share = 100

    def trigger(self, context: Context) -> AnalysisTrigger:
        """Record that the verification begins."""
        record_step(context, State.VERIFYING, "looking at the promoted version")
        return super().trigger(context)

    def finish(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Return a HEALTHY event.

        :raises HarmError: it is not healthy, or does not end the incident.
        """
        said = self.keep(context, event)
        if event["verdict"] == "CLOSED" and event["numbers"]["phase"] != routes.VERIFIED:
            raise FencedError(said)
        if event["verdict"] not in ("HEALTHY", "CLOSED"):
            raise HarmError(said)
        self._confirm()
        record_step(context, State.VERIFIED, said, evidence=event["evidence_sha256"])
        return event

    def _confirm(self) -> None:
        plan = self.load_plan()
        cluster = Cluster(plan.spec.connections.kubernetes)
        route = cluster.team_route(*plan.spec.place)
        cluster.patch_route(route, routes.confirm(route, resolved(self.claim)))
