"""The simulation judges as the product does, reads counters as it does, and is fair to the peers' rules."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.analysis.judge import Judge, Terms
from airflow_deploy.domain.analysis.sequential import dispersion
from airflow_deploy.domain.config.gates import GATES
from airflow_deploy.domain.metrics.counters import CounterReader, Counts, Series, Tick
from airflow_deploy.domain.metrics.sources import SOURCES
from tests.bench.deployments import SCENARIOS, SCRAPE, STABLE_ERROR, STAGES, Counters, Deployments, Load, deploy
from tests.bench.engine import begin
from tests.bench.judgement import Cell, rows, simulate, wald
from tests.bench.peers import POINT, POINTS, fixed_limit, high, mann_whitney
from tests.bench.results import OURS

STEADY = SCENARIOS[0]
RUNS = 3


def seen(bad: npt.ArrayLike, trials: float = 100, control_bad: float = 0) -> Deployments:
    """One deployment at 5 %, with these bad requests of the candidate by scrape."""
    column = np.asarray(bad, float)[:, np.newaxis]
    constant = np.ones_like(column)
    control = constant * control_bad, constant * 19 * trials
    return Deployments(column, column, constant * trials, *control, constant * 5, np.zeros(column.shape, bool))


class TestEngine:
    @pytest.mark.parametrize("candidate_error", [0.002, 0.02, 0.05])
    def test_says_what_the_judge_says(self, candidate_error: float) -> None:
        load = Load(replace(STEADY, together=2), 200, candidate_error, np.random.default_rng(1))
        bad, trials = load.history(RUNS)
        bad = bad * np.array([[1], [3], [10]])  # the second's baseline permits more, the third's is the incident
        engine = begin(bad, trials, recent=60)
        limits = {name: gate.default for name, gate in GATES.items()}
        judges = []
        for run in range(RUNS):
            recent = Counts(trials[run, -60:].sum(), bad[run, -60:].sum())
            baseline = Baseline(recent, dispersion={"error_rate": float(dispersion(bad[run], trials[run]))})
            judges.append(Judge(Terms(limits, "new", "old", baseline)))
        said = set()
        for number in range(1, 61):
            stage = np.full(RUNS, (number - 1) // 15)
            share = np.array(STAGES, float)[stage]
            good, mine_bad, others_good, others_bad = load.answers(number, stage, np.zeros(RUNS, bool))
            mine, others = np.array([mine_bad, good + mine_bad]), np.array([others_bad, others_good + others_bad])
            engine.observe(number * SCRAPE, share, mine, others)
            harmful, healthy = engine.harmful(), engine.healthy(share)
            for run, judge in enumerate(judges):
                counts = {"new": Counts(mine[1, run], mine[0, run]), "old": Counts(others[1, run], others[0, run])}
                judge.observe(Tick(number * SCRAPE, counts), int(share[run]))
                breached = [finding for finding in judge.harm() if finding.gate == "error_rate"]
                (health,) = (f for f in judge.health(int(share[run])) if f.gate == "error_rate")
                assert bool(breached) == harmful[run]
                assert all(finding.numbers["log_e"] == pytest.approx(engine.peak[run]) for finding in breached)
                assert (health.verdict == "HEALTHY") == healthy[run]
                said |= {("harm", bool(breached)), ("health", bool(healthy[run]))}
        assert len(said) >= 3


class TestCounters:
    def test_are_read_as_the_product_reads_them(self) -> None:
        rng, counters = np.random.default_rng(2), Counters(1)
        grown = rng.poisson(3.0, (200, 4, 1)).astype(float)
        values, increases = [np.zeros(4)], []
        for answers in grown:
            increases.append(counters.increases(answers, rng)[:, 0])
            values.append(counters.values[:, 0].copy())
        label = "httproute-ns-pay-x-svc-ns-{}-80@kubernetesgateway"
        series = [
            Series(
                {"__name__": "traefik_service_requests_total", "service": label.format(service), "code": code},
                [(1000.0 + SCRAPE * number, float(value[index])) for number, value in enumerate(values)],
            )
            for index, (service, code) in enumerate((s, c) for s in ("new", "old") for c in ("200", "500"))
        ]
        ticks = CounterReader(SOURCES["traefik"], "ns", "pay", ["new", "old"]).feed(series)[1:]
        assert [(t.counts["new"].requests, t.counts["new"].errors) for t in ticks] == [
            (i[0] + i[1], i[1]) for i in increases
        ]
        assert [(t.counts["old"].requests, t.counts["old"].errors) for t in ticks] == [
            (i[2] + i[3], i[3]) for i in increases
        ]
        assert any(np.any(after < before) for before, after in pairwise(values))  # the gateway did restart


class TestFixedLimit:
    def test_one_strike_is_a_window_beyond_the_limit(self) -> None:
        bad = np.zeros(36)
        bad[20] = 12
        assert fixed_limit(seen(bad), 0.01, 60, 1) == np.inf  # 12 of 1,200: not beyond
        bad[20] = 13
        assert fixed_limit(seen(bad), 0.01, 60, 1) == 24  # at the end of the second minute
        assert fixed_limit(seen(bad), 0.01, 60, 2) == np.inf

    def test_strikes_add_up_although_good_windows_lie_between(self) -> None:
        bad = np.zeros(60)
        bad[[0, 30, 59]] = 50
        assert fixed_limit(seen(bad), 0.01, 60, 3) == 60

    def test_a_window_without_requests_is_no_strike(self) -> None:
        assert fixed_limit(seen(np.zeros(24), trials=0), 0.01, 60, 1) == np.inf

    def test_a_deployment_that_ended_within_the_window_is_not_stopped(self) -> None:
        short = seen(np.full(11, 50))
        assert fixed_limit(short, 0.01, 60, 1) == np.inf


class TestMannWhitney:
    def test_a_clear_shift_is_high_and_none_is_not(self) -> None:
        rng = np.random.default_rng(3)
        control = rng.normal(1.0, 0.1, (200, 50))
        assert high(control + 1.0, control).all()
        assert np.mean(high(rng.normal(1.0, 0.1, (200, 50)), control)) <= 0.03  # of a two-sided 98 % interval
        assert not high(control - 1.0, control).any()

    def test_the_interval_is_that_of_the_ordered_differences(self) -> None:
        candidate, control = (
            np.array([[1.1, 2.2, 3.3, 4.4, 9.0, 9.1, 9.2]]),
            np.array([[1.0, 1.5, 2.0, 2.5, 3.0, 3.2, 3.4]]),
        )
        # 49 differences; the rank is 24.5 - 2.3263 sqrt(49 x 15 / 12) = 6.29, and the sixth smallest is -1.0.
        assert np.sort((candidate[0][:, None] - control[0]).ravel())[5] == pytest.approx(-1.0)
        assert not high(candidate, control)
        assert high(candidate + 2.5, control)

    def test_points_without_requests_are_left_out(self) -> None:
        rng = np.random.default_rng(4)
        control = rng.normal(1.0, 0.1, (1, 50))
        candidate = np.where(np.arange(50) % 2, control + 1, np.nan)
        assert high(candidate, control)
        assert not high(np.full((1, 50), np.nan), control)

    def test_speaks_at_the_fiftieth_point(self) -> None:
        rng = np.random.default_rng(5)
        worse = seen(rng.poisson(20, 400))
        assert mann_whitney(worse) == POINTS * POINT // SCRAPE
        assert mann_whitney(seen(rng.poisson(20, 299))) == np.inf


class TestDeployments:
    def test_a_healthy_one_with_much_traffic_takes_the_shortest_way(self) -> None:
        seen = deploy(STEADY, 200, STABLE_ERROR, 50, np.random.default_rng(6))
        assert np.median(seen.scrapes) == len(STAGES) * 60 / SCRAPE
        assert np.all(seen.given == 100)

    def test_a_bad_one_is_held_where_it_cannot_use_up_the_limit(self) -> None:
        seen = deploy(STEADY, 200, 0.05, 50, np.random.default_rng(7))
        assert np.mean(seen.given == 5) > 0.9
        assert np.max(seen.scrapes) <= 4 * 1800 / SCRAPE

    def test_a_late_onset_harms_from_its_stage_on(self) -> None:
        late = next(scenario for scenario in SCENARIOS if scenario.name == "late onset, 5 min")
        seen = deploy(late, 200, 0.2, 20, np.random.default_rng(8))
        assert np.all(seen.harmed[seen.share < 50] == 0)
        assert seen.harmed[seen.share == 50].mean() == pytest.approx(200 * SCRAPE / 2 * 0.2, rel=0.1)

    def test_a_cell_s_rows(self) -> None:
        (mine,) = (row for row in rows([simulate((1, Cell(20, 0.2, STEADY), 50))]) if row.rule == OURS)
        assert (mine.runs, mine.stopped) == (50, 50)
        assert 3 <= mine.harmed_mean <= 6

    def test_the_best_possible(self) -> None:
        assert wald(STABLE_ERROR) is None
        assert wald(0.05) == pytest.approx(2.5, abs=0.01)
