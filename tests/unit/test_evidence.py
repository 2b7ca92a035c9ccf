"""The recorded lines are enough to recompute every verdict offline."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.evidence import EvidenceLog, counts_from, counts_record, digest
from airflow_deploy.domain.gates import merge_limits
from airflow_deploy.domain.judge import Finding, Judge, Verdict, evaluate
from airflow_deploy.domain.request import ResolvedWhen
from airflow_deploy.domain.telemetry import Counts, Tick
from tests.unit.test_judge import CANDIDATE, GOOD_BASELINE, STABLE, Traffic

numbers = st.integers(0, 10**9).map(float)
edges = st.floats(1e-4, 600) | st.sampled_from([0.001953125, 0.0078125, 0.1, 0.3, 0.5, 1.0, 2.5, 10.0, 600.0])


@given(numbers, numbers, numbers, st.dictionaries(edges, numbers, max_size=4))
def test_counts_survive_json(requests: float, errors: float, timed: float, within: dict[float, float]) -> None:
    counts = Counts(requests, errors, timed, within)
    assert counts_from(json.loads(json.dumps(counts_record(counts)))) == counts


def recorded(seed: int, limits: dict[str, float], stages: list[tuple[int, int, float, float]]) -> tuple[str, list[Any]]:
    """Let a log be told of some stages; return its lines and what was said at each look."""
    log = EvidenceLog(merge_limits(limits), CANDIDATE, STABLE, GOOD_BASELINE, {"counters": "up"})
    traffic, said = Traffic(seed), []
    edge_p95, edge_p99 = (merge_limits(limits)[name] for name in ("latency_p95", "latency_p99"))
    for scrapes, share, mine, control in stages:
        for number, plain in enumerate(traffic.ticks(scrapes, share, mine, control, slow=mine)):
            counts = {
                name: Counts(c.requests, c.errors, c.timed, {edge_p95: c.within[0.5], edge_p99: c.within[1.0]})
                for name, c in plain.counts.items()
            }
            tick = Tick(plain.at, counts)
            log.tick(tick, share)
            log.gauge("memory", tick.at, None if number < 2 else 0.5)
            log.gauge("cpu_saturation", tick.at, 0.95 if number > 8 else 0.5)
            blind = "Prometheus does not answer" if number == 5 else None
            verdict, findings = evaluate(log.judge, blind, 100)
            log.verdict(tick.at, verdict, findings, {"blind": blind, "next_share": 100}, final=True)
            said.append((tick.at, verdict, [f.reason for f in findings]))
    return log.lines(), said


def replay(lines: str) -> list[Any]:
    """Judge again from the lines alone."""
    records = [json.loads(line) for line in lines.splitlines()]
    head = records[0]
    assert head["kind"] == "judge"
    baseline = counts_from(head["baseline"])
    judge = Judge(head["limits"], head["candidate"], head["stable"], baseline, head["alpha"])
    said: list[Any] = []
    answers: list[float | None] = []
    for record in records[1:]:
        if record["kind"] == "tick":
            counts = {name: counts_from(item) for name, item in record["counts"].items()}
            judge.observe(Tick(record["at"], counts), record["share"])
        elif record["kind"] == "gauge":
            judge.gauge(record["name"], record["at"], record["value"])
        elif record["kind"] == "answer":
            answers.append(None if record["value"] is None else float(record["value"]))
        else:
            verdict, findings = evaluate(judge, record["blind"], record["next_share"])
            if verdict == "HEALTHY" and answers and record.get("resolved_when"):
                condition = ResolvedWhen.load(record["resolved_when"])
                if all(condition.denied(answer) for answer in answers):
                    (finding,) = record["findings"]
                    verdict, findings = "BREACHED", [Finding("resolved_when", "BREACHED", finding["reason"])]
            assert verdict == record["verdict"]
            assert [f.numbers for f in findings] == [f["numbers"] for f in record["findings"]]
            said.append((record["at"], verdict, [f.reason for f in findings]))
    return said


STORIES = {
    "healthy": [(14, 5, 0.0, 0.001), (14, 25, 0.001, 0.001), (14, 100, 0.001, 0.0)],
    "bad": [(14, 5, 0.002, 0.002), (14, 25, 0.08, 0.002)],
    "bad at 100": [(8, 50, 0.002, 0.002), (14, 100, 0.1, 0.0)],
    "shared outage": [(14, 25, 0.4, 0.4)],
}


@pytest.mark.parametrize(
    "limits", [{}, {"latency_p95": 0.001953125, "latency_p99": 0.1234567}], ids=["default", "odd edges"]
)
@pytest.mark.parametrize("story", list(STORIES.values()), ids=list(STORIES))
def test_replay_gives_the_same_verdicts(story: list[tuple[int, int, float, float]], limits: dict[str, float]) -> None:
    lines, said = recorded(11, limits, story)
    assert replay(lines) == said


def test_the_stories_lead_to_different_verdicts() -> None:
    seen = {name: {verdict for _, verdict, _ in recorded(11, {}, story)[1]} for name, story in STORIES.items()}
    assert "BREACHED" in seen["bad"]
    assert "BREACHED" in seen["bad at 100"]
    assert "BREACHED" not in seen["healthy"]
    assert all("BLIND" in seen[name] for name in ("healthy", "bad", "bad at 100"))


def test_a_forged_line_does_not_replay() -> None:
    lines, _ = recorded(11, {}, STORIES["bad"])
    assert '"verdict":"BREACHED"' in lines
    with pytest.raises(AssertionError):
        replay(lines.replace('"verdict":"BREACHED"', '"verdict":"HEALTHY"'))


class TestRepeatedWords:
    """Looks come every second and mostly say the same."""

    question: dict[str, Any] = {"blind": None, "next_share": 25}  # noqa: RUF012

    def verdicts(self, log: EvidenceLog) -> list[tuple[float, str]]:
        records = [json.loads(line) for line in log.lines().splitlines()]
        return [(record["at"], record["verdict"]) for record in records if record["kind"] == "verdict"]

    def log(self) -> EvidenceLog:
        return EvidenceLog(merge_limits({}), CANDIDATE, STABLE, GOOD_BASELINE, {})

    def say(self, log: EvidenceLog, at: float, verdict: Verdict, reason: str, *, final: bool = False) -> None:
        log.verdict(at, verdict, [Finding("error_rate", verdict, reason)], self.question, final=final)

    def test_are_left_out_whatever_their_numbers_and_whatever_gauges_came_between(self) -> None:
        log = self.log()
        for second in range(100):
            log.gauge("memory", second, 0.5)
            self.say(log, second, "UNDECIDED", f"{second} requests")
        assert self.verdicts(log) == [(0, "UNDECIDED")]

    def test_are_kept_where_they_end_the_loop(self) -> None:
        log = self.log()
        self.say(log, 1, "UNDECIDED", "few")
        self.say(log, 2, "UNDECIDED", "few", final=True)
        assert self.verdicts(log) == [(1, "UNDECIDED"), (2, "UNDECIDED")]

    def test_are_told_again_after_another_word(self) -> None:
        log = self.log()
        words: list[Verdict] = ["HEALTHY", "HEALTHY", "BLIND", "BLIND", "HEALTHY"]
        for second, word in enumerate(words):
            self.say(log, second, word, "so")
        assert self.verdicts(log) == [(0, "HEALTHY"), (2, "BLIND"), (4, "HEALTHY")]

    def test_another_gate_is_another_word(self) -> None:
        log = self.log()
        self.say(log, 1, "UNDECIDED", "few")
        log.verdict(2, "UNDECIDED", [Finding("memory", "UNDECIDED", "not seen")], self.question, final=False)
        assert self.verdicts(log) == [(1, "UNDECIDED"), (2, "UNDECIDED")]


def test_each_line_is_one_json_object_and_the_first_says_what_was_asked() -> None:
    lines, said = recorded(11, {}, STORIES["healthy"])
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines.splitlines()]
    assert lines.endswith("\n")
    assert records[0]["queries"] == {"counters": "up"}
    assert [record["kind"] for record in records].count("verdict") == len(said)
    assert {record["kind"] for record in records[1:]} == {"tick", "gauge", "verdict"}


def test_the_same_story_has_the_same_bytes_and_digest() -> None:
    first, second = (recorded(11, {}, STORIES["healthy"])[0] for _ in range(2))
    assert first == second
    assert digest(first) == hashlib.sha256(first.encode()).hexdigest()
