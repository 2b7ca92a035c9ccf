"""What every analysis of a deployment begins with: the judge's terms, and the counters that it is told of."""

from __future__ import annotations

from collections.abc import Callable

from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.analysis.evidence import EvidenceLog
from airflow_deploy.domain.analysis.judge import Terms
from airflow_deploy.domain.config.request import ResolvedWhen
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.counters import Tick
from airflow_deploy.domain.routing.record import Shift
from airflow_deploy.rollout.analysis.observer import Observer, blind_reason, chunks


def terms_of(plan: DeploymentPlan, baseline: Baseline, resolved_when: ResolvedWhen | None) -> Terms:
    """Return the terms by which a deployment is judged at any time."""
    return Terms(
        limits=plan.spec.limits,
        kinds=plan.spec.kinds,
        candidate=plan.candidate,
        stable=plan.stable,
        baseline=baseline,
        resolved_when=resolved_when,
        apart=plan.spec.metrics.names.apart,
    )


class Intake:
    """Tells the evidence of all that Prometheus has counted, once and in order.

    :param newborn: whether the candidate's counters begin within what is asked for.
    :param step: seconds between two samples.
    """

    def __init__(
        self, plan: DeploymentPlan, observer: Observer, evidence: EvidenceLog, *, newborn: bool, step: int = 1
    ) -> None:
        self._plan, self._observer, self._evidence, self._step = plan, observer, evidence, step
        self._reader = observer.reader(newborn=newborn)
        self._until: float | None = None

    def take_in(self, since: float, at: float, share_of: Callable[[Tick], Shift | None]) -> None:
        """Take in what was counted from ``since`` until ``at`` (unix seconds), and was not taken in before.

        :param share_of: the share under which a scrape was counted; None leaves the scrape out.
        """
        for seconds, until in chunks(self._until or since, at):
            seen = self._observer.ask(seconds, until, self._step)
            for tick in self._reader.feed(seen.counters, seen.own, seen.gauges):
                if shift := share_of(tick):
                    self._evidence.observe(tick, shift.counted, mirrored=shift.mirrored)
            self._until = until

    def blind_reason(self, since: float, at: float) -> str | None:
        """Return why what was counted cannot be trusted ``at`` (unix seconds); None if it can.

        :param since: when counters could first be expected.
        """
        return blind_reason(self._reader, self._plan, since, at)
