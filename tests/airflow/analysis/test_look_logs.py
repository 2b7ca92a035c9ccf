"""What a loop of looks leaves in a task's log: enough to follow it, little enough for a thousand of them."""

from __future__ import annotations

import logging
import re
from itertools import groupby

import pytest

from airflow_deploy.domain.analysis.report import SUMMARY_INTERVAL, AnalysisReport
from airflow_deploy.rollout.analysis import loop as looks
from airflow_deploy.rollout.analysis.log_budget import LINES_PER_SECOND, MAX_LINES, LogBudget
from airflow_deploy.rollout.analysis.loop import AnalysisLoop
from tests.support.loops import BAKE, HARMFUL, HEALTHY, MAX_BAKE, planned
from tests.support.world import Stage, World

Log = pytest.LogCaptureFixture


@pytest.fixture
def log(caplog: Log) -> Log:
    caplog.set_level(logging.INFO, AnalysisLoop.__module__)
    return caplog


def tables(log: Log) -> list[str]:
    """The headers of the tables, without what makes each a group."""
    assert log.messages.count("::endgroup::") == sum(message.startswith("::group::") for message in log.messages)
    return [message.removeprefix("::group::look: ") for message in log.messages if message.startswith("::group::")]


def test_a_gate_logs_a_table_when_its_verdict_changes_and_at_its_end(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    world = World(monkeypatch, planned(), HEALTHY)
    assert world.look(world.loop("gate", 50), MAX_BAKE)
    verdicts = [header.split(", ")[0] for header in tables(log)]
    assert [verdict for verdict, _ in groupby(verdicts)] == ["25 % UNDECIDED", "25 % HEALTHY"]
    assert len(verdicts) == 3
    lines = [message for message in log.messages if message.startswith("look: ")]
    assert 0 < len(lines) <= BAKE / SUMMARY_INTERVAL


def test_a_gate_without_traffic_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    world = World(monkeypatch, planned(), Stage(0, 1))
    assert world.look(world.loop("gate", 100), MAX_BAKE)
    assert "needs at least" in tables(log)[-1]
    assert " at 0.4 per second" in tables(log)[-1]


def test_each_stage_and_its_end_are_shown_by_the_watch(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    world = World(monkeypatch, planned(), HEALTHY, Stage(100, 50), Stage(200, 50, errors=0.3))
    assert world.look(world.loop("watch"), 300)
    last = tables(log)[-1]
    assert last.startswith("50 % BREACHED, ")
    assert re.search(r"error_rate: [\d,]+ of [\d,]+ requests failed \(stable ", last)


def test_the_last_look_is_logged_if_the_route_ends_the_loop(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    world = World(monkeypatch, planned(), HEALTHY)
    loop = world.loop("watch")
    assert world.look(loop, 15) is None
    shown = len(tables(log))
    world.cluster.annotate("airflow-deploy/phase", "settled")
    assert loop.look() is not None
    assert len(tables(log)) == shown + 1


def test_a_log_that_fails_costs_no_verdict(monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    def broken(*_: object, **__: object) -> list[str]:
        raise RuntimeError("no words")

    monkeypatch.setattr(AnalysisReport, "lines", broken)
    world = World(monkeypatch, planned(), HARMFUL)
    outcome = world.look(world.loop("watch"), 60)
    assert outcome is not None
    assert outcome.verdict == "BREACHED"
    assert "cannot log the look: BREACHED" in log.messages


class TestLogBudget:
    def test_a_thousand_loops_log_as_much_as_one_pipe_takes(self) -> None:
        allowance, said = LogBudget(), 0
        for second in range(1, 61):
            for _ in range(200):
                if allowance.is_left(float(second)):
                    allowance.spend(9)
                    said += 9
        assert 59 * LINES_PER_SECOND <= said <= MAX_LINES + 60 * (LINES_PER_SECOND + 9)

    def test_a_table_that_had_no_room_is_logged_later(self, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
        world = World(monkeypatch, planned(), HEALTHY)
        monkeypatch.setattr(looks, "LOG_BUDGET", allowance := LogBudget())
        assert allowance.is_left(world.clock.now)
        allowance.spend(int(MAX_LINES + 5 * LINES_PER_SECOND))
        loop = world.loop("watch")
        world.look(loop, 4)
        assert log.messages == []
        world.look(loop, 8)
        assert len(tables(log)) == 1

    def test_the_final_verdict_is_always_logged(self, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
        world = World(monkeypatch, planned(), HARMFUL)
        monkeypatch.setattr(looks, "LOG_BUDGET", allowance := LogBudget())
        assert allowance.is_left(world.clock.now)
        allowance.spend(10**9)
        assert world.look(world.loop("watch"), 60)
        assert [header.split(", ")[0] for header in tables(log)] == ["25 % BREACHED"]
