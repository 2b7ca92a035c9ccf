"""The guard: it rolls back canaries whose watch stopped renewing its Lease, because Airflow has died.

It needs no Airflow: the Lease says whether the watch is alive, the route which deployment owns it, and which two
versions share it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.leases import list_leases
from airflow_deploy.clients.kubernetes.pods import withdraw_pods
from airflow_deploy.clients.kubernetes.routes import find_route
from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.errors import DeployError, FencedError
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.lapsed_leases import LapsedLease, LeaseMonitor
from airflow_deploy.rollout.rollback import rollback

log = logging.getLogger(__name__)

GUARD_INTERVAL = 1.0
"""Seconds between two readings of the Leases."""
REMIND_SECONDS = 60.0
"""Seconds after which what still fails is logged again."""
MAX_CONCURRENT_ROLLBACKS = 32
"""How many deployments are rolled back at the same time."""
ROLLBACK_WAIT_SECONDS = 1.0
"""Seconds for which a pass waits for the rollbacks that it has begun. Longer ones go on beside the passes that follow:
they stop the clock of no other Lease."""


class Guard:
    """Watches the Leases of some namespaces.

    :param namespaces: which; none are all.
    """

    def __init__(
        self, traffic: KubernetesClient, namespaces: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._traffic, self._clock = traffic, clock
        self._monitors: dict[str | None, LeaseMonitor] = {name: LeaseMonitor() for name in namespaces or (None,)}
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_ROLLBACKS)
        self._acts: dict[Hashable, Future[None]] = {}
        self._over: dict[Hashable, tuple[str, str]] = {}
        self._said: dict[Hashable, float] = {}

    def run(self, ended: Callable[[float], bool]) -> None:
        """Read the Leases until the end, at any answer of the cluster.

        :param ended: waits for so many seconds, and returns whether it has come.
        """
        log.info("%-12s %s", "guards", ", ".join(name or "all namespaces" for name in self._monitors))
        self.look()
        while not ended(GUARD_INTERVAL):
            self.look()
        log.info("stopped")

    def look(self) -> None:
        """Read every Lease once, and roll back the deployments whose Leases have lapsed."""
        begun: list[Future[None]] = []
        for namespace, monitor in self._monitors.items():
            where = namespace or "all namespaces"
            try:
                begun += self._look(namespace, monitor)
            except Exception as error:
                monitor.mark_unobserved()
                self._complain("blind", where, error, namespace)
            else:
                self._say_solved("sees again", where, namespace)
        wait(begun, ROLLBACK_WAIT_SECONDS)

    def _look(self, namespace: str | None, monitor: LeaseMonitor) -> list[Future[None]]:
        """Return what was begun for those that have lapsed, and for which nothing is going on."""
        asked = self._clock()
        leases = list_leases(self._traffic, namespace)
        begun = []
        for lapsed in list(monitor.see(leases, asked, self._clock())):
            key, before = lapsed.lease.key, self._acts.get(lapsed.lease.key)
            if self._over.get(key) != lapsed.lease.version and (before is None or before.done()):
                self._acts[key] = self._threads.submit(self._act, lapsed)
                begun.append(self._acts[key])
        return begun

    def _act(self, lapsed: LapsedLease) -> None:
        """Roll one deployment back; what delays it delays no other."""
        try:
            self._roll_back(lapsed)
        except Exception as error:
            self._complain("not rolled back", lapsed.lease.name, error, lapsed.lease.key)
        else:
            self._say_solved("solved", lapsed.lease.name, lapsed.lease.key)

    def _roll_back(self, lapsed: LapsedLease) -> None:
        lease = lapsed.lease
        route = find_route(self._traffic, *lease.place)
        if route.owner is None or route.phase not in routes.WATCHED_PHASES:
            if route.phase == routes.BRAKED and route.ENDS_BY_PODS:
                withdraw_pods(self._traffic, route, route.versions[1])  # a rollback may have died before this
            # The next claim of the route takes the Lease first, which changes it.
            self._over[lease.key] = lease.version
            return
        claim = route.latest_claim()
        if not (route.serves(claim.candidate) or route.mirrors_to(claim.candidate)):
            return
        reason = f"guard: the watch has not renewed its Lease for {lapsed.silent:.0f} s, and it lasts {lease.seconds} s"
        verdict = FinalVerdict("BLIND", reason, time.time())
        try:
            outcome = rollback(self._traffic, claim, verdict, routes.BRAKED, new_epoch=True, route=route)
        except FencedError as error:
            self._complain("not rolled back", lease.name, error, (lease.key, "fenced"))
        else:
            log.warning("%-12s %s: %s; it was owned by %s", "rolled back", lease.name, outcome.reason, route.owner)

    def _complain(self, what: str, about: str, error: Exception, key: Hashable) -> None:
        """Log what fails when it begins, and then every minute: it is tried every second."""
        known = isinstance(error, DeployError)
        if self._clock() - self._said.get(key, -math.inf) >= REMIND_SECONDS:
            self._said[key] = self._clock()
            text = str(error) if known else f"an error of the guard itself, {error!r}"
            log.error("%-12s %s: %s", what, about, text, exc_info=None if known else error)

    def _say_solved(self, what: str, about: str, key: Hashable) -> None:
        if self._said.pop(key, None) is not None:
            log.info("%-12s %s", what, about)
