"""One analysis loop behind the watch, the gates and the verification: look after look, until a verdict is reached.

A look reads the route (its owner, its phase, its shifts), the candidate's ready pods and Prometheus' counters
(``reading``), asks the one judge, and decides whether that ends the loop (``deciding``). What differs between its users
is in ``roles``. Nothing here is Airflow's: the triggers run it in the triggerer, and a sensor that may not defer in its
worker.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.errors import PROMPT_TIMEOUT, REQUEST_TIMEOUT
from airflow_deploy.clients.kubernetes.pods import withdraw_pods
from airflow_deploy.clients.kubernetes.routes import find_route
from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.analysis.evidence import EvidenceLog
from airflow_deploy.domain.analysis.report import AnalysisReport, LookSummary
from airflow_deploy.domain.analysis.verdict import FinalVerdict, Finding, Verdict
from airflow_deploy.domain.config.gates import gate_table
from airflow_deploy.domain.errors import DeployError, FencedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.record import ANNOTATION_ERRORS, Shift
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.analysis.deciding import Decision
from airflow_deploy.rollout.analysis.intake import terms_of
from airflow_deploy.rollout.analysis.log_budget import LOG_BUDGET
from airflow_deploy.rollout.analysis.loop_roles import ROLES, Role
from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.rollout.analysis.reading import Reading
from airflow_deploy.rollout.rollback import rollback

__all__ = ["AnalysisLoop", "Assignment", "Role"]

log = logging.getLogger(__name__)

BRAKE_SECONDS = 600.0
"""Seconds for which the brake tries."""
MAX_LOOK_SECONDS = 5.0
"""Seconds that a look may take to count as one that renews the Lease."""


@dataclass(frozen=True)
class Assignment:
    """What one loop is for. It travels to the triggerer as JSON, so all its times are absolute.

    :param claim: the owner that ``claim_route`` returned.
    :param started: unix seconds from which ``bake`` and ``max_bake`` count.
    :param next_share: the share in % that HEALTHY would permit; None for the watch, which asks for harm alone.
    """

    role: Role
    plan: dict[str, Any]
    baseline: dict[str, Any]
    claim: str
    started: float
    next_share: int | None = None


class AnalysisLoop:
    """The state of one loop. ``look()`` blocks for a few requests; give it a thread of its own."""

    def __init__(self, assignment: Assignment) -> None:
        self._assignment, self._role = assignment, ROLES[assignment.role]
        self._plan = plan = DeploymentPlan.load(assignment.plan)
        self._cluster = connect(plan.spec.connections.kubernetes, "look", PROMPT_TIMEOUT)
        # The brake has a client of its own, so that no other request delays it. It gives up soon on a server that never
        # answers; then it waits for one that is only slow.
        self._brake_clusters = [
            connect(plan.spec.connections.kubernetes, "brake", each) for each in (PROMPT_TIMEOUT, REQUEST_TIMEOUT)
        ]
        observer = Observer.connect(plan)
        self._condition = plan.request.incident.resolved_when if self._role.asks_incident else None
        terms = replace(
            terms_of(plan, Baseline.load(assignment.baseline), self._condition),
            warm_up=plan.spec.canary.warm_up,
            max_unready=plan.spec.max_unready,
        )
        self._log = EvidenceLog(terms, observer.queries)
        self._reading = Reading(self._role, self._cluster, plan, observer, self._log, assignment.started)
        self._decision = Decision(self._role, plan, assignment.started)
        self._report = AnalysisReport(gate_table(plan.spec.kinds), plan.spec.limits)
        self._shift = Shift(0, 0.0)
        self._in_time = False

    @property
    def evidence(self) -> str:
        """Everything that led to the verdicts so far, as JSON lines."""
        return self._log.lines()

    def look(self) -> FinalVerdict | None:
        """Look once; return the verdict that ends the loop, None to go on."""
        begun = time.monotonic()
        outcome = self._look(time.time())
        self._in_time = time.monotonic() - begun <= MAX_LOOK_SECONDS
        return outcome

    def _look(self, at: float) -> FinalVerdict | None:
        try:
            route = find_route(self._cluster, *self._plan.spec.place)
            if ended := self._ended(route, at):
                _say(self._report.last_table())
                return ended
            self._decision.note_phase(route.phase)
            blind = self._reading.read(route, at)
            self._shift = route.shifts[-1] if route.shifts else self._shift
        except DeployError as error:
            # No other task judges this deployment, so the loop goes on, blind, at any answer of the cluster.
            blind = str(error)
        if self._condition:
            self._reading.ask_incident(self._condition, at, blind=bool(blind))
        verdict, findings = self._log.look(at, blind, self._assignment.next_share)
        total = self._log.judge.candidate_counts
        numbers = {"requests": total.requests, "errors": total.errors}
        outcome = self._decision.decide(verdict, findings, at, numbers, mirrored=self._shift.mirrored)
        if outcome:
            self._log.look(at, blind, self._assignment.next_share, final=True)
        self._tell(at, verdict, findings, final=outcome is not None)
        return outcome

    def renew(self) -> None:
        """Renew the Lease for the latest look. What fails here is tried again after the next one."""
        if not self._role.leads or not self._in_time:
            return
        try:
            lease.renew(self._cluster, self._plan, self._assignment.claim)
        except DeployError as error:
            log.warning("cannot renew the Lease: %s", error)
        except Exception:
            # No caller awaits this, so a mistake of ours would go unseen; the guard sees that the Lease lapses.
            log.exception("cannot renew the Lease, by a mistake of airflow-deploy's own")

    def brake(self, outcome: FinalVerdict) -> float | None:
        """Roll back in one fenced write, and leave ``outcome`` on the route.

        :returns: when it was done; None where the route was lost.
        """
        deadline, clusters = time.monotonic() + BRAKE_SECONDS, cycle(self._brake_clusters)
        while time.monotonic() < deadline:
            try:
                return rollback(next(clusters), self._plan.claim(), outcome, routes.BRAKED).restored_at
            except FencedError as error:
                log.error("rollback: %s", error)
                return None
            except DeployError as error:
                log.warning("rollback: %s; trying again", error)
                time.sleep(0.3)
            except Exception:
                # A mistake of ours must not end the loop before its verdict has rolled back.
                log.exception("rollback failed by a mistake of airflow-deploy's own; trying again")
                time.sleep(0.3)
        return None

    def _ended(self, route: TeamRoute, at: float) -> FinalVerdict | None:
        """Return how the route itself shows that this loop has nothing to judge any more."""
        ours = route.owner == self._assignment.claim
        if ours and route.phase in self._role.phases:
            return None
        braked = route.owned_by(self._plan.deployment_id) and route.phase == routes.BRAKED
        if braked and self._role.leads and route.final_verdict:
            # Another loop for the same task, this one before a restart, or the guard by a claim of its own has rolled
            # back: its verdict stands, unless it was written over. It may have died before it took the pods away.
            withdraw_pods(self._cluster, route, self._plan.candidate)
            with suppress(*ANNOTATION_ERRORS):
                return FinalVerdict.from_event(json.loads(route.final_verdict))
        phase = str(route.phase) if ours else f"owned by {route.owner or 'no deployment'}"
        if not route.is_there:
            phase = "gone"  # with it, all traffic is
        return FinalVerdict("CLOSED", f"route {route.name} is {phase}", at, numbers={"phase": phase})

    def _tell(self, at: float, verdict: Verdict, findings: list[Finding], *, final: bool) -> None:
        if not final and not LOG_BUDGET.is_left(time.monotonic()):
            return
        judge = self._log.judge
        shift = self._shift
        look = LookSummary(
            at, shift.share, verdict, findings, judge.candidate_counts, judge.stable_counts, shift.mirrored
        )
        try:
            _say(self._report.lines(look, final=final))
        except Exception:
            # A mistake in the log must not cost the verdict.
            log.exception("cannot log the look: %s", verdict)


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        log.info("%s", line)
        LOG_BUDGET.spend(1)
