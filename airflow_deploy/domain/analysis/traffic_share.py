"""Whether the route delivers the share that it declares, and whether the service keeps its traffic after a shift."""

from collections import deque

from airflow_deploy.domain.analysis.baseline import BASELINE_SECONDS, QUIET_BIN_SECONDS, quietest_rate
from airflow_deploy.domain.analysis.count_tests import BETA
from airflow_deploy.domain.analysis.sequential import lower_bound, upper_bound
from airflow_deploy.domain.analysis.verdict import Finding

TRAFFIC_LOST_ALPHA = 0.0005
"""Bound on the chance of a false alarm about lost traffic at one shift, if requests come independently."""
SETTLING_SCRAPES = 2
"""Scrapes after a shift that do not count towards the delivered share."""
TRAFFIC_LOSS_SECONDS = 120.0
"""Seconds after a shift during which a loss of traffic is attributed to that shift."""


class TrafficShareMonitor:
    """Counts the requests that reach each version since the latest shift.

    :param factor: by how many times the delivered share may exceed or fall below the declared one.
    :param quietest_before: requests per second of the whole service in the quietest half minute before the first shift.
    """

    def __init__(self, factor: float, quietest_before: float) -> None:
        self._factor, self._quietest_before = factor, quietest_before
        self._declared: tuple[float, bool] | None = None
        self._scrapes = 0
        self._candidate = self._stable = 0.0
        self._shifted_at = self._at = 0.0
        self._since_shift = 0.0
        self._recent: deque[tuple[float, float]] = deque()

    def observe(self, at: float, candidate: float, stable: float, share: float, *, mirrored: bool = False) -> None:
        """Take in one scrape.

        :param at: unix seconds.
        :param candidate: requests that the candidate answered since the last scrape; ``stable``: the stable.
        :param share: the candidate's declared share in %.
        :param mirrored: whether the candidate's requests are copies of the stable's, which no user waits for.
        """
        users = stable if mirrored else candidate + stable
        if (share, mirrored) != self._declared:
            if self._declared is not None:
                since = max(self._recent[0][0], at - BASELINE_SECONDS)
                self._quietest_before = quietest_rate(list(self._recent), since, at)
            self._declared, self._scrapes, self._candidate, self._stable = (share, mirrored), 0, 0.0, 0.0
            self._shifted_at, self._since_shift = at, 0.0
        else:
            self._since_shift += users
        self._at = at
        self._scrapes += 1
        if self._scrapes > SETTLING_SCRAPES:
            self._candidate, self._stable = self._candidate + candidate, self._stable + stable
        self._recent.append((at, users))
        while self._recent[0][0] < at - BASELINE_SECONDS:
            self._recent.popleft()

    def share(self) -> Finding:
        """Return BLIND if a confidence sequence excludes the declared share.

        Else return HEALTHY, or UNDECIDED if no request has reached the candidate.
        """
        share, mirrored = self._declared or (0, False)
        total, declared = self._candidate + self._stable, share / 100
        numbers = {"requests": self._candidate, "of": total, "declared": declared}
        counted = "requests and copies" if mirrored else "requests"
        reason = (
            f"request_rate: {self._candidate:,.0f} of {total:,.0f} {counted} reached the candidate;"
            f" the route declares {declared:.0%}"
        )
        least, most = declared / self._factor, min(1.0, declared * self._factor)
        if self._excluded(total, least, most):
            return Finding("request_rate", "BLIND", reason, numbers)
        return Finding("request_rate", "HEALTHY" if self._candidate else "UNDECIDED", reason, numbers)

    def _excluded(self, total: float, least: float, most: float) -> bool:
        """Whether the delivered share is shown to lie outside of ``least`` to ``most``."""
        if not total or least <= self._candidate / total <= most:
            return False
        lower, upper = (bound(self._candidate, total, BETA) for bound in (lower_bound, upper_bound))
        return bool(lower > most or upper < least)

    def traffic_lost(self) -> Finding | None:
        """Return a BREACHED finding if the whole service lost half of its requests with the latest shift, else None.

        The rate is compared with the quietest half minute of the five minutes before, so traffic that comes in bursts
        raises no alarm.
        """
        elapsed = self._at - self._shifted_at
        in_time = QUIET_BIN_SECONDS <= elapsed <= TRAFFIC_LOSS_SECONDS
        if not in_time or not self._quietest_before or not self._declared:
            return None
        # Given the requests of both spans, those after the shift are binomial. At half the rate, this is their share.
        expected = self._quietest_before * QUIET_BIN_SECONDS
        half = 0.5 * elapsed / (0.5 * elapsed + QUIET_BIN_SECONDS)
        if float(upper_bound(self._since_shift, self._since_shift + expected, TRAFFIC_LOST_ALPHA)) >= half:
            return None
        rate = self._since_shift / elapsed
        reason = (
            f"request_rate: the service gets {rate:.3g} requests per second since the shift to {self._declared[0]:g} %"
            f" (at least {self._quietest_before:.3g} before)"
        )
        return Finding("request_rate", "BREACHED", reason, {"per_second": rate, "before": self._quietest_before})
