"""How far to trust a deployment, 0 to 100, from six weighted factors, and the vetoes that no score outvotes.

A factor is a number from 0 (no trust) to 1. What is not known (canary health before the canary, the history of a new
service, a coverage that the caller did not state) is left out, and the other weights are scaled up to 1.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.values import Model

Route = Literal["go", "ask", "refuse"]

GO_ALONE = 80
ASK = 60


class Outcomes(Model):
    """How earlier deployments of the service ended."""

    verified: int = 0
    undone: int = 0


class Factor(Model):
    """One factor of a score; ``value`` is None where it is not known."""

    name: str
    weight: float
    value: float | None
    reason: str


class Confidence(Model):
    """A score with everything that led to it."""

    score: float
    route: Route
    factors: tuple[Factor, ...]
    vetoes: tuple[str, ...]


@dataclass(frozen=True)
class Known:
    """What the factors are computed from."""

    plan: DeploymentPlan
    outcomes: Outcomes
    canary_health: float | None = None
    """Share of the gates that decided HEALTHY, 0 to 1; None where none has decided."""
    undecided: bool = False
    """Whether the last gate could not decide: then a person does, however high the score is."""


Judged = tuple[float | None, str]


def _safety_gates(known: Known) -> Judged:
    gate = known.plan.request.safety_gate
    tests = gate.tests.passed / gate.tests.total if gate.tests.total else 0.0
    lint = 1.0 if gate.lint_issues is None else 1 / (1 + gate.lint_issues / 20)
    found = gate.vulnerabilities
    safe = 1.0 if found is None else 1 / (1 + 2 * found.critical + 0.5 * found.high)
    built = 0.0 if gate.build == "failure" else 1.0
    reason = (
        f"{gate.tests.passed}/{gate.tests.total} tests, {gate.lint_issues or 0} lint issues, build {gate.build or '?'}"
    )
    return tests * lint * safe * built, reason


def _canary_health(known: Known) -> Judged:
    if known.canary_health is None:
        return None, "no gate has decided yet"
    return known.canary_health, f"{known.canary_health:.0%} of the gates that decided are healthy"


def _blast_radius(known: Known) -> Judged:
    spec = known.plan.spec
    base = {"low": 1.0, "medium": 0.9, "high": 0.7}[spec.criticality]
    first = spec.canary.stages[0]
    value = base * (1 - max(0, first - 10) / 100)
    return value, f"criticality {spec.criticality}, first share {first} %"


def _history(known: Known) -> Judged:
    ended = known.outcomes.verified + known.outcomes.undone
    if not ended:
        return None, "no earlier deployment of this service"
    return known.outcomes.verified / ended, f"{known.outcomes.verified} of {ended} earlier deployments held"


def _complexity(known: Known) -> Judged:
    change = known.plan.request.change
    value = 1 / (1 + change.lines / 400 + change.files / 40)
    kinds = [name for name in ("migrations", "dependencies", "configuration") if getattr(change, name)]
    value *= {"migrations": 0.6, "dependencies": 0.8}.get(kinds[0], 0.95) if kinds else 1.0
    return value, f"{change.files} files, {change.lines} lines" + (f", with {' and '.join(kinds)}" if kinds else "")


def _coverage(known: Known) -> Judged:
    coverage = known.plan.request.safety_gate.coverage
    if coverage is None:
        return None, "not stated"
    return coverage, f"{coverage:.0%} of lines"


FACTORS: dict[str, tuple[float, Callable[[Known], Judged]]] = {
    "safety_gates": (0.30, _safety_gates),
    "canary_health": (0.25, _canary_health),
    "blast_radius": (0.15, _blast_radius),
    "history": (0.10, _history),
    "complexity": (0.10, _complexity),
    "coverage": (0.10, _coverage),
}
"""Weight and rule by factor; the weights sum to 1."""


def vetoes(plan: DeploymentPlan) -> list[str]:
    """Return what forbids this deployment whatever its score is."""
    gate = plan.request.safety_gate
    found = []
    if gate.recommendation != "DEPLOY":
        found.append(f"safety_gate.recommendation is {gate.recommendation}, not DEPLOY")
    if gate.tests.passed < gate.tests.total:
        found.append(f"safety_gate.tests: {gate.tests.total - gate.tests.passed} of {gate.tests.total} tests fail")
    if gate.build == "failure":
        found.append("safety_gate.build is failure")
    return found


def score(known: Known) -> Confidence:
    """Return the score, its route and its reasons."""
    factors = []
    for name, (weight, rule) in FACTORS.items():
        value, reason = rule(known)
        factors.append(Factor(name=name, weight=weight, value=value, reason=reason))
    rated = [(factor.weight, factor.value) for factor in factors if factor.value is not None]
    total = round(100 * sum(weight * value for weight, value in rated) / sum(weight for weight, _ in rated), 1)
    forbidden = vetoes(known.plan)
    return Confidence(
        score=total, route=_route(total, forbidden, known.undecided), factors=tuple(factors), vetoes=tuple(forbidden)
    )


def _route(total: float, forbidden: Sequence[str], undecided: bool) -> Route:
    if forbidden or total < ASK:
        return "refuse"
    return "go" if total >= GO_ALONE and not undecided else "ask"
