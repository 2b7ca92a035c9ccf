"""How far to trust a deployment, 0 to 100, from six weighted factors, and the vetoes that no score outvotes.

A factor is a number from 0 (no trust) to 1. What is not known (canary health before the canary, the history of a new
service, a coverage that the caller did not state) is left out, and the other weights are scaled up to 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from airflow_deploy.domain.config.criticality import CRITICALITY
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.values import Model

NextStep = Literal["go", "ask", "refuse"]

GO_ALONE = 80
ASK = 60


class PastDeployments(Model):
    """How earlier deployments of the service ended."""

    verified: int = 0
    undone: int = 0


Inputs = dict[str, bool | int | float | str | None]
"""What a factor is computed from, by name; None where the caller has not stated it."""


class Factor(Model):
    """One factor of a score: its rule makes ``value`` and ``reason`` of ``inputs`` alone.

    ``value`` is None where it is not known.
    """

    name: str
    weight: float
    inputs: Inputs
    value: float | None
    reason: str


class Confidence(Model):
    """A score with everything that led to it."""

    score: float
    route: NextStep
    factors: tuple[Factor, ...]
    vetoes: tuple[str, ...]


@dataclass(frozen=True)
class ScoreInputs:
    """What the factors are computed from."""

    plan: DeploymentPlan
    outcomes: PastDeployments
    verdicts: Sequence[str | None] = ()
    """How each gate ended, in their order; None where one has no verdict. Empty before the canary."""


FactorRating = tuple[float | None, str]


def _inputs(known: ScoreInputs) -> dict[str, Inputs]:
    gate, change, spec = known.plan.request.safety_gate, known.plan.request.change, known.plan.spec
    found = gate.vulnerabilities
    # Where nobody serves, nobody is taken from a version that does.
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
    """What is not stated lowers nothing, and the reason says so; no test at all is as bad as none that passes."""
    tests = passed / total if total else 0.0
    lint = 1 / (1 + (lint_issues or 0) / 20)
    safe = 1 / (1 + 2 * (critical or 0) + 0.5 * (high or 0))
    built = 0.0 if build == "failure" else 1.0
    reason = [
        f"{passed}/{total} tests",
        _stated("lint issues", lint_issues),
        _stated("critical vulnerabilities", critical),
        _stated("high ones", high),
        f"build {build or 'not stated'}",
    ]
    return tests * lint * safe * built, ", ".join(reason)


def _stated(what: str, count: int | None) -> str:
    return f"{what} not stated" if count is None else f"{count} {what}"


def _canary_health(gates: int, healthy: int, undecided: int) -> FactorRating:
    if gates == undecided:
        return None, f"none of {gates} gates has decided" if gates else "not known before the canary"
    left_out = f", {undecided} left it to a person" if undecided else ""
    return healthy / (gates - undecided), f"{healthy} of {gates} gates ended healthy{left_out}"


def _blast_radius(criticality: str, first_share: int) -> FactorRating:
    """The share that every service may begin with costs nothing."""
    modest = min(level.first_share for level in CRITICALITY.values())
    value = CRITICALITY[criticality].trust * (1 - max(0, first_share - modest) / 100)
    risks = f"first share {first_share} %" if first_share else "nobody is taken from a version that serves"
    return value, f"criticality {criticality}, {risks}"


def _history(verified: int, undone: int) -> FactorRating:
    ended = verified + undone
    if not ended:
        return None, "no earlier deployment of this service"
    return verified / ended, f"{verified} earlier deployments held, {undone} did not"


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
"""Weight and rule by factor; the weights sum to 1. A rule takes the factor's inputs by name."""


def vetoes(plan: DeploymentPlan) -> list[str]:
    """Return what forbids this deployment whatever its score is.

    A mutable tag is none of them, since there can be none: images are built here, and deployed by digest.
    """
    gate = plan.request.safety_gate
    found = []
    if gate.recommendation != "DEPLOY":
        found.append(f"safety_gate.recommendation is {gate.recommendation}, not DEPLOY")
    if gate.tests.passed < gate.tests.total:
        found.append(f"safety_gate.tests: {gate.tests.total - gate.tests.passed} of {gate.tests.total} tests fail")
    if gate.build == "failure":
        found.append("safety_gate.build is failure")
    return found


def score(known: ScoreInputs) -> Confidence:
    """Return the score, its route and its reasons."""
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
    """Return what follows; where the last gate could not decide, a person does, however high the score is."""
    if forbidden or total < ASK:
        return "refuse"
    return "go" if total >= GO_ALONE and not undecided else "ask"
