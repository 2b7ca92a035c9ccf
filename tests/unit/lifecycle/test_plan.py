"""The plan is frozen, travels as plain JSON, and everything's name follows from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from tests.support.builders import COMMIT, DIGEST, make_plan, make_spec

words = st.text(max_size=30)


@given(words, words, words, st.dictionaries(st.sampled_from(["A", "B_2", "_C"]), words), st.none() | st.just(DIGEST))
def test_plan_survives_json(dag: str, run: str, who: str, config: dict[str, str], digest: str | None) -> None:
    plan = make_plan(make_spec(config=config), dag_id=dag, run_id=run, requester=who, digest=digest)
    assert DeploymentPlan.load(json.loads(json.dumps(plan.dump(), allow_nan=False))) == plan


def test_plan_is_written_the_same_way_after_reading() -> None:
    dumped = make_plan(make_spec(gates={"latency_p99": 2.5}, canary={"bake": "90s"})).dump()
    assert DeploymentPlan.load(dumped).dump() == dumped


def test_names_follow_from_the_plan() -> None:
    plan = make_plan()
    assert plan.candidate == "payments-0123456-1795417200"
    assert plan.image_tag == f"registry.example.com:5000/shop/payments:{COMMIT}-1795417200"
    assert plan.image == f"registry.example.com:5000/shop/payments@{DIGEST}"
    assert plan.deployment_id.startswith("DEP-1795417200-")


def test_image_has_no_name_before_it_is_built() -> None:
    with pytest.raises(ValueError, match="not built yet"):
        _ = make_plan(digest=None).image


def test_two_runs_in_one_second_have_different_ids() -> None:
    assert make_plan(run_id="one").deployment_id != make_plan(run_id="two").deployment_id
    assert make_plan(dag_id="deploy_a").deployment_id != make_plan(dag_id="deploy_b").deployment_id


def test_plan_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        make_plan().digest = "sha256:other"  # type: ignore[misc]


@pytest.mark.parametrize(
    "damage", [{"commit": None}, {"created": "now"}, {"unknown": 1}, {"spec": {}}, {"stable_port": "80"}]
)
def test_damaged_plan_is_refused(damage: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(damage))):
        DeploymentPlan.load({**make_plan().dump(), **damage})
