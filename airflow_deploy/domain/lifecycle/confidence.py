"""The confidence in a deployment, 0 to 100, from six weighted factors, and the vetoes that refuse it at any score.

A factor is a number from 0 (no trust) to 1. A factor without a value (canary health before the canary, the history of
a new service, a coverage that is not stated) is left out, and the other weights are scaled up to 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from airflow_deploy.domain.config.criticality import CRITICALITY
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.values import Model

NextStep = Literal["go", "ask", "refuse"]

GO_ALONE = 80
"""Lowest score that needs no approval."""
ASK = 60
"""Lowest score that is not refused; from here to ``GO_ALONE`` a person decides."""


class PastDeployments(Model):
    """How many earlier deployments of the service were verified, and how many were rolled back."""

    verified: int = 0
    undone: int = 0


Inputs = dict[str, bool | int | float | str | None]
"""The inputs of a factor, by name; None if the caller has not stated one."""


class Factor(Model):
    """One factor of a score. Its rule computes ``value`` and ``reason`` from ``inputs`` alone.

    :param weight: 0 to 1.
    :param value: 0 to 1; None if unknown.
    :param reason: one phrase with the numbers.
    """

    name: str
    weight: float
    inputs: Inputs
    value: float | None
    reason: str


class Confidence(Model):
    """A score, the next step that it leads to, and the factors and vetoes behind both."""

    score: float
    route: NextStep
    factors: tuple[Factor, ...]
    vetoes: tuple[str, ...]


@dataclass(frozen=True)
class ScoreInputs:
    """The facts from which the factors are computed.

    :param verdicts: the verdict of each gate, in order; None for a gate without one. Empty before the canary.
    """

    plan: DeploymentPlan
    outcomes: PastDeployments
    verdicts: Sequence[str | None] = ()


FactorRating = tuple[float | None, str]


def _inputs(known: ScoreInputs) -> dict[str, Inputs]:
    gate, change, spec = known.plan.request.safety_gate, known.plan.request.change, known.plan.spec
    found = gate.vulnerabilities
    # A first version takes no traffic from another one.
    first_share = known.plan.share(spec.canary.stages[0]) if known.plan.stable else 0
    return {
        "safety_gates": {
            "passed": gate.tests.passed,
            "total": gate.tests.total,
            "lint_issues": gate.lint_issues,
            "critical": found.critical if found else None,
            "high": found.high if found else None,
            "build": gate.build,
        },
        "canary_health": {
            "gates": len(known.verdicts),
            "healthy": known.verdicts.count("HEALTHY"),
            "undecided": known.verdicts.count("UNDECIDED") + known.verdicts.count(None),
        },
        "blast_radius": {"criticality": spec.criticality, "first_share": first_share},
        "history": known.outcomes.dump(),
        "complexity": change.dump(),
        "coverage": {"coverage": gate.coverage},
    }


def _safety_gates(
    passed: int, total: int, lint_issues: int | None, critical: int | None, high: int | None, build: str | None
) -> FactorRating:
    """Rate the safety gate's result. Counts that are not stated lower nothing; no tests at all rate 0."""
    tests = passed / total if total else 0.0
    lint = 1 / (1 + (lint_issues or 0) / 20)
    safe = 1 / (1 + 2 * (critical or 0) + 0.5 * (high or 0))
    built = 0.0 if build == "failure" else 1.0
    reason = [
        f"{passed}/{total} tests",
        _stated("lint issues", lint_issues),
        _stated("critical vulnerabilities", critical),
        _stated("high vulnerabilities", high),
        f"build {build or 'not stated'}",
    ]
    return tests * lint * safe * built, ", ".join(reason)


def _stated(what: str, count: int | None) -> str:
    return f"{what} not stated" if count is None else f"{count} {what}"


def _canary_health(gates: int, healthy: int, undecided: int) -> FactorRating:
    if gates == undecided:
        return None, f"none of {gates} gates has a verdict" if gates else "unknown before the canary"
    left_out = f", {undecided} left to a person" if undecided else ""
    return healthy / (gates - undecided), f"{healthy} of {gates} gates healthy{left_out}"


def _blast_radius(criticality: str, first_share: int) -> FactorRating:
    """Rate criticality and first share. A first share that every criticality permits lowers nothing."""
    always_permitted = min(level.first_share for level in CRITICALITY.values())
    value = CRITICALITY[criticality].trust * (1 - max(0, first_share - always_permitted) / 100)
    risks = f"first share {first_share} %" if first_share else "no traffic is taken from another version"
    return value, f"criticality {criticality}, {risks}"


def _history(verified: int, undone: int) -> FactorRating:
    ended = verified + undone
    if not ended:
        return None, "no earlier deployment of this service"
    return verified / ended, f"{verified} earlier deployments verified, {undone} not"


def _complexity(files: int, lines: int, **kinds: bool) -> FactorRating:
    value = 1 / (1 + lines / 400 + files / 40)
    worth = {"migrations": 0.6, "dependencies": 0.8, "configuration": 0.95}
    changed = [kind for kind in worth if kinds[kind]]
    value *= min((worth[kind] for kind in changed), default=1.0)
    return value, f"{files} files, {lines} lines" + (f", with {' and '.join(changed)}" if changed else "")


def _coverage(coverage: float | None) -> FactorRating:
    if coverage is None:
        return None, "not stated"
    return coverage, f"{coverage:.0%} of lines"


FACTORS: dict[str, tuple[float, Callable[..., FactorRating]]] = {
    "safety_gates": (0.30, _safety_gates),
    "canary_health": (0.25, _canary_health),
    "blast_radius": (0.15, _blast_radius),
    "history": (0.10, _history),
    "complexity": (0.10, _complexity),
    "coverage": (0.10, _coverage),
}
"""Weight and rule of each factor; the weights sum to 1. A rule takes the factor's inputs by name."""


def vetoes(plan: DeploymentPlan) -> list[str]:
    """Return the reasons that forbid this deployment at any score; empty if none does.

    A mutable image tag is not among them: images are built by the run itself and deployed by digest.
    """
    gate = plan.request.safety_gate
    found = []
    if gate.recommendation != "DEPLOY":
        found.append(f"safety_gate.recommendation is {gate.recommendation}, not DEPLOY")
    if gate.tests.passed < gate.tests.total:
        found.append(f"safety_gate.tests: {gate.tests.total - gate.tests.passed} of {gate.tests.total} tests failed")
    if gate.build == "failure":
        found.append("safety_gate.build is failure")
    return found


def score(known: ScoreInputs) -> Confidence:
    """Return the confidence in a deployment: the score, the next step, the factors and the vetoes."""
    inputs = _inputs(known)
    factors = []
    for name, (weight, rule) in FACTORS.items():
        value, reason = rule(**inputs[name])
        factors.append(Factor(name=name, weight=weight, inputs=inputs[name], value=value, reason=reason))
    rated = [(factor.weight, factor.value) for factor in factors if factor.value is not None]
    total = round(100 * sum(weight * value for weight, value in rated) / sum(weight for weight, _ in rated), 1)
    forbidden = vetoes(known.plan)
    undecided = bool(known.verdicts) and known.verdicts[-1] != "HEALTHY"
    return Confidence(
        score=total, route=_route(total, forbidden, undecided), factors=tuple(factors), vetoes=tuple(forbidden)
    )


def _route(total: float, forbidden: Sequence[str], undecided: bool) -> NextStep:
    """Return the next step. If the last gate is not HEALTHY, a person decides at any score of at least ``ASK``."""
    if forbidden or total < ASK:
        return "refuse"
    return "go" if total >= GO_ALONE and not undecided else "ask"
