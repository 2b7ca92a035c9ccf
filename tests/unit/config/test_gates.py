"""A team's own gates: counters of bad and of all events, or a gauge, by version."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_deploy.domain.config.gates import GATES, OwnGate, gate_table
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.counters import Counts
from tests.support.builders import CARDS, QUEUE, make_plan, make_spec


def spec(**gates: Any) -> DeploymentSpec:
    return make_spec(gates=gates)


def test_own_gates_come_after_the_built_in_gates() -> None:
    made = spec(queue=QUEUE, cards=CARDS, memory=0.5)
    assert list(made.gates) == [*GATES, "cards", "queue"]
    assert (made.limits["cards"], made.limits["queue"], made.limits["memory"]) == (0.02, 100, 0.5)
    assert made.kinds == {"cards": "pair", "queue": "gauge"}
    assert list(made.counted_gates) == ["error_rate", "latency_p95", "latency_p99", "cards"]


def test_own_gates_survive_the_plans_json() -> None:
    plan = make_plan(spec(queue=QUEUE, cards=CARDS))
    assert DeploymentPlan.load(plan.dump()) == plan


def test_own_gate_is_judged_on_its_own_counts() -> None:
    gate = gate_table({"cards": "pair"})["cards"]
    assert gate.bad_and_trials(Counts(100, 50, pairs={"cards": (2.0, 40.0)}), 0.02) == (2.0, 40.0)
    assert gate.bad_and_trials(Counts(100, 50), 0.02) == (0.0, 0.0)
    assert gate.allowed(0.02) == 0.02


def test_own_gate_queries_name_one_version() -> None:
    assert OwnGate.model_validate(CARDS).queries("pay-1") == {
        "bad": 'refused_total{version="pay-1"}',
        "total": 'cards_total{version="pay-1"}',
    }
    assert OwnGate.model_validate(QUEUE).queries("pay-1") == {"gauge": 'max(queue_depth{pod=~"pay-1-.*"})'}


@pytest.mark.parametrize(
    ("name", "gate", "message"),
    [
        ("error_rate", CARDS, "error_rate cannot name a gate of your own"),
        ("Cards", CARDS, "Cards cannot name a gate of your own"),
        ('x" or up', CARDS, "cannot name a gate of your own"),
        ("cards", {**CARDS, "limit": 0.9}, "limit is a share of total; write a number from 1e-06 to 0.5"),
        ("cards", {**CARDS, "bad": None}, "write either bad and total"),
        ("cards", {**CARDS, **QUEUE}, "write either bad and total"),
        ("cards", {"limit": 1}, "write either bad and total"),
        ("cards", {**QUEUE, "limit": "many"}, "limit is not valid"),
        ("cards", {**QUEUE, "limit": float("nan")}, "limit is not valid"),
        ("cards", {**QUEUE, "gauge": "max(queue_depth)"}, "gauge is not valid: must contain $version"),
        (
            "cards",
            {**QUEUE, "gauge": "sum_over_time(x{v='$version'}[9y])"},
            "one of its ranges is longer than 1d; shorten it",
        ),
        ("cards", {**QUEUE, "colour": "red"}, "colour is not a known key"),
        ("cards", 0.5, "cards is not a gate"),
        ("memory", "0.5", "write a number, or for a gate of your own"),
        ("memory", True, "write a number, or for a gate of your own"),
        ("memory", float("inf"), "write a number, or for a gate of your own"),
    ],
)
def test_invalid_gate_is_refused_by_name(name: str, gate: Any, message: str) -> None:
    with pytest.raises(RefusedError) as caught:
        spec(**{name: gate})
    assert "gates" in str(caught.value)
    assert message in str(caught.value)
