"""Whether the candidate has the pods that its share needs.

If none of its pods is ready, the gateway itself answers the candidate's users and counts these answers for no version.
The candidate's counters then only fall silent, and silence is not harm. So its ready pods are counted too.
"""

from airflow_deploy.domain.analysis.verdict import Finding

UNREADY_LOOKS, UNREADY_SECONDS = 3, 3.0
"""Consecutive looks, and seconds that they must span, with too few ready pods before that is harm."""
UNSEEN_PODS_SECONDS = 10.0
"""Seconds between two looks after which the count starts again, since the pods may have recovered meanwhile."""


class PodWatch:
    """Watches how many of the candidate's pods are ready.

    :param name: the candidate's name, for the reason.
    :param max_unready: share of the needed pods that may be unready, 0 to 1.
    """

    def __init__(self, name: str, max_unready: float) -> None:
        self._name, self._max_unready = name, max_unready
        self._too_few: list[tuple[float, int, int]] = []

    def observe(self, at: float, ready: int, needed: int) -> bool:
        """Take in how many of the ``needed`` pods are ready at ``at`` (unix seconds).

        :returns: whether this observation can change a later verdict; if not, it need not be recorded.
        """
        before = self._too_few
        if needed - ready <= self._max_unready * needed:
            self._too_few = []
        else:
            recent = before if before and at - before[-1][0] <= UNSEEN_PODS_SECONDS else []
            self._too_few = [*recent, (at, ready, needed)]
        return self._too_few != before

    def harm(self) -> Finding | None:
        """Return a BREACHED finding if too few pods have been ready for too long, else None."""
        if (
            len(self._too_few) < UNREADY_LOOKS
            or (lasted := self._too_few[-1][0] - self._too_few[0][0]) < UNREADY_SECONDS
        ):
            return None
        _, ready, needed = self._too_few[-1]
        reason = (
            f"ready_pods: {ready} of {needed} pods of {self._name} are ready, for {lasted:.0f} s;"
            f" at most {self._max_unready:.0%} may be unready"
        )
        return Finding("ready_pods", "BREACHED", reason, {"ready": ready, "needed": needed, "seconds": lasted})
