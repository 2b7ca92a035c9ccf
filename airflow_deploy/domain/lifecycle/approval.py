"""Approvals: who answered a question, when, and whether the answer counts."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

Option = Literal["Approve", "Reject"]
APPROVE: Option = "Approve"
REJECT: Option = "Reject"
"""The two answers, by the names for which Airflow shows two buttons."""


class Person(BaseModel):
    """An authenticated user, as Airflow names them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str

    def is_requester(self, requester: str | None) -> bool:
        """Whether this person triggered the run. Airflow stores the requester as one text: a name or an id."""
        return requester is not None and _same(requester) in (_same(self.id), _same(self.name))

    def __str__(self) -> str:
        return self.name if self.name == self.id else f"{self.name} (id {self.id})"


class Answer(BaseModel):
    """One answer to a question, or the event that ended the question instead.

    :param said: ``Approve`` and ``Reject`` come from a person. ``silence``: the question timed out, which
        counts as a rejection. ``withdrawn``: the run has been decided meanwhile.
    :param at: when, with time zone.
    :param by: the person; None if Airflow names none.
    :param why: why the question was withdrawn, or why the answer does not count; else empty.
    :param counts: False for an approval by a person who may not approve; the question stays open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    said: Literal["Approve", "Reject", "silence", "withdrawn"]
    at: datetime
    by: Person | None = None
    why: str = ""
    counts: bool = True

    @property
    def agreed(self) -> bool:
        """Whether this is an approval that counts."""
        return self.said == "Approve" and self.counts

    @property
    def sentence(self) -> str:
        """The answer in one sentence, for logs, reasons and the next question."""
        at = self.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if self.said == "withdrawn":
            return f"the question was withdrawn at {at}: {self.why}"
        if self.said == "silence":
            return f"no answer until {at}, which counts as a rejection"
        verb = "approved" if self.said == "Approve" else "rejected"
        sentence = f"{self.by or 'an unauthenticated user'} {verb} at {at}"
        return sentence if self.counts else f"{sentence}, which does not count: {self.why}"


def answered(said: Option, at: datetime, by: Person | None, requester: str | None) -> Answer:
    """Return a person's answer and whether it counts.

    A rejection always counts. An approval counts only from an authenticated user other than the requester.

    :param by: the person; None if Airflow names none.
    :param requester: the user who triggered the run; None if the trigger was unauthenticated, so that every
        authenticated user may approve.
    """
    why = ""
    if said == APPROVE and by is None:
        why = "an approval needs an authenticated user"
    elif said == APPROVE and by is not None and by.is_requester(requester):
        why = "requesters may not approve their own deployment"
    return Answer(said=said, at=at, by=by, why=why, counts=not why)


def _same(name: str) -> str:
    return name.strip().casefold()
