"""The raw counts, queries and times behind every verdict, as JSON lines: enough to recompute it offline.

The first line holds the terms, the queries and the algorithm's version. Each further one is a look that brought
something new: the ticks, answers and ready pods that it took in, what it was asked, and what it said.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_deploy.domain.analysis.judge import ALGORITHM, Judge, Terms, evaluate
from airflow_deploy.domain.analysis.verdict import Finding, Verdict
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.metrics.counters import Tick


@dataclass
class _News:
    ticks: list[tuple[Tick, float, bool]] = field(default_factory=list)
    answers: list[tuple[float, float | None]] = field(default_factory=list)
    pods: list[tuple[float, int, int]] = field(default_factory=list)


class EvidenceLog:
    """A judge, with a record of all that it is told and of all that it says."""

    def __init__(self, terms: Terms, queries: Mapping[str, str]) -> None:
        self._judge = Judge(terms)
        self._news = _News()
        self._last_words: object = None
        self._lines = [
            _line({"kind": "judge", "algorithm": ALGORITHM, "terms": terms.dump(), "queries": dict(queries)})
        ]

    @property
    def judge(self) -> Judge:
        """The judge. Tell it nothing directly: what it is told must be recorded."""
        return self._judge

    def tick(self, tick: Tick, share: float, *, mirrored: bool = False) -> None:
        """Take in one scrape.

        :param share: the candidate's declared share in % of the requests that are counted at that time.
        :param mirrored: whether they are copies.
        """
        self._news.ticks.append((tick, share, mirrored))
        self._judge.observe(tick, share, mirrored=mirrored)

    def answer(self, at: float, value: float | None) -> None:
        """Take in what the incident's query yielded at ``at``."""
        self._news.answers.append((at, value))
        self._judge.answer(at, value)

    def pods(self, at: float, ready: int, needed: int) -> None:
        """Take in how many of the candidate's pods are ready ``at``, of those that its share needs.

        Enough of them after enough of them changes nothing, and leaves no record.
        """
        if self._judge.pods(at, ready, needed):
            self._news.pods.append((at, ready, needed))

    def look(
        self, at: float, blind: str | None, next_share: int | None, *, final: bool = False
    ) -> tuple[Verdict, list[Finding]]:
        """Return the verdict at ``at`` (unix seconds) and what it rests on; see ``evaluate``.

        Looks come every second. One that has brought nothing new and says the same again is left out, and where only
        the numbers have changed, the findings are: they follow from the counts.
        """
        verdict, findings = evaluate(self._judge, blind, next_share)
        words = verdict, tuple((finding.gate, finding.verdict) for finding in findings)
        changed = final or words != self._last_words
        news, self._news, self._last_words = self._news, _News(), words
        if changed or news != _News():
            record = {
                "kind": "look",
                "at": at,
                "ticks": [
                    {**tick.dump(), "share": share, **({"mirrored": True} if mirrored else {})}
                    for tick, share, mirrored in news.ticks
                ],
                # As texts: JSON has no infinity.
                "answers": [[when, None if value is None else repr(value)] for when, value in news.answers],
                "pods": news.pods,
                "blind": blind,
                "next_share": next_share,
                "verdict": verdict,
                "final": final,
            }
            shown = {"findings": [finding.dump() for finding in findings]} if changed else {}
            self._lines.append(_line({**record, **shown}))
        return verdict, findings

    def lines(self) -> str:
        """Return the JSON lines."""
        return "".join(self._lines)


@dataclass(frozen=True)
class Replayed:
    """One line of evidence, recomputed. ``difference`` says what does not agree; None where all does."""

    number: int
    verdict: str | None
    difference: str | None


def replay(lines: Sequence[str]) -> Iterator[Replayed]:
    """Recompute every verdict from the recorded counts alone, and compare each line byte for byte.

    :raises RefusedError: a line is no evidence of this version of the algorithm.
    """
    log: EvidenceLog | None = None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if log is None:
                log, again = _begin(record)
            else:
                again = _again(log, record)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise RefusedError(f"line {number}: is no evidence; {type(error).__name__}") from error
        yield Replayed(number, record.get("verdict"), _difference(line, again))
    if log is None:
        raise RefusedError("line 1: is missing; the file is empty")


def _begin(record: Mapping[str, Any]) -> tuple[EvidenceLog, str]:
    if record["kind"] != "judge" or record["algorithm"] != ALGORITHM:
        raise RefusedError(
            f"line 1: was judged by version {record.get('algorithm')} of the algorithm, and this is {ALGORITHM};"
            " use the airflow-deploy that wrote it"
        )
    log = EvidenceLog(Terms.load(record["terms"]), record["queries"])
    return log, log.lines()


def _again(log: EvidenceLog, record: Mapping[str, Any]) -> str:
    for tick in record["ticks"]:
        log.tick(Tick.load(tick), tick["share"], mirrored=tick.get("mirrored", False))
    for at, value in record["answers"]:
        log.answer(at, None if value is None else float(value))
    for at, ready, needed in record["pods"]:
        log.pods(at, ready, needed)
    recorded = len(log._lines)
    log.look(record["at"], record["blind"], record["next_share"], final=record["final"])
    return "".join(log._lines[recorded:])


def _difference(line: str, again: str) -> str | None:
    if line == again:
        return None
    told, found = json.loads(line), json.loads(again) if again else {}
    wrong = [name for name in sorted({*told, *found}) if told.get(name) != found.get(name)]
    said = "; ".join(f"{name} is {told.get(name)!r}, recomputed {found.get(name)!r}" for name in wrong)
    return said or "the same values in other bytes"


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
