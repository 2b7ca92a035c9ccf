"""Sequential tests: they may be evaluated after every scrape, with a stated bound on false alarms.

Every function takes numbers or arrays that broadcast and returns their common shape, so that one call covers all gates
of a deployment, or all deployments of a simulation.

Sources: Lindon & Malek, "Anytime-valid inference for multinomial count data" (arXiv 2011.03567); Turner, Ly & Grünwald,
"Generic E-variables for exact sequential k-sample tests" (arXiv 2106.02693); Ville's inequality; Robbins' mixtures.
"""

from math import lgamma
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[np.float64]
Numbers: TypeAlias = float | npt.NDArray[np.floating[Any] | np.integer[Any]]

RATIOS = np.array([2.5, 8.0, 30.0])
"""The alternatives: how many times the null's rate. The e-process averages over them.

A fourth ratio does not pay: rates between two of these lose less than it would cost all others."""
FIRST, STAGES, MINUTES = 0.7, 0.2, 0.1
"""Prior weight of the beginning, of all later stages and of all later minutes as the start of harm. Most bad versions
are bad from the beginning, or from a new stage on."""
SMALLEST_RATE = 1e-12
LARGEST_RATE = 1 - 1e-9
MAX_DISPERSION = 10.0
"""Largest dispersion that is used, so that an outage in the history does not blind the tests."""
MAX_PAIR_VARIANCE = 2 * MAX_DISPERSION
"""Largest squared difference of two neighbouring windows, in units of its variance. Beyond it lies an outage's edge."""
MIN_BAD_EVENTS = 10
"""With fewer bad events than this, their clustering cannot be estimated."""


class EProcess:
    """Evidence that bad events come more often than a null permits, averaged over starts.

    A single e-process counts healthy minutes as evidence against harm, so it detects late harm late. This one is a
    mixture of processes that start one after the other, each with a prior weight. The weights sum to at most 1, and a
    process that has not started counts as 1. So the mixture is an e-process: under the null, the probability that it
    ever exceeds 1/alpha is at most alpha. Windows with and without a control may alternate, since the factor of each
    has a mean of at most 1 given all windows before it.

    All processes with the same alternative grow alike once they have started, so only their sum is kept.

    :param shape: of the processes that run side by side; a single one by default.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self._started = np.full((*shape, len(RATIOS)), -np.inf)
        self._unstarted = np.ones(shape)

    def start(self, weight: Numbers) -> None:
        """Start one more process with this prior weight; 0 starts none."""
        with np.errstate(divide="ignore"):
            prior = np.log(np.asarray(weight)[..., np.newaxis] / len(RATIOS))
        self._started = np.logaddexp(self._started, prior)
        self._unstarted = np.maximum(self._unstarted - weight, 0)

    def compare(
        self, bad: Numbers, trials: Numbers, control_bad: Numbers, control_trials: Numbers, dispersion: Numbers = 1.0
    ) -> None:
        """Add one window under the null "the candidate's rate is at most the control's".

        At the edge of the null, given all bad events of the window, the candidate's are binomial with its share of the
        trials. A window in which either has no trials adds nothing.

        :param bad: the candidate's bad events; ``trials``: all of its events.
        :param control_bad: the control's bad events; ``control_trials``: all of its events.
        :param dispersion: how much more than independent events the bad ones vary; see ``dispersion``.
        """
        known = (np.asarray(trials) > 0) & (np.asarray(control_trials) > 0)
        share = np.where(known, trials, 0) / np.where(known, np.add(trials, control_trials), 1)
        bad, control_bad = np.where(known, bad, 0), np.where(known, control_bad, 0)
        rarer = np.log1p(np.multiply.outer(share, RATIOS - 1))
        self._add(np.multiply.outer(bad, np.log(RATIOS)) - (bad + control_bad)[..., np.newaxis] * rarer, dispersion)

    def against(self, bad: Numbers, trials: Numbers, rate: Numbers, dispersion: Numbers = 1.0) -> None:
        """Add one window under the null "each trial is bad with a probability of at most ``rate``"."""
        null = np.clip(rate, SMALLEST_RATE, LARGEST_RATE)[..., np.newaxis]
        alternative = np.minimum(null * RATIOS, (1 + null) / 2)
        good = np.maximum(0.0, np.subtract(trials, bad))[..., np.newaxis]
        gain = np.asarray(bad)[..., np.newaxis] * np.log(alternative / null)
        self._add(gain + good * (np.log1p(-alternative) - np.log1p(-null)), dispersion)

    def _add(self, gain: Array, dispersion: Numbers) -> None:
        self._started = self._started + gain / np.asarray(dispersion)[..., np.newaxis]

    @property
    def log_e(self) -> Array:
        """Natural logarithm of the evidence. At ``log_threshold(alpha)`` it refutes the null at level alpha."""
        with np.errstate(divide="ignore"):
            unstarted = np.log(self._unstarted)
        return np.asarray(np.logaddexp(np.logaddexp.reduce(self._started, axis=-1), unstarted))[()]


class Starts:
    """When the processes for harm start, and with which prior weights.

    One starts at the beginning, one at each later stage and one at each later minute. Of the stages' weight, the k-th
    stage gets 2 / (k (k + 1)); the minutes' weight is divided in the same way.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self._share = np.full(shape, np.nan)
        self._stages = np.zeros(shape)
        self._minutes, self._minute_at = 0, -np.inf

    def at(self, at: float, share: Numbers) -> Array:
        """Return the prior weight of the process that starts at ``at`` (unix seconds); 0 if none does.

        :param share: the candidate's share in %; another share than at the last call is a new stage.
        """
        new = self._share != share
        self._share = np.where(new, share, self._share)
        self._stages = self._stages + new
        weight = np.where(new, np.where(self._stages == 1, FIRST, STAGES * _part(self._stages)), 0.0)
        if at - self._minute_at >= 60:
            self._minutes, self._minute_at = self._minutes + 1, at
            weight = weight + (MINUTES * _part(self._minutes) if self._minutes > 1 else 0.0)
        return weight


def _part(number: Numbers) -> Numbers:
    """Return the part of the ``number``-th start; those of the second, the third and so on sum to 1."""
    return 2 / np.maximum(number * (number + 1), 1)


def upper_bound(bad: Numbers, trials: Numbers, beta: float, dispersion: Numbers = 1.0) -> Array:
    """Return an upper bound on the rate of bad events, valid at all looks at once with probability ``1 - beta``.

    Robbins' mixture with the prior Beta(1/2, 50): for every rate p, the ratio of the mixture's likelihood to that of p
    is a martingale with mean 1 under p. So the rates for which it stays below 1/beta cover the true one at every look.
    The prior expects few bad events: 0 of about 400 bound the rate by 1 % (299 would do for a single look).
    """
    bad, good = _bad_and_good(bad, trials, dispersion)
    return -np.expm1(-_edge(bad, good, _log_mixture(bad, good, RARE), beta))


def lower_bound(bad: Numbers, trials: Numbers, beta: float, dispersion: Numbers = 1.0) -> Array:
    """Return the lower bound; see ``upper_bound``. Its prior is Beta(1/2, 1/2), which favours no rate."""
    bad, good = _bad_and_good(bad, trials, dispersion)
    return np.exp(-_edge(good, bad, _log_mixture(bad, good, ANY), beta))


def trials_needed(bad: Numbers, rate: Numbers, beta: float, dispersion: Numbers = 1.0) -> npt.NDArray[np.int64]:
    """Return the number of trials, with ``bad`` bad ones in all, from which on ``upper_bound`` is at most ``rate``."""
    rate = np.clip(rate, SMALLEST_RATE, 1)

    def enough(trials: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.asarray(upper_bound(bad, trials.astype(float), beta, dispersion) <= rate)

    low = np.zeros(np.broadcast(bad, rate, dispersion).shape, np.int64)
    high = low + 1
    while not np.all(done := enough(high)):
        high = np.where(done, high, high * 2)
    while np.any(low < high):
        middle = (low + high) // 2
        done = enough(middle)
        low, high = np.where(done, low, middle + 1), np.where(done, middle, high)
    return np.asarray(high)[()]


def log_threshold(alpha: Numbers) -> Array:
    """Return the natural logarithm of the evidence that refutes the null at level ``alpha`` (Ville's inequality)."""
    with np.errstate(divide="ignore"):
        return -np.log(alpha)


def dispersion(bad: Numbers, trials: Numbers) -> Array:
    """Return how many times more the bad events vary than independent ones would: 1 to ``MAX_DISPERSION``.

    Of the bad events of two neighbouring windows, those of the first are binomial with its share of their trials. The
    result is Pearson's statistic of that over all neighbours: the variance that ``EProcess.compare`` relies on. Slow
    drift cancels out. So does an outage except for its two edges, which are cut to ``MAX_PAIR_VARIANCE``.

    :param bad: bad events by window; the windows are the last axis.
    :param trials: trials by window, of the same shape.
    """
    bad, trials = np.asarray(bad), np.asarray(trials)
    together, both = bad[..., :-1] + bad[..., 1:], trials[..., :-1] + trials[..., 1:]
    share = trials[..., :-1] / np.maximum(both, 1)
    variance = together * share * (1 - share)
    seen = np.minimum((bad[..., :-1] - together * share) ** 2, MAX_PAIR_VARIANCE * variance)
    total = variance.sum(axis=-1)
    return np.asarray(np.clip(seen.sum(axis=-1) / np.where(total > 0, total, 1), 1, MAX_DISPERSION))[()]


def informative(bad: Numbers) -> npt.NDArray[np.bool_]:
    """Whether the windows hold enough bad events to estimate ``dispersion``. If not, alpha is only nominal."""
    return np.asarray(np.sum(bad, axis=-1) >= MIN_BAD_EVENTS)[()]


RARE, ANY = (0.5, 50.0), (0.5, 0.5)
MAX_NEWTON_STEPS = 60
_log_gamma = np.frompyfunc(lgamma, 1, 1)


def _bad_and_good(bad: Numbers, trials: Numbers, dispersion: Numbers) -> tuple[Array, Array]:
    good = np.maximum(0.0, np.subtract(trials, bad))
    return np.asarray(bad) / dispersion, good / dispersion


def _log_mixture(bad: Array, good: Array, prior: tuple[float, float]) -> Array:
    """Return the natural logarithm of the likelihood averaged over a beta prior ``(a, b)``."""
    a, b = prior
    return _log_beta(a + bad, b + good) - _log_beta(a, b)


def _log_beta(a: Numbers, b: Numbers) -> Array:
    return np.asarray(_log_gamma(a) + _log_gamma(b) - _log_gamma(np.add(a, b)), dtype=float)


def _edge(first: Array, second: Array, log_mixture: Array, beta: float) -> Array:
    """Return the u >= 0 at which log_mixture - first log(1 - exp(-u)) + second u reaches log(1 / beta).

    Of the two solutions it is the one beyond the minimum. The function is convex, so Newton's steps from beyond the
    solution approach it and never pass it. If they stop early, the bound is only wider.
    """
    missing = log_mixture + np.log(beta)
    at = np.full(np.shape(missing), -np.log(1 - LARGEST_RATE))
    reached = missing - first * np.log(LARGEST_RATE) + second * at > 0
    for _ in range(MAX_NEWTON_STEPS):
        beyond = missing - first * np.log(-np.expm1(-at)) + second * at
        slope = second - first / np.expm1(at)
        step = np.where(reached, beyond / np.where(reached, slope, 1), 0)
        at = at - step
        if np.all(step <= 1e-12 * at):
            break
    return np.where(reached, at, np.inf)[()]
