"""The log of a gate can be read: a table when something changes, and what is missing, in requests and in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from airflow_deploy.domain.gates import merge_limits
from airflow_deploy.domain.judge import BETA, Finding, Judge, Verdict, evaluate
from airflow_deploy.domain.report import QUIET, Look, Report, more_needed, summary, table
from airflow_deploy.domain.sequential import upper_bound
from airflow_deploy.domain.telemetry import Counts, Tick
from tests.unit.test_judge import CANDIDATE, GOOD_BASELINE, START, STABLE, answered, gauges_are_fine

LIMITS = merge_limits({})
FINDING = Finding("error_rate", "UNDECIDED", "error_rate: few")


def look(verdict: Verdict = "UNDECIDED", at: float = START, share: int = 5, requests: float = 50) -> Look:
    return Look(at, share, verdict, [replace(FINDING, verdict=verdict)], answered(requests, 1), answered(1000, 3))


def judged(requests: float, errors: float = 0, *, next_share: int | None = 25, blind: str | None = None) -> Look:
    """A look as the judge makes it, after one scrape."""
    judge = Judge(LIMITS, CANDIDATE, STABLE, GOOD_BASELINE)
    mine, control = answered(requests, errors), answered(1900, 4)
    gauges_are_fine(judge)
    for tick in (Tick(START, {}), Tick(START + 5, {}), Tick(START + 10, {CANDIDATE: mine, STABLE: control})):
        judge.observe(tick, 5)
    verdict, findings = evaluate(judge, blind, next_share)
    return Look(START + 10, 5, verdict, findings, judge.total, judge.control)


def cells(lines: Sequence[str]) -> dict[str, str]:
    """The table's lines by their gate."""
    return {line.split()[0]: line for line in lines}


class TestWhatIsSaid:
    def told(self, report: Report, looks: Sequence[Look]) -> list[float]:
        """Return at which of these looks something was said, in seconds after START."""
        return [item.at - START for item in looks if report.lines(item)]

    def test_the_same_is_said_every_ten_seconds(self) -> None:
        looks = [look(at=START + second, requests=second) for second in range(35)]
        assert self.told(Report(LIMITS), looks) == [0, 10, 20, 30]

    def test_another_verdict_or_share_is_said_at_once(self) -> None:
        looks = [look(at=START), look("BLIND", START + 1), look("BLIND", START + 2), look("BLIND", START + 3, 25)]
        assert self.told(Report(LIMITS), looks) == [0, 1, 3]

    def test_what_has_changed_is_a_table_in_a_group_and_the_rest_one_line(self) -> None:
        report = Report(LIMITS)
        first, again = report.lines(look()), report.lines(look(at=START + QUIET))
        assert first[0].startswith("::group::look: 5 % UNDECIDED, candidate 50 requests 1 errors, stable 1000")
        assert first[1:-1] == table(look(), LIMITS)
        assert first[-1] == "::endgroup::"
        assert again == [first[0].removeprefix("::group::")]

    def test_the_end_is_a_table_whatever_was_said_before(self) -> None:
        report = Report(LIMITS)
        report.lines(look())
        assert report.lines(look(at=START + 1), final=True)[1:-1] == table(look(), LIMITS)

    def test_a_loop_that_somebody_else_ends_shows_its_last_look(self) -> None:
        report = Report(LIMITS)
        assert report.again() == []
        report.lines(look())
        report.lines(look(at=START + 1, requests=77))
        assert "77 requests" in report.again()[0]


class TestTable:
    def test_has_a_line_for_each_gate_with_both_versions_counts(self) -> None:
        shown = cells(table(judged(100, 2), LIMITS))
        assert list(shown) == ["gate", *LIMITS]
        assert shown["error_rate"].split("  ")[0] == "error_rate"
        for text in ("UNDECIDED", "2 of 100", "4 of 1900", "0.01 of requests answered 5xx", "more good requests"):
            assert text in shown["error_rate"]
        assert "0.30" in shown["memory"]
        assert "100 of 2000 requests reached the candidate" in shown["request_rate"]

    def test_its_columns_are_aligned(self) -> None:
        lines = table(judged(100, 2), LIMITS)
        for column in ("verdict", "candidate", "stable", "at most", "may cost", "limit"):
            start = lines[0].index(column)
            assert all(line[start - 2 : start] == "  " and line[start] != " " for line in lines[:4])

    def test_says_what_a_bound_may_cost_at_the_next_share(self) -> None:
        (bound,) = {f.numbers["bound"] for f in judged(100, 2).findings if f.gate == "error_rate"}
        shown = cells(table(judged(100, 2), LIMITS))["error_rate"]
        assert f"{bound:.2%}" in shown
        assert f"{bound / 4:.2%} of 1.00%" in shown

    def test_the_watch_shows_the_counts_too_though_no_gate_is_asked_for_health(self) -> None:
        shown = cells(table(judged(100, 2, next_share=None), LIMITS))
        assert "may cost" not in shown["gate"]
        assert "2 of 100" in shown["error_rate"]
        assert "4 of 1900" in shown["error_rate"]

    def test_harm_says_why(self) -> None:
        shown = cells(table(judged(100, 60), LIMITS))
        assert "BREACHED" in shown["error_rate"]
        assert "worse than the stable" in shown["error_rate"]

    def test_blindness_has_a_line_of_its_own(self) -> None:
        shown = cells(table(judged(100, blind="Prometheus does not answer"), LIMITS))
        assert shown["sight"].split(maxsplit=2) == ["sight", "BLIND", "Prometheus does not answer"]


class TestMissing:
    def test_that_many_good_requests_more_are_enough_and_one_less_is_not(self) -> None:
        for finding in judged(50, 1).findings:
            if (more := more_needed(finding)) is not None:
                numbers = finding.numbers
                for trials, enough in ((more, True), (more - 1, False)):
                    bound = upper_bound(numbers["bad"], numbers["trials"] + trials, BETA)
                    assert (bound * 25 / 100 <= numbers["allowed"]) is enough

    def test_only_a_counted_gate_that_is_undecided_needs_any(self) -> None:
        needed = {finding.gate for finding in judged(50, 1).findings if more_needed(finding)}
        assert needed == {"error_rate", "latency_p99"}
        assert not any(more_needed(finding) for finding in judged(150).findings)

    @pytest.mark.parametrize(
        ("rate", "said"),
        [(2.0, "about 10 s at 2 a second"), (0.1, "about 3 min at 0.1 a second"), (0.001, "about 6 h at 0.001")],
    )
    def test_the_time_is_that_of_the_present_rate(self, rate: float, said: str) -> None:
        numbers = {"bad": 0.0, "trials": 66.0, "bound": 0.05, "allowed": 0.01, "next_share": 25.0}
        undecided = replace(look(), findings=[replace(FINDING, numbers=numbers)])
        assert f"needs at least 20 more good requests, {said}" in summary(undecided, rate)

    def test_the_slowest_gate_counts(self) -> None:
        found = judged(50, 1)
        most = max(more_needed(finding) or 0 for finding in found.findings)
        assert f"needs at least {most} more good requests, and none come" in summary(found, 0.0)

    def test_a_rate_that_is_not_known_yet_is_not_made_up(self) -> None:
        assert summary(judged(50, 1), None).endswith("more good requests")

    def test_the_present_rate_is_the_last_minutes_at_this_share(self) -> None:
        report = Report(LIMITS)
        said = []
        for second in range(0, 300, 10):
            share, requests = (5, second) if second < 200 else (25, 200 + 5 * (second - 200))
            found = replace(judged(50, 1), at=START + second, share=share, candidate=Counts(requests=requests))
            said += report.lines(found)[:1]
        assert "a second" not in said[0]
        assert said[10].endswith("at 1 a second")
        assert "a second" not in said[20]
        assert said[-1].endswith("at 5 a second")

    def test_other_reasons_are_said_as_they_are(self) -> None:
        undecided = [Finding("memory", "UNDECIDED", "memory: not seen yet, limit 0.9")]
        assert summary(replace(look(), findings=undecided), 1.0).endswith(" | memory: not seen yet, limit 0.9")
        assert "|" not in summary(judged(150), 1.0)
