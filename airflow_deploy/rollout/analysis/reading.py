"""What one look reads: the candidate's ready pods, the counters and the incident's query. It decides nothing."""

from __future__ import annotations

import logging

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.errors import QUICK_TIMEOUT
from airflow_deploy.clients.kubernetes.pods import ready_pods
from airflow_deploy.domain.analysis.evidence import EvidenceLog
from airflow_deploy.domain.config.request import ResolvedWhen
from airflow_deploy.domain.errors import DeployError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.counters import Tick
from airflow_deploy.domain.routing.record import Shift
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.rollout.analysis.intake import Intake
from airflow_deploy.rollout.analysis.loop_roles import RoleTerms
from airflow_deploy.rollout.analysis.observer import LOOKBACK, Observer

log = logging.getLogger(__name__)


class Reading:
    """Reads for one loop, into its evidence.

    :param started: unix seconds at which the loop began.
    """

    def __init__(
        self,
        role: RoleTerms,
        cluster: KubernetesClient,
        plan: DeploymentPlan,
        observer: Observer,
        evidence: EvidenceLog,
        started: float,
    ) -> None:
        self._role, self._cluster, self._plan, self._evidence = role, cluster, plan, evidence
        self._observer, self._started = observer, started
        self._intake = Intake(plan, observer, evidence, newborn=True)
        self._complete = 0

    def read(self, route: TeamRoute, at: float) -> str | None:
        """Read pods and counters; return why the metrics cannot be trusted, None if they can.

        :raises DeployError: the cluster or Prometheus gives no answer that could be used.
        """
        self._count_pods(route, at)
        if not (shifts := route.shifts):
            return None  # the first share waits for its pods, or for the gateway, and there is nothing to see yet

        def share_of(tick: Tick) -> Shift | None:
            # Two clocks: what the candidate answered counts, even if Prometheus' clock says before the shift.
            if tick.at < shifts[0].at and not tick.counts[self._plan.candidate].requests:
                return None
            return ([shift for shift in shifts if shift.at <= tick.at] or shifts[:1])[-1]

        self._intake.take_in(shifts[0].at - LOOKBACK, at, share_of)
        return self._intake.blind_reason(max(self._started, shifts[0].at), at)

    def ask_incident(self, condition: ResolvedWhen, at: float, *, blind: bool) -> None:
        """Ask whether the incident is resolved; a query that fails has no answer."""
        value = None
        if not blind:
            try:
                value = self._observer.number(condition.query)
            except DeployError as error:
                log.warning("resolved_when: %s", error)
        self._evidence.observe_incident(at, value)

    def _count_pods(self, route: TeamRoute, at: float) -> None:
        """Compare the candidate's ready pods with what its share needs; if they are not known, nothing is recorded.

        If pods are the share, those of a new one are still to come: they count once all of them have been there, as
        they have before it was all of the traffic.
        """
        plan = self._plan
        reached = route.serves(plan.candidate) or route.mirrors_to(plan.candidate)
        if not self._role.leads or not reached or not route.shifts:
            return
        try:
            ready = ready_pods(
                self._cluster, plan.spec.namespace, plan.candidate, plan.labels_of(plan.candidate), QUICK_TIMEOUT
            )
        except DeployError as error:
            log.warning("cannot count the ready pods of %s: %s", plan.candidate, error)
            return
        share = route.shifts[-1].share
        needed = plan.pods_for(share)
        if ready >= needed:
            self._complete = share
        if plan.router.counts_pods(share, self._complete):
            self._evidence.observe_pods(at, ready, needed)
