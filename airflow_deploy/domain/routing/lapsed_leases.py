"""For how long each Lease was not renewed, by the monotonic clock of the reader."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from airflow_deploy.domain.routing.lease import Lease

MAX_GAP_SECONDS = 3.0
"""Seconds between two sights that count as seen. After more than that the reader was away itself."""


@dataclass(frozen=True)
class LapsedLease:
    """A Lease that was seen not to change for ``silent`` seconds, which is longer than it lasts."""

    lease: Lease
    silent: float


class LeaseMonitor:
    """Counts the time for which each Lease was seen not to change.

    What was not seen does not count: neither an API server's absence, nor the time that it takes to answer, nor a pause
    of the watcher's own. A run must not lose its traffic because its reader was blind.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], tuple[tuple[str, str], float]] = {}
        self._until: float | None = None

    def see(self, leases: Iterable[Lease], asked: float, answered: float) -> Iterator[LapsedLease]:
        """Take in all Leases there are, and yield those that have lapsed.

        :param asked: monotonic seconds at which they were asked for, and ``answered`` when they came.
        """
        passed = asked - self._until if self._until is not None else 0.0
        counted = passed if passed <= MAX_GAP_SECONDS else 0.0
        before, self._seen, self._until = self._seen, {}, answered
        for lease in leases:
            version, silent = before.get(lease.key, (None, 0.0))
            silent = silent + counted if version == lease.version else 0.0
            self._seen[lease.key] = lease.version, silent
            if silent >= lease.seconds:
                yield LapsedLease(lease, silent)

    def mark_unobserved(self) -> None:
        """Say that nothing was seen: the time until the next sight does not count."""
        self._until = None
