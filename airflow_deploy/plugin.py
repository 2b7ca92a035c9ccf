"""What Airflow's processes import before they fork deployments' tasks.

Each task is a fork. It inherits what its parent has imported, and imports the rest itself: about a second of processor
time for the DAG factory and its clients, paid again by each of a deployment's tasks. So the parents import them once.

Airflow loads plugins in almost every process: API server, DAG processor, command line. Most of them fork no
task, and would import all this for nothing. Airflow has no name for its components that holds in all of them, so the
command line tells them apart:

- ``airflow scheduler`` forks tasks if one of its executors is local.
- ``airflow celery worker`` and ``airflow edge worker`` fork every task, but load plugins before that only with
  ``[core] lazy_load_plugins = False``. Without it, Airflow loads them in each task, of whichever DAG it may be, and the
  plugin imports nothing there.
- A pod of the KubernetesExecutor runs one task, and would gain nothing.
- ``airflow triggerer`` runs the watch. An import in the middle of its looks has been seen to stop its loop for 86 s,
  longer than the Lease lasts, so it imports before the first trigger starts.
"""

from __future__ import annotations

import sys
from typing import Any

from airflow.plugins_manager import AirflowPlugin

WORKERS = (["celery", "worker"], ["edge", "worker"])
"""The commands, as they follow ``airflow``, whose processes fork every task."""


class DeployPlugin(AirflowPlugin):
    """Imports what deployments need, in processes that fork tasks or run triggers."""

    name = "airflow_deploy"

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Import them; Airflow calls this once in each process that loads plugins."""
        if _runs_deployments() and not _is_task():
            import kubernetes.client  # noqa: F401 - for the forks

            import airflow_deploy.factory.loader  # noqa: F401 - for the forks


def _runs_deployments() -> bool:
    command = sys.argv[1:3]
    if command[:1] == ["triggerer"]:
        return True
    return command in WORKERS or (command[:1] == ["scheduler"] and _has_local_executor())


def _has_local_executor() -> bool:
    from airflow.executors.executor_loader import ExecutorLoader

    names = ExecutorLoader.get_executor_names(validate_teams=False)
    return any(ExecutorLoader.import_executor_cls(name)[0].is_local for name in names)


def _is_task() -> bool:
    """Whether this process is a task's already: it has the command line of its parent."""
    runner = sys.modules.get("airflow.sdk.execution_time.task_runner")
    return hasattr(runner, "SUPERVISOR_COMMS")
