"""Random draws, and how far a simulated share may lie from its true rate."""

from __future__ import annotations

import random
from math import log, sqrt


def binomial(rng: random.Random, trials: int, rate: float) -> int:
    """Draw how many of ``trials`` succeed, by skipping from success to success: Python 3.11 has no binomial."""
    if rate <= 0 or rate >= 1:
        return trials if rate >= 1 else 0
    done, successes = 0, 0
    while True:
        done += int(log(1 - rng.random()) / log(1 - rate)) + 1
        if done > trials:
            return successes
        successes += 1


def margin(runs: int, rate: float) -> float:
    """Three standard deviations of a binomial share."""
    return rate + 3 * sqrt(rate * (1 - rate) / runs)
