"""What became of a question to a person: who answered it, when, and whether that counts."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

Option = Literal["Approve", "Reject"]
APPROVE: Option = "Approve"
REJECT: Option = "Reject"
"""The answers, by the names for which Airflow shows two buttons."""


class Person(BaseModel):
    """Somebody who has signed in, as Airflow knows them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str

    def is_requester(self, requester: str | None) -> bool:
        """Whether it was they who triggered the run. Airflow keeps one text of whoever did: a name, or an id."""
        return requester is not None and _same(requester) in (_same(self.id), _same(self.name))

    def __str__(self) -> str:
        return self.name if self.name == self.id else f"{self.name} (id {self.id})"


class Answer(BaseModel):
    """One answer, or what ended the question in its place.

    :param said: ``Approve`` and ``Reject`` are a person's; ``silence`` is a no; ``withdrawn``: the run has decided.
    :param why: why it was withdrawn, or does not count; empty otherwise.
    :param counts: False for a yes of somebody who may not agree; the question stays open.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    said: Literal["Approve", "Reject", "silence", "withdrawn"]
    at: datetime
    by: Person | None = None
    why: str = ""
    counts: bool = True

    @property
    def agreed(self) -> bool:
        """Whether somebody who may has said yes."""
        return self.said == "Approve" and self.counts

    @property
    def sentence(self) -> str:
        """What happened, for logs, reasons and the next person who is asked."""
        at = self.at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if self.said == "withdrawn":
            return f"the question was withdrawn at {at}: {self.why}"
        if self.said == "silence":
            return f"nobody answered until {at}, and silence is a no"
        who = f"{self.by or 'nobody who has signed in'} said {self.said} at {at}"
        return who if self.counts else f"{who}, which does not count: {self.why}"


def answered(said: Option, at: datetime, by: Person | None, requester: str | None) -> Answer:
    """Return a person's answer. A no counts from everybody, a yes only from somebody other than the requester.

    :param by: None where Airflow names nobody.
    :param requester: who triggered the run; None where nobody did who has signed in, so that anybody may agree.
    """
    why = ""
    if said == APPROVE and by is None:
        why = "a yes needs somebody who has signed in"
    elif said == APPROVE and by is not None and by.is_requester(requester):
        why = "whoever asked for a deployment may not approve it"
    return Answer(said=said, at=at, by=by, why=why, counts=not why)


def _same(name: str) -> str:
    return name.strip().casefold()
