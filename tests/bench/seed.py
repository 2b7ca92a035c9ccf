"""Put deferred gates into Airflow's database, as the workers of so many runs would have left them.

``python -m tests.bench.seed NUMBER FOLDER``, in the environment of the benchmark's Airflow.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType

from airflow_deploy.tasks.triggers import AnalysisTrigger
from tests.bench.fleet import gate
from tests.bench.pulse import PulseTrigger

DAG_ID = "bench"
DAG = f'''
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG

with DAG("{DAG_ID}", schedule=None):
    EmptyOperator(task_id="gate")
'''


def main(number: int, folder: str) -> None:
    triggers: list[Any] = [PulseTrigger(folder)]
    triggers += [AnalysisTrigger(asdict(gate(index).assignment), "gate") for index in range(number)]
    with create_session() as session:
        found = SerializedDagModel.get(DAG_ID, session=session)
        assert found is not None
        for index, trigger in enumerate(triggers):
            run = found.dag.create_dagrun(
                run_id=f"bench-{index:04}",
                run_after=found.created_at,
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=DagRunState.RUNNING,
                session=session,
            )
            (task,) = run.get_task_instances(session=session)
            row = Trigger.from_object(trigger)
            session.add(row)
            session.flush()
            task.state, task.trigger_id, task.next_method = TaskInstanceState.DEFERRED, row.id, "finish"
            task.next_kwargs = {}


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
