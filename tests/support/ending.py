"""The tasks that end a run, on the cluster of a test."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State as S
from airflow_deploy.operators.finalize import FinalizeOperator
from airflow_deploy.operators.rollback import RollbackOperator
from tests.support.cluster import lead_to
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster

STAGE = [S.CANARY, S.CANARY_WAITING, S.CANARY_EVALUATING]
TASKS = ["plan", "build_image", "shift", "ask", "promote", "verify", "rollback"]
ENDING: dict[str, Any] = {"plans_of": ["build_image", "plan"], "steps_of": TASKS}


def deploying(run: Run, plan: DeploymentPlan) -> None:
    """Let a run have given its first share."""
    run.planned(plan)
    run.reach("plan", S.INIT)
    run.reach("build_image", S.BUILDING)
    run.reach("shift", S.DEPLOYING, *STAGE)


def execute(run: Run, task: str, cluster: ServiceCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Execute ``rollback`` or ``finalize``."""
    lead_to(cluster.api, monkeypatch)
    if task == "rollback":
        RollbackOperator(task_id=task, judges=["watch"], gates=[], **ENDING).execute(run.at(task))
    else:
        FinalizeOperator(task_id=task, audit="audit", **ENDING).execute(run.at(task))
