"""The judge behind the watch, the gates and the verification. It takes in observations and answers three questions.

- **Harm**: is the candidate worse than the stable over the same minutes? At 100 %, without a stable beside it: is it
  beyond the limit and well beyond the baseline? Have its pods died?
- **Sight**: does the route deliver the share that it declares, and do the counts agree with each other?
- **Health**: may the candidate get the next share? It may if, even at the upper bound of its bad rate, it cannot use up
  the service's limit by itself.

The answers depend on the observations alone, so the evidence is enough to recompute them offline.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from airflow_deploy.domain.analysis.baseline import Baseline
from airflow_deploy.domain.analysis.count_tests import CountedTests
from airflow_deploy.domain.analysis.gauges import SUSTAINED_SECONDS, GaugeWatch
from airflow_deploy.domain.analysis.incident import IncidentWatch
from airflow_deploy.domain.analysis.ready_pods import PodWatch
from airflow_deploy.domain.analysis.sequential import Array
from airflow_deploy.domain.analysis.traffic_share import TrafficShareMonitor
from airflow_deploy.domain.analysis.verdict import Finding, Verdict
from airflow_deploy.domain.config.gates import MAX_UNREADY, Gate, GateKind, gate_table
from airflow_deploy.domain.config.request import ResolvedWhen
from airflow_deploy.domain.metrics.counters import Counts, Tick

ALGORITHM = 3
"""Version of the algorithm. Raise it if the same observations may lead to another verdict or another reason."""
ALPHA = 0.01
"""Bound on the chance of a false alarm by counts, for one deployment that does no harm."""
MISSING_REQUESTS_ALLOWED = 20.0
"""Requests that one counter may lack although another has them, since scrapes are not taken at one instant."""


@dataclass(frozen=True)
class Terms:
    """The terms of one analysis.

    :param limits: every gate's limit, by name.
    :param candidate: the candidate's Service.
    :param stable: the Service that the candidate is compared with; empty for a first version, which has all traffic.
    :param kinds: how each of the team's own gates is judged, by name.
    :param alpha: bound on the chance of a false alarm by counts.
    :param warm_up: seconds after the candidate's first request in which it may be slow and busy.
    :param sustained: seconds for which a gauge must be beyond its limit to be harm.
    :param resolved_when: when the incident is resolved; None if that is not to be checked.
    :param relapse_after: seconds for which the incident must be back to be harm; None if that is not to be checked.
    :param max_unready: share of the candidate's pods that may be unready, 0 to 1.
    :param apart: whether the two versions are scraped at different times, so that an outage shows in the counts of one
        of them a scrape earlier.
    """

    limits: Mapping[str, float]
    candidate: str
    stable: str
    baseline: Baseline = field(default_factory=Baseline)
    kinds: Mapping[str, GateKind] = field(default_factory=dict)
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
        """Return the terms that ``dump()`` wrote."""
        condition = data["resolved_when"] and ResolvedWhen.load(data["resolved_when"])
        return cls(**{**data, "baseline": Baseline.load(data["baseline"]), "resolved_when": condition})


class Judge:
    """Judges one candidate. Times are unix seconds, shares are in %."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        gates = gate_table(terms.kinds).values()
        self._counted = [gate for gate in gates if gate.counted]
        size = len(self._counted)
        bad, trials = self._bad_and_trials(terms.baseline.counts)
        self._allowed = np.array([gate.allowed(terms.limits[gate.name]) for gate in self._counted])
        self._dispersion = np.array([terms.baseline.dispersion.get(gate.name, 1.0) for gate in self._counted])
        self._tests = CountedTests(self._allowed, bad / np.maximum(trials, 1), self._dispersion, terms.alpha / size)
        self._warms_up = np.array([gate.warms_up for gate in self._counted])
        # Bad requests and requests by counted gate, without those of the warm-up.
        self._candidate_counted, self._stable_counted = np.zeros((2, size)), np.zeros((2, size))
        self._last_scrapes: deque[tuple[float, float, Array, Array, bool]] = deque(maxlen=3)
        self._gauges = {
            gate.name: GaugeWatch(
                gate.name, terms.limits[gate.name], projects=gate.name == "memory", sustained=terms.sustained
            )
            for gate in gates
            if gate.kind == "gauge"
        }
        self._gauges_that_warm_up = {gate.name for gate in gates if gate.kind == "gauge" and gate.warms_up}
        self._traffic_share = TrafficShareMonitor(terms.limits["request_rate"], terms.baseline.quietest)
        self._incident = IncidentWatch(terms.resolved_when, terms.relapse_after)
        self._pods = PodWatch(terms.candidate, terms.max_unready)
        self._share = 0.0
        self._mirrored = False
        self._began: float | None = None
        self._first_request_at: float | None = None
        self._at = 0.0
        self.candidate_counts = Counts()
        """What the candidate has answered so far."""
        self.stable_counts = Counts()
        """What the stable has answered meanwhile."""

    def _bad_and_trials(self, counts: Counts) -> Array:
        """Return bad requests and requests of each counted gate, of shape ``(2, gates)``."""
        return np.array([gate.bad_and_trials(counts, self._terms.limits[gate.name]) for gate in self._counted]).T

    def observe(self, tick: Tick, share: float, *, mirrored: bool = False) -> None:
        """Take in one scrape.

        :param share: the candidate's declared share, in %, of the requests that are counted at that time.
        :param mirrored: whether the candidate's requests are copies.
        """
        candidate, stable = (tick.counts.get(name, Counts()) for name in (self._terms.candidate, self._terms.stable))
        self.candidate_counts, self.stable_counts = self.candidate_counts + candidate, self.stable_counts + stable
        if self._first_request_at is None and candidate.requests:
            self._first_request_at = tick.at
        warm = self._first_request_at is not None and tick.at >= self._first_request_at + self._terms.warm_up
        judged = np.logical_or(warm, ~self._warms_up)
        candidate_now, stable_now = self._bad_and_trials(candidate) * judged, self._bad_and_trials(stable) * judged
        self._candidate_counted = self._candidate_counted + candidate_now
        self._stable_counted = self._stable_counted + stable_now
        if self._terms.apart:
            self._compare_apart(tick.at, share, candidate_now, stable_now, mirrored=mirrored)
        else:
            self._tests.observe(tick.at, share, candidate_now, stable_now, mirrored=mirrored)
        self._traffic_share.observe(tick.at, candidate.requests, stable.requests, share, mirrored=mirrored)
        for name, value in tick.gauges.items():
            self.observe_gauge(name, tick.at, None if name in self._gauges_that_warm_up and not warm else value)
        if self._began is None or (self._mirrored and not mirrored):
            self._began = tick.at
        self._share, self._mirrored, self._at = share, mirrored, tick.at

    def _compare_apart(self, at: float, share: float, candidate: Array, stable: Array, *, mirrored: bool) -> None:
        """Compare the scrape before this one, with the stable's largest bad count in it and the scrapes beside it.

        In an outage of both versions, the version that is scraped first shows it first, and would seem to be the worse
        one. The stable's samples of these three scrapes cover all that the candidate's sample covers.
        """
        self._last_scrapes.append((at, share, candidate, stable, mirrored))
        if len(self._last_scrapes) > 1:
            at, share, candidate, stable, mirrored = self._last_scrapes[-2]
            worst = np.max([stable_then[0] for _, _, _, stable_then, _ in self._last_scrapes], axis=0)
            worst_stable = np.array([np.minimum(worst, stable[1]), stable[1]])
            self._tests.observe(at, share, candidate, worst_stable, mirrored=mirrored)

    def observe_gauge(self, name: str, at: float, value: float | None) -> None:
        """Take in the value of gate ``name``'s gauge at ``at``; None or NaN if there is none."""
        self._gauges[name].observe(at, value)

    def observe_incident(self, at: float, value: float | None) -> None:
        """Take in the value of the incident's query at ``at``; None if it returned none or could not be evaluated."""
        self._incident.observe(at, value)

    def observe_pods(self, at: float, ready: int, needed: int) -> bool:
        """Take in how many of the ``needed`` pods are ready at ``at``; return whether that can change a verdict."""
        return self._pods.observe(at, ready, needed)

    def harm(self) -> list[Finding]:
        """Return the BREACHED findings, those by counts first, with the strongest evidence in front."""
        evidence, harmful = self._tests.peak, self._tests.harmful()
        worst_first = (index for index in np.argsort(-evidence, kind="stable") if harmful[index])
        by_count = [self._harm_finding(index, float(evidence[index])) for index in worst_first]
        others = [
            *(watch.harm() for watch in self._gauges.values()),
            self._traffic_share.traffic_lost(),
            self._incident.relapse(),
        ]
        return [*by_count, *(finding for finding in [self._pods.harm(), *others] if finding)]

    def _harm_finding(self, index: int, log_e: float) -> Finding:
        gate = self._counted[index]
        bad, trials = map(float, self._candidate_counted[:, index])
        stable_bad, stable_trials = map(float, self._stable_counted[:, index])
        events = _bad_events(gate, self._terms.limits[gate.name])
        stable = f"stable {stable_bad:,.0f} of {stable_trials:,.0f}"
        compared_with = stable if self._share < 100 else f"limit {float(self._allowed[index]):.2%}"
        reason = f"{gate.name}: {bad:,.0f} of {trials:,.0f} {events} ({compared_with})"
        numbers = {"bad": bad, "trials": trials, "control_bad": stable_bad, "control_trials": stable_trials}
        return Finding(gate.name, "BREACHED", reason, {**numbers, "log_e": log_e, "threshold": self._tests.threshold})

    def traffic(self) -> Finding:
        """Return whether the route delivers the declared share: HEALTHY, UNDECIDED or BLIND."""
        return self._traffic_share.share()

    def sight(self) -> list[Finding]:
        """Return the BLIND findings: why the counts cannot be trusted."""
        found = [self.traffic(), *self._contradictions()]
        return [finding for finding in found if finding.verdict == "BLIND"]

    def _contradictions(self) -> list[Finding]:
        """Return a BLIND finding for each gate whose counters lack requests that the gateway counted."""
        found = []
        requests = self.candidate_counts.requests
        for gate in self._counted:
            _, trials = gate.bad_and_trials(self.candidate_counts, self._terms.limits[gate.name])
            expected = requests if gate.kind == "latency" else min(1.0, requests)
            if requests > MISSING_REQUESTS_ALLOWED and trials < expected / 2:
                reason = f"{gate.name}: its counters have {trials:,.0f} of the candidate's {requests:,.0f} requests"
                found.append(Finding(gate.name, "BLIND", reason, {"trials": trials, "requests": requests}))
        return found

    def health(self, next_share: int) -> list[Finding]:
        """Return for each gate whether the candidate may get ``next_share`` %: HEALTHY or UNDECIDED.

        The gate ``request_rate`` may be BLIND too. The incident's condition is one more finding, if there is one.
        """
        by_count = self._health_by_count(next_share)
        gauges = [watch.health() for watch in self._gauges.values()]
        return [*by_count, *gauges, self.traffic(), *self._incident.resolved()]

    def _health_by_count(self, next_share: int) -> list[Finding]:
        bad, trials = self._tests.health_counts
        bounds, suspected, healthy = self._tests.bound, self._tests.suspected, self._tests.healthy(next_share)
        seconds = max(1.0, self._at - (self._began or 0.0))
        found = []
        for index, gate in enumerate(self._counted):
            bound, allowed = float(bounds[index]), float(self._allowed[index])
            reason = (
                f"{gate.name}: {bad[index]:,.0f} of {trials[index]:,.0f}"
                f" {_bad_events(gate, self._terms.limits[gate.name])}, so at most {bound:.2%};"
                f" at {next_share} % of traffic {bound * next_share / 100:.2%} of all (limit {allowed:.2%})"
            )
            numbers = {
                "bad": bad[index],
                "trials": trials[index],
                "control_bad": self._stable_counted[0, index],
                "control_trials": self._stable_counted[1, index],
                "bound": bound,
                "allowed": allowed,
                "next_share": next_share,
                "dispersion": self._dispersion[index],
                "per_second": trials[index] / seconds,
            }
            if suspected[index]:
                reason += "; it may be worse than the stable, so the share stays until that evidence fades"
            found.append(Finding(gate.name, "HEALTHY" if healthy[index] else "UNDECIDED", reason, numbers))
        return found


def _bad_events(gate: Gate, limit: float) -> str:
    if gate.kind == "latency":
        return f"requests took longer than {limit:g} s"
    return "requests failed" if gate.kind == "errors" else "events were bad"


def evaluate(judge: Judge, blind: str | None, next_share: int | None) -> tuple[Verdict, list[Finding]]:
    """Return the verdict of one look and the findings behind it. Watch, gates and verification all use this function.

    Harm comes first: evidence that was seen stays true if the metrics are lost later.

    :param blind: why the metrics cannot be trusted now; None if they can.
    :param next_share: the share in % that the candidate would get next; None if only harm and sight are in question.
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
