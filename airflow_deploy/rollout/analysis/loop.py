"""One look after the other at a deployment, until there is a word to say.

This is the loop behind the watch, the gates and the verification.

It reads the route (who owns it, its phase, its shifts), the candidate's ready pods, Prometheus' counters and gauges,
and asks the one ``evaluate``.
Nothing here is Airflow's: the triggers run it in the triggerer, and a sensor that may not defer runs it in its worker.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Literal

from airflow_deploy.clients.kubernetes.cluster import Cluster
from airflow_deploy.clients.kubernetes.errors import PROMPT_TIMEOUT, QUICK_TIMEOUT, REQUEST_TIMEOUT
from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.analysis.evidence import EvidenceLog
from airflow_deploy.domain.analysis.judge import Terms
from airflow_deploy.domain.analysis.report import AnalysisReport, LookSummary
from airflow_deploy.domain.analysis.verdict import FinalVerdict, Finding, Verdict
from airflow_deploy.domain.config.gates import gate_table
from airflow_deploy.domain.config.request import ResolvedWhen
from airflow_deploy.domain.errors import DeployError, FencedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.record import ANNOTATION_ERRORS, Shift
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.analysis.log_budget import LOG_BUDGET
from airflow_deploy.rollout.analysis.observer import LOOKBACK, Observer, blind_reason, chunks
from airflow_deploy.rollout.rollback import return_traffic

log = logging.getLogger(__name__)

Role = Literal["watch", "gate", "verify"]

JUDGED_PHASES: dict[Role, frozenset[str]] = {
    "gate": frozenset({routes.CANARY}),
    "watch": routes.WATCHED_PHASES,
    "verify": frozenset({routes.PROMOTED}),
}
"""The phases in which each role has something to judge."""
GATE_GRACE_SECONDS = 10.0
"""Seconds for which a gate leaves harm to the watch before it brakes itself."""
BRAKE_SECONDS = 600.0
"""Seconds for which the brake tries."""
UNVERIFIED_SECONDS = 600.0
"""Seconds beyond ``max_bake`` after which the watch takes a promotion back that nobody verifies (a person has marked
``verify`` as done, say)."""
MAX_LOOK_SECONDS = 5.0
"""Seconds that a look may take to count as one that renews the Lease."""


@dataclass(frozen=True)
class Assignment:
    """What one loop of looks is for. It travels to the triggerer as JSON, so all its times are absolute.

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
        self._assignment = assignment
        self._plan = plan = DeploymentPlan.load(assignment.plan)
        self._cluster = Cluster(plan.spec.connections.kubernetes, "look", PROMPT_TIMEOUT)
        # The brake has a client of its own, so that no other request can stand in its way. What is never answered is
        # given up soon; then a server that is only slow is waited for.
        self._brake_clusters = [
            Cluster(plan.spec.connections.kubernetes, "brake", each) for each in (PROMPT_TIMEOUT, REQUEST_TIMEOUT)
        ]
        self._observer = Observer.connect(plan)
        self._reader = self._observer.reader()
        self._asked_until: float | None = None
        self._condition = plan.request.incident.resolved_when if assignment.role == "verify" else None
        terms = Terms(
            limits=plan.spec.limits,
            kinds=plan.spec.kinds,
            candidate=plan.candidate,
            stable=plan.stable,
            baseline=Baseline.load(assignment.baseline),
            warm_up=plan.spec.canary.warm_up,
            max_unready=plan.spec.max_unready,
            resolved_when=self._condition,
            apart=plan.spec.metrics.names.apart,
        )
        self._log = EvidenceLog(terms, self._observer.queries)
        self._report = AnalysisReport(gate_table(plan.spec.kinds), plan.spec.limits)
        self._shift = Shift(0, 0.0)
        self._complete = 0
        self._looked_at: float | None = None
        self._in_time = False
        self._sighted = 0.0
        self._breached_since: float | None = None
        self._blind_since: float | None = None
        self._sighted_before_promotion = 0.0

    @property
    def evidence(self) -> str:
        """Everything that led to the verdicts so far, as JSON lines."""
        return self._log.lines()

    def look(self) -> FinalVerdict | None:
        """Look once; return the word that ends the loop, None to go on."""
        begun = time.monotonic()
        outcome = self._look(time.time())
        self._in_time = time.monotonic() - begun <= MAX_LOOK_SECONDS
        return outcome

    def _look(self, at: float) -> FinalVerdict | None:
        try:
            route = self._cluster.team_route_or_absent(*self._plan.spec.place)
            if ended := self._ended(route, at):
                _say(self._report.last_table())
                return ended
            if route.phase != routes.PROMOTED:
                self._sighted_before_promotion = self._sighted
            self._count_pods(route, at)
            blind = self._sight(route, at)
        except DeployError as error:
            # Nobody else would look: whatever the cluster answers, this goes on, unsighted.
            route, blind = None, str(error)
        if self._condition:
            self._log.observe_incident(at, None if blind else self._answer(self._condition))
        verdict, findings = self._log.look(at, blind, self._assignment.next_share)
        outcome = self._decide(verdict, findings, at)
        if outcome:
            self._log.look(at, blind, self._assignment.next_share, final=True)
        self._tell(route, at, verdict, findings, final=outcome is not None)
        return outcome

    def renew(self) -> None:
        """Renew the Lease for the latest look. What fails here is tried again after the next one."""
        if self._assignment.role == "gate" or not self._in_time:
            return
        try:
            lease.renew(self._cluster, self._plan, self._assignment.claim)
        except DeployError as error:
            log.warning("the Lease is not renewed: %s", error)
        except Exception:
            # Nobody awaits this, so that a mistake of ours would be told nowhere; the guard sees that nobody renews.
            log.exception("the Lease could not be renewed")

    def brake(self, outcome: FinalVerdict) -> float | None:
        """Return all traffic to the stable in one fenced write, and leave ``outcome`` on the route.

        :returns: when it was done; None where the route was lost.
        """
        deadline, clusters = time.monotonic() + BRAKE_SECONDS, cycle(self._brake_clusters)
        while time.monotonic() < deadline:
            word = json.dumps(replace(outcome, restored_at=time.time()).event())
            try:
                if return_traffic(next(clusters), self._plan, routes.BRAKED, word):
                    return time.time()
            except FencedError as error:
                log.error("brake: %s", error)
                return None
            except DeployError as error:
                log.warning("brake: %s; trying again", error)
                time.sleep(0.3)
            except Exception:
                # A mistake of ours must not end the loop with the verdict in its hand.
                log.exception("the brake failed; trying again")
                time.sleep(0.3)
            else:
                return None
        return None

    def _ended(self, route: TeamRoute, at: float) -> FinalVerdict | None:
        """Return how the route itself shows that this loop has nothing to judge any more."""
        ours = route.owner == self._assignment.claim
        if ours and route.phase in JUDGED_PHASES[self._assignment.role]:
            return None
        braked = route.owned_by(self._plan.deployment_id) and route.phase == routes.BRAKED
        if braked and self._assignment.role != "gate" and route.word:
            # Another loop for the same task, this one before a restart, or the guard by a claim of its own has braked:
            # its word stands, unless somebody wrote over it. It may have died before it took the pods away.
            self._cluster.withdraw(route, self._plan.candidate)
            with suppress(*ANNOTATION_ERRORS):
                return FinalVerdict.from_event(json.loads(route.word))
        phase = str(route.phase) if ours else f"owned by {route.owner or 'nobody'}"
        if not route.is_there:
            phase = "gone"  # whoever has deleted it has taken the traffic from everybody
        return FinalVerdict("CLOSED", f"route {route.name} is {phase}", at, numbers={"phase": phase})

    def _count_pods(self, route: TeamRoute, at: float) -> None:
        """Hold the candidate's ready pods against what its share needs; where they are not known, nothing is said.

        Where pods are the share, those of a new one are still to come: they count once all of them have been there,
        as they have before it was all of the traffic.
        """
        plan = self._plan
        reached = route.serves(plan.candidate) or route.mirrors_to(plan.candidate)
        if self._assignment.role == "gate" or not reached or not route.shifts:
            return
        try:
            ready = self._cluster.ready(
                plan.spec.namespace, plan.candidate, plan.labels_of(plan.candidate), QUICK_TIMEOUT
            )
        except DeployError as error:
            log.warning("the pods of %s are not known: %s", plan.candidate, error)
        else:
            share = route.shifts[-1].share
            needed = plan.pods_for(share)
            if ready >= needed:
                self._complete = share
            if share in (self._complete, 100) or not plan.divides_pods:
                self._log.observe_pods(at, ready, needed)

    def _sight(self, route: TeamRoute, at: float) -> str | None:
        """Take in what is new; return why the metrics cannot be trusted, None where they can."""
        if not route.shifts:
            return None  # the first share waits for its pods, or for the gateway, and there is nothing to see yet
        self._take_in(route, at)
        return blind_reason(self._reader, self._plan, max(self._assignment.started, route.shifts[0].at), at)

    def _take_in(self, route: TeamRoute, at: float) -> None:
        shifts = route.shifts
        for seconds, until in chunks(self._asked_until or shifts[0].at - LOOKBACK, at):
            seen = self._observer.ask(seconds, until)
            for tick in self._reader.feed(seen.counters, seen.own, seen.gauges):
                # Two clocks: what the candidate answered counts, even if Prometheus' clock says before the shift.
                if tick.at >= shifts[0].at or tick.counts[self._plan.candidate].requests:
                    shift = ([shift for shift in shifts if shift.at <= tick.at] or shifts[:1])[-1]
                    self._log.observe(tick, shift.counted, mirrored=shift.mirrored)
            self._asked_until = until

    def _answer(self, condition: ResolvedWhen) -> float | None:
        try:
            return self._observer.number(condition.query)
        except DeployError as error:
            log.warning("resolved_when: %s", error)
            return None

    def _decide(self, verdict: Verdict, findings: list[Finding], at: float) -> FinalVerdict | None:
        reason = "; ".join(finding.reason for finding in findings if finding.verdict == verdict)
        self._clock(verdict, at)
        if verdict == "BREACHED":
            patience = GATE_GRACE_SECONDS if self._assignment.role == "gate" else 0.0
            return self._outcome(verdict, reason, at) if at - (self._breached_since or at) >= patience else None
        if verdict == "BLIND":
            return self._decide_blind(reason, at)
        canary = self._plan.spec.canary
        if self._assignment.role == "watch":
            if self._sighted - self._sighted_before_promotion < canary.max_bake + UNVERIFIED_SECONDS:
                return None
            return self._outcome("UNDECIDED", "nobody has verified the promotion", at)
        if verdict == "HEALTHY" and at - self._assignment.started >= canary.bake:
            return self._outcome(verdict, reason, at)
        if self._sighted >= canary.max_bake:
            undecided = self._outcome("UNDECIDED", f"after {self._sighted:.0f} s: {reason}", at)
            # A person may be asked about it, and wants to see all of it.
            return replace(undecided, numbers={**undecided.numbers, "findings": [item.dump() for item in findings]})
        return None

    def _clock(self, verdict: Verdict, at: float) -> None:
        """Count the time that was spent seeing: blindness neither promotes nor rolls back by running out the clock."""
        elapsed = at - (self._looked_at or at)
        self._looked_at = at
        self._breached_since = (self._breached_since or at) if verdict == "BREACHED" else None
        if verdict == "BLIND":
            self._blind_since = self._blind_since or at
        else:
            self._blind_since = None
            self._sighted += elapsed

    def _decide_blind(self, reason: str, at: float) -> FinalVerdict | None:
        blindness = self._plan.spec.blindness
        lasted = at - (self._blind_since or at)
        if lasted >= blindness.max_blind:
            log.error("blind for %.0f s; a person should look: %s", lasted, reason)
        holds_brake = self._assignment.role != "gate"
        # Nobody is served better by copies that go on: those that never end pile up in the gateway.
        ends = blindness.then == "rollback" or self._shift.mirrored
        if holds_brake and ends and lasted >= blindness.max_blind:
            return self._outcome("BLIND", f"for {lasted:.0f} s: {reason}", at)
        return None

    def _outcome(self, verdict: Verdict, reason: str, at: float) -> FinalVerdict:
        total = self._log.judge.candidate_counts
        return FinalVerdict(verdict, reason, at, numbers={"requests": total.requests, "errors": total.errors})

    def _tell(
        self, route: TeamRoute | None, at: float, verdict: Verdict, findings: list[Finding], *, final: bool
    ) -> None:
        if route and route.shifts:
            self._shift = route.shifts[-1]
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
            # A mistake in the telling must not cost the verdict.
            log.exception("the look cannot be told: %s", verdict)


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        log.info("%s", line)
        LOG_BUDGET.spend(1)
