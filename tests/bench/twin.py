"""A DAG of the same shape as another one, whose tasks do nothing.

A DAG file calls ``build`` with a file that ``shape.dump`` wrote. Airflow's own EmptyOperator would not do: the
scheduler marks it as done and starts no process, so that its hops cost nothing.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, BaseOperator, Context, TriggerRule
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped
from airflow.triggers.base import BaseTrigger, TriggerEvent

from tests.bench.shape import Task

TEARDOWN = "all_done_setup_success"
LOOK = 1.0
"""Seconds between two looks for the task that ends a wait, as the real deployment's watch looks at its route."""


class Alarm(BaseTrigger):
    """Fire at ``at`` (unix seconds), or once ``path`` is there."""

    def __init__(self, at: float, path: str | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.at, self.path = at, path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__qualname__}", {"at": self.at, "path": self.path}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        while True:
            if not self.path or await asyncio.to_thread(Path(self.path).exists):
                break
            await asyncio.sleep(LOOK)
        await asyncio.sleep(self.at - time.time())
        yield TriggerEvent(None)  # type: ignore[no-untyped-call]


class EmptyTask(BaseOperator):
    """Do nothing, in a process of its own as any task; wait deferred, or skip what the real task has skipped.

    :param folder: for the files that say which tasks are over.
    """

    def __init__(self, *, shape: dict[str, Any], folder: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.shape, self.folder = shape, folder

    def execute(self, context: Context) -> None:
        task = Task(**self.shape)
        if task.skips:
            raise AirflowSkipException("so did the real one")
        if task.wait is not None:
            path = self._path(context, task.until) if task.until else None
            self.defer(trigger=Alarm(time.time() + task.wait, path), method_name="finish")
        self.finish(context)

    def finish(self, context: Context, event: None = None) -> None:
        """Say that the task is over, and take its branch."""
        path = Path(self._path(context, context["ti"].task_id))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        if drops := Task(**self.shape).drops:
            raise DownstreamTasksSkipped(tasks=drops)  # type: ignore[no-untyped-call]

    def _path(self, context: Context, task_id: str) -> str:
        return f"{self.folder}/{context['run_id']}/{task_id}"


def build(dag_id: str, path: str) -> DAG:
    """Return the DAG that the file at ``path`` describes."""
    shapes, folder = json.loads(Path(path).read_text()), str(Path(path).parent / "ended")
    with DAG(dag_id, schedule=None, catchup=False, max_active_runs=1, is_paused_upon_creation=False) as dag:
        made = {shape["task_id"]: EmptyTask(task_id=shape["task_id"], shape=shape, folder=folder) for shape in shapes}
        for shape in shapes:
            operator = made[shape["task_id"]]
            operator.set_upstream([made[name] for name in shape["upstream"]])
            if shape["rule"] == TEARDOWN:
                operator.as_teardown(on_failure_fail_dagrun=True)
            else:
                operator.trigger_rule = TriggerRule(shape["rule"])
    return dag
