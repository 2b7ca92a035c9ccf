"""Recorded evidence is enough to recompute every verdict, and every change of it is detected."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.analysis.evidence import EvidenceLog, Replayed, replay
from airflow_deploy.domain.analysis.judge import Terms
from airflow_deploy.domain.analysis.verdict import Verdict
from airflow_deploy.domain.config.request import ResolvedWhen
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.metrics.counters import Counts, Tick
from airflow_deploy.domain.names import digest
from tests.support.evidence import OVER, STORIES, TERMS, recorded
from tests.support.judgement import CANDIDATE, GOOD_BASELINE, STABLE, START, Traffic, limits

numbers = st.integers(0, 10**9).map(float)
edges = st.floats(1e-4, 600) | st.sampled_from([0.001953125, 0.0078125, 0.1, 0.3, 0.5, 1.0, 2.5, 10.0, 600.0])
pairs = st.dictionaries(st.sampled_from(["refused_cards", "empty_carts"]), st.tuples(numbers, numbers))

counted = st.builds(Counts, numbers, numbers, numbers, st.dictionaries(edges, numbers, max_size=4), pairs)


@given(counted)
def test_counts_survive_json(counts: Counts) -> None:
    assert Counts.load(json.loads(json.dumps(counts.dump()))) == counts


@given(counted, st.dictionaries(st.sampled_from(["memory", "queue"]), st.none() | st.floats(0, 2)))
def test_ticks_survive_json(counts: Counts, gauges: dict[str, float | None]) -> None:
    tick = Tick(START + 0.25, {CANDIDATE: counts, STABLE: Counts()}, gauges)
    assert Tick.load(json.loads(json.dumps(tick.dump()))) == tick


@pytest.mark.parametrize("condition", [None, OVER])
def test_terms_survive_json(condition: ResolvedWhen | None) -> None:
    baseline = Baseline(GOOD_BASELINE.counts, 3.5, {"error_rate": 2.5}, ("latency_p95",))
    terms = Terms(limits(), CANDIDATE, STABLE, baseline, {"queue": "gauge"}, 0.001, 10, 300, condition, 60.0)
    assert Terms.load(json.loads(json.dumps(terms.dump()))) == terms


def differences(lines: list[str]) -> list[Replayed]:
    return [line for line in replay(lines) if line.difference]


@pytest.mark.parametrize("terms", list(TERMS.values()), ids=list(TERMS))
@pytest.mark.parametrize(
    "given", [{}, {"latency_p95": 0.001953125, "latency_p99": 0.1234567}], ids=["default", "odd edges"]
)
@pytest.mark.parametrize("story", list(STORIES.values()), ids=list(STORIES))
def test_replay_gives_the_same_verdicts_byte_for_byte(
    story: list[tuple[int, int, float, float]], given: dict[str, float], terms: dict[str, Any]
) -> None:
    lines, verdicts = recorded(11, given, story, **terms)
    again = list(replay(lines))
    assert [line.difference for line in again] == [None] * len(lines)
    assert [line.verdict for line in again][1:-1] == verdicts


def test_sample_deployments_lead_to_different_verdicts() -> None:
    seen = {name: set(recorded(11, {}, story)[1]) for name, story in STORIES.items()}
    assert "BREACHED" in seen["bad"]
    assert "BREACHED" in seen["bad at 100"]
    assert "BREACHED" not in seen["healthy"]
    assert all("BLIND" in seen[name] for name in ("healthy", "bad", "bad at 100"))


class TestPodEvidence:
    """Ready pods are observed at each look, and mostly all of them are ready."""

    def lines(self, ready: list[int]) -> tuple[list[str], list[Verdict]]:
        log = EvidenceLog(Terms(limits(), CANDIDATE, STABLE, max_unready=0.4), {})
        verdicts = []
        for second, count in enumerate(ready):
            log.observe_pods(START + second, count, 2)
            verdicts.append(log.look(START + second, "Prometheus does not answer", None)[0])
        log.look(START + len(ready), None, None, final=True)
        return log.lines().splitlines(keepends=True), verdicts

    def test_breach_by_unready_pods_is_recomputed_byte_for_byte(self) -> None:
        lines, verdicts = self.lines([2] * 60 + [1, 0, 2, 2, 0, 1, 1, 0])
        assert verdicts[-4:] == ["BLIND"] * 3 + ["BREACHED"]
        assert [line.difference for line in replay(lines)] == [None] * len(lines)
        recorded_pods = [pods for line in lines[1:] for pods in json.loads(line)["pods"]]
        assert recorded_pods == [[START + second, count, 2] for second, count in enumerate([1, 0, 2], 60)] + [
            [START + second, count, 2] for second, count in enumerate([0, 1, 1, 0], 64)
        ]

    def test_edited_pod_count_does_not_replay(self) -> None:
        lines, _ = self.lines([0] * 5)
        lines[2] = lines[2].replace(",0,2]]", ",2,2]]")
        assert differences(lines)

    def test_ready_pods_leave_no_record(self) -> None:
        assert len(self.lines([2] * 60)[0]) == 3


def first(lines: list[str], text: str) -> int:
    return next(number for number, line in enumerate(lines) if text in line)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"verdict":"BREACHED"', '"verdict":"HEALTHY"'),
        ('"errors":1,', '"errors":0,'),
        ('"log_e":', '"log_e":1'),
        ('"blind":"Prometheus does not answer"', '"blind":null'),
        ('"at":', '"at": '),
    ],
    ids=["verdict", "counts", "evidence", "blindness", "bytes alone"],
)
def test_edited_line_does_not_replay(old: str, new: str) -> None:
    lines, _ = recorded(11, {}, STORIES["bad"])
    number = first(lines, old)
    lines[number] = lines[number].replace(old, new)
    found = differences(lines)
    assert found
    assert found[0].number >= number + 1


def test_removed_line_does_not_replay() -> None:
    lines, _ = recorded(11, {}, STORIES["bad"])
    del lines[first(lines, '"errors":1,')]
    assert differences(lines)


def test_difference_names_field_recorded_and_recomputed_value() -> None:
    lines, _ = recorded(11, {}, STORIES["bad"])
    number = first(lines, '"verdict":"BREACHED"')
    lines[number] = lines[number].replace('"verdict":"BREACHED"}\n', '"verdict":"HEALTHY"}\n')
    (found, *_) = differences(lines)
    assert found.number == number + 1
    assert "verdict is 'HEALTHY', recomputed 'BREACHED'" in str(found.difference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines.clear(), "line 1: is missing, the file is empty"),
        (lambda lines: lines.__setitem__(0, "{}\n"), r"line 1: is not valid evidence \(KeyError\)"),
        (lambda lines: lines.__setitem__(3, lines[3][:40]), r"line 4: is not valid evidence \(JSONDecodeError\)"),
        (lambda lines: lines.__setitem__(2, "[]\n"), r"line 3: is not valid evidence \(TypeError\)"),
        (
            lambda lines: lines.__setitem__(0, lines[0].replace('"algorithm":3', '"algorithm":99')),
            "line 1: was judged by version 99 of the algorithm",
        ),
        (
            lambda lines: lines.__setitem__(0, lines[0].replace('"algorithm":3', '"algorithm":2')),
            "line 1: was judged by version 2 of the algorithm, and this is 3",
        ),
        (
            lambda lines: lines.__setitem__(2, lines[2].replace('"pods":[]', '"pods":[[0,null,2]]')),
            r"line 3: is not valid evidence \(TypeError\)",
        ),
    ],
    ids=["empty", "no head", "cut off", "no look", "another algorithm", "the one before", "no pods"],
)
def test_invalid_evidence_is_refused_with_its_line(change: Callable[[list[str]], None], message: str) -> None:
    lines, _ = recorded(11, {}, STORIES["healthy"])
    change(lines)
    with pytest.raises(RefusedError, match=message):
        list(replay(lines))


class TestRepeatedLooks:
    """Looks come every second and mostly have the same outcome."""

    def log(self) -> EvidenceLog:
        return EvidenceLog(Terms(limits(), CANDIDATE, STABLE), {})

    def looks(self, log: EvidenceLog) -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.lines().splitlines()][1:]

    def test_repeated_look_without_new_counts_is_left_out(self) -> None:
        log = self.log()
        for second in range(100):
            log.look(second, None, 25)
        assert [look["at"] for look in self.looks(log)] == [0]

    def test_repeated_look_with_new_counts_leaves_out_findings_only(self) -> None:
        log = self.log()
        for tick in Traffic(1).ticks(10, 25, 0.0, 0.0):
            log.observe(tick, 25)
            log.look(tick.at, None, None)
        looks = self.looks(log)
        assert [len(look["ticks"]) for look in looks] == [1] * 10
        # The route's share is not known yet, and then it is.
        assert ["findings" in look for look in looks] == [True, False, True] + [False] * 7

    def test_final_look_is_always_recorded_in_full(self) -> None:
        log = self.log()
        log.look(1, None, 25)
        log.look(2, None, 25, final=True)
        assert [(look["at"], look["final"], "findings" in look) for look in self.looks(log)] == [
            (1, False, True),
            (2, True, True),
        ]

    def test_look_after_another_verdict_is_recorded(self) -> None:
        log = self.log()
        for second, blind in enumerate([None, None, "away", "away", None]):
            log.look(second, blind, None)
        assert [(look["at"], look["verdict"]) for look in self.looks(log)] == [
            (0, "HEALTHY"),
            (2, "BLIND"),
            (4, "HEALTHY"),
        ]


def test_each_line_is_one_json_object_and_the_first_has_the_queries() -> None:
    lines, verdicts = recorded(11, {}, STORIES["healthy"])
    records = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert records[0]["queries"] == {"counters": "up"}
    assert [record["kind"] for record in records] == ["judge"] + ["look"] * (len(verdicts) + 1)


def test_same_observations_have_the_same_bytes_and_digest() -> None:
    one, other = ("".join(recorded(11, {}, STORIES["healthy"])[0]) for _ in range(2))
    assert one == other
    assert digest(one) == hashlib.sha256(one.encode()).hexdigest()
