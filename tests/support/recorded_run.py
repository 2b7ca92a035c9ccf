"""A run without Airflow: one store of XComs, what the run has frozen, and tasks that can be asked to record."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

from airflow.sdk import Context

from airflow_deploy.domain.lifecycle.confidence import Confidence
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.lifecycle.xcom_keys import CONFIDENCE_KEY, VERDICT_KEY
from airflow_deploy.tasks.base import record_step
from airflow_deploy.tasks.frozen import BASELINE, BUILT, PLANNED, freeze, freeze_claim, freeze_plan


@dataclass
class TaskInstance:
    """Stands for Airflow's: one store of XComs for the whole run."""

    task_id: str = "plan"
    try_number: int = 1
    store: dict[tuple[str, str], Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid4)
    map_index: int = -1
    task: Any = None

    def xcom_push(self, key: str, value: Any) -> None:
        self.store[self.task_id, key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str = "return_value") -> Any:
        return self.store.get((task_ids, key))


@dataclass
class Run:
    """A run whose tasks can be asked to record."""

    ti: TaskInstance = field(default_factory=TaskInstance)
    dag_run: Any = None

    @property
    def context(self) -> Context:
        return cast("Context", {"ti": self.ti, "dag_run": self.dag_run})

    def of(self, plan: DeploymentPlan) -> None:
        """Make this the run of ``plan``."""
        at = datetime.fromtimestamp(plan.created, UTC)
        self.dag_run = SimpleNamespace(dag_id=plan.dag_id, run_id=plan.run_id, run_after=at)

    def at(self, task_id: str) -> Context:
        self.ti.task_id = task_id
        return self.context

    def reach(self, task_id: str, *states: State) -> None:
        for state in states:
            record_step(self.at(task_id), state, f"{task_id} says {state}")

    def returned(self, task_id: str, value: Any) -> None:
        self.ti.store[task_id, "return_value"] = value

    def planned(self, plan: DeploymentPlan, *, built: bool = True) -> None:
        """Leave what ``plan`` freezes, and ``build_image`` if it came so far."""
        self.of(plan)
        freeze_plan(self.at("plan"), plan.model_copy(update={"digest": None}), PLANNED)
        if built:
            freeze_plan(self.at("build_image"), plan, BUILT)

    def claimed(self, plan: DeploymentPlan, owner: str) -> None:
        freeze_claim(self.at("claim_route"), plan, owner)

    def measured(self, plan: DeploymentPlan, baseline: dict[str, Any]) -> None:
        freeze(self.at("capture_baseline"), plan, BASELINE, baseline)

    def judged(self, task_id: str, event: dict[str, Any]) -> None:
        self.ti.store[task_id, VERDICT_KEY] = event

    def scored(self, task_id: str, confidence: Confidence | dict[str, Any]) -> None:
        pushed = confidence.dump() if isinstance(confidence, Confidence) else confidence
        self.ti.store[task_id, CONFIDENCE_KEY] = pushed
