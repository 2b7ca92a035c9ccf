"""A reader of a task that judges finds the way to Prometheus' graphs, while it waits and afterwards."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.xcom import XCom
from airflow.serialization.serialized_objects import DagSerialization

from airflow_deploy.domain.analysis.graphs import graph_page
from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.lifecycle.xcom_keys import VERDICT_KEY
from airflow_deploy.factory.deployment import build_dag
from airflow_deploy.sensors.gates import AnalysisSensor, VerifySensor
from airflow_deploy.sensors.graph_link import PrometheusGraphLink
from tests.support.builders import make_plan, make_spec

PLAN = make_plan()
TASK: Any = SimpleNamespace(dag_id=PLAN.dag_id, run_id=PLAN.run_id, task_id="verify", map_index=-1)
HOST = {"conn_type": "prometheus", "host": "http://prometheus:9090"}


def link(monkeypatch: pytest.MonkeyPatch, event: dict[str, Any] | None = None, **fields: Any) -> str:
    """Return the link of a task that has this event."""
    monkeypatch.setenv("AIRFLOW_CONN_PROMETHEUS_DEFAULT", json.dumps({**HOST, **fields}))
    pushed = {("verify", VERDICT_KEY): event}
    monkeypatch.setattr(XCom, "get_one", lambda *, key, task_id, **_: pushed.get((task_id, key)))
    operator = VerifySensor(task_id="verify", plan=PLAN.dump(), claim="", baseline={})
    return PrometheusGraphLink().get_link(operator, ti_key=TASK)


def test_a_task_that_waits_links_to_a_page_that_ends_now(monkeypatch: pytest.MonkeyPatch) -> None:
    assert link(monkeypatch) == graph_page("http://prometheus:9090", PLAN)


def test_a_task_that_is_over_links_to_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    event = FinalVerdict("HEALTHY", "well", PLAN.created + 300.5).event()
    assert link(monkeypatch, event) == graph_page("http://prometheus:9090", PLAN, PLAN.created + 300.5)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"login": "reader", "password": "s3cret"}, "http://prometheus:9090/"),
        ({"host": "https://reader:s3cret@prometheus/prom"}, "https://prometheus/prom/"),
        ({"extra": {"ui": "https://metrics.example.com/prom/"}, "port": 9090}, "https://metrics.example.com/prom/"),
        ({"extra": {"ui": "https://reader:s3cret@metrics.example.com"}}, "https://metrics.example.com/"),
        ({"extra": {"ui": ""}, "host": "prometheus", "port": 9090}, "http://prometheus:9090/"),
    ],
)
def test_it_leads_to_where_people_reach_prometheus_and_holds_no_login(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], where: str
) -> None:
    found = link(monkeypatch, **fields)
    assert found.startswith(f"{where}graph?")
    assert "reader" not in found
    assert "s3cret" not in found


def test_every_task_that_looks_has_the_link_in_the_dag_that_airflow_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    # Airflow's scheduler turns this off for its whole process, and other tests run the scheduler in this one.
    monkeypatch.setattr(DagSerialization, "_load_operator_extra_links", True)
    dag = build_dag(make_spec())
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    looking = {task.task_id for task in dag.tasks if isinstance(task, AnalysisSensor)}
    linked = {task.task_id for task in stored.tasks if "Prometheus graphs" in task.extra_links}
    assert {"watch", "canary_5.gate", "verify"} <= looking
    assert linked == looking
