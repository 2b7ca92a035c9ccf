"""One judge for the watch, the gates and the verification: it takes ticks in, and answers three questions.

- **Harm**: is the candidate worse than the stable over the same minutes? At 100 %, without a control: is it beyond the
  limit and well beyond what served before?
- **Sight**: does the route deliver the share that it declares?
- **Health**: may the next share be given? Even if the candidate is as bad as it may still be, it alone must not be able
  to use up the limit.

The answers depend on the ticks alone, so the evidence recomputes them offline.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan
from typing import Literal

from airflow_deploy.domain.gates import GATES, Gate
from airflow_deploy.domain.sequential import EProcess, Starts, log_threshold, lower_bound, upper_bound
from airflow_deploy.domain.telemetry import Counts, Tick

Verdict = Literal["HEALTHY", "BREACHED", "UNDECIDED", "BLIND"]

ALPHA = 0.01
"""Bound on the chance that a deployment that does no harm is ever called harmful by the counts."""
BETA = 0.05
"""Bound on the chance that a version is called healthy although its mean rate of bad requests is not."""
BEYOND_BASELINE = 3.0
"""Without a control, harm lies beyond the limit and beyond this many times the baseline."""
SUSTAINED = 30.0
"""Seconds for which a gauge must stay beyond its limit to be harm. This rule stands outside alpha."""
SETTLING_SCRAPES = 2
"""Scrapes after a shift that do not count towards the delivered share."""


@dataclass(frozen=True)
class Finding:
    """What one gate says at one look, with its numbers."""

    gate: str
    verdict: Verdict
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)


class Judge:
    """Judges one candidate.

    :param limits: every gate's limit, by name, as ``DeploymentSpec.gates`` holds them.
    :param candidate: the candidate's Service; ``stable``: the one that it is compared with.
    :param baseline: what the stable answered before the deployment.
    :param alpha: bound on the chance of a false alarm by the counts.
    """

    def __init__(
        self, limits: Mapping[str, float], candidate: str, stable: str, baseline: Counts, alpha: float = ALPHA
    ) -> None:
        self._threshold = float(log_threshold(alpha / sum(gate.counted for gate in GATES.values())))
        self._limits, self._candidate, self._stable, self._baseline = limits, candidate, stable, baseline
        self._counted = {name: gate for name, gate in GATES.items() if gate.counted}
        self._harm = {name: EProcess() for name in self._counted}
        self._starts = Starts()
        self._over: dict[str, tuple[float, float]] = {}
        self._gauges: dict[str, float | None] = {}
        self._stage_share: int | None = None
        self._stage_ticks = 0
        self._stage = Counts(), Counts()
        self.total = Counts()
        """Everything that the candidate answered so far."""
        self.control = Counts()
        """Everything that the stable answered meanwhile."""

    def observe(self, tick: Tick, share: int) -> None:
        """Take in one scrape; ``share`` is the candidate's declared share in % at that time."""
        mine, control = tick.counts.get(self._candidate, Counts()), tick.counts.get(self._stable, Counts())
        self.total, self.control = self.total + mine, self.control + control
        self._start_when_due(tick.at, share)
        self._stage_ticks += 1
        if self._stage_ticks > SETTLING_SCRAPES:
            self._stage = self._stage[0] + mine, self._stage[1] + control
        for name, gate in self._counted.items():
            bad, trials = gate.bad_and_trials(mine, self._limits[name])
            control_bad, control_trials = gate.bad_and_trials(control, self._limits[name])
            if share < 100:
                self._harm[name].compare(bad, trials, control_bad, control_trials)
            elif (edge := self._harm_edge(gate)) < 1:
                self._harm[name].against(bad, trials, edge)

    def _start_when_due(self, at: float, share: int) -> None:
        if share != self._stage_share:
            self._stage_share, self._stage_ticks, self._stage = share, 0, (Counts(), Counts())
        weight = self._starts.at(at, share)
        for process in self._harm.values():
            process.start(weight)

    def _harm_edge(self, gate: Gate) -> float:
        """The rate beyond which a version without a control does harm."""
        allowed = gate.allowed(self._limits[gate.name])
        bad, trials = gate.bad_and_trials(self._baseline, self._limits[gate.name])
        baseline = bad / trials if trials else 0.0
        # A baseline that is itself beyond the limit is the incident: it says nothing about what is acceptable.
        return allowed if baseline > allowed else max(allowed, BEYOND_BASELINE * baseline)

    def gauge(self, name: str, at: float, value: float | None) -> None:
        """Take in a gauge's value at ``at``; None, or not a number, where there is none."""
        if value is not None and isnan(value):
            value = None
        self._gauges[name] = value
        if value is None or value <= self._limits[name]:
            self._over.pop(name, None)
        else:
            since, last = self._over.get(name, (at, at))
            # Nobody knows what it was while nobody looked: begin anew.
            self._over[name] = (since if at - last <= SUSTAINED else at), at

    def harm(self) -> list[Finding]:
        """Return the gates that say BREACHED, the worst evidence first."""
        found = []
        for name, gate in self._counted.items():
            log_e = float(self._harm[name].log_e)
            if log_e >= self._threshold:
                found.append((log_e, self._harm_finding(gate, log_e)))
        for name, (since, last) in self._over.items():
            if last - since >= SUSTAINED:
                reason = f"{name} has been beyond {self._limits[name]:g} for {last - since:.0f} s"
                found.append((0.0, Finding(name, "BREACHED", reason, {"value": self._gauges[name] or 0.0})))
        return [finding for _, finding in sorted(found, key=lambda pair: -pair[0])]

    def _harm_finding(self, gate: Gate, log_e: float) -> Finding:
        limit = self._limits[gate.name]
        than = "its limit" if self._stage_share == 100 else "the stable"
        bad, trials = gate.bad_and_trials(self.total, limit)
        control_bad, control_trials = gate.bad_and_trials(self.control, limit)
        what = "failed" if gate.kind == "errors" else f"slower than {limit:g} s"
        reason = (
            f"{gate.name}: worse than {than}, {bad:.0f} of {trials:.0f} requests {what}"
            f" against {control_bad:.0f} of {control_trials:.0f} (log evidence {log_e:.1f})"
        )
        numbers = {"bad": bad, "trials": trials, "control_bad": control_bad, "control_trials": control_trials}
        return Finding(gate.name, "BREACHED", reason, {**numbers, "log_e": log_e})

    def traffic(self) -> Finding:
        """Say whether the route delivers the declared share: BLIND where it does not."""
        factor = self._limits["request_rate"]
        mine, control = self._stage[0].requests, self._stage[1].requests
        total, declared = mine + control, (self._stage_share or 0) / 100
        numbers = {"requests": mine, "of": total, "declared": declared}
        if not mine:
            least, most = 0.0, float(upper_bound(0, total, BETA))
        else:
            least, most = float(lower_bound(mine, total, BETA)), float(upper_bound(mine, total, BETA))
        seen = f"{mine:.0f} of {total:.0f} requests reached the candidate at a declared {declared:.0%}"
        if most < declared / factor or least > min(1.0, declared * factor):
            return Finding("request_rate", "BLIND", f"request_rate: {seen}", numbers)
        return Finding("request_rate", "HEALTHY" if mine else "UNDECIDED", f"request_rate: {seen}", numbers)

    def health(self, next_share: int) -> list[Finding]:
        """Say for each gate whether ``next_share`` % may be given: HEALTHY or UNDECIDED (traffic: BLIND too)."""
        found = [self._health_of(gate, next_share) for gate in self._counted.values()]
        for name in (name for name, gate in GATES.items() if gate.kind == "gauge"):
            value, limit = self._gauges.get(name), self._limits[name]
            healthy = value is not None and value <= limit
            shown = "not seen yet" if value is None else f"{value:.2f}"
            numbers = {} if value is None else {"value": value}
            reason = f"{name}: {shown}, limit {limit:g}"
            found.append(Finding(name, "HEALTHY" if healthy else "UNDECIDED", reason, numbers))
        return [*found, self.traffic()]

    def _health_of(self, gate: Gate, next_share: int) -> Finding:
        limit = self._limits[gate.name]
        allowed = gate.allowed(limit)
        bad, trials = gate.bad_and_trials(self.total, limit)
        bound = float(upper_bound(bad, trials, BETA))
        healthy = bound * next_share / 100 <= allowed
        reason = (
            f"{gate.name}: {bad:.0f} of {trials:.0f} bad, at most {bound:.2%};"
            f" {next_share} % of traffic may cost {bound * next_share / 100:.2%} of {allowed:.2%}"
        )
        numbers = {"bad": bad, "trials": trials, "bound": bound, "allowed": allowed, "next_share": float(next_share)}
        return Finding(gate.name, "HEALTHY" if healthy else "UNDECIDED", reason, numbers)


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
    traffic = judge.traffic()
    if traffic.verdict == "BLIND":
        return "BLIND", [traffic]
    if next_share is None:
        return "HEALTHY", [traffic]
    findings = judge.health(next_share)
    return ("HEALTHY" if all(f.verdict == "HEALTHY" for f in findings) else "UNDECIDED"), findings
