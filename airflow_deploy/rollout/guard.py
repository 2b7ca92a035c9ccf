"""The guard: it returns the traffic of a deployment that nobody looks at any more, because Airflow has died.

It knows nothing of Airflow. What a run leaves in the cluster says all of it: the Lease that somebody looks, the route
who has it and which two versions share it.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from airflow_deploy.clients.kubernetes.traffic import Traffic
from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.errors import DeployError, RefusedError
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.lease_monitor import LapsedLease, LeaseMonitor
from airflow_deploy.domain.routing.service_route import ServiceRoute

log = logging.getLogger(__name__)

GUARD_INTERVAL = 1.0
"""Seconds between two sights of the Leases."""
REMIND_SECONDS = 60.0
"""Seconds after which what still fails is said again."""
MAX_CONCURRENT_ROLLBACKS = 32
"""How many deployments are taken back at the same time."""
ROLLBACK_WAIT_SECONDS = 1.0
"""Seconds for which a sight waits for what it has begun. What takes longer goes on beside the sights that follow: it
stops the clock of no other Lease."""


def connect() -> Traffic:
    """Reach the cluster that KUBECONFIG names, or else the one whose pod this is.

    :raises RefusedError: there is neither.
    """
    from kubernetes import client, config

    configuration = client.Configuration()
    try:
        config.load_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise RefusedError(
            f"there is no cluster to guard ({error}): set KUBECONFIG, or run it in a pod with a ServiceAccount"
        ) from error
    configuration.retries = False  # the next sight is the next try
    return Traffic(client.ApiClient(configuration))


class Guard:
    """Watches the Leases of some namespaces.

    :param namespaces: which; none are all.
    """

    def __init__(
        self, traffic: Traffic, namespaces: Sequence[str] = (), clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._traffic, self._clock = traffic, clock
        self._vigils: dict[str | None, LeaseMonitor] = {name: LeaseMonitor() for name in namespaces or (None,)}
        self._threads = ThreadPoolExecutor(MAX_CONCURRENT_ROLLBACKS)
        self._acts: dict[Hashable, Future[None]] = {}
        self._over: dict[Hashable, tuple[str, str]] = {}
        self._said: dict[Hashable, float] = {}

    def run(self, ended: Callable[[float], bool]) -> None:
        """Look until the end, whatever the cluster answers.

        :param ended: waits for so many seconds, and returns whether it has come.
        """
        log.info("%-12s %s", "guards", ", ".join(name or "all namespaces" for name in self._vigils))
        self.look()
        while not ended(GUARD_INTERVAL):
            self.look()
        log.info("stopped")

    def look(self) -> None:
        """Look once at every Lease, and take back what nobody looks at."""
        begun: list[Future[None]] = []
        for namespace, vigil in self._vigils.items():
            where = namespace or "all namespaces"
            try:
                begun += self._look(namespace, vigil)
            except Exception as error:
                vigil.mark_unobserved()
                self._complain("blind", where, error, namespace)
            else:
                self._settle("sees again", where, namespace)
        wait(begun, ROLLBACK_WAIT_SECONDS)

    def _look(self, namespace: str | None, vigil: LeaseMonitor) -> list[Future[None]]:
        """Return what was begun for those that have lapsed, and for which nothing is going on."""
        asked = self._clock()
        leases = self._traffic.leases(namespace)
        begun = []
        for lapsed in list(vigil.see(leases, asked, self._clock())):
            key, before = lapsed.lease.key, self._acts.get(lapsed.lease.key)
            if self._over.get(key) != lapsed.lease.version and (before is None or before.done()):
                self._acts[key] = self._threads.submit(self._act, lapsed)
                begun.append(self._acts[key])
        return begun

    def _act(self, lapsed: LapsedLease) -> None:
        """Take one deployment back; whatever stands in the way stands in no other's."""
        try:
            self._take_back(lapsed)
        except Exception as error:
            self._complain("not returned", lapsed.lease.name, error, lapsed.lease.key)
        else:
            self._settle("settled", lapsed.lease.name, lapsed.lease.key)

    def _take_back(self, lapsed: LapsedLease) -> None:
        lease = lapsed.lease
        route = self._traffic.team_route_or_absent(lease.namespace, lease.route, lease.router)
        if route.owner is None or route.phase not in routes.WATCHED_PHASES:
            if route.phase == routes.BRAKED and lease.router == ServiceRoute.ROUTER:
                self._traffic.withdraw(route, route.versions[1])  # who braked may have died before this
            # Whoever claims the route again takes the Lease first, which changes it.
            self._over[lease.key] = lease.version
            return
        stable, candidate = route.versions
        if not (route.serves(candidate) or route.mirrors_to(candidate)):
            return
        if stable and not self._traffic.ready(lease.namespace, stable, route.labels_of(stable)):
            raise RefusedError(f"{stable} has no ready pod that could take the traffic: start it, or let Airflow look")
        reason = f"guard: nobody has looked for {lapsed.silent:.0f} s, and the Lease lasts {lease.seconds} s"
        now, keeps = time.time(), route.has_foreign_rule(stable, candidate)
        word = FinalVerdict("BLIND", reason, now, restored_at=None if keeps else now)
        seized = self._traffic.patch_route(route, routes.seize(route, json.dumps(word.event())))
        self._traffic.withdraw(seized, candidate)
        moved = f"owner {route.owner}, from {candidate} to {stable or 'nobody'}"
        log.warning("returned     %s: nobody has looked for %.0f s; %s", lease.name, lapsed.silent, moved)
        if keeps:
            log.error(
                "%-12s %s: a rule sends requests to %s and does not name %s; somebody should change it",
                "not returned",
                lease.name,
                candidate,
                stable,
            )

    def _complain(self, what: str, about: str, error: Exception, key: Hashable) -> None:
        """Say what fails when it begins, and then now and again: it is tried every second."""
        known = isinstance(error, DeployError)
        if self._clock() - self._said.get(key, -math.inf) >= REMIND_SECONDS:
            self._said[key] = self._clock()
            text = str(error) if known else f"a mistake of the guard's own, {error!r}"
            log.error("%-12s %s: %s", what, about, text, exc_info=None if known else error)

    def _settle(self, what: str, about: str, key: Hashable) -> None:
        if self._said.pop(key, None) is not None:
            log.info("%-12s %s", what, about)
