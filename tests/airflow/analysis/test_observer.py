"""One question asks for all, and a part of it that cannot be evaluated does not cost the rest."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any, cast

import pytest

from airflow_deploy.clients.prometheus.hook import Prometheus
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.batch_query import PART_LABEL
from airflow_deploy.domain.metrics.counters import CounterReader, Series
from airflow_deploy.domain.metrics.sources import SOURCES
from airflow_deploy.rollout.analysis.observer import (
    CHUNK_SECONDS,
    COUNTERS,
    LONG_STEP,
    LOOKBACK,
    SCRAPES,
    Observer,
    blind_reason,
)
from tests.support.builders import CARDS, QUEUE, make_plan, make_spec
from tests.support.judgement import START
from tests.support.series import label

TRAEFIK = SOURCES["traefik"]


class FakePrometheus:
    """Answers each part with what it was told; a query that holds ``broken`` is refused."""

    def __init__(self, plan: DeploymentPlan) -> None:
        self.asked: list[str] = []
        self.broken: str | None = None
        self.away = False
        self.vectors: dict[str, list[Any]] = {}
        backend = label(plan.stable, namespace=plan.spec.namespace, route=plan.spec.route.name)
        counter = {"__name__": TRAEFIK.requests, "service": backend, "instance": "gateway-0", "code": "200"}
        self.answer = [
            Series({PART_LABEL: COUNTERS, **counter}, [(START, 3.0), (START + 1, 3.0), (START + 2, 5.0)]),
            Series(
                {PART_LABEL: SCRAPES, "instance": "gateway-0"},
                [(START, START - 0.5), (START + 1, START - 0.5), (START + 2, START + 1.5)],
            ),
            Series({PART_LABEL: "memory"}, [(START, 0.25)]),
            Series({PART_LABEL: "queue"}, [(START, 7.0)]),
            Series({PART_LABEL: f"cards bad {plan.candidate}", "pod": "a"}, [(START, 2.0)]),
            Series({PART_LABEL: f"cards total {plan.candidate}", "pod": "a"}, [(START, 9.0)]),
        ]

    def matrix(self, query: str, until: float | None = None) -> list[Series]:
        self.asked.append(query)
        if self.away:
            raise TemporaryError("Prometheus does not answer")
        if self.broken and self.broken in query:
            raise RefusedError("422: many-to-many matching")
        return [item for item in self.answer if f'"{item.labels[PART_LABEL]}"' in query]

    def query(self, query: str, at: float | None = None) -> list[Any]:
        self.asked.append(query)
        if self.broken and self.broken in query:
            raise RefusedError("400: parse error")
        edges = [{"metric": {"le": edge}} for edge in ("0.5", "1", "+Inf")]
        return edges if "_bucket" in query else self.vectors.get(query, [{"metric": {}, "value": [0, "1"]}])


PLAN = make_plan(make_spec(gates={"cards": CARDS, "queue": QUEUE}))


@pytest.fixture
def prometheus() -> FakePrometheus:
    return FakePrometheus(PLAN)


def observer(prometheus: FakePrometheus) -> Observer:
    return Observer(cast("Prometheus", prometheus), PLAN)


def test_one_question_brings_counters_gauges_and_own_gates(prometheus: FakePrometheus) -> None:
    seen = observer(prometheus).ask(30, START + 2)
    assert len(prometheus.asked) == 1
    assert prometheus.asked[0].endswith("[30s:1s]")
    assert [item.samples for item in seen.counters] == [[(START - 0.5, 3.0), (START + 1.5, 5.0)]]
    assert seen.gauges == {"cpu_saturation": [], "memory": [(START, 0.25)], "queue": [(START, 7.0)]}
    assert [(item.gate, item.role, item.service) for item in seen.own] == [
        ("cards", "bad", PLAN.candidate),
        ("cards", "total", PLAN.candidate),
    ]


def test_own_gates_that_cannot_be_evaluated_do_not_disarm_the_counters(prometheus: FakePrometheus) -> None:
    prometheus.broken = "queue_depth"
    seen = observer(prometheus).ask(30, START + 2)
    assert [item.samples for item in seen.counters] == [[(START - 0.5, 3.0), (START + 1.5, 5.0)]]
    assert (seen.own, seen.gauges["memory"]) == ([], [])


def test_the_hour_before_is_asked_for_in_few_questions_with_few_steps(prometheus: FakePrometheus) -> None:
    observer(prometheus).baseline()
    asked = [re.search(r"\[([0-9]+)s:([0-9]+)s\]$", query) for query in prometheus.asked]
    assert [(int(found[1]), int(found[2])) for found in asked if found] == [(CHUNK_SECONDS + LOOKBACK, LONG_STEP)] * 6


def test_a_prometheus_that_is_away_is_not_asked_twice(prometheus: FakePrometheus) -> None:
    prometheus.away = True
    with pytest.raises(TemporaryError):
        observer(prometheus).ask(30)
    assert len(prometheus.asked) == 1


class TestCheck:
    def test_what_can_be_judged_by_passes(self, prometheus: FakePrometheus) -> None:
        observer(prometheus).check()
        assert f'cards_total{{version="{PLAN.stable}"}}' in prometheus.asked

    def test_nothing_bad_so_far_is_no_mistake(self, prometheus: FakePrometheus) -> None:
        prometheus.vectors[f'refused_total{{version="{PLAN.stable}"}}'] = []
        observer(prometheus).check()

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            (f'cards_total{{version="{PLAN.stable}"}}', "gates.cards.total"),
            (f'max(queue_depth{{pod=~"{PLAN.stable}-.*"}})', "gates.queue.gauge"),
        ],
    )
    def test_a_metric_that_is_not_there_is_refused(self, prometheus: FakePrometheus, query: str, field: str) -> None:
        prometheus.vectors[query] = []
        with pytest.raises(RefusedError, match=f"^{field}: Prometheus has nothing for it of {PLAN.stable}; correct"):
            observer(prometheus).check()

    def test_a_scalar_is_refused(self, prometheus: FakePrometheus) -> None:
        prometheus.vectors[f'cards_total{{version="{PLAN.stable}"}}'] = [START, "1"]
        with pytest.raises(RefusedError, match=r"^gates\.cards\.total: must yield a vector"):
            observer(prometheus).check()

    def test_a_query_that_prometheus_does_not_accept_is_refused_by_name(self, prometheus: FakePrometheus) -> None:
        prometheus.broken = "refused_total"
        with pytest.raises(RefusedError, match=r"^gates\.cards\.bad: 400: parse error"):
            observer(prometheus).check()

    def test_a_limit_between_two_edges_is_refused_with_the_edges(self) -> None:
        plan = make_plan(make_spec(gates={"latency_p95": 0.3}))
        with pytest.raises(RefusedError, match=r"^gates\.latency_p95: 0\.3 s is no bucket's edge; .* 0\.5, 1$"):
            Observer(cast("Prometheus", FakePrometheus(plan)), plan).check()


class TestSight:
    def reader(
        self, seen_until: float, interval: float | None = 5.0, silent: tuple[int, int] = (0, 6)
    ) -> CounterReader:
        return cast("CounterReader", SimpleNamespace(seen_until=seen_until, interval=interval, silent=silent))

    @pytest.mark.parametrize(
        ("age", "interval", "trusted"), [(11, 5.0, True), (13, 5.0, False), (31, 15.0, True), (33, 15.0, False)]
    )
    def test_counters_older_than_two_scrapes_are_stale(self, age: float, interval: float, trusted: bool) -> None:
        said = blind_reason(self.reader(START - age, interval), PLAN, START - 900, START)
        assert (said is None) is trusted

    def test_the_spec_may_say_how_old_is_stale(self) -> None:
        plan = make_plan(make_spec(blindness={"stale_after": 60}))
        assert blind_reason(self.reader(START - 59), plan, START - 900, START) is None
        assert "newer than 60 s" in str(blind_reason(self.reader(START - 61), plan, START - 900, START))

    def test_before_the_first_scrape_nobody_is_impatient(self) -> None:
        assert blind_reason(self.reader(0, None), PLAN, START - 10, START) is None
        assert blind_reason(self.reader(0, None), PLAN, START - 20, START)

    @pytest.mark.parametrize(("silent", "trusted"), [((3, 6), True), ((4, 6), False), ((0, 0), True)])
    def test_most_of_the_series_missing_is_blindness(self, silent: tuple[int, int], trusted: bool) -> None:
        said = blind_reason(self.reader(START - 1, silent=silent), PLAN, START - 900, START)
        assert (said is None) is trusted
        assert trusted or str(said).startswith("4 of 6 counters of ")
