"""What a deployment writes to its route: claim it, raise its share, promote it, roll it back.

Each is one JSON Patch. All of them first ``test`` the owner and the phase (and, when raising, what divides the
traffic), so that a task that was overtaken changes nothing. How traffic moves is the route's part (``team_route``).
"""

import json
from typing import Any

from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.record import (
    ABANDONED,
    ACTIVE_PHASES,
    BRAKED,
    CANARY,
    FINAL_VERDICT,
    OWNER,
    PHASE,
    PROMOTED,
    RESTING_PHASES,
    SETTLED,
    SHIFTS,
    STOPPED,
    VERIFIED,
    VERSIONS,
    WATCHED_PHASES,
    Patch,
    Shift,
    annotate_op,
    annotation_path,
    fence,
    test_op,
)
from airflow_deploy.domain.routing.team_route import TeamRoute

__all__ = [
    "ABANDONED",
    "ACTIVE_PHASES",
    "BRAKED",
    "CANARY",
    "PROMOTED",
    "RESTING_PHASES",
    "SETTLED",
    "VERIFIED",
    "WATCHED_PHASES",
]
__all__ += ["FINAL_VERDICT", "OWNER", "PHASE", "SHIFTS", "VERSIONS"]
__all__ += ["abandon", "at_rest", "claim", "confirm", "may_roll_back", "promote", "rollback", "shift", "stop"]
"""With the phases and annotations of the record: code that writes a route needs them as well."""


def claim(route: TeamRoute, planned: Claim) -> tuple[Claim, Patch]:
    """Return the claim, and the patch that writes it and adds the candidate without any traffic.

    A claim raises the epoch: all that were made before can write nothing any more. It is the one write that is
    fenced by the object's version, since it may replace all that divides the traffic.

    :param planned: the deployment's claim, at any epoch.
    :raises FencedError: the stable no longer serves alone, or is the candidate itself.
    :raises RefusedError: there is no stable, and no rule in which the candidate could serve.
    """
    stable, candidate = planned.stable, planned.candidate
    if candidate == stable:
        raise FencedError(f"route {route.name}: {candidate} serves already; trigger a new run")
    if (serving := route.serving()) != stable:
        raise FencedError(
            f"route {route.name} is served by {serving or 'no version'} now, not by {stable or 'no version'} as when"
            " this run was planned"
        )
    made = planned.renewed(route)
    patch: Patch = [test_op("/metadata/resourceVersion", route.body["metadata"]["resourceVersion"])]
    if not route.annotations:
        patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    patch += [
        annotate_op(OWNER, made.owner),
        annotate_op(PHASE, CANARY),
        annotate_op(SHIFTS, "[]"),
        annotate_op(FINAL_VERDICT, ""),
        annotate_op(STOPPED, ""),
        _annotate_versions(made),
    ]
    return made, patch + route.attach_patch(made)


def shift(route: TeamRoute, claim: Claim, share: int, at: float, *, mirrored: bool = False) -> Patch:
    """Return the patch that gives the candidate ``share`` %; empty if the route already does.

    :param mirrored: give it copies, while users are answered by the stable. It comes before all shares: a route that
        names a mirror has no answer for users once the mirror's target is gone, so the first share takes it out.
    :raises FencedError: another owner, another phase, or a route that was changed by hand.
    """
    fenced = fence(route, claim.owner, CANARY)
    shifts = route.shifts
    last, following = shifts[-1] if shifts else Shift(0, at), Shift(share, at, mirrored)
    route.check_share(claim, last)
    if (last.share, last.mirrored) == (share, mirrored):
        return []
    if mirrored and (shifts or not claim.stable):
        raise FencedError(
            f"route {route.name}: requests are mirrored only beside a stable, and before the candidate's first share"
        )
    recorded = json.dumps([item.dump() for item in [*shifts, following]])
    return [*fenced, *route.shift_patch(claim, following), annotate_op(SHIFTS, recorded)]


def rollback(
    route: TeamRoute, claim: Claim, phase: str, verdict: str | None = None, *, new_epoch: bool = False
) -> Patch:
    """Return the patch that gives the stable all traffic and enters ``phase``; empty if that is so already.

    One write does all of it. Without a stable, the candidate loses all traffic. What it may undo:

    ==============  ==================================  ====================================================
    phase           with the run's own claim            with ``new_epoch``, which fences that claim
    ==============  ==================================  ====================================================
    BRAKED          a run, for the watch and the gates  a run whose watch is silent, for the guard
    SETTLED         a run, once its pods may end        a verified promotion, for the scheduled verification
    ==============  ==================================  ====================================================

    A run's rollback does not test the current shares, because it works from any of them. If a rule that we
    did not write keeps requests at the candidate (``has_foreign_rule``), all others are returned.

    :param verdict: why, as JSON for later readers of the route; None keeps the verdict that the route has.
    :raises FencedError: the claim does not hold the route, or what it holds may not be undone so.
    """
    if new_epoch and phase == SETTLED:
        patch = _return_from_promotion(route, claim)
    else:
        patch = fence(route, claim.owner, route.phase or "")
        if not may_roll_back(route, claim, phase, new_epoch=new_epoch):
            raise FencedError(f"route {route.name} is {route.phase}; there is no run to roll back")
        patch += route.restore_patch(claim, for_good=phase == SETTLED)
        if route.phase == phase and route.is_whole(claim):
            return []
    patch.append(annotate_op(PHASE, phase))
    if verdict is not None:
        patch.append(annotate_op(FINAL_VERDICT, verdict))
    if new_epoch:
        patch.append(annotate_op(OWNER, claim.renewed(route).owner))
    return patch


def may_roll_back(route: TeamRoute, claim: Claim, phase: str, *, new_epoch: bool) -> bool:
    """Whether ``rollback`` has something to undo, by the table there; a run's own claim may have any epoch.

    :raises RefusedError: several Services share the traffic of a promotion: weights were changed by hand.
    """
    if new_epoch and phase == SETTLED:
        return at_rest(route, claim)
    if new_epoch:
        return route.owner == claim.owner and route.phase in WATCHED_PHASES
    return route.owner is not None and route.owned_by(claim.deployment_id) and route.phase != VERIFIED


def _return_from_promotion(route: TeamRoute, claim: Claim) -> Patch:
    """Return the part that gives a verified promotion's traffic to its stable, with a record of its own.

    :raises FencedError: the route is not at rest with the candidate's promotion.
    """
    if not at_rest(route, claim):
        raise FencedError(
            f"route {route.name} is {route.phase} by {route.owner or 'no deployment'}, not at rest with"
            f" {claim.candidate}; it is not rolled back"
        )
    return [
        # All annotations: cleanup notes there that the stable is stopped for good, and one of the two is refused.
        test_op("/metadata/annotations", route.annotations),
        *route.reclaim_patch(claim),
        # The shifts and versions in the record may be a later deployment's.
        annotate_op(SHIFTS, "[]"),
        _annotate_versions(claim),
    ]


def at_rest(route: TeamRoute, claim: Claim) -> bool:
    """Whether all traffic is this verified deployment's, and no other is under way.

    :raises RefusedError: several Services share the traffic: weights were changed by hand.
    """
    phase = VERIFIED if route.owned_by(claim.deployment_id) else SETTLED
    # Without an owner, whose annotation was removed then, no write could be fenced.
    return route.owner is not None and route.phase == phase and route.stable() == claim.candidate


def stop(route: TeamRoute, version: str, *, for_good: bool) -> Patch:
    """Return the patch after which ``version``, which has no traffic, may lose its pods.

    It is refused if the route was written since it was read, to give the version traffic, say.

    :param for_good: also record that no rollback may return to it. Skipped if it is recorded, or if no deployment owns
        the route.
    """
    unsaid = for_good and route.owner is not None and route.stopped != version
    return [*route.as_read_tests(), *([annotate_op(STOPPED, version), *route.detach_patch(version)] if unsaid else [])]


def promote(route: TeamRoute, claim: Claim) -> Patch:
    """Return the patch that makes the candidate the stable; it already has all traffic. Empty if it is so already.

    :raises FencedError: another owner, a brake, or less than the full weight.
    """
    if route.owner == claim.owner and route.phase == PROMOTED:
        return []
    fenced = fence(route, claim.owner, CANARY)
    try:
        route.check_share(claim, Shift(100, 0.0))
    except FencedError as error:
        raise FencedError(f"{error}: it does not give {claim.candidate} all traffic, and cannot be promoted") from error
    return [*fenced, *route.unchanged_tests(claim.candidate), annotate_op(PHASE, PROMOTED)]


def abandon(route: TeamRoute, claim: Claim) -> Patch:
    """Return the patch that says that this deployment writes the route no more, so that no task waits for it.

    :raises FencedError: another owner.
    """
    if route.owner != claim.owner:
        raise FencedError(f"route {route.name} belongs to {route.owner or 'no deployment'} now")
    return [test_op(annotation_path(OWNER), claim.owner), annotate_op(PHASE, ABANDONED)]


def confirm(route: TeamRoute, claim: Claim) -> Patch:
    """Return the patch that marks a promotion as verified, so that its run rolls it back no more.

    :raises FencedError: another owner, or a phase other than PROMOTED.
    """
    if route.owner == claim.owner and route.phase == VERIFIED:
        return []
    if route.owner != claim.owner or route.phase != PROMOTED:
        raise FencedError(
            f"route {route.name} is {route.phase} by {route.owner or 'no deployment'}; it cannot be verified"
        )
    return [*fence(route, claim.owner, PROMOTED), annotate_op(PHASE, VERIFIED)]


def _annotate_versions(claim: Claim) -> dict[str, Any]:
    return annotate_op(VERSIONS, json.dumps({"stable": claim.stable, "candidate": claim.candidate}))
