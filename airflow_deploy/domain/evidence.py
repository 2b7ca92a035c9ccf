"""The raw counts, queries and times behind a verdict, as JSON lines: enough to recompute it offline."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_deploy.domain.judge import ALPHA, Finding, Judge
from airflow_deploy.domain.telemetry import Counts, Tick, edge_text

Record = Mapping[str, Any]


def counts_record(counts: Counts) -> Record:
    """Return plain JSON for ``counts``."""
    within = {edge_text(edge): number for edge, number in counts.within.items()}
    return {"requests": counts.requests, "errors": counts.errors, "timed": counts.timed, "within": within}


def counts_from(record: Record) -> Counts:
    """Return what ``counts_record`` was given."""
    within = {float(edge): number for edge, number in record["within"].items()}
    return Counts(record["requests"], record["errors"], record["timed"], within)


class EvidenceLog:
    """Collects, in order, all that a judge was told and all that it said.

    Its lines: one ``judge`` (limits, names, baseline, alpha, queries), then ``tick``, ``gauge``, ``answer`` and
    ``verdict`` as they came.
    """

    def __init__(
        self,
        limits: Mapping[str, float],
        candidate: str,
        stable: str,
        baseline: Counts,
        queries: Mapping[str, str],
        alpha: float = ALPHA,
    ) -> None:
        self._last_words: object = None
        self._judge = Judge(limits, candidate, stable, baseline, alpha)
        self._records: list[Record] = [
            {
                "kind": "judge",
                "limits": dict(limits),
                "candidate": candidate,
                "stable": stable,
                "baseline": counts_record(baseline),
                "alpha": alpha,
                "queries": dict(queries),
            }
        ]

    @property
    def judge(self) -> Judge:
        """The judge. Tell it nothing directly: what it is told must be recorded."""
        return self._judge

    def tick(self, tick: Tick, share: int) -> None:
        """Record one scrape and pass it on."""
        counts = {name: counts_record(item) for name, item in tick.counts.items()}
        self._records.append({"kind": "tick", "at": tick.at, "share": share, "counts": counts})
        self._judge.observe(tick, share)

    def gauge(self, name: str, at: float, value: float | None) -> None:
        """Record one gauge's value and pass it on."""
        self._records.append({"kind": "gauge", "name": name, "at": at, "value": value})
        self._judge.gauge(name, at, value)

    def answer(self, at: float, value: float | None) -> None:
        """Record what the incident's query yielded; as a text, since JSON has no infinity."""
        self._records.append({"kind": "answer", "at": at, "value": None if value is None else repr(value)})

    def verdict(
        self, at: float, verdict: str, findings: Iterable[Finding], question: Mapping[str, Any], *, final: bool
    ) -> None:
        """Record what was said to ``question``, a look at ``at`` (unix seconds).

        What was said the last time in the same words is left out, unless it is ``final``: looks come every second.
        """
        said = [
            {"gate": f.gate, "verdict": f.verdict, "reason": f.reason, "numbers": dict(f.numbers)} for f in findings
        ]
        words = verdict, tuple((item["gate"], item["verdict"]) for item in said)
        if final or words != self._last_words:
            self._records.append({"kind": "verdict", "at": at, "verdict": verdict, "findings": said, **question})
        self._last_words = words

    def lines(self) -> str:
        """Return the JSON lines."""
        return "".join(json.dumps(record, sort_keys=True, separators=(",", ":")) + "\n" for record in self._records)


def digest(text: str) -> str:
    """Return the SHA-256 of a text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
