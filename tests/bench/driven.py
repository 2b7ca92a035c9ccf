"""A deployment whose tasks run in this process: the product's own operators, with XComs in memory and without Airflow.

What moves traffic is the same code as in a DAG run; what is left out is the wait from one task to the next, and the
judgement, whose word the caller gives. The process needs the stack's Airflow environment before this is imported.
"""

import json
import threading
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.lifecycle.xcom_keys import PLAN_KEY
from airflow_deploy.operators.apply import ApplyManifestOperator
from airflow_deploy.operators.audit import AuditOperator
from airflow_deploy.operators.baseline import CaptureBaselineOperator
from airflow_deploy.operators.build import BuildImageOperator
from airflow_deploy.operators.canary import ClaimRouteOperator, PromoteOperator, ShiftCanaryOperator
from airflow_deploy.operators.plan import PlanDeploymentOperator
from airflow_deploy.operators.rollback import RollbackOperator
from airflow_deploy.rollout.analysis.loop import AnalysisLoop, Assignment
from airflow_deploy.sensors.gates import HealthGateSensor, VerifySensor
from airflow_deploy.sensors.ready import WaitReadySensor
from airflow_deploy.tasks.base import record_step
from airflow_deploy.tasks.decisions import store_decision
from airflow_deploy.tasks.frozen import BASELINE, read
from airflow_deploy.tasks.triggers import LOOK_INTERVAL

AGREED = ("score_confidence", "")


class TaskInstance:
    """Stands for Airflow's: one store of XComs for the whole deployment."""

    def __init__(self, dag_id: str) -> None:
        self.dag_id, self.task_id, self.try_number = dag_id, "", 1
        self._store: dict[tuple[str, str], Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self._store[self.task_id, key] = json.loads(json.dumps(value))

    def xcom_pull(self, *, task_ids: str, key: str = "return_value") -> Any:
        return self._store.get((task_ids, key))


class Driven:
    """One deployment, step by step.

    :param spec: the service's YAML as plain data.
    :param conf: what a trigger would send.
    """

    def __init__(self, spec: dict[str, Any], conf: dict[str, Any]) -> None:
        dag_id = f"deploy_{spec['service']}"
        self._ti = TaskInstance(dag_id)
        at = datetime.now(UTC)
        run = SimpleNamespace(
            conf=conf, dag_id=dag_id, run_id=f"driven__{at.isoformat()}", run_after=at, triggering_user_name="bench"
        )
        self._context: Any = {"ti": self._ti, "dag_run": run}
        self._steps_of: list[str] = []
        self._do(PlanDeploymentOperator(task_id="plan", spec=spec))
        self._do(BuildImageOperator(task_id="build_image"))
        self.plan = self._ti.xcom_pull(task_ids="build_image", key=PLAN_KEY)
        store_decision(DeploymentPlan.load(self.plan), "score_confidence", "go", goes_on=True)

    def ready(self) -> None:
        """Bring the candidate up beside the stable, and claim the route."""
        self._do(CaptureBaselineOperator(task_id="capture_baseline", plan=self.plan))
        self.baseline = read(self._context, BASELINE)
        self._do(ApplyManifestOperator(task_id="apply_manifest", agreed=AGREED, plan=self.plan))
        self._do(WaitReadySensor(task_id="wait_ready", deferrable=False, plan=self.plan))
        self.claim = self._do(ClaimRouteOperator(task_id="claim_route", plan=self.plan))
        watch = Assignment(role="watch", plan=self.plan, baseline=self.baseline, claim=self.claim, started=time.time())
        self._looks = AnalysisLoop(watch)
        threading.Thread(target=self._watch, daemon=True).start()

    def shift(self, share: int) -> None:
        """Give the candidate ``share`` % of the traffic."""
        shift = ShiftCanaryOperator(
            task_id=f"canary_{share}.shift", share=share, agreed=AGREED, plan=self.plan, claim=self.claim
        )
        self._do(shift)
        gate = HealthGateSensor(
            task_id=f"canary_{share}.gate", next_share=100, plan=self.plan, claim=self.claim, baseline=self.baseline
        )
        self._at(gate.task_id)
        gate.finish(self._context, _word("HEALTHY").event() | {"evidence": None, "evidence_sha256": None})

    def promote(self) -> None:
        """Make the candidate the stable."""
        self._do(PromoteOperator(task_id="promote", agreed=AGREED, plan=self.plan, claim=self.claim))

    def verified(self) -> None:
        """End as a run does whose verification held."""
        self._at("verify")
        record_step(self._context, State.VERIFYING, "looking at the promoted version")
        verify = VerifySensor(task_id="verify", plan=self.plan, claim=self.claim, baseline=self.baseline)
        verify.finish(self._context, _word("HEALTHY").event() | {"evidence": None, "evidence_sha256": None})
        self._do(AuditOperator(task_id="audit", plans_of=["build_image", "plan"], steps_of=self._steps_of))

    def brake(self) -> tuple[float, float]:
        """Return the traffic as the watch does; return the times of the verdict and of the API server's answer.

        :raises RuntimeError: the route was lost.
        """
        said = _word("BREACHED")
        if (restored := self._looks.brake(said)) is None:
            raise RuntimeError("the brake found another owner")
        return said.at, restored

    def roll_back(self) -> None:
        """Stop the candidate, once its traffic is back."""
        rollback = RollbackOperator(
            task_id="rollback", judges=[], gates=[], plans_of=["build_image", "plan"], steps_of=self._steps_of
        )
        self._do(rollback)

    def _watch(self) -> None:
        """Look and renew the Lease until the route says that the watch is over: no share is raised without."""
        while self._looks.look() is None:
            self._looks.renew()
            time.sleep(LOOK_INTERVAL)  # as the product's own loop of looks

    def _do(self, operator: Any) -> Any:
        self._at(operator.task_id)
        operator.pre_execute(self._context)
        return operator.execute(self._context)

    def _at(self, task_id: str) -> None:
        self._ti.task_id = task_id
        if task_id not in self._steps_of:
            self._steps_of.append(task_id)


def _word(verdict: Any) -> FinalVerdict:
    return FinalVerdict(verdict, "measured by hand", time.time(), numbers={"requests": 0, "errors": 0})
