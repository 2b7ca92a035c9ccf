"""Promoted services: their plans, and the artifacts that their runs have left."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow_deploy.clients.artifacts import Artifacts, store
from airflow_deploy.domain.config.request import parse_request
from airflow_deploy.domain.errors import IllegalTransitionError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.operators.audit import AuditOperator
from airflow_deploy.tasks.base import record_step
from tests.support.builders import make_plan, make_spec
from tests.support.ending import STAGE, TASKS
from tests.support.judgement import GOOD_BASELINE, START
from tests.support.loops import PLAIN
from tests.support.recorded_run import Run

S = State
WITHOUT_CONDITION = parse_request(PLAIN)
AGE = 3600.0
"""Seconds before START at which each was verified."""


def planned(service: str = "payments", number: int = 0, **spec: Any) -> DeploymentPlan:
    """One deployment of one service, which has a namespace and a route of its own."""
    return make_plan(
        make_spec(service=service, namespace=service, route={"name": f"{service}-route"}, **spec),
        WITHOUT_CONDITION,
        dag_id=f"deploy_{service}",
        run_id=f"run-{number}",
        created=int(START - 7200) + number,
        stable=service,
    )


def verified(plan: DeploymentPlan, *, at: float = START - AGE, lost: State | None = None) -> Path:
    """Leave the artifacts of a deployment that was verified, as its own run writes them.

    :param lost: a state whose task a person has marked as done.
    """
    run = Run()
    path = {
        "plan": [S.INIT],
        "build_image": [S.BUILDING],
        "shift": [S.DEPLOYING, *STAGE],
        "promote": [S.PROMOTING, S.PROMOTED],
        "verify": [S.VERIFYING, S.VERIFIED],
    }
    for task, states in path.items():
        for state in states:
            if state != lost:
                record_step(run.at(task), state, f"{task} says {state}", at=datetime.fromtimestamp(at, UTC))
    run.planned(plan)
    run.measured(plan, GOOD_BASELINE.dump())
    audit = AuditOperator(task_id="audit", plans_of=["build_image", "plan"], steps_of=TASKS)
    with suppress(IllegalTransitionError):
        audit.execute(run.at("audit"))
    return folder(plan)


def folder(plan: DeploymentPlan) -> Path:
    return Path(str(store()).removeprefix("file://")) / plan.spec.service / plan.deployment_id


def summary(plan: DeploymentPlan) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Artifacts(plan).read(f"{plan.deployment_id}.json"))
    return found


def transitions(plan: DeploymentPlan) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Artifacts(plan).read(f"transitions_{plan.deployment_id}.jsonl").splitlines()]
