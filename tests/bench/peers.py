"""The peers' rules, our own implementations, on the same counts as ours.

Each returns the number of the scrape (from 1) after which it stops each deployment, and inf if it does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from airflow_deploy.domain.analysis.sequential import Array
from tests.bench.deployments import SCRAPE, Deployments

POINTS = 50
POINT = 30
"""Seconds of one of Mann-Whitney's points. Kayenta's step is a minute by default: 50 would outlast ``max_bake``."""
CONFIDENCE_98 = 2.3263
"""The normal quantile of a two-sided interval of 98 %."""
TOLERANCE = 0.25
ALLOWED_INCREASE = 1.0


def fixed_limit(seen: Deployments, limit: float, window: int, strikes: int) -> Array:
    """Look every ``window`` seconds at that window; stop at the ``strikes``-th whose error rate is beyond ``limit``.

    A window without requests is no strike.
    """
    bad, trials = (_windows(counts, window) for counts in (seen.bad, seen.trials))
    strike = _complete(seen, window) & (bad > limit * trials)
    return first(np.cumsum(strike, axis=0) >= strikes, window)


def mann_whitney(seen: Deployments) -> Array:
    """Judge as Kayenta does, at every fiftieth point, on the last 50 points: stop if the verdict is High."""
    rates = []
    for bad, trials in ((seen.bad, seen.trials), (seen.control_bad, seen.control_trials)):
        events, of = _windows(bad, POINT), _windows(trials, POINT)
        rates.append(np.where(of > 0, events / np.maximum(of, 1), np.nan))
    complete = _complete(seen, POINT)
    stop = np.zeros(complete.shape, bool)
    for last in range(POINTS, len(complete) + 1, POINTS):
        there = np.flatnonzero(complete[last - 1])
        if there.size:
            window = slice(last - POINTS, last)
            stop[last - 1, there] = high(rates[0][window, there].T, rates[1][window, there].T)
    return first(stop, POINT)


def high(candidate: Array, control: Array) -> NDArray[np.bool_]:
    """Tell whether the candidate's points lie above the control's, each row a pair of samples; NaN is no point.

    The interval of the shift is the classical one of the ordered differences, with the normal approximation.
    """
    m, n = (np.count_nonzero(~np.isnan(points), axis=1) for points in (candidate, control))
    differences = np.sort((candidate[:, :, np.newaxis] - control[:, np.newaxis, :]).reshape(len(candidate), -1), axis=1)
    pairs = m * n
    rank = np.floor(pairs / 2 - CONFIDENCE_98 * np.sqrt(pairs * (m + n + 1) / 12)).astype(int)
    rows = np.arange(len(candidate))
    least = differences[rows, np.maximum(rank - 1, 0)]
    middle = (
        differences[rows, np.maximum(pairs - 1, 0) // 2] + differences[rows, pairs // 2 % differences.shape[1]]
    ) / 2
    means = [np.nansum(points, axis=1) / np.maximum(size, 1) for points, size in ((candidate, m), (control, n))]
    beyond = (least > TOLERANCE * np.abs(middle)) & (means[0] > ALLOWED_INCREASE * means[1])
    return np.asarray((rank > 0) & beyond)


def _windows(counts: Array, window: int) -> Array:
    """Sum scrapes to whole windows."""
    size = window // SCRAPE
    whole = len(counts) // size
    return np.asarray(counts[: whole * size].reshape(whole, size, counts.shape[1]).sum(axis=1))


def _complete(seen: Deployments, window: int) -> NDArray[np.bool_]:
    """Say which windows ended before the deployment did."""
    size = window // SCRAPE
    ends = size * np.arange(1, len(seen.share) // size + 1)
    return np.asarray(ends[:, np.newaxis] <= seen.scrapes)


def first(stop: NDArray[np.bool_], window: int = SCRAPE) -> Array:
    """Return the scrape at which the first window ends that says stop, inf if none does."""
    scrapes = (np.arange(len(stop)) + 1.0) * (window // SCRAPE)
    return np.asarray(np.min(np.where(stop, scrapes[:, np.newaxis], np.inf), axis=0, initial=np.inf))
