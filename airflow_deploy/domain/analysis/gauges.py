"""Rules for gauges, such as the memory of the fullest pod.

They lie outside the bound on false alarms: how a gauge varies by itself is not known, so a gauge is harmful only if it
stays beyond its limit.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from math import isnan
from statistics import median

from airflow_deploy.domain.analysis.verdict import Finding, Verdict

SUSTAINED_SECONDS = 30.0
"""Seconds for which a gauge must stay beyond its limit to be harm. After a longer gap between two samples, the time
starts again."""
LEAK_SPAN = 300.0
"""Seconds over which memory must grow to be a leak."""
LEAK_PIECES = 5
"""Pieces into which that span is cut; the median of each must be larger than that of the piece before."""
LEAK_HORIZON = 1800.0
"""A leak is harm if it reaches the limit within this many seconds."""


class GaugeWatch:
    """Watches one gauge.

    :param name: name of its gate.
    :param limit: the largest value that is not harm, in the gate's unit.
    :param projects: whether steady growth that soon reaches the limit is harm already.
    :param sustained: seconds for which either must last.
    """

    def __init__(self, name: str, limit: float, *, projects: bool, sustained: float = SUSTAINED_SECONDS) -> None:
        self._name, self._limit, self._projects, self._sustained = name, limit, projects, sustained
        self._value: float | None = None
        self._over: tuple[float, float] | None = None
        self._leaking: tuple[float, float] | None = None
        self._seconds_left = 0.0
        self._recent: deque[tuple[float, float]] = deque()

    def observe(self, at: float, value: float | None) -> None:
        """Take in the gauge's value at ``at`` (unix seconds); None or NaN if there is none."""
        self._value = value = None if value is None or isnan(value) else value
        self._over = _extended(self._over, at, value is not None and value > self._limit)
        if not self._projects or value is None:
            return
        self._recent.append((at, value))
        while self._recent[0][0] < at - LEAK_SPAN:
            self._recent.popleft()
        left = seconds_to_limit(self._recent, self._limit)
        self._leaking = _extended(self._leaking, at, left is not None and left <= LEAK_HORIZON)
        self._seconds_left = left or 0.0

    def harm(self) -> Finding | None:
        """Return a BREACHED finding if it has been beyond its limit, or about to reach it, for long enough."""
        numbers = {} if self._value is None else {"value": self._value, "limit": self._limit}
        if self._over and self._over[1] - self._over[0] >= self._sustained:
            lasted = self._over[1] - self._over[0]
            reason = f"{self._name}: above its limit {self._limit:g} for {lasted:.0f} s (now {self._value:.2f})"
            return Finding(self._name, "BREACHED", reason, numbers)
        if self._leaking and self._leaking[1] - self._leaking[0] >= self._sustained:
            minutes = self._seconds_left / 60
            reason = f"{self._name}: grows steadily and reaches its limit {self._limit:g} in {minutes:.0f} minutes"
            return Finding(self._name, "BREACHED", reason, {**numbers, "seconds_left": self._seconds_left})
        return None

    def health(self) -> Finding:
        """Return HEALTHY if its latest value is within its limit, else UNDECIDED."""
        if self._value is None:
            return Finding(self._name, "UNDECIDED", f"{self._name}: no value yet (limit {self._limit:g})")
        verdict: Verdict = "HEALTHY" if self._value <= self._limit else "UNDECIDED"
        numbers = {"value": self._value, "limit": self._limit}
        return Finding(self._name, verdict, f"{self._name}: {self._value:.2f} (limit {self._limit:g})", numbers)


def _extended(span: tuple[float, float] | None, at: float, holds: bool) -> tuple[float, float] | None:
    """Return the span ``(first, last)`` in unix seconds over which a condition has held; None if it does not hold."""
    if not holds:
        return None
    # After a gap between two samples it is unknown whether the condition held meanwhile, so the span starts again.
    return (span[0], at) if span and at - span[1] <= SUSTAINED_SECONDS else (at, at)


def seconds_to_limit(samples: Sequence[tuple[float, float]], limit: float) -> float | None:
    """Return in how many seconds steady growth reaches ``limit``; None if the growth is not steady.

    Growth is steady if each fifth of ``LEAK_SPAN`` has a higher median than the fifth before, and the last rise is at
    least half of the average rise. Caches that fill and heaps that warm up grow ever more slowly, so they are not.

    :param samples: ``(unix seconds, value)`` in rising order of time, at least one.
    """
    end = samples[-1][0]
    if end - samples[0][0] < LEAK_SPAN * (1 - 0.5 / LEAK_PIECES):
        return None
    width = LEAK_SPAN / LEAK_PIECES
    pieces: list[list[float]] = [[] for _ in range(LEAK_PIECES)]
    for at, value in samples:
        pieces[max(0, LEAK_PIECES - 1 - int((end - at) / width))].append(value)
    if not all(pieces):
        return None
    medians = [median(piece) for piece in pieces]
    rises = [after - before for before, after in pairwise(medians)]
    average = sum(rises) / len(rises)
    if min(rises) <= 0 or rises[-1] < average / 2:
        return None
    return max(0.0, limit - medians[-1]) / (average / width)
