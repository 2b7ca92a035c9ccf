"""One deployment's run, triggered and followed over Airflow's REST API."""

from __future__ import annotations

import re
import secrets
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

from airflow_deploy.clients.airflow_rest.api import AirflowApi
from airflow_deploy.domain.config.request import DeployRequest, parse_request
from airflow_deploy.domain.errors import DeployError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.result import DeployResult, TaskVerdict, last_step, state_of
from airflow_deploy.domain.lifecycle.states import ENDS, State, Step
from airflow_deploy.domain.lifecycle.xcom_keys import PLAN_KEY, STEPS_KEY, VERDICT_KEY
from airflow_deploy.domain.names import SERVICE_PATTERN, SHADOW
from airflow_deploy.domain.values import printable

OVER = frozenset({"success", "failed"})
DONE = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""Final states of a run, and of a task."""

RUN_POLL_SECONDS = 1.0
OUTAGE_SECONDS = 180.0
"""Seconds between two polls, and for which Airflow may be unavailable while a run is followed: it restarts in 30."""
TEARDOWN_SECONDS = 120.0
"""Seconds to wait for the teardown: if a person marks the run as failed, it is over before its last task."""
TRIGGER_ATTEMPTS = 3


@dataclass(frozen=True)
class RunSnapshot:
    """A run at one moment: its state, its tasks' states and the steps that they recorded."""

    run: str
    tasks: Mapping[str, str | None]
    steps: tuple[Step, ...]

    @property
    def over(self) -> bool:
        """Whether the run has ended and all its tasks with it."""
        return self.run in OVER and all(state in DONE for state in self.tasks.values())

    @property
    def state(self) -> State:
        """The deployment's state."""
        return state_of(self.steps, self.over)

    @property
    def question(self) -> str | None:
        """Id of the task that waits for a person's answer at this moment."""
        last = last_step(self.steps)
        asks = last is not None and last.to is State.AWAITING_APPROVAL and self.tasks.get(last.task) == "deferred"
        return last.task if last and asks else None


@dataclass
class DeploymentRun:
    """A run of ``deploy_<service>``."""

    api: AirflowApi
    service: str
    run_id: str
    _seen: dict[str, tuple[str, list[Step]]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not re.fullmatch(SERVICE_PATTERN, self.service):
            raise RefusedError(f"service: {printable(self.service)} is not a service's name; write it as in its YAML")
        if not re.fullmatch(r"[A-Za-z0-9_.~:+-]{1,250}", self.run_id):
            raise RefusedError(f"run id: {printable(self.run_id)} is not valid; copy it from the output of trigger")

    @property
    def dag_id(self) -> str:
        """The service's DAG."""
        return f"deploy_{self.service}"

    @property
    def page(self) -> str:
        """The run's address in Airflow's UI."""
        return self.api.page(self.dag_id, self.run_id)

    @classmethod
    def start(cls, api: AirflowApi, service: str, conf: dict[str, Any]) -> DeploymentRun:
        """Trigger a deployment.

        :raises RefusedError: before any request, if the conf is not valid or the safety gate does not recommend DEPLOY;
            after it, if Airflow does not accept it.
        :raises TemporaryError: Airflow does not answer.
        """
        request = check_conf(conf)
        moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        run = cls(
            api, service, f"deploy__{request.incident.id}__{request.commit[:12]}__{moment}-{secrets.token_hex(4)}"
        )
        api.check_dag(run.dag_id)
        attempts = Retrying(
            stop=stop_after_attempt(TRIGGER_ATTEMPTS),
            wait=wait_fixed(RUN_POLL_SECONDS),
            retry=retry_if_exception_type(TemporaryError),
            reraise=True,
        )
        try:
            attempts(api.trigger, run.dag_id, run.run_id, conf)
        except TemporaryError as error:
            raise TemporaryError(f"{error}; run {run.run_id} may have been triggered: look it up") from error
        return run

    def question_page(self, seen: RunSnapshot) -> str | None:
        """Return the address of the open question; None if there is none."""
        return self.api.question_page(self.dag_id, self.run_id, seen.question) if seen.question else None

    def snapshot(self) -> RunSnapshot:
        """Read the run's state. Only XComs pushed since the last time are read again.

        :raises RefusedError: there is no such run, or this user may not see it.
        :raises TemporaryError: Airflow does not answer.
        """
        # The run first: nothing that its tasks record before it ends is missed then.
        state = self.api.run_state(self.dag_id, self.run_id)
        tasks = self.api.tasks(self.dag_id, self.run_id)
        for task, pushed in self.api.xcoms_of(self.dag_id, self.run_id, STEPS_KEY).items():
            if self._seen.get(task, ("", []))[0] != pushed:
                self._seen[task] = pushed, _steps(self.api.xcom(self.dag_id, self.run_id, task, STEPS_KEY))
        return RunSnapshot(state, tasks, tuple(step for _, steps in self._seen.values() for step in steps))

    def follow(self, timeout: float | None = None) -> Iterator[RunSnapshot]:
        """Yield the run now and whenever it has changed, until it is over or ``timeout`` seconds have passed.

        :raises TemporaryError: Airflow has not answered for ``OUTAGE_SECONDS`` seconds.
        """
        began = heard = time.monotonic()
        over_since: float | None = None
        shown: RunSnapshot | None = None
        while True:
            try:
                seen = self.snapshot()
            except TemporaryError:
                if shown is None or time.monotonic() - heard > OUTAGE_SECONDS:
                    raise
            else:
                heard = time.monotonic()
                if seen != shown:
                    shown = seen
                    yield seen
                if seen.run in OVER:
                    over_since = over_since or heard
                    if seen.over or heard - over_since > TEARDOWN_SECONDS:
                        return
            if timeout is not None and time.monotonic() - began >= timeout:
                return
            time.sleep(RUN_POLL_SECONDS)

    def wait(self, timeout: float | None = None) -> RunSnapshot:
        """Return the last snapshot that ``follow`` yields."""
        return deque(self.follow(timeout), maxlen=1)[0]

    def result(self, seen: RunSnapshot | None = None) -> DeployResult:
        """Return how far the deployment has come.

        :param seen: the latest snapshot, if there is one.
        :raises RefusedError: its plan is not one that this version can read.
        :raises TemporaryError: Airflow does not answer.
        """
        seen = seen or self.snapshot()
        plan = self._xcom("build_image", PLAN_KEY) or self._xcom("plan", PLAN_KEY)
        # If a person marked the run as failed, the teardown writes the artifacts in place of the audit.
        folder = self._xcom("audit") or self._xcom("finalize")
        return DeployResult(
            service=self.service,
            run_id=self.run_id,
            state=seen.state,
            image_tag=_image_tag(plan) if plan else None,
            artifact_path=str(folder) if folder else None,
            canary=tuple(self._verdicts(seen)),
            reason=self._reason(seen),
            page=self.page,
            question=self.question_page(seen),
        )

    def _xcom(self, task: str, key: str = "return_value") -> Any:
        return self.api.xcom(self.dag_id, self.run_id, task, key)

    def _verdicts(self, seen: RunSnapshot) -> Iterator[TaskVerdict]:
        gates = {int(found[1]): task for task in seen.tasks if (found := re.fullmatch(r"canary_([0-9]+)\.gate", task))}
        for task in [f"{SHADOW}.gate", *(gates[share] for share in sorted(gates)), "watch", "verify"]:
            # A task that has not ended has no verdict yet.
            event = self._xcom(task, VERDICT_KEY) if seen.tasks.get(task) in DONE else None
            if isinstance(event, dict) and "verdict" in event:
                yield TaskVerdict(task, str(event["verdict"]), str(event.get("reason", "")))

    def _reason(self, seen: RunSnapshot) -> str | None:
        """Return the reason of the step that ended it, or else the error of the first task that failed."""
        if not seen.over:
            return None
        turns = [step for step in seen.steps if step.to is State.ROLLING_BACK]
        last = last_step(seen.steps)
        if last and last.to in ENDS:
            return (last_step(turns) or last).reason if last.to is State.ROLLED_BACK else last.reason
        failed = [task for task, state in seen.tasks.items() if state == "failed" and task not in ("audit", "finalize")]
        with suppress(DeployError):  # a user who may see a run may lack the permission to read its logs
            errors = (self.api.error_of(self.dag_id, self.run_id, task) for task in failed)
            return next((error for error in errors if error), None)
        return None


def check_conf(conf: Any) -> DeployRequest:
    """Return the request in ``conf``.

    :raises RefusedError: a field is not valid, or the safety gate does not recommend DEPLOY.
    """
    request = parse_request(conf)
    if request.safety_gate.recommendation != "DEPLOY":
        raise RefusedError(
            f"conf: safety_gate.recommendation is {request.safety_gate.recommendation}, and only DEPLOY is deployed;"
            " nothing was triggered"
        )
    return request


def _steps(pushed: Any) -> list[Step]:
    try:
        return [Step.model_validate(item) for item in pushed or []]
    except (ValidationError, TypeError) as error:
        raise RefusedError(
            "the run's steps cannot be read; install the version of airflow-deploy that Airflow runs"
        ) from error


def _image_tag(plan: Any) -> str:
    try:
        return DeploymentPlan.load(plan).image_tag
    except (ValidationError, TypeError, ValueError) as error:
        raise RefusedError(
            "the run's plan cannot be read; install the version of airflow-deploy that Airflow runs"
        ) from error
