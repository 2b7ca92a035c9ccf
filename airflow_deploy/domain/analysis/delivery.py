"""Does the route deliver the share that it declares, are all requests counted, and do the users stay?"""

from collections import deque

from airflow_deploy.domain.analysis.baseline import BASELINE_SECONDS, QUIET_BIN_SECONDS, quietest_rate
from airflow_deploy.domain.analysis.count_tests import BETA
from airflow_deploy.domain.analysis.sequential import lower_bound, upper_bound
from airflow_deploy.domain.analysis.verdict import Finding

TRAFFIC_LOST_ALPHA = 0.0005
"""Bound on the chance, at one shift, that users who stay are said to be gone, if they come independently."""
SETTLING_SCRAPES = 2
"""Scrapes after a shift that do not count towards the delivered share."""
TRAFFIC_LOSS_SECONDS = 120.0
"""Seconds after a shift in which users who are gone are put down to it."""


class Delivery:
    """Counts what reaches either version since the latest shift.

    :param factor: how many times more, or less, than the declared share is no fault of the route's.
    :param before: requests per second of the service in the quietest half minute before the first shift.
    """

    def __init__(self, factor: float, before: float) -> None:
        self._factor, self._before = factor, before
        self._declared: tuple[float, bool] | None = None
        self._scrapes = 0
        self._mine = self._control = 0.0
        self._shifted_at = self._at = 0.0
        self._since_shift = 0.0
        self._recent: deque[tuple[float, float]] = deque()

    def observe(self, at: float, mine: float, control: float, share: float, *, mirrored: bool = False) -> None:
        """Take in one scrape: requests of the candidate and of the stable.

        :param mirrored: whether the candidate's are copies of the stable's, so that no user has sent them.
        """
        users = control if mirrored else mine + control
        if (share, mirrored) != self._declared:
            if self._declared is not None:
                self._before = quietest_rate(list(self._recent), max(self._recent[0][0], at - BASELINE_SECONDS), at)
            self._declared, self._scrapes, self._mine, self._control = (share, mirrored), 0, 0.0, 0.0
            self._shifted_at, self._since_shift = at, 0.0
        else:
            self._since_shift += users
        self._at = at
        self._scrapes += 1
        if self._scrapes > SETTLING_SCRAPES:
            self._mine, self._control = self._mine + mine, self._control + control
        self._recent.append((at, users))
        while self._recent[0][0] < at - BASELINE_SECONDS:
            self._recent.popleft()

    def share(self) -> Finding:
        """Say whether the declared share arrives: BLIND where a confidence sequence excludes it."""
        share, mirrored = self._declared or (0, False)
        total, declared = self._mine + self._control, share / 100
        numbers = {"requests": self._mine, "of": total, "declared": declared}
        what = "requests, copies among them," if mirrored else "requests"
        seen = f"{self._mine:.0f} of {total:.0f} {what} reached the candidate at a declared {declared:.0%}"
        least, most = declared / self._factor, min(1.0, declared * self._factor)
        if self._excluded(total, least, most):
            return Finding("request_rate", "BLIND", f"request_rate: {seen}", numbers)
        return Finding("request_rate", "HEALTHY" if self._mine else "UNDECIDED", f"request_rate: {seen}", numbers)

    def _excluded(self, total: float, least: float, most: float) -> bool:
        """Whether the delivered share is shown to lie outside of ``least`` to ``most``."""
        if not total or least <= self._mine / total <= most:
            return False
        lower, upper = (bound(self._mine, total, BETA) for bound in (lower_bound, upper_bound))
        return bool(lower > most or upper < least)

    def traffic_lost(self) -> Finding | None:
        """Return a BREACHED finding where the whole service has lost half of its requests with our shift.

        Held against the quietest half minute of the five before, so that traffic which comes in bursts accuses nobody.
        """
        elapsed = self._at - self._shifted_at
        if not QUIET_BIN_SECONDS <= elapsed <= TRAFFIC_LOSS_SECONDS or not self._before or not self._declared:
            return None
        # Of all requests of both spans, the later one's are binomial; at half the rate its share would be this.
        expected = self._before * QUIET_BIN_SECONDS
        half = 0.5 * elapsed / (0.5 * elapsed + QUIET_BIN_SECONDS)
        if float(upper_bound(self._since_shift, self._since_shift + expected, TRAFFIC_LOST_ALPHA)) >= half:
            return None
        rate = self._since_shift / elapsed
        reason = (
            f"request_rate: {rate:.3g} requests per second since the shift to {self._declared[0]:g} %, at least"
            f" {self._before:.3g} before it"
        )
        return Finding("request_rate", "BREACHED", reason, {"per_second": rate, "before": self._before})
