"""Rules for gauges. They stand outside the bound on false alarms: nobody knows how a gauge should vary."""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from math import isnan
from statistics import median

from airflow_deploy.domain.analysis.verdict import Finding, Verdict

SUSTAINED_SECONDS = 30.0
"""Seconds for which a gauge must stay beyond its limit to be harm, and beyond which nobody knows what it was."""
LEAK_SPAN = 300.0
"""Seconds over which memory must grow to be a leak."""
LEAK_PIECES = 5
"""Pieces of that span, each of which must hold more than the one before."""
LEAK_HORIZON = 1800.0
"""Seconds within which a leak would use up the limit, to be harm."""


class GaugeWatch:
    """Watches one gauge.

    :param projects: whether it is harm already that it grows steadily and would soon reach its limit.
    :param sustained: seconds for which either must last.
    """

    def __init__(self, name: str, limit: float, *, projects: bool, sustained: float = SUSTAINED_SECONDS) -> None:
        self._name, self._limit, self._projects, self._sustained = name, limit, projects, sustained
        self._value: float | None = None
        self._over: tuple[float, float] | None = None
        self._leaking: tuple[float, float] | None = None
        self._left = 0.0
        self._recent: deque[tuple[float, float]] = deque()

    def see(self, at: float, value: float | None) -> None:
        """Take in its value at ``at``; None, or not a number, where there is none."""
        self._value = value = None if value is None or isnan(value) else value
        self._over = _lasting(self._over, at, value is not None and value > self._limit)
        if not self._projects or value is None:
            return
        self._recent.append((at, value))
        while self._recent[0][0] < at - LEAK_SPAN:
            self._recent.popleft()
        left = seconds_to_limit(self._recent, self._limit)
        self._leaking = _lasting(self._leaking, at, left is not None and left <= LEAK_HORIZON)
        self._left = left or 0.0

    def harm(self) -> Finding | None:
        """Return a BREACHED finding where it has been beyond its limit, or about to be, for long enough."""
        numbers = {} if self._value is None else {"value": self._value, "limit": self._limit}
        if self._over and self._over[1] - self._over[0] >= self._sustained:
            reason = f"{self._name} has been beyond {self._limit:g} for {self._over[1] - self._over[0]:.0f} s"
            return Finding(self._name, "BREACHED", reason, numbers)
        if self._leaking and self._leaking[1] - self._leaking[0] >= self._sustained:
            reason = f"{self._name} grows steadily, and would reach {self._limit:g} in {self._left / 60:.0f} minutes"
            return Finding(self._name, "BREACHED", reason, {**numbers, "seconds_left": self._left})
        return None

    def health(self) -> Finding:
        """Say whether it is within its limit."""
        if self._value is None:
            return Finding(self._name, "UNDECIDED", f"{self._name}: not seen yet, limit {self._limit:g}")
        verdict: Verdict = "HEALTHY" if self._value <= self._limit else "UNDECIDED"
        numbers = {"value": self._value, "limit": self._limit}
        return Finding(self._name, verdict, f"{self._name}: {self._value:.2f}, limit {self._limit:g}", numbers)


def _lasting(before: tuple[float, float] | None, at: float, so: bool) -> tuple[float, float] | None:
    """Return since when and until when something was seen to be so."""
    if not so:
        return None
    # Nobody knows what it was while nobody looked: begin anew.
    return (before[0], at) if before and at - before[1] <= SUSTAINED_SECONDS else (at, at)


def seconds_to_limit(samples: Sequence[tuple[float, float]], limit: float) -> float | None:
    """Return in how many seconds steady growth reaches ``limit``; None where it is no steady growth.

    Growth is steady where each fifth of ``LEAK_SPAN`` has a higher median than the one before, and the last rise is no
    less than half of the average one: caches that fill, and heaps that warm up, grow ever more slowly.
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
