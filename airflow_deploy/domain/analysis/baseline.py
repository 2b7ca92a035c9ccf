"""The baseline: how the stable behaved before the deployment.

At 100 % of traffic the candidate has no stable beside it, so it is compared with the baseline instead.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from airflow_deploy.domain.analysis.sequential import dispersion, informative
from airflow_deploy.domain.config.gates import Gate
from airflow_deploy.domain.metrics.counters import Counts, Tick

BASELINE_SECONDS = 300.0
"""Seconds before the deployment whose counts are the baseline."""
HISTORY_SECONDS = 3600
"""Seconds of the stable's past from which the clustering of bad requests is estimated."""
QUIET_BIN_SECONDS = 30.0
"""Length in seconds of the bins of which the quietest is taken."""


@dataclass(frozen=True)
class Baseline:
    """The stable's past.

    :param counts: what the stable answered in the last ``BASELINE_SECONDS``.
    :param quietest: requests per second of the whole service in the quietest half minute of these; 0 if unknown.
    :param dispersion: by counted gate, how much more the number of bad requests varies than if each came on its own.
    :param uncertain: gates with too few bad requests to estimate the dispersion; for these, alpha is only nominal.
    """

    counts: Counts = field(default_factory=Counts)
    quietest: float = 0.0
    dispersion: Mapping[str, float] = field(default_factory=dict)
    uncertain: tuple[str, ...] = ()

    def dump(self) -> dict[str, Any]:
        """Return plain JSON."""
        plain = {"quietest": self.quietest, "dispersion": dict(self.dispersion), "uncertain": list(self.uncertain)}
        return {"counts": self.counts.dump(), **plain}

    @classmethod
    def load(cls, data: Mapping[str, Any]) -> "Baseline":
        """Return the baseline that ``dump()`` wrote."""
        dispersion = {name: float(phi) for name, phi in data["dispersion"].items()}
        return cls(Counts.load(data["counts"]), float(data["quietest"]), dispersion, tuple(data["uncertain"]))


def quietest_rate(ticks: Sequence[tuple[float, float]], since: float, until: float) -> float:
    """Return the requests per second in the quietest half minute between ``since`` and ``until`` (unix seconds).

    Return 0 if the ticks do not cover the span from its beginning, or if it is shorter than half a minute.

    :param ticks: ``(unix seconds, requests since the tick before)`` in rising order of time.
    """
    bins = int((until - since) / QUIET_BIN_SECONDS)
    if bins < 1 or not ticks or ticks[0][0] > since + QUIET_BIN_SECONDS:
        return 0.0
    counts = [0.0] * bins
    # A tick covers all the time since the tick before, which is long if Prometheus was down. Its requests are spread
    # evenly over that time.
    for (before, _), (at, requests) in pairwise(ticks):
        for index in range(bins):
            begin = since + index * QUIET_BIN_SECONDS
            overlap = min(at, begin + QUIET_BIN_SECONDS) - max(before, begin)
            counts[index] += requests * max(0.0, overlap) / (at - before)
    return min(counts) / QUIET_BIN_SECONDS


def capture_baseline(
    ticks: Sequence[Tick], stable: str, gates: Mapping[str, tuple[Gate, float]], at: float
) -> Baseline:
    """Return the baseline at ``at`` (unix seconds).

    :param ticks: those of the ``HISTORY_SECONDS`` before, oldest first.
    :param stable: the stable's Service; empty for a first version, whose baseline counts nothing.
    :param gates: each counted gate and its limit, by name.
    """
    recent = [tick for tick in ticks if tick.at > at - BASELINE_SECONDS]
    history = [tick.counts.get(stable, Counts()) for tick in ticks]
    windows = {
        name: np.array([gate.bad_and_trials(counts, limit) for counts in history]).reshape(-1, 2).T
        for name, (gate, limit) in gates.items()
    }
    return Baseline(
        counts=sum((tick.counts.get(stable, Counts()) for tick in recent), Counts()),
        quietest=quietest_rate([(tick.at, tick.requests) for tick in recent], at - BASELINE_SECONDS, at),
        dispersion={name: float(dispersion(*window)) for name, window in windows.items()},
        uncertain=tuple(name for name, (bad, _) in windows.items() if not informative(bad)),
    )
