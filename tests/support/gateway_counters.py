"""What Prometheus has of a promoted version: counters of its gateway, and what else a check asks for."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.counters import Series
from tests.support.judgement import SCRAPE, START
from tests.support.series import label
from tests.support.statistics import binomial
from tests.support.world import PER_SCRAPE, TRAEFIK, Clock, FakeObserver, Stage


@dataclass(frozen=True)
class Load:
    """From ``at`` seconds after START on, these shares of a scrape's requests are bad; ``gone`` % reach the stable."""

    at: float
    errors: float = 0.0
    over_p95: float = 0.0
    over_p99: float = 0.0
    requests: int = PER_SCRAPE
    gone: int = 0


class Gateway(FakeObserver):
    """The counters of a promoted version, whose past began long before START, and what else a look asks for.

    :param rng: draws what is bad; without it, exactly the given share is.
    """

    def __init__(
        self,
        plan: DeploymentPlan,
        *loads: Load,
        since: float = -2400,
        until: float = 2400,
        scrape: float = SCRAPE,
        rng: random.Random | None = None,
    ) -> None:
        self._loads, self._since, self._scrape, self._rng = loads or (Load(-inf),), since, scrape, rng
        super().__init__(plan, Clock(), (), until)
        self.clock.now = START + until
        self.answer_at: Callable[[float], float | None] = lambda _: None
        self.questions: list[float] = []
        """When each instant query was asked for, in seconds after START."""

    def _gauges(self, steps: range) -> dict[str, list[tuple[float, float]]]:
        found = super()._gauges(steps)
        return {**found, "memory": [(at, 0.3) for at, _ in found["memory"]]}

    def number(self, query: str, at: float | None = None) -> float | None:
        super().number(query)
        assert at is not None
        self.questions.append(at - START)
        return self.answer_at(at - START)

    def _counters(self, story: Sequence[Stage], until: float) -> list[Series]:
        assert not story
        names = ["200", "503", "timed", "0.5", "1.0", "stable"]
        totals, samples = dict.fromkeys(names, 0.0), {name: list[tuple[float, float]]() for name in names}
        at = self._since
        while at <= until:
            load = [load for load in self._loads if load.at < at][-1:] or [Load(0)]
            for name, count in self._answered(load[0], at).items():
                totals[name] += count
                samples[name].append((START + at, totals[name]))
            at += self._scrape
        return [self._series(name, found) for name, found in samples.items() if found[-1][1]]

    def _answered(self, load: Load, at: float) -> dict[str, float]:
        stable = load.requests * load.gone // 100
        mine = load.requests - stable
        failed, late = self._bad(mine, load.errors, at), self._bad(mine, load.over_p99, at)
        rather_late = max(late, self._bad(mine, load.over_p95, at))
        within = {"0.5": mine - rather_late, "1.0": mine - late}
        return {"200": mine - failed, "503": failed, "timed": mine, "stable": stable, **within}

    def _bad(self, trials: int, rate: float, at: float) -> int:
        if self._rng:
            return binomial(self._rng, trials, rate)
        number = int((at - self._since) / self._scrape)
        return int(trials * rate * (number + 1) + 1e-9) - int(trials * rate * number + 1e-9)

    def _series(self, name: str, samples: Sequence[tuple[float, float]]) -> Series:
        plan, duration = self.plan, TRAEFIK.duration
        service = plan.stable if name == "stable" else plan.candidate
        more = {
            "timed": {"__name__": f"{duration}_count"},
            "0.5": {"__name__": f"{duration}_bucket", "le": "0.5"},
            "1.0": {"__name__": f"{duration}_bucket", "le": "1.0"},
            "503": {"__name__": TRAEFIK.requests, "code": "503"},
        }.get(name, {"__name__": TRAEFIK.requests})
        backend = label(service, namespace=plan.spec.namespace, route=plan.spec.route.name)
        return Series({"service": backend, "instance": "gateway-0", "code": "200", **more}, samples)
