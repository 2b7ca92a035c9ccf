"""The tests of counts: for harm, by comparison with the stable; for health, by an upper bound on the bad rate.

All numbers are arrays: over the counted gates of one deployment, or, in a simulation, over many deployments.
"""

import numpy as np
import numpy.typing as npt

from airflow_deploy.domain.analysis.sequential import Array, EProcess, Numbers, Starts, log_threshold, upper_bound

BETA = 0.05
"""Bound on the chance that a version is called healthy although its mean rate of bad requests is too high."""
SUSPICION = 3.0
"""Evidence of harm, as odds, from which on the share stays as it is, although it is not enough for a rollback."""
BEYOND_BASELINE = 3.0
"""Rates beyond this many times the baseline are unusual for the service."""


class CountedTests:
    """Takes in scrapes and tests the candidate for harm and health.

    All arrays broadcast to one shape, with one element for each gate.

    :param allowed: the rate of bad requests that the limit allows, 0 to 1.
    :param baseline: the stable's rate of bad requests before the deployment, 0 to 1.
    :param dispersion: how much more the number of bad requests varies than if each came alone, at least 1.
    :param alpha: bound on the chance of a false alarm, for each gate.
    """

    def __init__(self, allowed: Array, baseline: Array, dispersion: Array, alpha: float) -> None:
        shape = np.broadcast(allowed, baseline, dispersion).shape
        self._allowed, self._dispersion = allowed, dispersion
        self.threshold = float(log_threshold(alpha))
        """Natural logarithm of the evidence from which on there is harm."""
        # At 100 % a baseline that is itself beyond the limit is the incident, so it does not raise the edge.
        self._edge = np.maximum(allowed, BEYOND_BASELINE * np.where(baseline > allowed, 0.0, baseline))
        self._usual = np.maximum(allowed, BEYOND_BASELINE * baseline)
        self._process, self._starts = EProcess(shape), Starts()
        self._eligible = np.zeros((2, *shape))
        self._mirrored = False
        self._peak = np.full(shape, -np.inf)

    def observe(self, at: float, share: Numbers, candidate: Array, stable: Array, *, mirrored: bool = False) -> None:
        """Take in one scrape.

        :param at: unix seconds.
        :param share: the candidate's declared share in %.
        :param candidate: its bad requests and its requests, of shape ``(2, gates)``; ``stable``: those of the stable.
        :param mirrored: whether the candidate's requests are copies. Copies show harm as users' requests do. Their
            health counts only until the first share: each copy comes just after its original, and its answer is unused.
        """
        if self._mirrored and not mirrored:
            self._eligible = np.zeros_like(self._eligible)
        self._mirrored = mirrored
        self._process.start(self._starts.at(at, share))
        alone = np.equal(share, 100)
        self._process.compare(candidate[0], candidate[1] * ~alone, stable[0], stable[1], self._dispersion)
        if np.any(alone):
            counted = alone & (self._edge < 1)
            edge = np.minimum(self._edge, 0.5)
            self._process.against(candidate[0] * counted, candidate[1] * counted, edge, self._dispersion)
        # If the stable is unusually bad in this scrape, the scrape shows nothing about the candidate's health. Only
        # the stable's counts decide this, so that bad scrapes of the candidate are not left out.
        disturbed = ~alone & (stable[0] > self._usual * stable[1])
        self._eligible = self._eligible + candidate * ~disturbed
        self._peak = np.maximum(self._peak, self._process.log_e)

    @property
    def peak(self) -> Array:
        """Natural logarithm of the largest evidence of harm so far, for each gate.

        The bound on false alarms holds for the peak, so harm that was seen once stays harm.
        """
        return self._peak

    @property
    def health_counts(self) -> Array:
        """The candidate's bad requests and requests on which its health is judged, of shape ``(2, gates)``.

        Scrapes in which the stable was unusually bad are left out.
        """
        return self._eligible

    @property
    def suspected(self) -> npt.NDArray[np.bool_]:
        """Whether harm is so likely that the share stays as it is, for each gate."""
        return np.asarray(self._process.log_e >= np.log(SUSPICION))

    @property
    def bound(self) -> Array:
        """Upper bound on the candidate's rate of bad requests, for each gate; see ``upper_bound``."""
        return upper_bound(self._eligible[0], self._eligible[1], BETA, self._dispersion)

    def harmful(self) -> npt.NDArray[np.bool_]:
        """Whether the evidence of harm is enough for a rollback, for each gate."""
        return np.asarray(self._peak >= self.threshold)

    def healthy(self, next_share: Numbers) -> npt.NDArray[np.bool_]:
        """Whether the candidate may get ``next_share`` % of traffic, for each gate.

        It may if, even at the upper bound of its bad rate, it cannot use up the service's limit by itself.
        """
        return np.asarray((self.bound * next_share / 100 <= self._allowed) & ~self.suspected)
