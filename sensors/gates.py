"""The watch, the health gates and the verification: three roles of one analysis."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from airflow.sdk import BaseBranchOperator, Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.routes import patch_route, read_route
from airflow_deploy.domain.errors import FencedError, HarmError
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.lifecycle.xcom_keys import VERDICT_KEY
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.rollout.analysis.loop import Assignment, Role
from airflow_deploy.sensors.base import DeploySensor
from airflow_deploy.sensors.graph_link import PrometheusGraphLink
from airflow_deploy.tasks.base import record_step
from airflow_deploy.tasks.decisions import store_decision
from airflow_deploy.tasks.triggers import AnalysisTrigger


class AnalysisSensor(DeploySensor):
    """Evaluate the deployment until a verdict is reached."""

    operator_extra_links = (PrometheusGraphLink(),)
    role: Role
    next_share: int | None = None

    def trigger(self, context: Context) -> AnalysisTrigger:
        """Return the analysis loop."""
        plan = self.load_plan()
        assignment = Assignment(
            role=self.role,
            plan=plan.dump(),
            baseline=self.load_baseline(),
            claim=self.load_claim(),
            started=time.time(),
            next_share=self.next_share and plan.share(self.next_share),
        )
        return AnalysisTrigger(asdict(assignment), context["ti"].task_id)

    def keep(self, context: Context, event: dict[str, Any]) -> str:
        """Push the event, which is kept even if the task fails then, and return its sentence."""
        context["ti"].xcom_push(key=VERDICT_KEY, value=event)
        self.log.info("%s: %s", event["verdict"], event["reason"])
        return f"{event['verdict']}: {event['reason']}"


class WatchSensor(AnalysisSensor):
    """Judge harm and sight from the first shift until the promotion is verified; roll back at once on harm."""

    role = "watch"

    def finish(self, context: Context, event: dict[str, Any]) -> None:
        """Succeed if the deployment was verified.

        :raises HarmError: the watch has rolled back.
        :raises FencedError: another task has ended the deployment.
        """
        said = self.keep(context, event)
        if event["verdict"] != "CLOSED":
            raise HarmError(said)
        if event["numbers"]["phase"] != routes.VERIFIED:
            raise FencedError(said)


class HealthGateSensor(AnalysisSensor, BaseBranchOperator):
    """Wait until the health of this share is known, and choose what follows.

    HEALTHY leads straight to the next share. UNDECIDED leads to the question, and a person's yes to the next share.

    :param next_share: that share in %.
    :param branches: ids of the tasks that follow HEALTHY and UNDECIDED; None if one task follows both.
    """

    role = "gate"

    def __init__(self, *, next_share: int, branches: tuple[str, str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.next_share = next_share
        self.branches = branches

    def trigger(self, context: Context) -> AnalysisTrigger:
        """Withdraw what the gate has decided before, if it runs again."""
        store_decision(self.load_plan(), context["ti"].task_id, None, goes_on=False)
        return super().trigger(context)

    def finish(self, context: Context, event: dict[str, Any]) -> None:
        """Record the verdict and skip what does not follow from it. A gate that runs again decides again.

        :raises AirflowSkipException: another task has ended the canary.
        :raises HarmError: the gate has seen harm.
        """
        said = self.keep(context, event)
        if event["verdict"] == "CLOSED":
            raise AirflowSkipException(said)
        record_step(context, State.CANARY_EVALUATING, said, evidence=event["evidence_sha256"])
        if event["verdict"] not in ("HEALTHY", "UNDECIDED"):
            raise HarmError(said)
        store_decision(self.load_plan(), context["ti"].task_id, event["verdict"], goes_on=event["verdict"] == "HEALTHY")
        if self.branches:
            healthy, undecided = self.branches
            # Airflow skips the question before it ends this task: the next shift can start in the same scheduler pass.
            self.do_branch(context, healthy if event["verdict"] == "HEALTHY" else undecided)


class VerifySensor(AnalysisSensor):
    """Verify the promoted version: it is still healthy, and the incident is resolved."""

    role = "verify"
    next_share = 100

    def trigger(self, context: Context) -> AnalysisTrigger:
        """Record that the verification begins."""
        record_step(context, State.VERIFYING, "verifying the promoted version")
        return super().trigger(context)

    def finish(self, context: Context, event: dict[str, Any]) -> None:
        """Succeed if the version is healthy, and confirm it on the route.

        :raises HarmError: it is not healthy, or does not resolve the incident.
        :raises FencedError: another task has ended the deployment.
        """
        said = self.keep(context, event)
        if event["verdict"] == "CLOSED" and event["numbers"]["phase"] != routes.VERIFIED:
            raise FencedError(said)
        if event["verdict"] not in ("HEALTHY", "CLOSED"):
            raise HarmError(said)
        self._confirm()
        record_step(context, State.VERIFIED, said, evidence=event["evidence_sha256"])

    def _confirm(self) -> None:
        plan = self.load_plan()
        cluster = connect(plan.spec.connections.kubernetes)
        route = read_route(cluster, *plan.spec.place)
        patch_route(cluster, route, routes.confirm(route, plan.claim(self.load_claim())))
