"""The score follows its factors, whose inputs say all; a veto stands apart from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_deploy.domain.config.criticality import CRITICALITY
from airflow_deploy.domain.config.request import parse_request
from airflow_deploy.domain.lifecycle.confidence import (
    ASK,
    FACTORS,
    GO_ALONE,
    Confidence,
    PastDeployments,
    ScoreInputs,
    score,
    vetoes,
)
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from tests.support.builders import CONF, Path, changed, make_plan, make_spec

MISSION = PastDeployments(verified=8, undone=2)
LEVELS = list(CRITICALITY)


def plan(*changes: tuple[Path, Any], criticality: str = "high") -> DeploymentPlan:
    conf = CONF
    for path, value in changes:
        conf = changed(conf, path, value)
    return make_plan(make_spec(criticality=criticality), parse_request(conf))


def rated(
    *changes: tuple[Path, Any], outcomes: PastDeployments = MISSION, verdicts: tuple[str | None, ...] = ()
) -> Confidence:
    return score(ScoreInputs(plan(*changes), outcomes, verdicts))


COVERAGE = ("safety_gate", "coverage")
RECOMMENDATION = ("safety_gate", "recommendation")
TESTS = ("safety_gate", "tests")
PASSED = (*TESTS, "passed")
BUILD = ("safety_gate", "build")
LINT = ("safety_gate", "lint_issues")
FOUND = ("safety_gate", "vulnerabilities")
KINDS = ("migrations", "dependencies", "configuration")
VERDICTS = ("HEALTHY", "UNDECIDED", "BREACHED", None)

counts = st.integers(0, 100_000)
shares = st.floats(0, 1)


@st.composite
def confs(draw: st.DrawFn) -> dict[str, Any]:
    total = draw(counts)
    conf = changed(CONF, TESTS, {"passed": draw(st.integers(0, total)), "total": total})
    for path, values in {
        COVERAGE: st.none() | shares,
        LINT: st.none() | counts,
        FOUND: st.none() | st.fixed_dictionaries({"critical": counts, "high": counts}),
        BUILD: st.sampled_from([None, "success", "failure"]),
        RECOMMENDATION: st.sampled_from(["DEPLOY", "HOLD"]),
        ("change", "files"): counts,
        ("change", "lines"): counts,
        **{("change", kind): st.booleans() for kind in KINDS},
    }.items():
        conf = changed(conf, path, draw(values))
    return conf


def planned(conf: dict[str, Any], criticality: str = "medium", first: int = 5) -> DeploymentPlan:
    return make_plan(make_spec(criticality=criticality, canary={"stages": [first, 100]}), parse_request(conf))


@st.composite
def plans(draw: st.DrawFn) -> DeploymentPlan:
    criticality = draw(st.sampled_from(LEVELS))
    first = draw(st.integers(1, min(99, CRITICALITY[criticality].first_share)))
    return planned(draw(confs()), criticality, first)


outcomes = st.builds(PastDeployments, verified=st.integers(0, 20), undone=st.integers(0, 20))
verdicts = st.lists(st.sampled_from(VERDICTS), max_size=8).map(tuple)
knowns = st.builds(ScoreInputs, plans(), outcomes, verdicts)


class TestScore:
    def test_full_example_scores_about_85_and_needs_no_approval(self) -> None:
        """Safety 100 %, criticality HIGH, history 80 %, coverage 85 %; the canary is still to come."""
        confidence = rated()
        values = {factor.name: factor.value for factor in confidence.factors}
        assert (values["safety_gates"], values["history"], values["coverage"]) == (1.0, 0.8, 0.85)
        assert values["canary_health"] is None
        assert confidence.score == pytest.approx(85, abs=3)
        assert (confidence.route, confidence.vetoes) == ("go", ())

    def test_weights_sum_to_one(self) -> None:
        assert sum(weight for weight, _ in FACTORS.values()) == pytest.approx(1)
        assert len(FACTORS) == 6

    @given(knowns)
    def test_score_lies_within_0_and_100_and_factors_within_0_and_1(self, known: ScoreInputs) -> None:
        confidence = score(known)
        assert 0 <= confidence.score <= 100
        assert [factor.name for factor in confidence.factors] == list(FACTORS)
        assert all(factor.value is None or 0 <= factor.value <= 1 for factor in confidence.factors)
        assert all(factor.reason for factor in confidence.factors)

    @given(knowns)
    def test_unknown_factor_is_left_out_and_the_weights_are_renormalised(self, known: ScoreInputs) -> None:
        confidence = score(known)
        rest = [(f.weight, f.value) for f in confidence.factors if f.value is not None]
        expected = 100 * sum(w * v for w, v in rest) / sum(w for w, _ in rest)
        assert confidence.score == pytest.approx(expected, abs=0.051)
        unknown = {f.name for f in confidence.factors if f.value is None}
        decided = [verdict for verdict in known.verdicts if verdict not in (None, "UNDECIDED")]
        assert unknown == {
            name
            for name, missing in {
                "canary_health": not decided,
                "history": known.outcomes == PastDeployments(),
                "coverage": known.plan.request.safety_gate.coverage is None,
            }.items()
            if missing
        }

    @given(knowns, st.text(max_size=50))
    def test_score_does_not_depend_on_free_text(self, known: ScoreInputs, text: str) -> None:
        """Titles, reasons, names and urgency do not raise a score."""
        request = known.plan.request
        renamed = request.model_copy(
            update={
                "incident": request.incident.model_copy(update={"title": text, "id": text, "severity": "low"}),
                "emergency": None,
            }
        )
        other = known.plan.model_copy(update={"request": renamed, "requester": text, "run_id": text, "commit": text})
        assert score(ScoreInputs(other, known.outcomes, known.verdicts)) == score(known)

    @given(knowns)
    def test_confidence_survives_json(self, known: ScoreInputs) -> None:
        confidence = score(known)
        assert Confidence.load(json.loads(json.dumps(confidence.dump()))) == confidence


class TestReport:
    @given(knowns)
    def test_value_and_reason_follow_from_the_inputs_alone(self, known: ScoreInputs) -> None:
        for factor in score(known).dump()["factors"]:
            weight, rule = FACTORS[factor["name"]]
            assert (factor["weight"], factor["value"], factor["reason"]) == (weight, *rule(**factor["inputs"]))

    @given(knowns)
    def test_reason_contains_every_input_number(self, known: ScoreInputs) -> None:
        for factor in score(known).factors:
            if factor.value is not None:
                numbers = [str(value) for value in factor.inputs.values() if type(value) is int and value > 0]
                assert all(number in factor.reason for number in numbers)

    def test_reasons_name_the_inputs(self) -> None:
        seen = rated(verdicts=("HEALTHY", "HEALTHY", "UNDECIDED", "HEALTHY"))
        assert {factor.name: factor.reason for factor in seen.factors} == {
            "safety_gates": (
                "127/127 tests, 0 lint issues, 0 critical vulnerabilities, 0 high vulnerabilities, build success"
            ),
            "canary_health": "3 of 4 gates healthy, 1 left to a person",
            "blast_radius": "criticality high, first share 5 %",
            "history": "8 earlier deployments verified, 2 not",
            "complexity": "3 files, 41 lines, with configuration",
            "coverage": "85% of lines",
        }

    def test_first_version_takes_no_traffic_from_another(self) -> None:
        plan = make_plan(make_spec(criticality="medium", canary={"stages": [50, 100]}), stable="")
        (blast,) = (
            factor for factor in score(ScoreInputs(plan, PastDeployments())).factors if factor.name == "blast_radius"
        )
        assert blast.value == CRITICALITY["medium"].trust
        assert blast.reason == "criticality medium, no traffic is taken from another version"

    def test_reasons_name_what_was_not_stated(self) -> None:
        silent = rated(*((path, None) for path in (LINT, FOUND, BUILD, COVERAGE)), outcomes=PastDeployments())
        assert {factor.name: factor.reason for factor in silent.factors if "no" in factor.reason} == {
            "safety_gates": (
                "127/127 tests, lint issues not stated, critical vulnerabilities not stated,"
                " high vulnerabilities not stated, build not stated"
            ),
            "canary_health": "unknown before the canary",
            "history": "no earlier deployment of this service",
            "coverage": "not stated",
        }
        undecided = rated(verdicts=("UNDECIDED", None))
        assert undecided.factors[1].reason == "none of 2 gates has a verdict"


class TestBetterNeverScoresLower:
    """Each input by itself, with all other inputs equal and arbitrary."""

    @given(confs(), st.data())
    def test_more_passed_tests_never_score_lower(self, conf: dict[str, Any], data: st.DataObject) -> None:
        few, many = sorted(data.draw(st.integers(0, conf["safety_gate"]["tests"]["total"])) for _ in range(2))
        self.compare(changed(conf, PASSED, few), changed(conf, PASSED, many))

    @pytest.mark.parametrize("path", [LINT, ("change", "files"), ("change", "lines")])
    @given(confs(), counts, counts)
    @example(CONF, 0, 100_000)
    def test_fewer_issues_and_a_smaller_change_never_score_lower(
        self, path: Path, conf: dict[str, Any], one: int, other: int
    ) -> None:
        few, many = sorted((one, other))
        self.compare(changed(conf, path, many), changed(conf, path, few))

    @pytest.mark.parametrize("severity", ["critical", "high"])
    @given(confs(), counts, counts, counts)
    def test_fewer_vulnerabilities_never_score_lower(
        self, severity: str, conf: dict[str, Any], one: int, other: int, beside: int
    ) -> None:
        few, many = sorted((one, other))
        found = {"critical": beside, "high": beside}
        better, worse = ({**found, severity: count} for count in (few, many))
        self.compare(changed(conf, FOUND, worse), changed(conf, FOUND, better))

    @given(confs(), shares, shares)
    def test_more_coverage_never_scores_lower(self, conf: dict[str, Any], one: float, other: float) -> None:
        low, high = sorted((one, other))
        self.compare(changed(conf, COVERAGE, low), changed(conf, COVERAGE, high))

    @given(confs())
    def test_successful_build_never_scores_lower(self, conf: dict[str, Any]) -> None:
        self.compare(changed(conf, BUILD, "failure"), changed(conf, BUILD, "success"))

    @pytest.mark.parametrize("kind", KINDS)
    @given(confs())
    def test_change_of_fewer_kinds_never_scores_lower(self, kind: str, conf: dict[str, Any]) -> None:
        self.compare(changed(conf, ("change", kind), True), changed(conf, ("change", kind), False))

    @pytest.mark.parametrize("path", [LINT, FOUND, BUILD])
    @given(confs())
    def test_stated_finding_never_scores_higher_than_no_statement(self, path: Path, conf: dict[str, Any]) -> None:
        self.compare(conf, changed(conf, path, None))

    @given(plans(), outcomes, outcomes, verdicts)
    def test_better_history_never_scores_lower(
        self, made: DeploymentPlan, one: PastDeployments, other: PastDeployments, ended: tuple[str | None, ...]
    ) -> None:
        """From none at all too: one that held raises the score, and one that did not lowers it."""
        better = PastDeployments(verified=max(one.verified, other.verified), undone=min(one.undone, other.undone))
        worse = PastDeployments(verified=min(one.verified, other.verified), undone=max(one.undone, other.undone))
        assert score(ScoreInputs(made, better, ended)).score >= score(ScoreInputs(made, worse, ended)).score

    @given(plans(), outcomes, verdicts.filter(bool), st.data())
    def test_healthier_canary_never_scores_lower(
        self, made: DeploymentPlan, past: PastDeployments, ended: tuple[str | None, ...], data: st.DataObject
    ) -> None:
        """From a gate that could not decide too."""
        index = data.draw(st.integers(0, len(ended) - 1))
        better = (*ended[:index], "HEALTHY", *ended[index + 1 :])
        assert score(ScoreInputs(made, past, better)).score >= score(ScoreInputs(made, past, ended)).score

    @given(confs(), outcomes, st.integers(1, 10))
    def test_less_critical_service_never_scores_lower(
        self, conf: dict[str, Any], past: PastDeployments, first: int
    ) -> None:
        by_level = [score(ScoreInputs(planned(conf, level, first), past)).score for level in LEVELS]
        assert by_level == sorted(by_level, reverse=True)

    @given(confs(), st.integers(1, 99), st.integers(1, 99))
    def test_smaller_first_share_never_scores_lower(self, conf: dict[str, Any], one: int, other: int) -> None:
        small, large = sorted((one, other))
        scores = [score(ScoreInputs(planned(conf, "medium", first), MISSION)).score for first in (large, small)]
        assert scores == sorted(scores)

    @staticmethod
    def compare(worse: dict[str, Any], better: dict[str, Any]) -> None:
        scores = [score(ScoreInputs(planned(conf), MISSION)).score for conf in (worse, better)]
        assert scores == sorted(scores)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (PASSED, 100),
        (TESTS, {"passed": 0, "total": 0}),
        (BUILD, "failure"),
        (LINT, 40),
        ((*FOUND, "critical"), 1),
        ((*FOUND, "high"), 1),
        (COVERAGE, 0.5),
        (("change", "files"), 40),
        (("change", "lines"), 400),
        (("change", "migrations"), True),
        (("change", "dependencies"), True),
    ],
)
def test_every_input_changes_the_score(path: Path, value: Any) -> None:
    assert rated((path, value)).score < rated().score


def test_criticality_and_first_share_change_the_score() -> None:
    assert len({score(ScoreInputs(plan(criticality=level), MISSION)).score for level in LEVELS}) == len(LEVELS)
    assert len({score(ScoreInputs(planned(CONF, "low", first), MISSION)).score for first in (5, 10, 25, 50)}) == 3


class TestRoute:
    @given(knowns)
    def test_shown_score_decides_the_route(self, known: ScoreInputs) -> None:
        shown = score(known)
        if shown.vetoes or shown.score < ASK:
            assert shown.route == "refuse"
        elif shown.score < GO_ALONE or (known.verdicts and known.verdicts[-1] != "HEALTHY"):
            assert shown.route == "ask"
        else:
            assert shown.route == "go"

    def test_score_just_below_an_edge_does_not_contradict_the_route(self) -> None:
        seen = set()
        for step in range(2001):  # the coverage sweeps the score finely across both edges
            for lint in (0, 10):
                shown = rated((COVERAGE, step / 2000), (LINT, lint), outcomes=PastDeployments(verified=1, undone=1))
                expected = (
                    "go" if float(f"{shown.score:.1f}") >= GO_ALONE else "ask" if shown.score >= ASK else "refuse"
                )
                assert shown.route == expected
                seen.add(shown.route)
        assert seen == {"go", "ask", "refuse"}

    @pytest.mark.parametrize(("last", "route"), [(last, "go" if last == "HEALTHY" else "ask") for last in VERDICTS])
    def test_high_score_asks_if_the_last_gate_is_not_healthy(self, last: str | None, route: str) -> None:
        shown = rated(verdicts=("HEALTHY",) * 19 + (last,))
        assert shown.score >= GO_ALONE
        assert shown.route == route

    @given(knowns)
    def test_change_without_tests_never_goes_on_alone(self, known: ScoreInputs) -> None:
        tests = known.plan.request.safety_gate.tests.model_copy(update={"passed": 0, "total": 0})
        gate = known.plan.request.safety_gate.model_copy(update={"tests": tests})
        untested = known.plan.request.model_copy(update={"safety_gate": gate})
        best = ScoreInputs(
            known.plan.model_copy(update={"request": untested}), PastDeployments(verified=20), ("HEALTHY",)
        )
        assert score(best).route != "go"


VETOES = [
    ((RECOMMENDATION, "HOLD"), "safety_gate.recommendation is HOLD, not DEPLOY"),
    ((RECOMMENDATION, "DEPLOY_"), "safety_gate.recommendation is DEPLOY_, not DEPLOY"),
    ((PASSED, 126), "safety_gate.tests: 1 of 127 tests failed"),
    ((BUILD, "failure"), "safety_gate.build is failure"),
]


class TestVetoes:
    @pytest.mark.parametrize(("change", "reason"), VETOES)
    def test_veto_refuses_at_any_score(self, change: tuple[Path, Any], reason: str) -> None:
        best = rated(change, (COVERAGE, 1.0), outcomes=PastDeployments(verified=20), verdicts=("HEALTHY",) * 4)
        assert best.vetoes == (reason,)
        assert best.route == "refuse"

    @given(knowns)
    def test_each_veto_refuses(self, known: ScoreInputs) -> None:
        confidence = score(known)
        assert list(confidence.vetoes) == vetoes(known.plan)
        assert not confidence.vetoes or confidence.route == "refuse"

    @given(knowns)
    def test_each_veto_follows_from_its_own_input(self, known: ScoreInputs) -> None:
        gate = known.plan.request.safety_gate
        expected = [gate.recommendation != "DEPLOY", gate.tests.passed < gate.tests.total, gate.build == "failure"]
        assert len(vetoes(known.plan)) == sum(expected)

    def test_all_vetoes_are_named(self) -> None:
        assert len(rated(*[change for change, _ in VETOES[1:]]).vetoes) == 3
