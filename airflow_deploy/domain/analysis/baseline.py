"""What the service was like before the deployment: what its candidate is held against where there is no control."""

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
"""Seconds of the stable's past from which it is learnt how its bad requests cluster."""
QUIET_BIN_SECONDS = 30.0
"""Seconds of the pieces of time among which the quietest is sought."""


@dataclass(frozen=True)
class Baseline:
    """The past of a service.

    :param counts: what the stable answered in the last five minutes.
    :param quietest: requests per second of the whole service in the quietest half minute of these; 0 where unknown.
    :param dispersion: by counted gate, how much more the number of bad requests varies than if each came on its own.
    :param uncertain: the gates of which so few bad requests were seen that this is not known, and alpha is nominal.
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
        """Return what ``dump()`` wrote."""
        dispersion = {name: float(phi) for name, phi in data["dispersion"].items()}
        return cls(Counts.load(data["counts"]), float(data["quietest"]), dispersion, tuple(data["uncertain"]))


def quietest_rate(ticks: Sequence[tuple[float, float]], since: float, until: float) -> float:
    """Return the requests per second in the quietest half minute of a span that is seen from its beginning to its end.

    :param ticks: ``(unix seconds, requests since the one before)`` in rising order.
    """
    bins = int((until - since) / QUIET_BIN_SECONDS)
    if bins < 1 or not ticks or ticks[0][0] > since + QUIET_BIN_SECONDS:
        return 0.0
    counts = [0.0] * bins
    # A scrape tells of all the time since the one before, which is long where Prometheus was away.
    for (before, _), (at, requests) in pairwise(ticks):
        for index in range(bins):
            begin = since + index * QUIET_BIN_SECONDS
            overlap = min(at, begin + QUIET_BIN_SECONDS) - max(before, begin)
            counts[index] += requests * max(0.0, overlap) / (at - before)
    return min(counts) / QUIET_BIN_SECONDS


def capture_baseline(
    ticks: Sequence[Tick], stable: str, gates: Mapping[str, tuple[Gate, float]], at: float
) -> Baseline:
    """Return the baseline at ``at`` (unix seconds) from the ticks of the hour before; a first version has none.

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
