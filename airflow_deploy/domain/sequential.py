"""Tests that may be looked at after every scrape, with a stated bound on false alarms.

Sources: Lindon & Malek, "Anytime-valid inference for multinomial count data" (arXiv 2011.03567); Turner, Ly & Grünwald,
"Generic E-variables for exact sequential k-sample tests" (arXiv 2106.02693); Ville's inequality; Robbins' mixtures.
"""

from bisect import bisect_left
from math import exp, inf, lgamma, log, log1p

RATIOS = (2.0, 3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
"""How many times worse than the null the alternatives are; an e-process is their average."""

LARGEST_P = 1 - 1e-9


class EProcess:
    """Evidence that bad events come more often than a null permits, averaged over restarts.

    A single e-process banks healthy minutes as evidence against harm, so a version that turns bad late is caught late.
    This one is a mixture of processes that start at each ``restart()``, the j-th with prior weight 1 / (j (j + 1)). The
    weights sum to 1, and a process that has not started counts as 1, so the whole is an e-process: under the null it
    ever exceeds 1/alpha with probability alpha at most.
    """

    def __init__(self) -> None:
        self._sums = [0.0] * len(RATIOS)
        self._starts: list[tuple[float, ...]] = [tuple(self._sums)]

    def restart(self) -> None:
        """Start one more process here."""
        self._starts.append(tuple(self._sums))

    def compare(self, bad: float, trials: float, control_bad: float, control_trials: float, tolerance: float) -> None:
        """Add one window under the null "the rate is at most ``tolerance`` times the control's".

        Given all bad events of the window, the candidate's are binomial with share
        ``tolerance * trials / (tolerance * trials + control_trials)`` at the null's edge.
        """
        if bad + control_bad <= 0 or trials <= 0 or control_trials <= 0:
            return

        def share(ratio: float) -> float:
            return ratio * trials / (ratio * trials + control_trials)

        self._add(bad, control_bad, share(tolerance), [share(tolerance * ratio) for ratio in RATIOS])

    def against(self, bad: float, trials: float, rate: float) -> None:
        """Add one window under the null "each trial is bad with probability ``rate`` at most"."""
        if trials > 0 and rate < 1:
            self._add(bad, max(0.0, trials - bad), rate, [min(rate * ratio, (1 + rate) / 2) for ratio in RATIOS])

    def _add(self, bad: float, good: float, null: float, alternatives: list[float]) -> None:
        for index, alternative in enumerate(alternatives):
            gain = bad * log(alternative / null) + good * (log1p(-min(alternative, LARGEST_P)) - log1p(-null))
            self._sums[index] += gain

    @property
    def log_e(self) -> float:
        """Natural logarithm of the evidence; alarm when it reaches ``log(1 / alpha)``."""
        terms = []
        for j, start in enumerate(self._starts, 1):
            weight = log(1 / (j * (j + 1) * len(RATIOS)))
            terms += [weight + now - then for now, then in zip(self._sums, start, strict=True)]
        unstarted = 1 / (len(self._starts) + 1)
        terms.append(log(unstarted))
        largest = max(terms)
        return largest + log(sum(exp(term - largest) for term in terms))


def upper_bound(bad: float, trials: float, beta: float) -> float:
    """Return a bound on the rate of bad events that holds at all times at once, but for probability ``beta``.

    The beta-binomial mixture with prior Beta(1/2, 50): for every p the mixture's likelihood over p's is a martingale of
    mean 1 under p, so the p's for which it stays below 1/beta cover the truth at every look. The prior expects few bad
    events, where bounds are needed: 0 of about 400 bound the rate by 1 % (299 would do for a single look).
    """
    if trials <= 0:
        return 1.0
    a, b = 0.5, 50.0
    good = max(0.0, trials - bad)
    mixture = _log_beta(a + bad, b + good) - _log_beta(a, b)

    def plausible(p: float) -> bool:
        likelihood = (bad * log(p) if bad else 0.0) + (good * log1p(-p) if good else 0.0)
        return mixture - likelihood < -log(beta)

    low, high = min(max(bad / trials, 1e-12), LARGEST_P), LARGEST_P
    if plausible(high):
        return 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if plausible(middle) else (low, middle)
    return high


def trials_needed(bad: float, rate: float, beta: float) -> int:
    """Return after how many trials in all, with no more bad ones, ``upper_bound`` is ``rate`` at most."""
    most = 1
    while upper_bound(bad, most, beta) > rate:
        most *= 2
    return bisect_left(range(most + 1), x=True, key=lambda trials: upper_bound(bad, trials, beta) <= rate)


def lower_bound(bad: float, trials: float, beta: float) -> float:
    """Return the bound from below; see ``upper_bound``."""
    return 1 - upper_bound(max(0.0, trials - bad), trials, beta)


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)


def log_threshold(alpha: float) -> float:
    """Return the logarithm of evidence at which an e-process refutes its null at level ``alpha``."""
    return -log(alpha) if alpha > 0 else inf
