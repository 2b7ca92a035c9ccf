"""Whether the candidate has the pods that its share needs.

Where none of its pods is ready, the gateway itself answers its users, and its counters do not say in whose name: they
show silence, and silence is no harm. So the pods are asked for too.
"""

from airflow_deploy.domain.analysis.verdict import Finding

UNREADY_LOOKS, UNREADY_SECONDS = 3, 3.0
"""How often, and over how many seconds, too few pods must be seen to be harm."""
UNSEEN_PODS_SECONDS = 10.0
"""Seconds without an answer, after which nobody knows what has been meanwhile."""


class PodWatch:
    """Watches the candidate's ready pods.

    :param name: the candidate's.
    :param max_unready: share of the pods that may be unready.
    """

    def __init__(self, name: str, max_unready: float) -> None:
        self._name, self._max_unready = name, max_unready
        self._lacking: list[tuple[float, int, int]] = []

    def see(self, at: float, ready: int, needed: int) -> bool:
        """Take in how many of the ``needed`` pods are ready; return whether that changes anything."""
        before = self._lacking
        if needed - ready <= self._max_unready * needed:
            self._lacking = []
        else:
            recent = before if before and at - before[-1][0] <= UNSEEN_PODS_SECONDS else []
            self._lacking = [*recent, (at, ready, needed)]
        return self._lacking != before

    def harm(self) -> Finding | None:
        """Return a BREACHED finding where too few have been ready for too long."""
        if (
            len(self._lacking) < UNREADY_LOOKS
            or (lasted := self._lacking[-1][0] - self._lacking[0][0]) < UNREADY_SECONDS
        ):
            return None
        _, ready, needed = self._lacking[-1]
        reason = (
            f"ready_pods: {ready} of {needed} pods of {self._name} are ready, for {lasted:.0f} s;"
            f" at most {self._max_unready:.0%} may be unready"
        )
        return Finding("ready_pods", "BREACHED", reason, {"ready": ready, "needed": needed, "seconds": lasted})
