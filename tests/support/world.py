"""What an analysis loop sees: a clock that a test moves, Prometheus with a story, and the API server of tests."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from math import ceil, inf
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.errors import DeployError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.counters import CounterReader, Series
from airflow_deploy.domain.metrics.sources import SOURCES
from airflow_deploy.rollout import rollback
from airflow_deploy.rollout.analysis import loop as looks
from airflow_deploy.rollout.analysis.loop import AnalysisLoop, Assignment, Role
from airflow_deploy.rollout.analysis.observer import Observation, Observer
from airflow_deploy.tasks import triggers
from tests.support.cluster import lead_to
from tests.support.judgement import GOOD_BASELINE, SCRAPE, START
from tests.support.series import label
from tests.support.service_cluster import ServiceCluster

TRAEFIK = SOURCES["traefik"]
PER_SCRAPE = 200
BEFORE = 60
"""Seconds of the stable's history before the first shift."""


@dataclass(frozen=True)
class Stage:
    """From ``at`` seconds after START on, the candidate has ``share`` % and answers ``errors`` of it with 503."""

    at: float
    share: int
    errors: float = 0.0


class Clock:
    """The one clock; sleeping moves it."""

    def __init__(self) -> None:
        self.now = START

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class FakeObserver:
    """Stands for ``Observer``: both versions' counters as a story has them, scraped every five seconds."""

    def __init__(self, plan: DeploymentPlan, clock: Clock, story: Sequence[Stage], until: float) -> None:
        self.plan, self.clock = plan, clock
        self.series = self._counters(story, until)
        self.away: list[tuple[float, float]] = []
        """Spans of seconds after START in which Prometheus does not answer."""
        self.error: DeployError = TemporaryError("Prometheus does not answer")
        self.frozen_at: float | None = None
        """Seconds after START at which the last scrape was."""
        self.gauge_at: Callable[[float], float | None] = lambda _: 0.3
        """What the gauges show, by seconds after START."""
        self.answer: float | Exception | None = None
        self.asked: list[tuple[float, float]] = []
        """From when to when counters were asked for, in seconds after START."""

    @property
    def queries(self) -> Mapping[str, str]:
        return {"counters": "up"}

    def reader(self, newborn: bool = True) -> CounterReader:
        plan = self.plan
        new = plan.candidate if newborn else None
        return CounterReader(TRAEFIK, plan.spec.namespace, plan.spec.route.name, plan.versions, newborn=new)

    def ask(self, seconds: int, until: float | None = None, step: int = 1) -> Observation:
        end = self.clock.now if until is None else until
        self.asked.append((end - seconds - START, end - START))
        if any(begin <= self.clock.now - START < end for begin, end in self.away):
            raise self.error
        last = self.clock.now if self.frozen_at is None else START + self.frozen_at
        found = [Series(item.labels, _between(item.samples, end - seconds, min(end, last))) for item in self.series]
        steps = range(ceil((end - seconds) / step) * step, int(end) + 1, step)  # aligned, as Prometheus has them
        return Observation([item for item in found if item.samples], [], self._gauges(steps))

    def _gauges(self, steps: range) -> dict[str, list[tuple[float, float]]]:
        shown = ((float(at), self.gauge_at(at - START)) for at in steps)
        seen = [(at, value) for at, value in shown if value is not None]
        return {"cpu_saturation": seen, "memory": seen}

    def number(self, query: str, at: float | None = None) -> float | None:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def _counters(self, story: Sequence[Stage], until: float) -> list[Series]:
        plan = self.plan
        totals: dict[tuple[str, str], float] = {}
        samples: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for number in range(int((until + BEFORE) / SCRAPE) + 1):
            after = number * SCRAPE - BEFORE
            stage = [stage for stage in story if stage.at < after][-1:] or [Stage(0, 0)]
            mine = PER_SCRAPE * stage[0].share // 100
            failed = round(mine * stage[0].errors)
            others = {(plan.stable, "200"): PER_SCRAPE - mine} if plan.stable else {}
            shares = {**others, (plan.candidate, "200"): mine - failed}
            for key, count in {**shares, (plan.candidate, "503"): failed}.items():
                totals[key] = totals.get(key, 0.0) + count
                if totals[key]:
                    samples.setdefault(key, []).append((START + after, totals[key]))
        return [item for key, found in samples.items() for item in self._families(*key, found)]

    def _families(self, service: str, code: str, samples: list[tuple[float, float]]) -> list[Series]:
        plan, duration = self.plan, TRAEFIK.duration
        names: list[tuple[str, dict[str, str]]] = [(TRAEFIK.requests, {}), (f"{duration}_count", {})]
        names += [(f"{duration}_bucket", {"le": f"{edge}"}) for edge in sorted(set(plan.spec.latency_limits.values()))]
        backend = label(service, namespace=plan.spec.namespace, route=plan.spec.route.name)
        common = {"service": backend, "instance": "gateway-0", "code": code}
        return [Series({"__name__": name, **common, **more}, samples) for name, more in names]


def _between(samples: Sequence[tuple[float, float]], after: float, until: float) -> Sequence[tuple[float, float]]:
    return samples[bisect_right(samples, (after, inf)) : bisect_right(samples, (until, inf))]


class World:
    """One deployment and what its loops see. Times are seconds after START."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        plan: DeploymentPlan,
        *story: Stage,
        until: float = 900,
        promoted: bool = False,
        kind: type[ServiceCluster] = ServiceCluster,
    ) -> None:
        self.plan, self.clock = plan, Clock()
        first = story[0] if story else Stage(0, 25)
        stages = story or (first,)
        self.observer = FakeObserver(plan, self.clock, stages, until)
        begun = START + first.at
        self.cluster = kind.promoted(plan, begun) if promoted else kind.at_share(plan, first.share, begun)
        for stage in stages[1:]:
            if stage.share != self.cluster.team.shifts[-1].share:
                self.cluster.shift(stage.share, START + stage.at)
        self._monkeypatch = monkeypatch
        self._install(monkeypatch)

    def use(self, cluster: ServiceCluster) -> None:
        """Let the loops that are made from now on see this cluster."""
        self.cluster = cluster
        lead_to(cluster.api, self._monkeypatch)

    def _install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = SimpleNamespace(time=self.clock.time, monotonic=self.clock.time, sleep=self.clock.sleep)

        async def sleep(seconds: float) -> None:
            self.clock.sleep(seconds)

        for module in (looks, triggers):
            monkeypatch.setattr(module, "time", clock)
        monkeypatch.setattr(rollback, "time", clock)
        self.use(self.cluster)
        monkeypatch.setattr(Observer, "connect", lambda _: self.observer)
        monkeypatch.setattr("asyncio.sleep", sleep)

    def assignment(self, role: Role, next_share: int | None = None, started: float = 0.0) -> Assignment:
        return Assignment(
            role=role,
            plan=self.plan.dump(),
            baseline=json.loads(json.dumps(GOOD_BASELINE.dump())),
            claim=self.cluster.claim,
            started=START + started,
            next_share=next_share,
        )

    def loop(self, role: Role, next_share: int | None = None) -> AnalysisLoop:
        asked = next_share if role == "watch" else next_share or 100
        return AnalysisLoop(self.assignment(role, asked))

    def trigger(self, role: Role, next_share: int | None = None) -> triggers.AnalysisTrigger:
        asked = next_share if role == "watch" else next_share or 100
        return triggers.AnalysisTrigger(asdict(self.assignment(role, asked)), role)

    def look(self, loop: AnalysisLoop, until: float, step: float = 1.0) -> FinalVerdict | None:
        """Look every ``step`` seconds until there is a verdict, or until ``until``."""
        while self.clock.now <= START + until:
            if outcome := loop.look():
                return outcome
            self.clock.sleep(step)
        return None


def records(evidence: str, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in evidence.splitlines()]
    return [record for record in found if record["kind"] == kind]


def verdicts(evidence: str) -> list[str]:
    """The verdicts of the looks, without repetitions."""
    return [verdict for verdict, _ in groupby(record["verdict"] for record in records(evidence, "look"))]


def ticks(evidence: str) -> list[dict[str, Any]]:
    """All that was counted, in its order."""
    return [tick for record in records(evidence, "look") for tick in record["ticks"]]
