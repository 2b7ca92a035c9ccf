"""The tests of counts: for harm by comparison, and for health by what may still be.

Everything is an array: over the counted gates of one deployment, or, in a simulation, over many deployments.
"""

import numpy as np
import numpy.typing as npt

from airflow_deploy.domain.analysis.sequential import Array, EProcess, Numbers, Starts, log_threshold, upper_bound

BETA = 0.05
"""Bound on the chance that a version is called healthy although its mean rate of bad requests is not."""
SUSPICION = 3.0
"""Evidence of harm, as odds, from which on no further share is given, although it is not enough to stop."""
BEYOND_BASELINE = 3.0
"""Rates beyond this many times the baseline are not what the service is used to."""


class CountedTests:
    """Takes in scrapes, and says what they show.

    :param allowed: the rate of bad requests that the limit allows.
    :param baseline: the stable's rate before the deployment.
    :param dispersion: how much more the number of bad requests varies than if each came alone.
    :param alpha: bound on the chance of a false alarm of each.
    """

    def __init__(self, allowed: Array, baseline: Array, dispersion: Array, alpha: float) -> None:
        shape = np.broadcast(allowed, baseline, dispersion).shape
        self._allowed, self._dispersion = allowed, dispersion
        self.threshold = float(log_threshold(alpha))
        """The logarithm of evidence that is harm."""
        # Without a control, a baseline that is itself beyond the limit is the incident: it excuses nothing.
        self._edge = np.maximum(allowed, BEYOND_BASELINE * np.where(baseline > allowed, 0.0, baseline))
        self._usual = np.maximum(allowed, BEYOND_BASELINE * baseline)
        self._process, self._starts = EProcess(shape), Starts()
        self._fair = np.zeros((2, *shape))
        self._mirrored = False
        self._peak = np.full(shape, -np.inf)

    def observe(self, at: float, share: Numbers, mine: Array, control: Array, *, mirrored: bool = False) -> None:
        """Take in one scrape.

        :param at: unix seconds.
        :param share: the candidate's declared share in %.
        :param mine: bad requests and requests of the candidate; ``control``: of the stable.
        :param mirrored: whether the candidate's are copies. They show harm as users' requests do, but of health no
            more than the first share needs: each comes just after its original, and nobody acts on its answer.
        """
        if self._mirrored and not mirrored:
            self._fair = np.zeros_like(self._fair)
        self._mirrored = mirrored
        self._process.start(self._starts.at(at, share))
        alone = np.equal(share, 100)
        self._process.compare(mine[0], mine[1] * ~alone, control[0], control[1], self._dispersion)
        if np.any(alone):
            counted = alone & (self._edge < 1)
            self._process.against(mine[0] * counted, mine[1] * counted, np.minimum(self._edge, 0.5), self._dispersion)
        # What the stable suffers too, out of its habit, says nothing of the candidate's health. It is the stable's own
        # counts that decide, so bad scrapes of the candidate's are not picked out.
        disturbed = ~alone & (control[0] > self._usual * control[1])
        self._fair = self._fair + mine * ~disturbed
        self._peak = np.maximum(self._peak, self._process.log_e)

    @property
    def peak(self) -> Array:
        """The logarithm of the most that the evidence of harm has ever been.

        It is what the bound on false alarms speaks of. Harm that was seen stays true, however long nobody looked.
        """
        return self._peak

    @property
    def eligible_counts(self) -> Array:
        """Bad requests and requests of the candidate on which its health is judged."""
        return self._fair

    @property
    def suspected(self) -> npt.NDArray[np.bool_]:
        """Whether harm is so likely that the share stays as it is."""
        return np.asarray(self._process.log_e >= np.log(SUSPICION))

    @property
    def bound(self) -> Array:
        """How bad the candidate's rate may still be."""
        return upper_bound(self._fair[0], self._fair[1], BETA, self._dispersion)

    def harmful(self) -> npt.NDArray[np.bool_]:
        """Whether the evidence of harm is enough to stop."""
        return np.asarray(self._peak >= self.threshold)

    def healthy(self, next_share: Numbers) -> npt.NDArray[np.bool_]:
        """Whether ``next_share`` % may be given.

        Even if the candidate is as bad as it may still be, it alone must not be able to use up the limit.
        """
        return np.asarray((self.bound * next_share / 100 <= self._allowed) & ~self.suspected)
