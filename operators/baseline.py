"""``capture_baseline``: how the service behaves before the deployment."""

from __future__ import annotations

from airflow.sdk import Context

from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.tasks.base import DeployOperator
from airflow_deploy.tasks.frozen import BASELINE, freeze


class CaptureBaselineOperator(DeployOperator):
    """Freeze the ``Baseline`` of the service's last hour, from Prometheus."""

    def execute(self, context: Context) -> None:
        """Measure and freeze the baseline."""
        plan = self.load_plan()
        baseline = Observer.connect(plan).baseline()
        counts = baseline.counts
        self.log.info("baseline: %.0f of %.0f requests failed in the last five minutes", counts.errors, counts.requests)
        for gate, dispersion in baseline.dispersion.items():
            few = gate in baseline.uncertain
            basis = "too few to tell, so the bound on false alarms is nominal" if few else "measured"
            self.log.info(
                "%s: bad requests vary %.1f times as much as independent ones would (%s)", gate, dispersion, basis
            )
        freeze(context, plan, BASELINE, baseline.dump())
