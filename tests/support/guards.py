"""Guards that see one cluster, by a clock that a test moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from airflow_deploy.rollout.guard import Guard
from tests.support.service_cluster import ServiceCluster
from tests.support.world import Clock


class Post:
    """One guard, or several."""

    def __init__(self, cluster: ServiceCluster, guards: int = 1) -> None:
        self.cluster, self.clock = cluster, Clock()
        self.guards = [self.another() for _ in range(guards)]

    def another(self, namespaces: Sequence[str] = ()) -> Guard:
        """Return one more guard of these namespaces, or of all."""
        return Guard(self.cluster.client, namespaces, clock=self.clock.time)

    def passes(self, seconds: float, each: Callable[[], object] = lambda: None) -> None:
        """Let them look every second for so long."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            for guard in self.guards:
                guard.look()
            each()
            self.clock.sleep(1)
