"""``capture_baseline``: what served before, and how well."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Context

from airflow_deploy.clients.observer import Observer
from airflow_deploy.domain.evidence import counts_record
from airflow_deploy.operators.base import DeployOperator


class CaptureBaselineOperator(DeployOperator):
    """Return what the stable answered in the last five minutes, as JSON of ``Counts``."""

    def execute(self, context: Context) -> dict[str, Any]:
        """Return the counts as JSON."""
        baseline = Observer.connect(self.load_plan()).baseline()
        self.log.info("baseline: %.0f of %.0f requests failed", baseline.errors, baseline.requests)
        return dict(counts_record(baseline))
