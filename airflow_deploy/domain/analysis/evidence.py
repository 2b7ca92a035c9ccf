"""Evidence: the raw counts, queries and times behind every verdict, as JSON lines from which it can be recomputed.

The first line holds the terms, the queries and the version of the algorithm. Each further line is one look that brought
something new: the ticks, incident values and ready pods that it took in, the share in question, and its verdict.
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
class _Observations:
    """What has been observed since the latest look."""

    ticks: list[tuple[Tick, float, bool]] = field(default_factory=list)
    answers: list[tuple[float, float | None]] = field(default_factory=list)
    pods: list[tuple[float, int, int]] = field(default_factory=list)


class EvidenceLog:
    """A judge together with the record of its observations and verdicts.

    :param terms: the judge's terms.
    :param queries: the PromQL behind the observations, by name; recorded for people, not used.
    """

    def __init__(self, terms: Terms, queries: Mapping[str, str]) -> None:
        self._judge = Judge(terms)
        self._new = _Observations()
        self._last_outcome: object = None
        self._lines = [
            _line({"kind": "judge", "algorithm": ALGORITHM, "terms": terms.dump(), "queries": dict(queries)})
        ]

    @property
    def judge(self) -> Judge:
        """The judge, to read from. Its observations go through this log, so that they are recorded."""
        return self._judge

    def observe(self, tick: Tick, share: float, *, mirrored: bool = False) -> None:
        """Take in one scrape.

        :param share: the candidate's declared share, in %, of the requests that are counted at that time.
        :param mirrored: whether the candidate's requests are copies.
        """
        self._new.ticks.append((tick, share, mirrored))
        self._judge.observe(tick, share, mirrored=mirrored)

    def observe_incident(self, at: float, value: float | None) -> None:
        """Take in the value of the incident's query at ``at`` (unix seconds); None if it returned none."""
        self._new.answers.append((at, value))
        self._judge.observe_incident(at, value)

    def observe_pods(self, at: float, ready: int, needed: int) -> None:
        """Take in how many of the candidate's ``needed`` pods are ready at ``at`` (unix seconds).

        Only an observation that can change a verdict is recorded: enough pods after enough pods cannot.
        """
        if self._judge.observe_pods(at, ready, needed):
            self._new.pods.append((at, ready, needed))

    def look(
        self, at: float, blind: str | None, next_share: int | None, *, final: bool = False
    ) -> tuple[Verdict, list[Finding]]:
        """Return the verdict at ``at`` (unix seconds) and its findings; see ``evaluate`` for the other parameters.

        There is a look every second. A look without new observations and with the same outcome as the last one is not
        recorded. If only the numbers have changed, the findings are left out: they follow from the counts.

        :param final: whether this look ends the analysis; it is always recorded in full.
        """
        verdict, findings = evaluate(self._judge, blind, next_share)
        outcome = verdict, tuple((finding.gate, finding.verdict) for finding in findings)
        changed = final or outcome != self._last_outcome
        new, self._new, self._last_outcome = self._new, _Observations(), outcome
        if changed or new != _Observations():
            record = {
                "kind": "look",
                "at": at,
                "ticks": [
                    {**tick.dump(), "share": share, **({"mirrored": True} if mirrored else {})}
                    for tick, share, mirrored in new.ticks
                ],
                # As strings, since JSON has no infinity.
                "answers": [[when, None if value is None else repr(value)] for when, value in new.answers],
                "pods": new.pods,
                "blind": blind,
                "next_share": next_share,
                "verdict": verdict,
                "final": final,
            }
            shown = {"findings": [finding.dump() for finding in findings]} if changed else {}
            self._lines.append(_line({**record, **shown}))
        return verdict, findings

    def lines(self) -> str:
        """Return the record so far, as JSON lines."""
        return "".join(self._lines)


@dataclass(frozen=True)
class Replayed:
    """One line of evidence, compared with its recomputation.

    :param number: of the line, from 1.
    :param verdict: the recorded verdict; None for the first line, which has none.
    :param difference: which fields differ, and how; None if the line is the same byte for byte.
    """

    number: int
    verdict: str | None
    difference: str | None


def replay(lines: Sequence[str]) -> Iterator[Replayed]:
    """Recompute every verdict from the recorded counts alone, and compare each line byte for byte.

    :param lines: those of one file, each with its line end.
    :raises RefusedError: a line is not valid evidence, or another version of the algorithm wrote it.
    """
    log: EvidenceLog | None = None
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            if log is None:
                log, recomputed = _begin(record)
            else:
                recomputed = _recompute(log, record)
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise RefusedError(
                f"line {number}: is not valid evidence ({type(error).__name__}); restore the file as it was written"
            ) from error
        yield Replayed(number, record.get("verdict"), _difference(line, recomputed))
    if log is None:
        raise RefusedError("line 1: is missing, the file is empty; restore it as it was written")


def _begin(record: Mapping[str, Any]) -> tuple[EvidenceLog, str]:
    if record["kind"] != "judge" or record["algorithm"] != ALGORITHM:
        raise RefusedError(
            f"line 1: was judged by version {record.get('algorithm')} of the algorithm, and this is {ALGORITHM};"
            " replay it with the airflow-deploy that wrote it"
        )
    log = EvidenceLog(Terms.load(record["terms"]), record["queries"])
    return log, log.lines()


def _recompute(log: EvidenceLog, record: Mapping[str, Any]) -> str:
    for tick in record["ticks"]:
        log.observe(Tick.load(tick), tick["share"], mirrored=tick.get("mirrored", False))
    for at, value in record["answers"]:
        log.observe_incident(at, None if value is None else float(value))
    for at, ready, needed in record["pods"]:
        log.observe_pods(at, ready, needed)
    recorded = len(log._lines)
    log.look(record["at"], record["blind"], record["next_share"], final=record["final"])
    return "".join(log._lines[recorded:])


def _difference(line: str, recomputed_line: str) -> str | None:
    if line == recomputed_line:
        return None
    recorded, recomputed = json.loads(line), json.loads(recomputed_line) if recomputed_line else {}
    wrong = [name for name in sorted({*recorded, *recomputed}) if recorded.get(name) != recomputed.get(name)]
    parts = [f"{name} is {recorded.get(name)!r}, recomputed {recomputed.get(name)!r}" for name in wrong]
    return "; ".join(parts) or "the same values in other bytes"


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"
