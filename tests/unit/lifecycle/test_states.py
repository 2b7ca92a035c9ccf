"""Recorded steps are accepted if and only if they form a path of the state machine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_deploy.domain.errors import IllegalTransitionError, PermanentError
from airflow_deploy.domain.lifecycle.states import ENDS, EXITS, NEXT, State, Step, Transition, assemble

S = State
START = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)

STAGE = [S.CANARY, S.CANARY_WAITING, S.CANARY_EVALUATING]
GOOD = [S.INIT, S.BUILDING, S.DEPLOYING, *STAGE * 4, S.PROMOTING, S.PROMOTED, S.VERIFYING, S.VERIFIED]
BEFORE_DEPLOYING = [S.INIT, S.BUILDING]
DEPLOYED = [S.DEPLOYING, *STAGE, S.PROMOTING, S.PROMOTED, S.VERIFYING, S.VERIFIED]


def step(to: State, index: int = 0) -> Step:
    return Step(to=to, at=START + timedelta(seconds=index), task=f"task_{index}", try_number=1, reason="because")


def steps(states: list[State]) -> list[Step]:
    return [step(state, index) for index, state in enumerate(states)]


def reached(path: list[Transition]) -> list[State]:
    return [item.to for item in path]


def following(path: list[State]) -> frozenset[State]:
    """Return the states that may follow; an approval leads only to what it approves."""
    if not path:
        return frozenset({S.INIT})
    if path[-1] == S.AWAITING_APPROVAL:
        deployed = S.DEPLOYING in path
        approved = {S.CANARY, S.PROMOTING, S.ROLLING_BACK} if deployed else {S.DEPLOYING, S.REJECTED}
        return frozenset(approved)
    return NEXT[path[-1]]


walks = st.lists(st.sampled_from(list(State)), max_size=8)


@st.composite
def legal_walks(draw: st.DrawFn) -> list[State]:
    """A walk along the edges that leaves the happy path at most once, as every run does."""
    path: list[State] = []
    for _ in range(draw(st.integers(1, 20))):
        permitted = sorted(following(path))
        if not permitted:
            break
        path.append(draw(st.sampled_from(permitted)))
    return path


def test_happy_path_is_permitted() -> None:
    path = assemble(steps(GOOD))
    assert reached(path) == GOOD
    assert [item.from_ for item in path] == [None, *GOOD[:-1]]


@pytest.mark.parametrize("last", range(len(DEPLOYED)))
def test_rollback_is_permitted_from_deploying_on(last: int) -> None:
    happy = [*BEFORE_DEPLOYING, *DEPLOYED[: last + 1]]
    assert reached(assemble(steps([*happy, S.ROLLING_BACK, S.ROLLED_BACK])))[-2:] == [S.ROLLING_BACK, S.ROLLED_BACK]


@pytest.mark.parametrize("last", [S.INIT, S.BUILDING])
def test_rollback_is_not_permitted_before_deploying(last: State) -> None:
    happy = BEFORE_DEPLOYING[: BEFORE_DEPLOYING.index(last) + 1]
    assert reached(assemble(steps([*happy, S.REJECTED])))[-1] == S.REJECTED
    with pytest.raises(IllegalTransitionError):
        assemble(steps([*happy, S.ROLLING_BACK]))


def test_failed_rollback_ends_failed() -> None:
    path = assemble(steps([S.INIT, S.BUILDING, S.DEPLOYING, S.ROLLING_BACK, S.FAILED]))
    assert path[-1].to == S.FAILED


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([S.INIT, S.BUILDING], [S.DEPLOYING]),
        ([S.INIT, S.BUILDING, S.DEPLOYING, *STAGE], [S.PROMOTING]),
        ([S.INIT, S.BUILDING, S.DEPLOYING, *STAGE], [*STAGE, S.PROMOTING]),
        ([S.INIT, S.BUILDING], [S.REJECTED]),
        ([S.INIT, S.BUILDING, S.DEPLOYING, *STAGE], [S.ROLLING_BACK, S.ROLLED_BACK]),
    ],
)
def test_approval_is_permitted_before_deploying_and_after_a_stage(before: list[State], after: list[State]) -> None:
    whole = [*before, S.AWAITING_APPROVAL, *after]
    assert reached(assemble(steps(whole))) == whole


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([S.INIT, S.BUILDING], S.PROMOTING),
        ([S.INIT, S.BUILDING], S.CANARY),
        ([S.INIT, S.BUILDING], S.ROLLING_BACK),
        ([S.INIT, S.BUILDING, S.DEPLOYING, *STAGE], S.REJECTED),
        ([S.INIT, S.BUILDING, S.DEPLOYING, *STAGE], S.DEPLOYING),
    ],
)
def test_approval_leads_only_to_what_it_approves(before: list[State], after: State) -> None:
    with pytest.raises(IllegalTransitionError):
        assemble(steps([*before, S.AWAITING_APPROVAL, after]))


@given(walks)
def test_accepted_path_starts_at_init_and_follows_edges(states: list[State]) -> None:
    given_steps = steps(states)
    try:
        path = assemble(given_steps)
    except IllegalTransitionError:
        return
    assert all(after in NEXT[before] for before, after in pairwise(reached(path)))
    assert not path or (path[0].from_ is None and path[0].to == S.INIT)
    assert all(now.from_ == before.to for before, now in pairwise(path))
    assert sorted(item.task for item in path) == sorted(item.task for item in given_steps)


@given(walks)
def test_broken_path_is_refused(states: list[State]) -> None:
    ordered = [s for s in states if s not in EXITS] + [s for s in states if s in EXITS]
    legal = all(state in following(ordered[:index]) for index, state in enumerate(ordered))
    if legal:
        assert reached(assemble(steps(states))) == ordered
    else:
        with pytest.raises(IllegalTransitionError):
            assemble(steps(states))


@given(legal_walks())
def test_rollback_may_be_recorded_before_a_stages_last_step(states: list[State]) -> None:
    exits = [state for state in states if state in EXITS]
    happy = [state for state in states if state not in EXITS]
    for position in range(len(happy) + 1):
        mixed = [*happy[:position], *exits, *happy[position:]]
        assert reached(assemble(steps(mixed))) == states


@given(legal_walks())
def test_transition_keeps_the_recorded_step(states: list[State]) -> None:
    given_steps = steps(states)
    for recorded, transition in zip(given_steps, assemble(given_steps), strict=True):
        assert {**recorded.model_dump(), "from_": transition.from_} == transition.model_dump()


def test_transition_is_written_with_from_and_utc_time() -> None:
    line = assemble(steps([S.INIT, S.BUILDING]))[1].model_dump(mode="json", by_alias=True)
    assert (line["from"], line["to"], line["at"]) == ("INIT", "BUILDING", "2026-11-23T07:00:01Z")
    assert Transition.model_validate(line).from_ == S.INIT


def test_refusal_names_the_transition_and_the_task() -> None:
    with pytest.raises(IllegalTransitionError, match=r"^INIT may not be followed by PROMOTED \(recorded by task_1\)$"):
        assemble(steps([S.INIT, S.PROMOTED]))
    assert issubclass(IllegalTransitionError, PermanentError)


def test_only_verified_of_the_ends_may_be_rolled_back() -> None:
    assert {state for state in State if not NEXT[state]} == ENDS - {S.VERIFIED}
    assert NEXT[S.VERIFIED] == {S.ROLLING_BACK}
    assert set(NEXT) == set(State)


def test_step_with_unknown_fields_is_refused() -> None:
    with pytest.raises(ValidationError, match="unknown"):
        Step.model_validate({**step(S.INIT).model_dump(), "unknown": 1})
