"""The score follows its factors; a veto stands apart from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_deploy.domain.confidence import ASK, FACTORS, GO_ALONE, Confidence, Known, Outcomes, score, vetoes
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.request import parse_request
from tests.unit.builders import CONF, Path, changed, make_plan, make_spec

MISSION = Outcomes(verified=8, undone=2)


def plan(*changes: tuple[Path, Any], criticality: str = "high") -> DeploymentPlan:
    conf = CONF
    for path, value in changes:
        conf = changed(conf, path, value)
    return make_plan(make_spec(criticality=criticality), parse_request(conf))


def rated(*changes: tuple[Path, Any], outcomes: Outcomes = MISSION, health: float | None = None) -> Confidence:
    return score(Known(plan(*changes), outcomes, health))


COVERAGE = ("safety_gate", "coverage")
RECOMMENDATION = ("safety_gate", "recommendation")
PASSED = ("safety_gate", "tests", "passed")

counts = st.integers(0, 100_000)
shares = st.floats(0, 1)


@st.composite
def plans(draw: st.DrawFn) -> DeploymentPlan:
    total = draw(counts)
    conf = changed(CONF, ("safety_gate", "tests"), {"passed": draw(st.integers(0, total)), "total": total})
    for path, values in {
        COVERAGE: st.none() | shares,
        ("safety_gate", "lint_issues"): st.none() | counts,
        ("safety_gate", "vulnerabilities"): st.none() | st.fixed_dictionaries({"critical": counts, "high": counts}),
        ("safety_gate", "build"): st.sampled_from([None, "success", "failure"]),
        RECOMMENDATION: st.sampled_from(["DEPLOY", "HOLD"]),
        ("change", "files"): counts,
        ("change", "lines"): counts,
        ("change", "migrations"): st.booleans(),
        ("change", "dependencies"): st.booleans(),
        ("change", "configuration"): st.booleans(),
    }.items():
        conf = changed(conf, path, draw(values))
    first = draw(st.integers(1, 99))
    spec = make_spec(criticality=draw(st.sampled_from(["low", "medium", "high"])), canary={"stages": [first, 100]})
    return make_plan(spec, parse_request(conf))


outcomes = st.builds(Outcomes, verified=st.integers(0, 20), undone=st.integers(0, 20))
healths = st.none() | shares


def test_the_missions_example_scores_about_85_and_goes_on_alone() -> None:
    confidence = rated()
    assert confidence.score == pytest.approx(85, abs=3)
    assert (confidence.route, confidence.vetoes) == ("go", ())


def test_the_weights_sum_to_one() -> None:
    assert sum(weight for weight, _ in FACTORS.values()) == pytest.approx(1)
    assert len(FACTORS) == 6


@given(plans(), outcomes, healths)
def test_the_score_lies_within_0_and_100_and_each_factor_within_0_and_1(
    given_plan: DeploymentPlan, past: Outcomes, health: float | None
) -> None:
    confidence = score(Known(given_plan, past, health))
    assert 0 <= confidence.score <= 100
    assert [factor.name for factor in confidence.factors] == list(FACTORS)
    assert all(factor.value is None or 0 <= factor.value <= 1 for factor in confidence.factors)
    assert all(factor.reason for factor in confidence.factors)


@given(plans(), outcomes, healths)
def test_what_is_not_known_is_left_out_and_the_rest_renormalised(
    given_plan: DeploymentPlan, past: Outcomes, health: float | None
) -> None:
    confidence = score(Known(given_plan, past, health))
    known = [(f.weight, f.value) for f in confidence.factors if f.value is not None]
    expected = 100 * sum(w * v for w, v in known) / sum(w for w, _ in known)
    assert confidence.score == pytest.approx(expected, abs=0.051)
    unknown = {f.name for f in confidence.factors if f.value is None}
    assert ("canary_health" in unknown) == (health is None)
    assert ("history" in unknown) == (past.verified + past.undone == 0)


@given(plans(), outcomes, healths)
def test_the_score_that_is_shown_is_the_one_that_decides(
    given_plan: DeploymentPlan, past: Outcomes, health: float | None
) -> None:
    shown = score(Known(given_plan, past, health))
    if shown.vetoes:
        assert shown.route == "refuse"
    else:
        assert shown.route == ("go" if shown.score >= GO_ALONE else "ask" if shown.score >= ASK else "refuse")


def test_just_below_an_edge_the_shown_score_does_not_contradict_the_route() -> None:
    seen = set()
    for step in range(4001):  # the canary's health sweeps the score finely across both edges
        shown = rated((COVERAGE, 0.5), outcomes=Outcomes(verified=1, undone=1), health=step / 4000)
        expected = "go" if shown.score >= GO_ALONE else "ask" if shown.score >= ASK else "refuse"
        assert shown.route == expected
        seen.add(shown.route)
    assert seen == {"go", "ask", "refuse"}


@given(shares, shares)
def test_more_coverage_never_lowers_the_score(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert rated((COVERAGE, high)).score >= rated((COVERAGE, low)).score


@given(st.integers(0, 127), st.integers(0, 127))
def test_more_passing_tests_never_lower_the_score(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert rated((PASSED, high)).score >= rated((PASSED, low)).score


def test_failing_tests_and_a_failed_build_lower_the_score() -> None:
    assert rated((PASSED, 100)).score < rated().score
    assert rated((PASSED, 0)).score < rated((PASSED, 100)).score
    assert rated((("safety_gate", "build"), "failure")).score < rated().score
    assert rated((("safety_gate", "tests"), {"passed": 0, "total": 0})).score < rated().score


@given(shares, shares)
def test_a_healthier_canary_never_lowers_the_score(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert rated(health=high).score >= rated(health=low).score


@given(counts, counts)
@example(0, 100_000)
def test_a_larger_change_never_raises_the_score(one: int, other: int) -> None:
    small, large = sorted((one, other))
    for field in ("files", "lines"):
        assert rated((("change", field), large)).score <= rated((("change", field), small)).score


@pytest.mark.parametrize("kind", ["migrations", "dependencies", "configuration"])
def test_a_riskier_kind_of_change_lowers_the_score(kind: str) -> None:
    plain = [(("change", name), False) for name in ("migrations", "dependencies", "configuration")]
    assert rated(*plain, (("change", kind), True)).score < rated(*plain).score


def test_migrations_and_dependencies_together_are_no_safer_than_either() -> None:
    both = rated((("change", "migrations"), True), (("change", "dependencies"), True))
    assert both.score <= min(rated((("change", kind), True)).score for kind in ("migrations", "dependencies"))


@pytest.mark.parametrize(
    ("path", "value"), [(("safety_gate", "vulnerabilities", "critical"), 1), (("safety_gate", "lint_issues"), 40)]
)
def test_what_the_safety_gate_found_lowers_the_score(path: Path, value: int) -> None:
    assert rated((path, value)).score < rated().score


def test_criticality_lowers_the_score() -> None:
    scores = [score(Known(plan(criticality=level), MISSION)).score for level in ("low", "medium", "high")]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == 3


VETOES = [
    ((RECOMMENDATION, "HOLD"), "safety_gate.recommendation is HOLD, not DEPLOY"),
    ((RECOMMENDATION, "DEPLOY_"), "safety_gate.recommendation is DEPLOY_, not DEPLOY"),
    ((PASSED, 126), "safety_gate.tests: 1 of 127 tests fail"),
    ((("safety_gate", "build"), "failure"), "safety_gate.build is failure"),
]


@pytest.mark.parametrize(("change", "reason"), VETOES)
def test_a_veto_is_not_outvoted_by_any_score(change: tuple[Path, Any], reason: str) -> None:
    confidence = rated(change, (COVERAGE, 1.0), outcomes=Outcomes(verified=20), health=1.0)
    assert confidence.vetoes == (reason,)
    assert confidence.route == "refuse"


@given(plans(), outcomes, healths)
def test_a_veto_always_refuses(given_plan: DeploymentPlan, past: Outcomes, health: float | None) -> None:
    confidence = score(Known(given_plan, past, health))
    assert list(confidence.vetoes) == vetoes(given_plan)
    assert not confidence.vetoes or confidence.route == "refuse"


def test_all_vetoes_are_named() -> None:
    assert len(rated(*[change for change, _ in VETOES[1:]]).vetoes) == 3


def test_it_survives_xcom() -> None:
    confidence = rated(health=0.5)
    assert Confidence.load(confidence.dump()) == confidence
