"""What one look of a gate takes beside its two requests: from Prometheus' samples to the verdict and its record."""

from __future__ import annotations

import json
import logging
import time
from statistics import median
from types import SimpleNamespace
from typing import cast
from unittest.mock import patch

from airflow_deploy.clients.kubernetes.client import Item, KubernetesClient
from airflow_deploy.clients.prometheus.hook import Prometheus
from airflow_deploy.domain.metrics.batch_query import PART_LABEL, largest_by_step, raw_samples, split_answer
from airflow_deploy.domain.metrics.counters import Series
from airflow_deploy.domain.metrics.sources import SATURATION
from airflow_deploy.rollout.analysis import loop as looks
from airflow_deploy.rollout.analysis.loop import AnalysisLoop
from airflow_deploy.rollout.analysis.observer import COUNTERS, SCRAPES, Observation, Observer
from tests.bench.fleet import Gate, began, gate
from tests.bench.stand_ins import answer_series

LOOKS = 200
EVERY = 5.0


class Answered(Observer):
    """Has Prometheus' answer already; the time that it took to make one up is not the look's."""

    made_up = 0.0

    def ask(self, seconds: int, until: float | None = None, step: int = 1) -> Observation:
        before = time.process_time()
        at = int(until or 0)
        items = [json.loads(text) for text in answer_series(0, range(at - seconds, at + 1))]
        samples = ([(float(when), float(value)) for when, value in item["values"]] for item in items)
        answer = [Series(item["metric"], values) for item, values in zip(items, samples, strict=True)]
        assert all(PART_LABEL in item.labels for item in answer)
        self.made_up += time.process_time() - before
        found = split_answer(answer)
        gauges = {name: largest_by_step(found[name]) for name in SATURATION}
        return Observation(raw_samples(found[COUNTERS], found[SCRAPES]), [], gauges)


class AnsweredCluster(KubernetesClient):
    """Has the API server's answer already."""

    def __init__(self, gate: Gate) -> None:
        super().__init__(None)
        self.gate = gate

    def find(self, kind: str, namespace: str, name: str) -> Item | None:
        assert (kind, namespace, name) == ("HTTPRoute", self.gate.plan.spec.namespace, self.gate.plan.spec.route.name)
        return dict(self.gate.route.body)


def look_ms() -> float:
    """Return the milliseconds of CPU that a look takes, half of them less."""
    logging.getLogger("airflow_deploy").setLevel(logging.WARNING)
    one: Gate = gate(0)
    observer = Answered(cast(Prometheus, None), one.plan)
    now = began()
    clock = SimpleNamespace(time=lambda: now, monotonic=time.monotonic)
    took = []
    with (
        patch.object(looks, "connect", lambda *_: AnsweredCluster(one)),
        patch.object(Observer, "connect", lambda _: observer),
        patch.object(looks, "time", clock),
    ):
        loop = AnalysisLoop(one.assignment)
        for _ in range(LOOKS):
            now += EVERY
            before, made_up = time.process_time(), observer.made_up
            assert loop.look() is None
            took.append(time.process_time() - before - (observer.made_up - made_up))
    return 1000 * median(took)


if __name__ == "__main__":
    print(look_ms())
