"""A deployment under analysis with short stages, and what its loops say."""

from __future__ import annotations

from typing import Any

from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.config.request import parse_request
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from tests.support.builders import CONF, MISSING, changed, make_plan, make_spec
from tests.support.judgement import START
from tests.support.world import Stage

HEALTHY = Stage(0, 25)
HARMFUL = Stage(0, 25, errors=0.2)
PLAIN = changed(CONF, ("incident", "resolved_when"), MISSING)
BAKE, MAX_BAKE, MAX_BLIND = 60, 300, 120


def planned(then: str = "hold", conf: dict[str, Any] = PLAIN, **spec: Any) -> DeploymentPlan:
    """Return the plan.

    :param then: what happens after ``MAX_BLIND``.
    """
    canary = {"bake": BAKE, "max_bake": MAX_BAKE}
    fields = {"canary": canary, "blindness": {"max_blind": MAX_BLIND, "then": then}, **spec}
    return make_plan(make_spec(**fields), parse_request(conf))


def elapsed(outcome: FinalVerdict | None) -> float:
    """Return how many seconds after START a loop has ended."""
    assert outcome is not None
    return outcome.at - START


def said(outcome: FinalVerdict | None) -> str:
    """Return the verdict with which a loop has ended."""
    assert outcome is not None
    return outcome.verdict
