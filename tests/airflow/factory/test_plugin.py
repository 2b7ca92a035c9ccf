"""The plugin imports what tasks need in processes that fork tasks, and nothing in any other."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import entry_points

import pytest
from airflow.plugins_manager import AirflowPlugin

LOCAL, REMOTE = "LocalExecutor", "airflow.executors.base_executor.BaseExecutor"
PROBE = """
import json, os, sys
from airflow.plugins_manager import ensure_plugins_loaded
from airflow.sdk.execution_time import task_runner

for command, executor, in_task in json.load(sys.stdin):
    if not (child := os.fork()):  # a process for each, which has imported Airflow already
        sys.argv, os.environ["AIRFLOW__CORE__EXECUTOR"] = ["/usr/bin/airflow", *command.split()], executor
        if in_task:
            task_runner.SUPERVISOR_COMMS = object()
        ensure_plugins_loaded()
        names = ("airflow_deploy.plugin", "airflow_deploy.factory.deployment", "kubernetes.client")
        print(json.dumps([[command, executor, in_task], [name in sys.modules for name in names]]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
FORKING = [
    ("scheduler", LOCAL, False),
    ("scheduler --num-runs 5", LOCAL, False),
    ("scheduler", f"{REMOTE},{LOCAL}", False),
    ("scheduler", "airflow.executors.local_executor.LocalExecutor", False),
    ("celery worker --queues default", REMOTE, False),
    ("edge worker", REMOTE, False),
    ("triggerer", LOCAL, False),
]
OTHER = [
    ("scheduler", REMOTE, False),
    ("api-server", LOCAL, False),
    ("dag-processor", LOCAL, False),
    ("dags list", LOCAL, False),
    ("celery stop", LOCAL, False),
    ("", LOCAL, False),
    ("celery worker --queues default", REMOTE, True),
]
Case = tuple[str, str, bool]


@pytest.fixture(scope="module")
def loaded() -> dict[Case, list[bool]]:
    """By process: whether it has loaded the plugin, the DAG factory and the Kubernetes client."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps([*FORKING, *OTHER]),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[[")]
    return {tuple(case): found for case, found in lines}


def name_of(case: Case) -> str:
    command, executor, in_task = case
    return f"{command} {executor.rpartition('.')[2]}{' in a task' if in_task else ''}"


@pytest.mark.parametrize("case", FORKING, ids=name_of)
def test_process_that_runs_tasks_imports_factory_and_kubernetes_client(
    case: Case, loaded: dict[Case, list[bool]]
) -> None:
    assert loaded[case] == [True, True, True]


@pytest.mark.parametrize("case", OTHER, ids=name_of)
def test_any_other_process_imports_the_plugin_only(case: Case, loaded: dict[Case, list[bool]]) -> None:
    assert loaded[case] == [True, False, False]


def test_plugin_is_an_entry_point_of_airflow() -> None:
    (found,) = [e for e in entry_points(group="airflow.plugins") if e.value.startswith("airflow_deploy.")]
    assert issubclass(found.load(), AirflowPlugin)
