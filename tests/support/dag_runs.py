"""DAG runs in a metadata database: Airflow's scheduler decides what starts, and the test how each task ends."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal

from airflow.sdk import DAG, BaseBranchOperator, timezone
from airflow.sdk.exceptions import DownstreamTasksSkipped

from tests.support.builders import CONF

Result = Literal["success", "failed", "skipped", "upstream_failed"]
RAN = frozenset({"success", "failed"})
_numbers = itertools.count()


def descendants(dag: DAG, task_id: str) -> set[str]:
    return {task.task_id for task in dag.get_task(task_id).get_flat_relatives(upstream=False)}


def ancestors(dag: DAG, task_id: str) -> set[str]:
    """Return the tasks that ``task_id`` waits for, directly or not."""
    return {task.task_id for task in dag.get_task(task_id).get_flat_relatives(upstream=True)}


@cache
def metadata() -> None:
    """Make the metadata database of this process, once: importing its models takes longer than making its tables."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.utils.db import initdb
    from airflow.utils.session import create_session

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Airflow's own dependencies are deprecated here
        initdb()
    with create_session() as session:
        session.add(DagBundleModel(name="tests"))


@cache
def stored(dag: DAG) -> Any:
    """Write the DAG as the DAG processor does, and return it as the scheduler reads it."""
    metadata()
    from airflow.models.dag import DagModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import DagSerialization, LazyDeserializedDAG
    from airflow.utils.session import create_session

    with create_session() as session:
        if session.get(DagModel, dag.dag_id) is None:
            fields: dict[str, Any] = {"dag_id": dag.dag_id, "bundle_name": "tests", "fileloc": __file__}
            session.add(DagModel(**fields))  # type: ignore[no-untyped-call]
            session.flush()
        SerializedDagModel.write_dag(LazyDeserializedDAG.from_dag(dag), bundle_name="tests", session=session)
    return DagSerialization.from_dict(DagSerialization.to_dict(dag))


@dataclass(frozen=True)
class Ended:
    """How a run and its tasks have ended."""

    run: str
    tasks: Mapping[str, Result]
    passes: Mapping[str, int]
    """The scheduler's pass in which each task was started; the first one is 1."""

    def __getitem__(self, task_id: str) -> Result:
        return self.tasks[task_id]


def play(
    dag: DAG,
    *,
    fail: Collection[str] = (),
    skip: Collection[str] = (),
    branches: Mapping[str, str] | None = None,
    mapped: Mapping[str, int] | None = None,
) -> Ended:
    """Run a DAG in which the tasks of ``fail`` fail and those of ``skip`` skip themselves; the others succeed.

    :param branches: the task that each branching task chooses. One that is not named here skips nothing.
    :param mapped: how many items each task returns for tasks that are mapped over them.
    """
    with Run(dag) as run:
        return run.finish(fail=fail, skip=skip, branches=branches, mapped=mapped)


class Run:
    """One run of a DAG. Of each pass of the scheduler, all tasks end before the next pass."""

    def __init__(self, dag: DAG) -> None:
        self.dag = dag
        self.passes: dict[str, int] = {}
        self._scheduler_dag = stored(dag)
        self._number = next(_numbers)

    def __enter__(self) -> Run:
        from airflow import settings
        from airflow.utils.state import DagRunState
        from airflow.utils.types import DagRunTriggeredByType, DagRunType

        assert settings.Session is not None
        self._session = settings.Session()
        self._run = self._scheduler_dag.create_dagrun(
            run_id=f"run-{self._number}",
            conf=CONF,
            run_after=timezone.utcnow(),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=self._session,
        )
        self._run.dag = self._scheduler_dag
        self._session.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self._session.rollback()
        self._session.close()

    def finish(
        self,
        *,
        fail: Collection[str] = (),
        skip: Collection[str] = (),
        branches: Mapping[str, str] | None = None,
        mapped: Mapping[str, int] | None = None,
    ) -> Ended:
        """Let the run go to its end, as ``play`` says."""
        number = 0
        self.passes.clear()
        while self._run.state == "running":
            number += 1
            ready, _ = self._run.update_state(session=self._session, execute_callbacks=False)
            for ti in ready:
                self.passes[ti.task_id] = number
                self._end(ti, "failed" if ti.task_id in fail else "skipped" if ti.task_id in skip else "success")
                if ti.state == "success" and ti.task_id in (branches or {}):
                    self._branch(ti, (branches or {})[ti.task_id])
                if ti.state == "success" and ti.task_id in (mapped or {}):
                    self._return_items(ti, (mapped or {})[ti.task_id])
            assert number < 200, "the run is stuck"
        return Ended(str(self._run.state), self.states(), dict(self.passes))

    def clear(self, task_id: str) -> None:
        """Clear a task and those after it, as Airflow's page does."""
        from airflow.models.taskinstance import clear_task_instances

        cleared = {task_id, *descendants(self.dag, task_id)}
        tis = [ti for ti in self._run.get_task_instances(session=self._session) if ti.task_id in cleared]
        clear_task_instances(tis, self._session)
        self._run.state = "running"
        self._session.flush()

    def states(self) -> dict[str, Result]:
        return {ti.task_id: ti.state for ti in self._run.get_task_instances(session=self._session)}

    def _end(self, ti: Any, state: str) -> None:
        """Start the task, which clears what an earlier try has pushed, and end it."""
        from airflow.models.xcom import XComModel

        XComModel.clear(dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, session=self._session)
        ti.try_number, ti.state = ti.try_number + 1, state
        ti.start_date = ti.end_date = timezone.utcnow()
        self._session.flush()

    def _branch(self, ti: Any, chosen: str) -> None:
        """Branch as the task's own operator does; Airflow's execution API skips what it says."""
        from airflow.api_fastapi.execution_api.datamodels.taskinstance import TISkippedDownstreamTasksStatePayload
        from airflow.api_fastapi.execution_api.routes.task_instances import ti_skip_downstream

        task = self.dag.get_task(ti.task_id)
        assert isinstance(task, BaseBranchOperator)
        assert chosen in task.downstream_task_ids
        acting: Any = SimpleNamespace(task=task, map_index=-1, xcom_push=lambda key, value: self._push(ti, key, value))
        try:
            task.do_branch({"ti": acting}, chosen)
        except DownstreamTasksSkipped as skipped:
            ti_skip_downstream(ti.id, TISkippedDownstreamTasksStatePayload(tasks=list(skipped.tasks)), self._session)
            self._session.expire_all()

    def _return_items(self, ti: Any, length: int) -> None:
        from airflow.models.taskmap import TaskMap

        self._session.merge(TaskMap(ti.dag_id, ti.task_id, ti.run_id, -1, length, None))
        self._push(ti, "return_value", [{}] * length)

    def _push(self, ti: Any, key: str, value: Any) -> None:
        from airflow.models.xcom import XComModel

        XComModel.set(
            key=key, value=value, dag_id=ti.dag_id, task_id=ti.task_id, run_id=ti.run_id, session=self._session
        )
