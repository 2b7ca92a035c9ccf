"""The simulation judges as the product does, reads counters as it does, and is fair to the peers' rules.

The twin of a deployment has its shape, and the seconds of bake count for neither.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

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
from tests.bench.http_server import Request
from tests.bench.judgement import Cell, rows, simulate, wald
from tests.bench.kubernetes_api import KubernetesApi, Written
from tests.bench.overhead import Pair, figures, hops
from tests.bench.peers import POINT, POINTS, fixed_limit, high, mann_whitney
from tests.bench.results import OURS
from tests.bench.shape import Event, Run, Task, Verdict, shape

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
    def test_engine_agrees_with_the_judge(self, candidate_error: float) -> None:
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
    def test_counters_are_read_as_the_product_reads_them(self) -> None:
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
    def test_window_beyond_the_limit_is_one_strike(self) -> None:
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

    def test_window_without_requests_is_no_strike(self) -> None:
        assert fixed_limit(seen(np.zeros(24), trials=0), 0.01, 60, 1) == np.inf

    def test_deployment_shorter_than_the_window_is_not_stopped(self) -> None:
        short = seen(np.full(11, 50))
        assert fixed_limit(short, 0.01, 60, 1) == np.inf


class TestMannWhitney:
    def test_clear_shift_of_the_candidate_is_high(self) -> None:
        rng = np.random.default_rng(3)
        control = rng.normal(1.0, 0.1, (200, 50))
        assert high(control + 1.0, control).all()
        assert np.mean(high(rng.normal(1.0, 0.1, (200, 50)), control)) <= 0.03  # of a two-sided 98 % interval
        assert not high(control - 1.0, control).any()

    def test_interval_is_that_of_the_ordered_differences(self) -> None:
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

    def test_verdict_comes_at_the_fiftieth_point(self) -> None:
        rng = np.random.default_rng(5)
        worse = seen(rng.poisson(20, 400))
        assert mann_whitney(worse) == POINTS * POINT // SCRAPE
        assert mann_whitney(seen(rng.poisson(20, 299))) == np.inf


class TestDeployments:
    def test_healthy_deployment_with_much_traffic_takes_the_minimum_time(self) -> None:
        seen = deploy(STEADY, 200, STABLE_ERROR, 50, np.random.default_rng(6))
        assert np.median(seen.scrapes) == len(STAGES) * 60 / SCRAPE
        assert np.all(seen.given == 100)

    def test_bad_deployment_stays_at_the_first_share(self) -> None:
        seen = deploy(STEADY, 200, 0.05, 50, np.random.default_rng(7))
        assert np.mean(seen.given == 5) > 0.9
        assert np.max(seen.scrapes) <= 4 * 1800 / SCRAPE

    def test_late_onset_harms_no_request_before_its_stage(self) -> None:
        late = next(scenario for scenario in SCENARIOS if scenario.name == "late onset, 5 min")
        seen = deploy(late, 200, 0.2, 20, np.random.default_rng(8))
        assert np.all(seen.harmed[seen.share < 50] == 0)
        assert seen.harmed[seen.share == 50].mean() == pytest.approx(200 * SCRAPE / 2 * 0.2, rel=0.1)

    def test_simulated_cell_has_a_row_per_rule(self) -> None:
        (mine,) = (row for row in rows([simulate((1, Cell(20, 0.2, STEADY), 50))]) if row.rule == OURS)
        assert (mine.runs, mine.stopped) == (50, 50)
        assert 3 <= mine.harmed_mean <= 6

    def test_best_possible_detection_needs_2_5_bad_requests(self) -> None:
        assert wald(STABLE_ERROR) is None
        assert wald(0.05) == pytest.approx(2.5, abs=0.01)


def written(at: float, **shares: float) -> Written:
    return Written(at, "depot", shares)


class TestHops:
    def test_hop_is_the_time_from_a_verdict_to_the_next_shift(self) -> None:
        verdicts = [Verdict("canary_5.gate", "HEALTHY", 10), Verdict("canary_100.gate", "HEALTHY", 30)]
        writes = [
            written(1, old=100),
            written(2, old=100, new=0),
            written(4, old=95, new=5),
            written(12.5, old=0, new=100),
            written(33, old=0, new=100),
            written(40, old=0, new=100),
        ]
        assert hops(verdicts, "verify", writes) == ([2.5], [3])

    def test_watch_and_verification_begin_no_hop(self) -> None:
        verdicts = [Verdict("verify", "HEALTHY", 10), Verdict("watch", "CLOSED", 11)]
        assert hops(verdicts, "verify", [written(1, old=100), written(12, old=0, new=100)]) == ([], [])


class TestFigures:
    def test_bake_counts_for_neither_the_deployment_nor_its_twin(self) -> None:
        pairs = [
            Pair(real, empty, real + 4, empty + 3, 80, 20, shifted=[2.0, hop], promoted=[3.0], load=1.0)
            for real, empty, hop in ((65, 45, 4.0), (55, 35, 5.0), (45, 35, 6.0))
        ]
        found = figures(pairs, baked=25)
        assert found["ratio"] == {"min": 2.0, "median": 2.0, "max": 3.0}
        assert found["ratio_with_bake"] == {"min": 1.286, "median": 1.444, "max": 1.571}
        assert found["deployment_s"] == {"min": 20, "median": 30, "max": 40}
        assert found["hop_s"] == {"n": 6, "p50": 2.0, "p95": 6.0, "max": 6.0}
        assert found["promotion_s"]["n"] == 3


class TestShape:
    TASKS: tuple[tuple[str, str, list[str]], ...] = (
        ("score", "all_success", ["route"]),
        ("route", "all_success", ["approve", "shift", "refuse"]),
        ("approve", "all_success", ["shift"]),
        ("refuse", "all_success", ["rollback"]),
        ("shift", "none_failed_min_one_success", ["gate", "rollback"]),
        ("gate", "all_success", ["ask", "verify"]),
        ("ask", "all_success", ["verify"]),
        ("verify", "none_failed_min_one_success", ["rollback", "finalize"]),
        ("watch", "all_success", ["rollback", "finalize"]),
        ("rollback", "one_failed", ["finalize"]),
        ("finalize", "all_done_setup_success", []),
    )

    def twin(self) -> dict[str, Task]:
        tasks = [
            {"task_id": name, "trigger_rule": rule, "downstream_task_ids": following}
            for name, rule, following in self.TASKS
        ]
        never, skipped = ("approve", "refuse", "rollback"), ("approve", "refuse", "rollback", "ask")
        events = [("watch", "running", 1), ("watch", "deferred", 2), ("watch", "running", 31), ("watch", "success", 32)]
        events += [("gate", "running", 5), ("gate", "deferred", 6), ("gate", "running", 12), ("gate", "success", 13)]
        events += [("ask", "running", 14), ("ask", "skipped", 15), ("verify", "running", 20), ("verify", "success", 30)]
        events += [(name, what, 3) for name in ("score", "route", "shift") for what in ("running", "success")]
        events += [("finalize", "running", 40), ("finalize", "success", 41)]
        states: dict[str, str | None] = {name: "skipped" if name in skipped else "success" for name, _, _ in self.TASKS}
        verdicts = [Verdict("gate", "HEALTHY", 11), Verdict("watch", "CLOSED", 30)]
        run = Run("run", 0, 42, 9.5, [Event(*event) for event in events], states, verdicts)
        assert not set(run.with_event("running")) & set(never)
        assert run.counted == {"in_dag": 11, "scheduled": 8, "ran": 7, "deferred": 2, "processes": 10}
        return {task.task_id: task for task in shape(tasks, run, "verify", bake=5)}

    def test_twin_has_the_same_tasks_edges_and_trigger_rules(self) -> None:
        twin = self.twin()
        assert set(twin) == {name for name, _, _ in self.TASKS}
        assert all(twin[name].rule == rule for name, rule, _ in self.TASKS)
        assert all(name in twin[after].upstream for name, _, following in self.TASKS for after in following)

    def test_twins_branch_skips_the_same_tasks(self) -> None:
        branches = {task.task_id: task.drops for task in self.twin().values() if task.drops}
        assert branches == {"route": ["approve", "refuse"]}  # what a rule skips, or what skips itself, makes no branch

    def test_twin_of_a_task_that_skipped_itself_skips_itself(self) -> None:
        assert [task.task_id for task in self.twin().values() if task.skips] == ["ask"]

    def test_twins_gate_bakes_and_its_watch_outlasts_the_verification(self) -> None:
        waiting = {task.task_id: (task.wait, task.until) for task in self.twin().values() if task.wait is not None}
        assert waiting == {"gate": (5, None), "watch": (0, "verify")}


class TestKubernetesApi:
    PATH = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/depot"

    def api(self) -> KubernetesApi:
        api = KubernetesApi()
        rules = [{"backendRefs": [{"name": "old", "weight": 1}]}]
        api.put("httproutes", {"metadata": {"name": "depot", "annotations": {"a/b": "1"}}, "spec": {"rules": rules}})
        return api

    def patch(self, api: KubernetesApi, *operations: Mapping[str, Any]) -> int:
        body = json.dumps(operations).encode()
        return api.answer(Request("PATCH", self.PATH, {}, "application/json-patch+json", body)).status

    def test_json_patch_is_applied_whole_or_refused(self) -> None:
        api = self.api()
        added = {"op": "add", "path": "/spec/rules/0/backendRefs/-", "value": {"name": "new", "weight": 3}}
        assert self.patch(api, added, {"op": "test", "path": "/metadata/annotations/a~1b", "value": "2"}) == 422
        assert self.patch(api, {"op": "replace", "path": "/spec/absent", "value": 1}) == 422
        assert self.patch(api, {"op": "test", "path": "/metadata/annotations/a~1b", "value": "1"}, added) == 200
        assert [item.shares for item in api.writes] == [{"old": 100}, {"old": 25, "new": 75}]

    def test_missing_object_is_named(self) -> None:
        said = self.api().answer(Request("GET", self.PATH + "s", {}, "", b""))
        assert (said.status, json.loads(said.body)["details"]["name"]) == (404, "depots")
