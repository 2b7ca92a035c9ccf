"""The state machine of a deployment, and the check that the recorded steps form a path through it."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from airflow_deploy.domain.errors import IllegalTransitionError
from airflow_deploy.domain.lifecycle.approval import Answer


class State(StrEnum):
    """States of a deployment; the first ten are the happy path."""

    INIT = "INIT"
    BUILDING = "BUILDING"
    DEPLOYING = "DEPLOYING"
    CANARY = "CANARY"
    CANARY_WAITING = "CANARY_WAITING"
    CANARY_EVALUATING = "CANARY_EVALUATING"
    PROMOTING = "PROMOTING"
    PROMOTED = "PROMOTED"
    VERIFYING = "VERIFYING"
    VERIFIED = "VERIFIED"
    AWAITING_APPROVAL = "AWAITING_APPROVAL"
    REJECTED = "REJECTED"
    ROLLING_BACK = "ROLLING_BACK"
    ROLLED_BACK = "ROLLED_BACK"
    FAILED = "FAILED"


S = State

NEXT: dict[State, frozenset[State]] = {
    S.INIT: frozenset({S.BUILDING, S.REJECTED}),
    S.BUILDING: frozenset({S.DEPLOYING, S.AWAITING_APPROVAL, S.REJECTED}),
    S.DEPLOYING: frozenset({S.CANARY, S.ROLLING_BACK}),
    S.CANARY: frozenset({S.CANARY_WAITING, S.ROLLING_BACK}),
    S.CANARY_WAITING: frozenset({S.CANARY_EVALUATING, S.ROLLING_BACK}),
    S.CANARY_EVALUATING: frozenset({S.CANARY, S.AWAITING_APPROVAL, S.PROMOTING, S.ROLLING_BACK}),
    S.PROMOTING: frozenset({S.PROMOTED, S.ROLLING_BACK}),
    S.PROMOTED: frozenset({S.VERIFYING, S.ROLLING_BACK}),
    S.VERIFYING: frozenset({S.VERIFIED, S.ROLLING_BACK}),
    S.VERIFIED: frozenset({S.ROLLING_BACK}),
    S.AWAITING_APPROVAL: frozenset({S.DEPLOYING, S.REJECTED}),
    S.ROLLING_BACK: frozenset({S.ROLLED_BACK, S.FAILED}),
    S.REJECTED: frozenset(),
    S.ROLLED_BACK: frozenset(),
    S.FAILED: frozenset(),
}

APPROVED_LATE = frozenset({S.CANARY, S.PROMOTING, S.ROLLING_BACK})
"""States that may follow AWAITING_APPROVAL once something is deployed."""

EXITS = frozenset({S.REJECTED, S.ROLLING_BACK, S.ROLLED_BACK, S.FAILED})
"""States that leave the happy path. In a path they follow all states of the happy path."""
ENDS = frozenset({S.VERIFIED, S.REJECTED, S.ROLLED_BACK, S.FAILED})
"""States in which a run may end."""
UNDEPLOYED = frozenset({S.INIT, S.BUILDING, S.AWAITING_APPROVAL})
"""States in which nothing has been applied yet, if DEPLOYING was not reached before."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Step(_Frozen):
    """The entry of the deployment into a state, as a task pushes it to XCom."""

    to: State
    at: datetime
    task: str
    try_number: int
    reason: str
    evidence: str | None = None
    """SHA-256 of the evidence behind the step, in hex; None if there is none."""
    answers: tuple[Answer, ...] = ()
    """The answers of people, if the step is a question to them."""


class Transition(Step):
    """One edge of the state machine, as the audit trail records it."""

    from_: State | None = Field(alias="from")
    """None only for the entry into INIT."""


def chain(steps: Sequence[Step]) -> list[Transition]:
    """Return ``steps`` joined to transitions, legal or not.

    A rollback runs beside the stages, so a stage may record a step after the rollback's. The happy path, which is a
    line, therefore comes first, and the exits follow, each part in the given order.

    :param steps: in the order of the DAG's tasks.
    """
    ordered = [step for step in steps if step.to not in EXITS] + [step for step in steps if step.to in EXITS]
    origins = [None, *(step.to for step in ordered)]
    return [Transition(**step.model_dump(), from_=origin) for step, origin in zip(ordered, origins, strict=False)]


def assemble(steps: Sequence[Step]) -> list[Transition]:
    """Return the path that ``steps`` form, as ``chain`` joins them.

    :raises IllegalTransitionError: a transition is not an edge of the state machine; the message names the first.
    """
    path = chain(steps)
    deployed = False
    for edge in path:
        permitted = frozenset({S.INIT}) if edge.from_ is None else NEXT[edge.from_]
        if edge.from_ is S.AWAITING_APPROVAL and deployed:
            permitted = APPROVED_LATE
        if edge.to not in permitted:
            raise IllegalTransitionError(
                f"{edge.from_ or 'the start'} may not be followed by {edge.to} (recorded by {edge.task})"
            )
        deployed = deployed or edge.to is S.DEPLOYING
    return path
