"""What became of a deployment, told from what its tasks recorded: for those who asked for it, outside of Airflow."""

from collections.abc import Iterable
from dataclasses import dataclass

from airflow_deploy.domain.lifecycle.states import ENDS, EXITS, State, Step

_EXITS_IN_ORDER = (State.REJECTED, State.ROLLING_BACK, State.ROLLED_BACK, State.FAILED)


@dataclass(frozen=True)
class TaskVerdict:
    """What a judge said last.

    :param task: ``canary_<share>.gate``, ``watch`` or ``verify``.
    :param verdict: HEALTHY, BREACHED, UNDECIDED, BLIND, or CLOSED where somebody else ended the question.
    :param reason: one sentence with the numbers.
    """

    task: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class DeployResult:
    """One deployment, as far as it has come.

    :param state: one of ``ENDS`` once it is over; INIT also while the run still waits for its turn.
    :param image_tag: ``<registry>/<service>:<commit>-<unix seconds>``; None before ``plan`` has finished.
    :param artifact_path: the folder of its artifacts; None until ``audit``, or ``finalize``, has written them.
    :param canary: what the judges said, in the order in which they are asked.
    :param reason: why it ended as it did; None where nobody has said so.
    :param page: the run's address in Airflow's UI.
    :param question: the address in it at which a person is asked just now; None where nobody is.
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
        """Whether this is how it ended."""
        return self.state in ENDS


def last_step(steps: Iterable[Step]) -> Step | None:
    """Return the step that tells the state: the way back runs beside the stages, so its word counts over theirs."""
    exits = _EXITS_IN_ORDER.index
    return max(steps, key=lambda step: (exits(step.to) if step.to in EXITS else -1, step.at), default=None)


def state_of(steps: Iterable[Step], over: bool) -> State:
    """Return the deployment's state.

    :param over: whether the run has ended. What it left unsaid is then said here: nothing was deployed, or it is not
        known to be whole.
    """
    recorded = list(steps)
    last = last_step(recorded)
    state = last.to if last else State.INIT
    if not over or state in ENDS:
        return state
    deployed = {step.to for step in recorded} & {State.DEPLOYING, State.ROLLING_BACK}
    return State.FAILED if deployed else State.REJECTED
