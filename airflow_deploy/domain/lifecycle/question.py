"""The body of a question to a person, in Markdown: what is asked, what a yes and a no do, and all that was seen so far.

Whatever is not a constant of ours is escaped: a title, a name or a finding is shown, and never becomes structure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from airflow_deploy.domain.analysis.count_tests import BETA
from airflow_deploy.domain.analysis.sequential import trials_needed
from airflow_deploy.domain.lifecycle.confidence import Confidence
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan

About = Literal["deployment", "promotion"] | int
"""What a person decides: whether to deploy, to give a share in %, or to promote."""

MAX_SHOWN_CHARACTERS = 600
"""Characters of one text that are shown."""


@dataclass(frozen=True)
class Question:
    """One question of a deployment.

    :param timeout: seconds after which silence counts.
    :param seen: task and sentence of whatever judged or answered so far.
    :param undecided: the numbers of a gate that could not decide, as its event holds them; empty where it has not
        judged, None where no gate is the reason.
    """

    plan: DeploymentPlan
    about: About
    confidence: Confidence
    timeout: int
    seen: Sequence[tuple[str, str]] = ()
    undecided: Mapping[str, Any] | None = None

    @property
    def subject(self) -> str:
        """The question in one line."""
        if isinstance(self.about, int):
            if not self.plan.stable:
                return f"Leave the first version of {self.plan.spec.service} its traffic?"
            return f"Give the new version of {self.plan.spec.service} {self.about} % of the traffic?"
        return f"{'Deploy' if self.about == 'deployment' else 'Promote'} the new version of {self.plan.spec.service}?"

    @property
    def _consequences(self) -> tuple[str, str]:
        """What a yes does, and what a no and silence do."""
        if self.about == "deployment":
            return (
                f"it is deployed, and gets {self.plan.share(self.plan.spec.canary.stages[0])} % of the traffic first",
                "nothing is deployed",
            )
        stable = self.plan.stable
        back = f"all traffic goes back to {verbatim(stable)}" if stable else "it gets no traffic any more, as before"
        if self.about == "promotion":
            before = ", and the one before stays warm" if stable else ""
            return f"it becomes the version that serves{before}", back
        gets = f"gets {self.about} % of the" if stable else "keeps all"
        return f"it {gets} traffic; the watch goes on, and takes it back by itself on harm", back

    def body(self) -> str:
        """Return the Markdown that Airflow shows above the two buttons."""
        parts = [*self._asked(), "", *self._missing(), *self._so_far(), *self._score()]
        return "\n".join(parts)

    def _asked(self) -> list[str]:
        plan, incident = self.plan, self.plan.request.incident
        lines = [
            f"- Incident {verbatim(incident.id)} ({incident.severity}): {verbatim(incident.title)}",
            f"- New version: {verbatim(plan.candidate)}, commit {verbatim(plan.commit[:12])}, "
            + (f"in place of {verbatim(plan.stable)}" if plan.stable else "the service's first"),
        ]
        if plan.request.emergency:
            lines.append(f"- Emergency, as the requester states it: {verbatim(plan.request.emergency.reason)}")
        if plan.requester:
            lines.append(f"- Requested by {verbatim(plan.requester)}, whose own approval **does not count**")
        else:
            lines.append("- Requested by nobody who has signed in, so anybody may approve it")
        wait = f"{self.timeout // 60} minutes" if self.timeout % 60 == 0 else f"{self.timeout} seconds"
        yes, no = self._consequences
        return [*lines, f"- **Approve**: {yes}", f"- **Reject**, or no answer within {wait}: {no}"]

    def _missing(self) -> list[str]:
        """Say what the gate that could not decide still lacks."""
        if self.undecided is None:
            return []
        if not self.undecided:
            return ["**Why a person is asked.** The gate has not judged; somebody marked it as done.", ""]
        share = self.plan.share(self.about) if isinstance(self.about, int) else 100
        header = ["gate", "shown", "bad requests so far", f"at worst, at {share} %", "permitted", "requests needed"]
        return [
            f"**Why a person is asked.** The gate is UNDECIDED after {self.undecided['requests']:.0f} requests,"
            f" {self.undecided['errors']:.0f} of them with an error. It lets go on what, even if it is as bad as it may"
            f" still be, costs no more than is permitted with {share} % of the traffic.",
            "",
            *markdown_table(header, map(_finding, self.undecided["findings"])),
            "",
        ]

    def _so_far(self) -> list[str]:
        if not self.seen:
            return []
        return ["**Seen so far**", "", *markdown_table(["task", "what it said"], self.seen), ""]

    def _score(self) -> list[str]:
        rows = [
            (f.name, f"{f.weight:.0%}", "unknown" if f.value is None else f"{f.value:.2f}", f.reason)
            for f in self.confidence.factors
        ]
        return [
            f"**Confidence {self.confidence.score:g} of 100**: 80 and more goes on alone, below 60 is refused.",
            "",
            *markdown_table(["factor", "weight", "value", "reason"], rows),
        ]


def _finding(item: Mapping[str, Any]) -> list[str]:
    numbers, shown = item["numbers"], "yes" if item["verdict"] == "HEALTHY" else "not yet"
    if "bound" not in numbers:
        return [item["gate"], shown, item["reason"].removeprefix(f"{item['gate']}: "), "", "", ""]
    share = numbers["next_share"] / 100
    needed = trials_needed(numbers["bad"], numbers["allowed"] / share, BETA, numbers["dispersion"])
    seen = f"{numbers['bad']:.0f} of {numbers['trials']:.0f}"
    return [item["gate"], shown, seen, f"{numbers['bound'] * share:.2%}", f"{numbers['allowed']:.2%}", f"{needed}"]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a Markdown table; its cells are escaped."""
    lines = [[escaped(cell) for cell in row] for row in [header, *rows]]
    lines.insert(1, ["---"] * len(header))
    return [f"| {' | '.join(line)} |" for line in lines]


def escaped(text: str) -> str:
    """Return text as Markdown that shows it, on one line."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", _one_line(text))


def verbatim(text: str) -> str:
    """Return text as a code span: unlike escaped text, an address in it is no link."""
    plain = _one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", plain)), default=0) + 1)
    return f"{fence} {plain} {fence}" if "`" in plain else f"{fence}{plain}{fence}"


def _one_line(text: str) -> str:
    """Return text without what breaks its line, turns the text around it or cannot be seen."""
    seen = "".join(sign if sign.isprintable() else " " for sign in text)
    return seen if len(seen) <= MAX_SHOWN_CHARACTERS else seen[:MAX_SHOWN_CHARACTERS] + "…"
