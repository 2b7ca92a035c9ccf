"""Which answers count, and the sentence for each."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airflow_deploy.domain.lifecycle.approval import Answer, Option, Person, answered

AT = datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
GRACE = Person(id="3", name="grace")


@pytest.mark.parametrize(
    ("requester", "said", "by", "counts"),
    [
        ("ada", "Approve", GRACE, True),
        ("ada", "Reject", GRACE, True),
        ("grace", "Approve", GRACE, False),
        ("grace", "Reject", GRACE, True),
        ("3", "Approve", GRACE, False),
        (" GRACE\n", "Approve", GRACE, False),
        ("gracé", "Approve", GRACE, True),
        (None, "Approve", GRACE, True),
        (None, "Reject", GRACE, True),
        ("ada", "Approve", None, False),
        (None, "Approve", None, False),
        ("ada", "Reject", None, True),
    ],
)
def test_rejection_always_counts_and_approval_only_from_another_user(
    requester: str | None, said: Option, by: Person | None, counts: bool
) -> None:
    answer = answered(said, AT, by, requester)
    assert answer.counts is counts
    assert answer.agreed is (counts and said == "Approve")


@pytest.mark.parametrize("said", ["silence", "withdrawn"])
def test_silence_and_withdrawal_are_not_approvals(said: str) -> None:
    assert not Answer.model_validate({"said": said, "at": AT}).agreed


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (answered("Approve", AT, GRACE, "ada"), "grace (id 3) approved at 2026-11-23 07:00:00 UTC"),
        (
            answered("Approve", AT, Person(id="ada", name="ada"), "ada"),
            "ada approved at 2026-11-23 07:00:00 UTC, which does not count:"
            " requesters may not approve their own deployment",
        ),
        (
            answered("Approve", AT, None, "ada"),
            "an unauthenticated user approved at 2026-11-23 07:00:00 UTC, which does not count:"
            " an approval needs an authenticated user",
        ),
        (Answer(said="silence", at=AT), "no answer until 2026-11-23 07:00:00 UTC, which counts as a rejection"),
        (
            Answer(said="withdrawn", at=AT, why="the route is braked"),
            "the question was withdrawn at 2026-11-23 07:00:00 UTC: the route is braked",
        ),
    ],
)
def test_sentence_names_person_answer_and_time(answer: Answer, sentence: str) -> None:
    assert answer.sentence == sentence
