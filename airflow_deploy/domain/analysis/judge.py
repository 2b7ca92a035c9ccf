"""The one judge behind the watch, the gates and the verification: it takes ticks in, and answers three questions.

- **Harm**: is the candidate worse than the stable over the same minutes? At 100 %, without a control: is it beyond the
  limit and well beyond what served before? Have its pods died?
- **Sight**: does the route deliver the share that it declares, and do the counts agree with each other?
- **Health**: may the next share be given? Even if the candidate is as bad as it may still be, it alone must not be able
  to use up the limit.

The answers depend on what it was told alone, so the evidence recomputes them offline.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.analysis.count_tests import CountedTests
from airflow_deploy.domain.analysis.delivery import Delivery
from airflow_deploy.domain.analysis.gauges import SUSTAINED_SECONDS, GaugeWatch
from airflow_deploy.domain.analysis.incident import IncidentWatch
from airflow_deploy.domain.analysis.pods import PodWatch
from airflow_deploy.domain.analysis.sequential import Array
from airflow_deploy.domain.analysis.verdict import Finding, Verdict
from airflow_deploy.domain.config.gates import MAX_UNREADY, Gate, Kind, gate_table
from airflow_deploy.domain.config.request import ResolvedWhen
from airflow_deploy.domain.metrics.counters import Counts, Tick

ALGORITHM = 2
"""Raised whenever the same evidence may lead to another verdict."""
ALPHA = 0.01
"""Bound on the chance that a deployment that does no harm is ever called harmful by the counts."""
MISSING_REQUESTS_ALLOWED = 20.0
"""Requests that may be missing from one counter while another has them: scrapes are not taken at one instant."""


@dataclass(frozen=True)
class Terms:
    """What a judge is told before it begins.

    :param limits: every gate's limit, by name; ``kinds``: how each of the team's own is judged.
    :param candidate: the candidate's Service; ``stable``: the one that it is compared with, empty where it is
        the service's first, and has all traffic.
    :param alpha: bound on the chance of a false alarm by the counts.
    :param warm_up: seconds after the candidate's first request in which it may be slow and busy.
    :param sustained: seconds for which a gauge must be beyond its limit.
    :param resolved_when: the incident's end, where that is asked for too.
    :param relapse_after: seconds for which an incident must be seen to be back to be harm; None where it is none.
    :param max_unready: share of the candidate's pods that may be unready.
    :param apart: whether the versions are scraped apart, so that of one moment one may tell a scrape before the other.
    """

    limits: Mapping[str, float]
    candidate: str
    stable: str
    baseline: Baseline = field(default_factory=Baseline)
    kinds: Mapping[str, Kind] = field(default_factory=dict)
    alpha: float = ALPHA
    warm_up: float = 0.0
    sustained: float = SUSTAINED_SECONDS
    resolved_when: ResolvedWhen | None = None
    relapse_after: float | None = None
    max_unready: float = MAX_UNREADY
    apart: bool = False

    def dump(self) -> dict[str, Any]:
        """Return plain JSON."""
        condition = self.resolved_when and self.resolved_when.dump()
        plain = {**vars(self), "limits": dict(self.limits), "kinds": dict(self.kinds)}
        return {**plain, "baseline": self.baseline.dump(), "resolved_when": condition}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Terms":
        """Return what ``dump()`` wrote."""
        condition = data["resolved_when"] and ResolvedWhen.load(data["resolved_when"])
        return cls(**{**data, "baseline": Baseline.load(data["baseline"]), "resolved_when": condition})


class Judge:
    """Judges one candidate."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        gates = gate_table(terms.kinds).values()
        self._counted = [gate for gate in gates if gate.counted]
        size = len(self._counted)
        bad, trials = self._numbers(terms.baseline.counts)
        self._allowed = np.array([gate.allowed(terms.limits[gate.name]) for gate in self._counted])
        self._dispersion = np.array([terms.baseline.dispersion.get(gate.name, 1.0) for gate in self._counted])
        self._tests = CountedTests(self._allowed, bad / np.maximum(trials, 1), self._dispersion, terms.alpha / size)
        self._warms_up = np.array([gate.warms_up for gate in self._counted])
        self._mine, self._others = np.zeros((2, size)), np.zeros((2, size))
        self._near: deque[tuple[float, float, Array, Array, bool]] = deque(maxlen=3)
        self._gauges = {
            gate.name: GaugeWatch(
                gate.name, terms.limits[gate.name], projects=gate.name == "memory", sustained=terms.sustained
            )
            for gate in gates
            if gate.kind == "gauge"
        }
        self._forgiven = {gate.name for gate in gates if gate.kind == "gauge" and gate.warms_up}
        self._delivery = Delivery(terms.limits["request_rate"], terms.baseline.quietest)
        self._incident = IncidentWatch(terms.resolved_when, terms.relapse_after)
        self._pods = PodWatch(terms.candidate, terms.max_unready)
        self._share = 0.0
        self._mirrored = False
        self._began: float | None = None
        self._exposed_at: float | None = None
        self._at = 0.0
        self.total = Counts()
        """Everything that the candidate answered so far."""
        self.control = Counts()
        """Everything that the stable answered meanwhile."""

    def _numbers(self, counts: Counts) -> Array:
        """Return bad requests and requests of each counted gate."""
        return np.array([gate.bad_and_trials(counts, self._terms.limits[gate.name]) for gate in self._counted]).T

    def observe(self, tick: Tick, share: float, *, mirrored: bool = False) -> None:
        """Take in one scrape.

        :param share: the candidate's declared share in % of the requests that are counted at that time.
        :param mirrored: whether they are copies.
        """
        mine, control = (tick.counts.get(name, Counts()) for name in (self._terms.candidate, self._terms.stable))
        self.total, self.control = self.total + mine, self.control + control
        if self._exposed_at is None and mine.requests:
            self._exposed_at = tick.at
        warm = self._exposed_at is not None and tick.at >= self._exposed_at + self._terms.warm_up
        counted = np.logical_or(warm, ~self._warms_up)
        ours, theirs = self._numbers(mine) * counted, self._numbers(control) * counted
        self._mine, self._others = self._mine + ours, self._others + theirs
        if self._terms.apart:
            self._compare_apart(tick.at, share, ours, theirs, mirrored=mirrored)
        else:
            self._tests.observe(tick.at, share, ours, theirs, mirrored=mirrored)
        self._delivery.observe(tick.at, mine.requests, control.requests, share, mirrored=mirrored)
        for name, value in tick.gauges.items():
            self.gauge(name, tick.at, None if name in self._forgiven and not warm else value)
        if self._began is None or (self._mirrored and not mirrored):
            self._began = tick.at
        self._share, self._mirrored, self._at = share, mirrored, tick.at

    def _compare_apart(self, at: float, share: float, ours: Array, theirs: Array, *, mirrored: bool) -> None:
        """Compare the tick before this one: with the most that the stable has got wrong in it, just before and after.

        Where both suffer an outage, the one that is scraped first tells of it first, and would seem to be the worse.
        Whatever a sample of the candidate's covers, the stable's samples of these three ticks cover too.
        """
        self._near.append((at, share, ours, theirs, mirrored))
        if len(self._near) > 1:
            at, share, ours, theirs, mirrored = self._near[-2]
            worst = np.max([near[3][0] for near in self._near], axis=0)
            suffered = np.array([np.minimum(worst, theirs[1]), theirs[1]])
            self._tests.observe(at, share, ours, suffered, mirrored=mirrored)

    def gauge(self, name: str, at: float, value: float | None) -> None:
        """Take in a gauge's value at ``at``; None, or not a number, where there is none."""
        self._gauges[name].see(at, value)

    def answer(self, at: float, value: float | None) -> None:
        """Take in what the incident's query yielded; None where it yielded nothing, or could not be asked."""
        self._incident.answer(at, value)

    def pods(self, at: float, ready: int, needed: int) -> bool:
        """Take in how many of the ``needed`` pods are ready; return whether that changes anything."""
        return self._pods.see(at, ready, needed)

    def harm(self) -> list[Finding]:
        """Return the gates that say BREACHED, the worst evidence first."""
        evidence, harmful = self._tests.peak, self._tests.harmful()
        worst = (index for index in np.argsort(-evidence, kind="stable") if harmful[index])
        by_count = [self._harm_finding(index, float(evidence[index])) for index in worst]
        others = [
            *(watch.harm() for watch in self._gauges.values()),
            self._delivery.traffic_lost(),
            self._incident.relapse(),
        ]
        return [*by_count, *(finding for finding in [self._pods.harm(), *others] if finding)]

    def _harm_finding(self, index: int, log_e: float) -> Finding:
        gate = self._counted[index]
        bad, trials, control_bad, control_trials = map(float, [*self._mine[:, index], *self._others[:, index]])
        than = "the stable" if self._share < 100 else "its limit"
        reason = (
            f"{gate.name}: worse than {than}, {bad:.0f} of {trials:.0f} {_events(gate, self._terms.limits[gate.name])}"
            f" against {control_bad:.0f} of {control_trials:.0f} (log evidence {log_e:.1f})"
        )
        numbers = {"bad": bad, "trials": trials, "control_bad": control_bad, "control_trials": control_trials}
        return Finding(gate.name, "BREACHED", reason, {**numbers, "log_e": log_e, "threshold": self._tests.threshold})

    def traffic(self) -> Finding:
        """Say whether the route delivers the declared share: BLIND where it does not."""
        return self._delivery.share()

    def sight(self) -> list[Finding]:
        """Return what makes the counts unworthy of trust, as BLIND findings."""
        found = [self.traffic(), *self._contradictions()]
        return [finding for finding in found if finding.verdict == "BLIND"]

    def _contradictions(self) -> list[Finding]:
        """Return where one counter has missed what the gateway's has seen."""
        found = []
        for gate in self._counted:
            _, trials = gate.bad_and_trials(self.total, self._terms.limits[gate.name])
            wanted = self.total.requests if gate.kind == "latency" else min(1.0, self.total.requests)
            if self.total.requests > MISSING_REQUESTS_ALLOWED and trials < wanted / 2:
                reason = (
                    f"{gate.name}: its counters have {trials:.0f} of the gateway's {self.total.requests:.0f} requests"
                )
                found.append(Finding(gate.name, "BLIND", reason, {"trials": trials, "requests": self.total.requests}))
        return found

    def health(self, next_share: int) -> list[Finding]:
        """Say for each gate whether ``next_share`` % may be given: HEALTHY or UNDECIDED (traffic: BLIND too)."""
        counted = self._health_of_counts(next_share)
        gauges = [watch.health() for watch in self._gauges.values()]
        return [*counted, *gauges, self.traffic(), *self._incident.ended()]

    def _health_of_counts(self, next_share: int) -> list[Finding]:
        bad, trials = self._tests.eligible_counts
        bounds, suspected, healthy = self._tests.bound, self._tests.suspected, self._tests.healthy(next_share)
        seconds = max(1.0, self._at - (self._began or 0.0))
        found = []
        for index, gate in enumerate(self._counted):
            bound, allowed = float(bounds[index]), float(self._allowed[index])
            reason = (
                f"{gate.name}: {bad[index]:.0f} of {trials[index]:.0f} bad, at most {bound:.2%};"
                f" {next_share} % of traffic may cost {bound * next_share / 100:.2%} of {allowed:.2%}"
            )
            numbers = {
                "bad": bad[index],
                "trials": trials[index],
                "control_bad": self._others[0, index],
                "control_trials": self._others[1, index],
                "bound": bound,
                "allowed": allowed,
                "next_share": next_share,
                "dispersion": self._dispersion[index],
                "per_second": trials[index] / seconds,
            }
            if suspected[index]:
                reason += "; it may be worse than the stable: the share stays until that evidence has faded"
            found.append(Finding(gate.name, "HEALTHY" if healthy[index] else "UNDECIDED", reason, numbers))
        return found


def _events(gate: Gate, limit: float) -> str:
    return {"errors": "requests failed", "latency": f"requests slower than {limit:g} s"}.get(
        gate.kind, "events are bad"
    )


def evaluate(judge: Judge, blind: str | None, next_share: int | None) -> tuple[Verdict, list[Finding]]:
    """Return the verdict of one look and the findings behind it. Watch, gates and verification all ask this.

    Harm comes first: evidence that has been seen stays true when sight is lost.

    :param blind: why the metrics cannot be trusted just now; None when they can.
    :param next_share: the share in % that would be given next; None where only harm and sight are asked for.
    """
    if harmful := judge.harm():
        return "BREACHED", harmful
    if blind:
        return "BLIND", [Finding("sight", "BLIND", blind)]
    if unsighted := judge.sight():
        return "BLIND", unsighted
    if next_share is None:
        return "HEALTHY", [judge.traffic()]
    findings = judge.health(next_share)
    return ("HEALTHY" if all(f.verdict == "HEALTHY" for f in findings) else "UNDECIDED"), findings
