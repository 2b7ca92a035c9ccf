"""The tasks of ``verify_deployments``: check what was promoted, roll back what breaches, and report it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowSkipException

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.routes import read_route
from airflow_deploy.clients.prometheus.hook import Prometheus
from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.config.connections import Connections
from airflow_deploy.domain.errors import DeployError, HarmError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State, Step
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.record import ANNOTATION_ERRORS
from airflow_deploy.domain.values import printable
from airflow_deploy.operators.audit import amend_audit
from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.rollout.analysis.recheck import Recheck, recheck
from airflow_deploy.rollout.history import PromotedDeployment, promoted_deployment, promoted_deployments
from airflow_deploy.rollout.rollback import RollbackOutcome, rollback
from airflow_deploy.rollout.teardown import roll_back_and_stop
from airflow_deploy.tasks.base import TASK_RETRIES

log = logging.getLogger(__name__)

Clients = tuple[KubernetesClient, Prometheus]

CONCURRENT_RECHECKS = 8
"""How many services are checked at the same time."""


@dataclass(frozen=True)
class RecheckFinding:
    """What a pass says of one deployment: a verdict, LEFT if there is nothing to judge, or BACK.

    BACK: it was rolled back by a task that died before it was recorded.
    """

    item: PromotedDeployment
    verdict: str
    reason: str
    at: float
    evidence: str = ""

    @property
    def event(self) -> dict[str, Any]:
        """What is left on the route and in the artifacts, as the judges' events are."""
        return {"verdict": "BREACHED", "reason": self.reason, "at": datetime.fromtimestamp(self.at, UTC).isoformat()}


class CheckPromotedOperator(BaseOperator):
    """Check every promoted version within its rollback window once; return those to roll back.

    :param limit: how many services one pass may roll back. If more breach, what they share is broken: they are held.
    """

    ui_color = "#fff3d6"

    def __init__(self, *, limit: int, **kwargs: Any) -> None:
        super().__init__(**{**TASK_RETRIES, **kwargs})
        self.limit = limit

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Return a target for ``RollBackPromotedOperator`` by service.

        :raises HarmError: more than ``limit`` breach; nothing is rolled back.
        """
        items = promoted_deployments(time.time())
        live = {item.plan.dag_id for item in items if context["ti"].get_dr_count(item.plan.dag_id, states=["running"])}
        cluster, prometheus = cache(connect), cache(Prometheus.connect)
        # Connections are read here and not in the threads.
        clients = [_clients(item.plan.spec.connections, cluster, prometheus) for item in items]
        with ThreadPoolExecutor(CONCURRENT_RECHECKS) as threads:
            looked = threads.map(lambda item, both: look(item, both, live=item.plan.dag_id in live), items, clients)
            found = list(looked)
        self.log.info("::group::%d services within their rollback window", len(found))
        for each in found:
            self.log.info("%-20s %-9s %s", each.item.plan.spec.service, each.verdict, printable(each.reason, 500))
        self.log.info("::endgroup::")
        breached = [each for each in found if each.verdict == "BREACHED"]
        if len(breached) > self.limit:
            names = ", ".join(each.item.plan.spec.service for each in breached)
            raise HarmError(
                f"{names}: {len(breached)} of them breach, and at most {self.limit} may in one pass: what they share is"
                " broken, so nothing is rolled back; find what that is"
            )
        chosen = [each for each in found if each.verdict in ("BREACHED", "BACK")]
        # All traffic first, and from here: users are harmed while Airflow goes from this task to the next.
        restored = [_brake(each) if each.verdict == "BREACHED" else None for each in chosen]
        return [_target(each, at) for each, at in zip(chosen, restored, strict=True)]


def _brake(found: RecheckFinding) -> str | None:
    """Return the traffic; if that fails, ``RollBackPromotedOperator`` tries again and says why."""
    plan = found.item.plan
    try:
        restored_at = _roll_back(connect(plan.spec.connections.kubernetes, "brake"), plan, found.event).restored_at
        return datetime.fromtimestamp(restored_at, UTC).isoformat() if restored_at else None
    except Exception as error:  # of any kind: the others' traffic is returned all the same
        log.warning("%s: %s", plan.spec.service, printable(repr(error), 500))
    return None


def _roll_back(cluster: KubernetesClient, plan: DeploymentPlan, event: dict[str, Any]) -> RollbackOutcome:
    verdict = FinalVerdict("BREACHED", event["reason"], datetime.fromisoformat(event["at"]).timestamp())
    return rollback(cluster, plan.claim(), verdict, routes.SETTLED, new_epoch=True)


def _clients(
    connections: Connections, cluster: Callable[[str], KubernetesClient], prometheus: Callable[[str], Prometheus]
) -> Clients | Exception:
    try:
        return cluster(connections.kubernetes), prometheus(connections.prometheus)
    except Exception as error:  # a connection that one team has lost leaves no other service unverified
        return error


def look(item: PromotedDeployment, clients: Clients | Exception, *, live: bool) -> RecheckFinding:
    """Return what is found of one deployment."""
    plan, at = item.plan, time.time()
    if live:
        return RecheckFinding(item, "LEFT", f"a run of {plan.dag_id} is under way", at)
    try:
        if isinstance(clients, Exception):
            raise clients
        cluster, prometheus = clients
        route = read_route(cluster, *plan.spec.place)
        if route.owned_by(plan.deployment_id) and route.phase == routes.SETTLED:
            return _unfinished(item, route.final_verdict, at)
        if not routes.at_rest(route, plan.claim()):
            return RecheckFinding(item, "LEFT", f"route {route.name} is {route.phase} by {route.owner}", at)
        said: Recheck = recheck(item, Observer(prometheus, plan, copies=False), at)
        return RecheckFinding(item, said.verdict, said.reason, said.at, said.evidence)
    except DeployError as error:
        return RecheckFinding(item, "BLIND", str(error), at)
    except Exception as error:  # of any kind: it is this service's, and the others are checked all the same
        log.exception("unexpected error checking %s", plan.deployment_id)
        return RecheckFinding(item, "BLIND", f"{type(error).__name__}: {error}", at)


def _unfinished(item: PromotedDeployment, recorded: str | None, at: float) -> RecheckFinding:
    reason = "it was rolled back before"
    with suppress(*ANNOTATION_ERRORS):  # the annotation may have been changed by hand
        said = json.loads(recorded or "")
        reason = printable(str(said["reason"]), 500)
        at = max(item.verified_at, min(at, datetime.fromisoformat(said["at"]).timestamp()))
    return RecheckFinding(item, "BACK", reason, at)


def _target(found: RecheckFinding, restored_at: str | None) -> dict[str, Any]:
    plan = found.item.plan
    event = {**found.event, **_keep_evidence(found), "restored_at": restored_at}
    return {"service": plan.spec.service, "deployment_id": plan.deployment_id, "event": event}


def _keep_evidence(found: RecheckFinding) -> dict[str, Any]:
    """Write the evidence; a store that fails must not cost the verdict."""
    plan = found.item.plan
    artifacts, name = Artifacts(plan), f"evidence_{plan.deployment_id}/verify_deployments-{int(found.at)}.jsonl"
    try:
        # If it was rolled back before, that task has left the evidence.
        evidence = artifacts.read(name) if found.verdict == "BACK" else found.evidence
        return {"evidence": name, "evidence_sha256": artifacts.write(name, evidence)}
    except Exception:
        log.exception("the evidence of %s could not be kept", plan.deployment_id)
        return {"evidence": None, "evidence_sha256": None}


class RollBackPromotedOperator(BaseOperator):
    """Return the traffic of one promoted version to the one before it, stop it, and record that.

    :param target: what ``CheckPromotedOperator`` returned of it.
    """

    template_fields: Sequence[str] = ()

    def __init__(self, *, target: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target

    def execute(self, context: Context) -> str:
        """Return one sentence; skip if another deployment has the route by now.

        :raises NotFinalizedError: the version before it cannot take the traffic.
        """
        event = self.target["event"]
        item = promoted_deployment(self.target["service"], self.target["deployment_id"])
        if item is None:
            raise AirflowSkipException("it is recorded as rolled back already")
        plan = item.plan
        cluster = connect(plan.spec.connections.kubernetes)
        outcome = _roll_back(cluster, plan, event)
        if not outcome.returned:
            raise AirflowSkipException(f"{plan.deployment_id} is not rolled back: {outcome.reason}")
        restored = datetime.fromisoformat(event["restored_at"]) if event["restored_at"] else datetime.now(UTC)
        outcome = roll_back_and_stop(cluster, plan, event["reason"])
        ti = context["ti"]
        common: dict[str, Any] = {"task": f"{ti.dag_id}.{ti.task_id}", "try_number": ti.try_number}
        why = Step(
            to=State.ROLLING_BACK,
            at=datetime.fromisoformat(event["at"]),
            reason=f"verification: {event['reason']}",
            evidence=event["evidence_sha256"],
            **common,
        )
        done = Step(to=State.ROLLED_BACK, at=restored, reason=outcome.reason, **common)
        folder = amend_audit(plan, [why, done], {**event, "restored_at": restored.isoformat()})
        self.log.info("artifacts: %s", folder)
        return f"{plan.spec.service}: {plan.deployment_id}: {outcome.reason}"


class ReportOperator(BaseOperator):
    """End the pass: it fails if something was rolled back, so that alerts work as they do for any DAG.

    :param rolled_back: id of the mapped task that rolls back.
    """

    def __init__(self, *, rolled_back: str, **kwargs: Any) -> None:
        super().__init__(**{**TASK_RETRIES, **kwargs})
        self.rolled_back = rolled_back

    def execute(self, context: Context) -> None:
        """Say what happened.

        :raises HarmError: something was rolled back.
        """
        # By a list of ids: for a single id, Airflow gives a text instead of a list where there is but one.
        said = [line for line in context["ti"].xcom_pull(task_ids=[self.rolled_back]) if line]
        if said:
            raise HarmError("; ".join(said))
        self.log.info("every promoted version within its window is healthy, or is left alone")
