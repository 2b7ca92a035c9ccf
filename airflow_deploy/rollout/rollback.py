"""The one rollback: all traffic to the stable, in one fenced write.

It is called by the watch and the gates (brake), the guard, the scheduled verification, the tasks ``rollback`` and
``finalize``, and the cleanup of runs that Airflow has lost. What each of them may undo is in ``transitions.rollback``.
The candidate's pods end after that (``teardown``). The guard runs this without Airflow.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.errors import QUICK_TIMEOUT
from airflow_deploy.clients.kubernetes.pods import ready_pods, withdraw_pods
from airflow_deploy.clients.kubernetes.routes import find_route, patch_route
from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.errors import DeployError, FencedError, NotFinalizedError, TemporaryError
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.record import ANNOTATION_ERRORS
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.domain.values import printable

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RollbackOutcome:
    """What a rollback found and did.

    :param returned: whether this deployment had the route, and the stable has all of its traffic now.
    :param reason: one sentence: why, to which version, and in how many seconds.
    :param restored_at: when the traffic was the stable's again, in unix seconds.
    :param stopped: whether the candidate's pods were told to end.
    :param verified: whether the candidate was verified before, and stays.
    :param overtaken: whether a later deployment has the route, and keeps the candidate as its own stable.
    """

    returned: bool
    reason: str
    restored_at: float | None = None
    stopped: bool = False
    verified: bool = False
    overtaken: bool = False

    @property
    def acted(self) -> bool:
        """Whether this deployment had left something to undo."""
        return self.returned or self.stopped


def rollback(
    cluster: KubernetesClient,
    claim: Claim,
    verdict: FinalVerdict | None,
    phase: str,
    *,
    new_epoch: bool = False,
    route: TeamRoute | None = None,
) -> RollbackOutcome:
    """Give the stable all traffic and enter ``phase``; a service's first version, without a stable, loses all of it.

    A route that another deployment has claimed since is that one's, and a verified promotion is not undone by its own
    run (a task that a person has cleared, say): nothing is written then. A brake after the rollback writes nothing
    either.

    :param verdict: why. It is left on the route, with the time; None keeps the verdict that the route has.
    :param new_epoch: claim the route anew, in the deployment's own name: its run can write nothing any more.
    :param route: the route, if it was read already.
    :raises FencedError: a rule that was changed by hand sends requests to the candidate and does not name the stable.
        These stay; all others are returned.
    :raises NotFinalizedError: the stable of a verified promotion cannot serve any more.
    :raises TemporaryError: the stable has no ready pod, or the route changed between reading and writing; try again.
    """
    if route is None:
        # It may have been deleted, and that of a first version may not be there yet.
        route = find_route(cluster, *claim.place)
    settled = route.owned_by(claim.deployment_id) and route.phase == routes.SETTLED
    if settled and (new_epoch or phase == routes.BRAKED):
        withdraw_pods(cluster, route, claim.candidate)  # an earlier try may have died before this
        return _now_returned(route, claim)
    if not routes.may_roll_back(route, claim, phase, new_epoch=new_epoch):
        state = f"is {route.phase} by {route.owner or 'no deployment'}" if route.is_there else "is gone"
        return RollbackOutcome(returned=False, reason=f"route {route.name} {state}")
    # The rollback of a promotion writes the stable into every rule of the candidate, so none of them is foreign.
    of_promotion = new_epoch and phase == routes.SETTLED
    foreign = not of_promotion and route.has_foreign_rule(claim)
    phases = [phase]
    if not new_epoch and (foreign or route.ENDS_BY_PODS):
        # SETTLED says that no pod of the candidate has users. Until that is so, the route is BRAKED, and the guard
        # completes a rollback that was begun.
        phases = [*([] if settled else [routes.BRAKED]), *([] if foreign else [phase])]
    for entered in dict.fromkeys(phases):
        restored_at = None if foreign else time.time()
        recorded = json.dumps(replace(verdict, restored_at=restored_at).event()) if verdict else None
        held = claim if new_epoch else claim.as_held(route)
        patch = routes.rollback(route, held, entered, recorded, new_epoch=new_epoch)
        if claim.stable and route.serves(claim.candidate):
            _check_stable(cluster, route, claim, phase, new_epoch=new_epoch)
        route = patch_route(cluster, route, patch)
        withdraw_pods(cluster, route, claim.candidate)
    if foreign:
        raise FencedError(
            f"route {route.name} was changed by hand: it has a rule that sends requests to {claim.candidate} and does"
            f" not name {claim.stable}; all others are returned, give that rule to {claim.stable}"
        )
    return _now_returned(route, claim)


def _check_stable(cluster: KubernetesClient, route: TeamRoute, claim: Claim, phase: str, *, new_epoch: bool) -> None:
    """Check that the stable can serve: users of a bad version are better off than users of none.

    A run's own rollback does not wait for a cluster that does not say so at once: the stable is then taken to serve.

    :raises NotFinalizedError: the promotion's stable has no ready pod, or was stopped for good.
    :raises TemporaryError: the run's stable has no ready pod.
    """
    promotion = new_epoch and phase == routes.SETTLED
    if promotion and route.stopped == claim.stable:
        raise NotFinalizedError(
            f"{claim.candidate} must be rolled back, and {claim.stable} is stopped for good, since its rollback window"
            " is over; nothing was changed: deploy another fix"
        )
    namespace, labels = claim.place.namespace, route.labels_of(claim.stable)
    try:
        timeout = None if new_epoch else QUICK_TIMEOUT
        ready = ready_pods(cluster, namespace, claim.stable, labels, timeout)
    except DeployError as error:
        if new_epoch:
            raise
        log.warning("rolling back without knowing whether %s has a ready pod: %s", claim.stable, error)
        return
    if ready:
        return
    if promotion:
        raise NotFinalizedError(
            f"{claim.candidate} must be rolled back, and {claim.stable} has no ready pod that could take its traffic;"
            " nothing was changed: start it, or deploy another fix"
        )
    raise TemporaryError(
        f"{claim.stable} has no ready pod that could take the traffic of {claim.candidate}: start one; nothing is"
        " changed until it is ready"
    )


def abandon_route(cluster: KubernetesClient, claim: Claim) -> None:
    """Record on the route that this deployment writes it no more: watch and gates end, and the run with them."""
    route = find_route(cluster, *claim.place)
    if route.owner and route.owned_by(claim.deployment_id):
        patch_route(cluster, route, routes.abandon(route, claim.as_held(route)))


def _now_returned(route: TeamRoute, claim: Claim) -> RollbackOutcome:
    return replace(outcome_of(route, claim), restored_at=time.time())


def outcome_of(route: TeamRoute, claim: Claim, why: str = "", *, had_route: bool = True) -> RollbackOutcome:
    """Return the outcome of a rollback that has left ``route`` so: the one place that says what was done and why.

    :param why: the reason, if the route has no verdict.
    :param had_route: whether the deployment had the route.
    """
    verdict = _verdict_on(route) if had_route else None
    if not route.is_there and claim.stable:
        done = f"route {route.name} is gone, so no version has traffic"
    elif not had_route:
        done = f"{claim.candidate} had no traffic"
    else:
        done = f"rolled back to {claim.stable}" if claim.stable else "rolled back to no traffic, as before"
        if verdict and verdict.restored_at and verdict.restored_at >= verdict.at:
            done += f" in {verdict.restored_at - verdict.at:.1f} s"
    why = printable(verdict.reason, 500) if verdict else why
    return RollbackOutcome(had_route, f"{why}; {done}" if why else done, verdict.restored_at if verdict else None)


def _verdict_on(route: TeamRoute) -> FinalVerdict | None:
    """Return the verdict that a rollback has left on the route; None if it has none, or not in our form."""
    with suppress(*ANNOTATION_ERRORS):
        return FinalVerdict.from_event(json.loads(route.final_verdict or ""))
    return None
