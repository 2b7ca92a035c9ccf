"""The log of an analysis: a table if something changes, and the requests and the time that are still needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from airflow_deploy.domain.analysis.count_tests import BETA
from airflow_deploy.domain.analysis.judge import Judge, Terms, evaluate
from airflow_deploy.domain.analysis.report import SUMMARY_INTERVAL, AnalysisReport, LookSummary, more_needed, summary
from airflow_deploy.domain.analysis.sequential import upper_bound
from airflow_deploy.domain.analysis.verdict import Finding, Verdict
from airflow_deploy.domain.config.gates import GateKind, gate_table
from airflow_deploy.domain.metrics.counters import Counts, Tick
from tests.support.judgement import CANDIDATE, STABLE, START

KINDS: dict[str, GateKind] = {"refunds": "pair"}
GATES = gate_table(KINDS)
LIMITS = {"refunds": 0.1} | {gate.name: gate.default for gate in GATES.values() if gate.default}
FINDING = Finding("memory", "UNDECIDED", "memory: no value yet (limit 0.9)")
UNDECIDED = {"bad": 0.0, "trials": 66.0, "bound": 0.05, "allowed": 0.01, "next_share": 25.0, "dispersion": 1.0}


def answered(requests: float, errors: float = 0) -> Counts:
    return Counts(requests, errors, requests, {0.5: requests, 1.0: requests}, {"refunds": (0.0, requests)})


def look(verdict: Verdict = "UNDECIDED", at: float = START, share: int = 5, requests: float = 50) -> LookSummary:
    return LookSummary(
        at, share, verdict, [replace(FINDING, verdict=verdict)], answered(requests, 1), answered(1000, 3)
    )


def judged(requests: float, errors: float = 0, *, next_share: int | None = 25, blind: str | None = None) -> LookSummary:
    """A look as the judge makes it, after three scrapes of a healthy stable."""
    judge = Judge(Terms(limits=LIMITS, candidate=CANDIDATE, stable=STABLE, kinds=KINDS))
    gauges = {"cpu_saturation": 0.31, "memory": 0.32}
    for second, candidate in ((0, answered(0)), (5, answered(0)), (10, answered(requests, errors))):
        judge.observe(
            Tick(START + second, {CANDIDATE: candidate, STABLE: answered(19 * candidate.requests, 4)}, gauges), 5
        )
    verdict, findings = evaluate(judge, blind, next_share)
    return LookSummary(START + 10, 5, verdict, findings, judge.candidate_counts, judge.stable_counts)


def shown(found: LookSummary) -> dict[str, str]:
    """The table's lines by their gate."""
    lines = report().lines(found)
    assert (lines[0][:9], lines[-1]) == ("::group::", "::endgroup::")
    return {line.split()[0]: line for line in lines[1:-1]}


def report() -> AnalysisReport:
    return AnalysisReport(GATES, LIMITS)


class TestLines:
    def logged(self, looks: Sequence[LookSummary]) -> list[float]:
        """Return which of these looks are logged, in seconds after START."""
        log = report()
        return [item.at - START for item in looks if log.lines(item)]

    def test_unchanged_look_is_logged_every_ten_seconds(self) -> None:
        assert self.logged([look(at=START + second, requests=second) for second in range(35)]) == [0, 10, 20, 30]

    def test_new_verdict_or_share_is_logged_at_once(self) -> None:
        assert self.logged(
            [look(), look("BLIND", START + 1), look("BLIND", START + 2), look("BLIND", START + 3, 25)]
        ) == [
            0,
            1,
            3,
        ]

    def test_changed_look_is_a_folded_table_and_others_are_one_line(self) -> None:
        log = report()
        first, again = log.lines(look()), log.lines(look(at=START + SUMMARY_INTERVAL))
        assert first[0].startswith("::group::look: 5 % UNDECIDED, candidate 1 errors of 50 requests, stable 3 of 1,000")
        assert [line.split()[0] for line in first[1:-1]] == ["gate", *GATES]
        assert first[-1] == "::endgroup::"
        assert again == [first[0].removeprefix("::group::")]

    def test_final_look_is_always_a_table(self) -> None:
        log = report()
        log.lines(look())
        assert log.lines(look(at=START + 1), final=True) == report().lines(look())

    def test_last_table_shows_the_last_look(self) -> None:
        log = report()
        assert log.last_table() == []
        log.lines(look())
        log.lines(look(at=START + 1, requests=77))
        assert log.last_table() == report().lines(look(at=START + 1, requests=77))


class TestTable:
    def test_table_has_a_line_per_gate_with_both_versions_counts(self) -> None:
        lines = shown(judged(100, 2))
        assert list(lines) == ["gate", *GATES]
        for text in ("UNDECIDED", "2 of 100", "12 of 1,900", "0.01 of requests answered 5xx", "more good requests"):
            assert text in lines["error_rate"]
        assert lines["refunds"].split("  ")[-1] == "0.1"
        assert lines["error_rate"].index("2 of 100") < lines["error_rate"].index("12 of 1,900")
        assert "0.32" in lines["memory"]
        assert "100 of 2,000 requests reached the candidate" in lines["request_rate"]

    def test_table_columns_are_aligned(self) -> None:
        lines = list(shown(judged(100, 2)).values())
        for column in ("verdict", "candidate", "stable", "at most", "may cost", "limit"):
            start = lines[0].index(column)
            assert all(line[start - 2 : start] == "  " and line[start] != " " for line in lines[:4])

    def test_table_shows_what_the_next_share_may_cost(self) -> None:
        found = judged(100, 2)
        (bound,) = {finding.numbers["bound"] for finding in found.findings if finding.gate == "error_rate"}
        assert f"{bound:.2%}" in shown(found)["error_rate"]
        assert f"{bound / 4:.2%} of 1.00%" in shown(found)["error_rate"]

    def test_watch_table_shows_counts_without_a_next_share(self) -> None:
        lines = shown(judged(100, 2, next_share=None))
        assert "may cost" not in lines["gate"]
        assert "2 of 100" in lines["error_rate"]
        assert "12 of 1,900" in lines["error_rate"]

    def test_table_shows_the_counts_of_the_finding(self) -> None:
        numbers = {**UNDECIDED, "bad": 1.0, "control_bad": 2.0, "control_trials": 300.0}
        warm = [Finding("latency_p99", "UNDECIDED", "", numbers)]
        line = shown(replace(judged(100), findings=warm))["latency_p99"]
        assert line.split()[2:8] == ["1", "of", "66", "2", "of", "300"]

    def test_table_shows_the_reason_of_a_breach(self) -> None:
        line = shown(judged(100, 60))["error_rate"]
        assert "BREACHED" in line
        assert "60 of 100 requests failed (stable 12 of 1,900)" in line

    def test_table_has_a_line_for_blindness(self) -> None:
        line = shown(judged(100, blind="Prometheus does not answer"))["sight"]
        assert line.split(maxsplit=2) == ["sight", "BLIND", "Prometheus does not answer"]


class TestRequestsNeeded:
    def test_needed_requests_are_just_enough(self) -> None:
        found = judged(50, 1)
        needed = more_needed(found.findings)
        assert set(needed) == {"error_rate", "latency_p99"}
        for finding in (finding for finding in found.findings if finding.gate in needed):
            numbers = finding.numbers
            for more, enough in ((needed[finding.gate], True), (needed[finding.gate] - 1, False)):
                bound = upper_bound(numbers["bad"], numbers["trials"] + more, BETA, numbers["dispersion"])
                assert (bound * 25 / 100 <= numbers["allowed"]) == enough

    def test_decided_or_uncounted_gate_needs_no_requests(self) -> None:
        assert more_needed(judged(150).findings) == {}
        assert more_needed([FINDING]) == {}

    def test_bursts_need_more_requests(self) -> None:
        bursty = Finding("error_rate", "UNDECIDED", "", {**UNDECIDED, "bad": 4.0, "dispersion": 4.0})
        steady = Finding("error_rate", "UNDECIDED", "", {**UNDECIDED, "bad": 4.0})
        assert more_needed([bursty])["error_rate"] > 2 * more_needed([steady])["error_rate"]

    @pytest.mark.parametrize(
        ("rate", "shown"),
        [
            (2.0, ", about 10 s at 2 per second"),
            (0.1, ", about 3 min at 0.1 per second"),
            (0.001, ", about 6 h at 0.001 per second"),
            (0.0, ", but none arrive"),
            (None, ""),
        ],
    )
    def test_needed_time_follows_from_the_present_rate(self, rate: float | None, shown: str) -> None:
        assert summary(look(), {"error_rate": 3, "latency_p99": 20}, rate).endswith(
            f" | needs at least 20 more good requests{shown} | memory: no value yet (limit 0.9)"
        )

    def test_present_rate_covers_the_last_minute_at_this_share(self) -> None:
        log, logged, requests = report(), [], 0
        for second in range(0, 400, 10):
            share, rate = (5, 1) if second < 200 else (25, 3) if second < 300 else (25, 5)
            found = replace(judged(50, 1), at=START + second, share=share, candidate=Counts(requests=requests))
            logged += log.lines(found)[:1]
            requests += 10 * rate
        assert "per second" not in logged[0]
        assert logged[10].endswith("at 1 per second")
        assert "per second" not in logged[20]
        assert logged[29].endswith("at 3 per second")
        assert logged[36].endswith("at 5 per second")

    def test_healthy_look_lists_nothing_missing(self) -> None:
        assert "|" not in summary(judged(150), {}, 1.0)
