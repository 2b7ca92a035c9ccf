"""The link from a task that judges to Prometheus' graphs of what it judges by."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperatorLink
from airflow.sdk.execution_time.xcom import XCom

from airflow_deploy.clients.prometheus.hook import PrometheusHook
from airflow_deploy.domain.analysis.graphs import graph_page

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey


class PrometheusGraphLink(BaseOperatorLink):
    """Airflow makes it in the task's own process, each time that ends: first when the task defers, then at its end."""

    name = "Prometheus graphs"

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the page of a deployment that goes on, or, once the task has its event, that ended then."""
        plan = operator.load_plan()
        event = XCom.get_value(ti_key=ti_key, key="return_value")
        until = event and datetime.fromisoformat(event["at"]).timestamp()
        return graph_page(PrometheusHook(plan.spec.connections.prometheus).page(), plan, until)
