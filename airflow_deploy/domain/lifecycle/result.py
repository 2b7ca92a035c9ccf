"""The result of a deployment, from the steps that its tasks recorded, for callers outside of Airflow."""

from collections.abc import Iterable
from dataclasses import dataclass

from airflow_deploy.domain.lifecycle.states import ENDS, EXITS, State, Step

_EXITS_IN_ORDER = (State.REJECTED, State.ROLLING_BACK, State.ROLLED_BACK, State.FAILED)


@dataclass(frozen=True)
class TaskVerdict:
    """The final verdict of one task that analyses.

    :param task: ``canary_<share>.gate``, ``watch`` or ``verify``.
    :param verdict: HEALTHY, BREACHED, UNDECIDED or BLIND; CLOSED if another task ended the analysis.
    :param reason: one sentence with the numbers.
    """

    task: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class DeployResult:
    """One deployment, as far as it has come.

    :param state: one of ``ENDS`` once it has ended; INIT also while the run is queued.
    :param image_tag: ``<registry>/<service>:<commit>-<unix seconds>``; None before ``plan`` has finished.
    :param artifact_path: the folder of its artifacts; None until ``audit`` or ``finalize`` has written them.
    :param canary: the verdicts of gates, watch and verification, in the order of the tasks.
    :param reason: why it ended in this state, in one sentence; None if no task recorded a reason.
    :param page: URL of the run in Airflow's UI.
    :param question: URL of the question that a person has to answer now; None if there is none.
    """

    service: str
    run_id: str
    state: State
    image_tag: str | None
    artifact_path: str | None
    canary: tuple[TaskVerdict, ...]
    reason: str | None
    page: str
    question: str | None = None

    @property
    def ended(self) -> bool:
        """Whether the deployment has ended."""
        return self.state in ENDS


def last_step(steps: Iterable[Step]) -> Step | None:
    """Return the step that decides the state; None without steps.

    The rollback runs beside the stages, so its steps outweigh theirs. Otherwise the latest step decides.
    """
    rank = _EXITS_IN_ORDER.index
    return max(steps, key=lambda step: (rank(step.to) if step.to in EXITS else -1, step.at), default=None)


def state_of(steps: Iterable[Step], over: bool) -> State:
    """Return the deployment's state.

    :param over: whether the run has ended. If its last step is then not one of ``ENDS``, the state is REJECTED if
        nothing was deployed, else FAILED.
    """
    recorded = list(steps)
    last = last_step(recorded)
    state = last.to if last else State.INIT
    if not over or state in ENDS:
        return state
    deployed = {step.to for step in recorded} & {State.DEPLOYING, State.ROLLING_BACK}
    return State.FAILED if deployed else State.REJECTED
