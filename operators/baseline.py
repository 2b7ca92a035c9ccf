"""``capture_baseline``: what the service was like before."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context

from airflow_deploy.rollout.analysis.observer import Observer
from airflow_deploy.tasks.base import DeployOperator


class CaptureBaselineOperator(DeployOperator):
    """Return what Prometheus knows of the service's last hour, as JSON of ``Baseline``."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the baseline as JSON."""
        baseline = Observer.connect(self.load_plan()).baseline()
        counts = baseline.counts
        self.log.info("baseline: %.0f of %.0f requests failed in the last five minutes", counts.errors, counts.requests)
        for gate, dispersion in baseline.dispersion.items():
            known = "too few to tell, so the bound on false alarms is nominal" if gate in baseline.uncertain else "seen"
            self.log.info(
                "%s: bad requests vary %.1f times as much as if each came alone (%s)", gate, dispersion, known
            )
        return baseline.dump()
