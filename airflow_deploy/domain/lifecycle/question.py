"""A question to a person, in Markdown: the decision, what each answer does, and all results so far.

All text from outside, such as titles, names and findings, is escaped: it is shown, and never becomes structure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from airflow_deploy.domain.analysis.count_tests import BETA
from airflow_deploy.domain.analysis.sequential import trials_needed
from airflow_deploy.domain.lifecycle.confidence import ASK, GO_ALONE, Confidence
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan

About = Literal["deployment", "promotion"] | int
"""The decision: to deploy, to promote, or to shift to a share in %."""

MAX_SHOWN_CHARACTERS = 600
"""Longer texts are cut to this many characters."""


@dataclass(frozen=True)
class Question:
    """One question of a deployment.

    :param timeout: seconds after which the question counts as rejected.
    :param seen: the results so far, each as task and sentence.
    :param undecided: the numbers of the gate that is UNDECIDED, as its final verdict holds them; empty if the gate has
        no verdict, None if no gate is the reason for the question.
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
                return f"Keep all traffic on the first version of {self.plan.spec.service}?"
            return f"Shift {self.about} % of traffic to the new version of {self.plan.spec.service}?"
        return f"{'Deploy' if self.about == 'deployment' else 'Promote'} the new version of {self.plan.spec.service}?"

    @property
    def _consequences(self) -> tuple[str, str]:
        """What an approval does, and what a rejection does."""
        if self.about == "deployment":
            return (
                f"deploy it and shift {self.plan.share(self.plan.spec.canary.stages[0])} % of traffic to it first",
                "deploy nothing",
            )
        stable = self.plan.stable
        after_rollback = f"all traffic returns to {verbatim(stable)}" if stable else "no version has traffic, as before"
        reject = f"roll back; {after_rollback}"
        if self.about == "promotion":
            warm = f"; {verbatim(stable)} stays warm for a rollback" if stable else ""
            return f"make it the stable version{warm}", reject
        approve = f"shift {self.about} % of traffic to it" if stable else "keep all traffic on it"
        return f"{approve}; the watch continues and rolls back on harm", reject

    def body(self) -> str:
        """Return the Markdown that Airflow shows above the two buttons."""
        parts = [*self._decision(), "", *self._missing_evidence(), *self._results(), *self._score()]
        return "\n".join(parts)

    def _decision(self) -> list[str]:
        plan, incident = self.plan, self.plan.request.incident
        lines = [
            f"- Incident {verbatim(incident.id)} ({incident.severity}): {verbatim(incident.title)}",
            f"- New version: {verbatim(plan.candidate)}, commit {verbatim(plan.commit[:12])}, "
            + (f"replaces {verbatim(plan.stable)}" if plan.stable else "the service's first version"),
        ]
        if plan.request.emergency:
            lines.append(f"- Emergency, as stated by the requester: {verbatim(plan.request.emergency.reason)}")
        if plan.requester:
            lines.append(f"- Requested by {verbatim(plan.requester)}, whose own approval **does not count**")
        else:
            lines.append("- Requested without authentication, so every authenticated user may approve it")
        wait = f"{self.timeout // 60} minutes" if self.timeout % 60 == 0 else f"{self.timeout} seconds"
        approve, reject = self._consequences
        return [*lines, f"- **Approve**: {approve}", f"- **Reject**, or no answer within {wait}: {reject}"]

    def _missing_evidence(self) -> list[str]:
        """Return what the UNDECIDED gate still lacks; empty if no gate is the reason for the question."""
        if self.undecided is None:
            return []
        if not self.undecided:
            return [
                "**Why a person is asked.** The gate has no verdict, because its task was marked as done by hand.",
                "",
            ]
        share = self.plan.share(self.about) if isinstance(self.about, int) else 100
        header = ["gate", "passed", "bad requests so far", f"upper bound at {share} %", "limit", "requests needed"]
        return [
            f"**Why a person is asked.** The gate is UNDECIDED after {self.undecided['requests']:.0f} requests,"
            f" {self.undecided['errors']:.0f} of them with an error. It is HEALTHY only if each bad rate, even at its"
            f" upper bound, keeps the whole service within its limit with {share} % of traffic on this version.",
            "",
            *markdown_table(header, map(_finding, self.undecided["findings"])),
            "",
        ]

    def _results(self) -> list[str]:
        if not self.seen:
            return []
        return ["**Results so far**", "", *markdown_table(["task", "result"], self.seen), ""]

    def _score(self) -> list[str]:
        rows = [
            (f.name, f"{f.weight:.0%}", "unknown" if f.value is None else f"{f.value:.2f}", f.reason)
            for f in self.confidence.factors
        ]
        return [
            f"**Confidence {self.confidence.score:g} of 100**: from {GO_ALONE} on no approval is needed, below {ASK} it"
            " is refused.",
            "",
            *markdown_table(["factor", "weight", "value", "reason"], rows),
        ]


def _finding(item: Mapping[str, Any]) -> list[str]:
    numbers, passed = item["numbers"], "yes" if item["verdict"] == "HEALTHY" else "not yet"
    if "bound" not in numbers:
        return [item["gate"], passed, item["reason"].removeprefix(f"{item['gate']}: "), "", "", ""]
    share = numbers["next_share"] / 100
    needed = trials_needed(numbers["bad"], numbers["allowed"] / share, BETA, numbers["dispersion"])
    seen = f"{numbers['bad']:.0f} of {numbers['trials']:.0f}"
    return [item["gate"], passed, seen, f"{numbers['bound'] * share:.2%}", f"{numbers['allowed']:.2%}", f"{needed}"]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table. All cells are escaped."""
    lines = [[escaped(cell) for cell in row] for row in [header, *rows]]
    lines.insert(1, ["---"] * len(header))
    return [f"| {' | '.join(line)} |" for line in lines]


def escaped(text: str) -> str:
    """Return text as Markdown that shows exactly this text, on one line."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", _one_line(text))


def verbatim(text: str) -> str:
    """Return text as a code span. Unlike in escaped text, a URL in it does not become a link."""
    plain = _one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", plain)), default=0) + 1)
    return f"{fence} {plain} {fence}" if "`" in plain else f"{fence}{plain}{fence}"


def _one_line(text: str) -> str:
    """Return text without line breaks, bidirectional controls and invisible characters, cut to a length."""
    visible = "".join(character if character.isprintable() else " " for character in text)
    return visible if len(visible) <= MAX_SHOWN_CHARACTERS else visible[:MAX_SHOWN_CHARACTERS] + "…"
