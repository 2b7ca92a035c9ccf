"""The link from a task that judges to Prometheus' graphs of its metrics."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

from airflow_deploy.clients.prometheus.hook import PrometheusHook
from airflow_deploy.domain.analysis.graphs import graph_page
from airflow_deploy.domain.lifecycle.xcom_keys import VERDICT_KEY

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey


class PrometheusGraphLink(BaseOperatorLink):
    """Airflow makes it in the task's process each time it ends: when the task defers, and when it has finished."""

    name = "Prometheus graphs"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return a page up to now, or up to the task's verdict if there is one."""
        plan = operator.load_plan()
        event = XCom.get_value(ti_key=ti_key, key=VERDICT_KEY)
        until = event and datetime.fromisoformat(event["at"]).timestamp()
        return graph_page(PrometheusHook(plan.spec.connections.prometheus).page(), plan, until)
