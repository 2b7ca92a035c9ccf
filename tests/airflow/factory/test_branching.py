"""Airflow's own task runner branches a gate that resumes from the triggerer, and a score."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, TriggerRule, chain

from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.lifecycle.xcom_keys import CONFIDENCE_KEY, VERDICT_KEY
from airflow_deploy.factory.deployment import EITHER_WAY
from airflow_deploy.operators.confidence import ScoreConfidenceOperator
from airflow_deploy.sensors.gates import HealthGateSensor
from tests.support.builders import make_plan
from tests.support.dag_runs import stored
from tests.support.stub_trigger import StubTrigger


def small(dag_id: str, verdict: Any) -> DAG:
    """A score that goes on, and one stage whose gate defers, resumes and says ``verdict``."""

    class Gate(HealthGateSensor):
        def trigger(self, context: Any) -> StubTrigger:  # type: ignore[override]
            said = FinalVerdict(verdict, "so it is", 1_795_417_200.0).event()
            return StubTrigger(said | {"evidence": None, "evidence_sha256": None})

    with DAG(dag_id, schedule=None) as dag:
        branches = {"go": "agreed", "ask": "asked", "refuse": "refused"}
        plan = make_plan().dump()
        score = ScoreConfidenceOperator(task_id="score", plan=plan, branches=branches)
        agreed, asked, refused = (EmptyOperator(task_id=task) for task in branches.values())
        gate = Gate(task_id="gate", next_share=25, branches=("shift", "ask"), deferrable=True, plan=plan)
        ask, shift = EmptyOperator(task_id="ask"), EmptyOperator(task_id="shift", trigger_rule=EITHER_WAY)
        rollback = EmptyOperator(task_id="rollback", trigger_rule=TriggerRule.ONE_FAILED)
        chain(score, [agreed, asked, refused])
        chain(agreed, gate, ask, shift)
        chain(gate, shift)
        chain([gate, ask, shift], rollback)
    return dag


@pytest.mark.parametrize(
    ("verdict", "ends"),
    [
        ("HEALTHY", {"gate": "success", "ask": "skipped", "shift": "success", "rollback": "skipped"}),
        ("UNDECIDED", {"gate": "success", "ask": "success", "shift": "success", "rollback": "skipped"}),
        ("BREACHED", {"gate": "failed", "ask": "upstream_failed", "shift": "upstream_failed", "rollback": "success"}),
        ("CLOSED", {"gate": "skipped", "ask": "skipped", "shift": "skipped", "rollback": "skipped"}),
    ],
)
def test_gate_branches_after_it_has_resumed(verdict: str, ends: dict[str, str]) -> None:
    dag = small(f"small_{verdict.lower()}", verdict)
    stored(dag)
    run: Any = dag.test()
    found = {ti.task_id: str(ti.state) for ti in run.get_task_instances()}
    assert found == ends | {"score": "success", "agreed": "success", "asked": "skipped", "refused": "skipped"}
    (gate,) = [ti for ti in run.get_task_instances() if ti.task_id == "gate"]
    assert gate.xcom_pull(task_ids="gate", key=VERDICT_KEY)["verdict"] == verdict
    assert gate.xcom_pull(task_ids="score", key=CONFIDENCE_KEY)["route"] == "go"
