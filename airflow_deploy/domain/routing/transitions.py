"""What a deployment does with its route: claim it, raise its share, promote, and every way back.

Each is one JSON Patch. All first ``test`` the owner and the phase (and, when raising, what divides the traffic), so
that a task that was overtaken changes nothing. How traffic is moved is the part of what divides it (``teamroute``).
"""

import json

from airflow_deploy.domain.errors import FencedError
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
__all__ += ["abandon", "at_rest", "claim", "confirm", "promote", "reclaim", "restore", "seize", "shift", "stop"]
"""With the phases and annotations of the record: whoever writes a route needs them as well."""


def claim(route: TeamRoute, deployment_id: str, stable: str, candidate: str) -> tuple[str, Patch]:
    """Return the new owner and the patch that claims the route and adds the candidate without any traffic.

    A claim raises the epoch: whoever held the route before can write nothing any more. It is the one write that is
    fenced by the object's version, since it may replace whatever divides the traffic.

    :raises FencedError: the stable no longer serves alone, or is the candidate itself.
    :raises RefusedError: there is no stable, and no rule in which the candidate could serve.
    """
    if candidate == stable:
        raise FencedError(f"route {route.name}: {candidate} serves already; trigger a new run")
    if (serving := route.serving()) != stable:
        raise FencedError(
            f"route {route.name} is served by {serving or 'nobody'} now, not by {stable or 'nobody'} as when this run"
            " was planned"
        )
    owner = f"{deployment_id}/{route.epoch + 1}"
    patch: Patch = [test_op("/metadata/resourceVersion", route.body["metadata"]["resourceVersion"])]
    if not route.annotations:
        patch.append({"op": "add", "path": "/metadata/annotations", "value": {}})
    patch += [
        annotate_op(OWNER, owner),
        annotate_op(PHASE, CANARY),
        annotate_op(SHIFTS, "[]"),
        annotate_op(FINAL_VERDICT, ""),
    ]
    patch += [annotate_op(STOPPED, ""), annotate_op(VERSIONS, json.dumps({"stable": stable, "candidate": candidate}))]
    return owner, patch + route.attach_patch(stable, candidate)


def shift(
    route: TeamRoute,
    owner: str,
    stable: str,
    candidate: str,
    share: int,
    at: float,
    *,
    mirrored: bool = False,
) -> Patch:
    """Return the patch that gives the candidate ``share`` %; empty where the route already does.

    :param mirrored: give it copies, while users are answered by the stable. It comes before all shares: a route that
        names a mirror serves nobody where what that copies to is gone, so the first share takes it out.
    :raises FencedError: another owner, another phase, or a route that somebody else has changed.
    """
    fenced = fence(route, owner, CANARY)
    shifts = route.shifts
    last, following = shifts[-1] if shifts else Shift(0, at), Shift(share, at, mirrored)
    route.check_share(stable, candidate, last)
    if (last.share, last.mirrored) == (share, mirrored):
        return []
    if mirrored and (shifts or not stable):
        raise FencedError(
            f"route {route.name}: nothing is mirrored where the candidate has had a share, or no stable is"
        )
    recorded = json.dumps([item.dump() for item in [*shifts, following]])
    return [*fenced, *route.shift_patch(stable, candidate, following), annotate_op(SHIFTS, recorded)]


def restore(route: TeamRoute, owner: str, stable: str, candidate: str, phase: str, word: str | None = None) -> Patch:
    """Return the patch that gives the stable all traffic and enters ``phase``; empty where that is so already.

    It does not test the present shares: whatever they are, the stable serves afterwards. Without a stable, the
    candidate serves nobody. If a rule that we did not write keeps requests
    there (``has_foreign_rule``), all others are returned.

    :param word: why, for whoever finds the route so; None keeps what stands there.
    :raises FencedError: another owner.
    """
    fenced = fence(route, owner, route.phase or "")
    returned = route.restore_patch(stable, candidate, for_good=phase == SETTLED)
    if route.phase == phase and route.is_whole(stable, candidate):
        return []
    said = [] if word is None else [annotate_op(FINAL_VERDICT, word)]
    return [*fenced, *returned, annotate_op(PHASE, phase), *said]


def seize(route: TeamRoute, word: str) -> Patch:
    """Return the patch by which the guard takes back a deployment that nobody looks at.

    It claims the route in the deployment's own name: its run can raise nothing any more, and finds the word when it
    comes back. One write does both: there is no moment at which the route is claimed and the traffic where it was.

    :param word: why; it stays on the route.
    :raises FencedError: the record does not name both versions.
    """
    stable, candidate = route.versions
    deployment_id, _, _ = (route.owner or "").rpartition("/")
    patch = restore(route, route.owner or "", stable, candidate, BRAKED, word)
    return [*patch, annotate_op(OWNER, f"{deployment_id}/{route.epoch + 1}")]


def reclaim(route: TeamRoute, deployment_id: str, stable: str, candidate: str, word: str) -> Patch:
    """Return the patch that takes a verified promotion back: it claims the route anew and gives the stable all traffic.

    One write does both: there is no moment at which the route is claimed and the traffic still where it was.

    :param word: why; it stays on the route.
    :raises FencedError: the candidate's promotion is not what the route is at rest with.
    """
    if not at_rest(route, deployment_id, candidate):
        raise FencedError(f"route {route.name} is {route.phase} by {route.owner or 'nobody'}; nothing is taken back")
    # All annotations: whoever stops the stable for good says so there first, and one of the two comes too late.
    patch = [test_op("/metadata/annotations", route.annotations), *route.reclaim_patch(stable, candidate)]
    owner = f"{deployment_id}/{route.epoch + 1}"
    # The shifts and versions that stand there may be a later deployment's.
    versions = json.dumps({"stable": stable, "candidate": candidate})
    return [
        *patch,
        annotate_op(OWNER, owner),
        annotate_op(PHASE, SETTLED),
        annotate_op(SHIFTS, "[]"),
        annotate_op(FINAL_VERDICT, word),
        annotate_op(VERSIONS, versions),
    ]


def at_rest(route: TeamRoute, deployment_id: str, candidate: str) -> bool:
    """Whether all traffic is this verified deployment's, and no other is under way.

    :raises RefusedError: several Services share the traffic: somebody else has set weights.
    """
    phase = VERIFIED if route.owned_by(deployment_id) else SETTLED
    # Without an owner nothing can be fenced: somebody has removed the annotation.
    return route.owner is not None and route.phase == phase and route.stable() == candidate


def stop(route: TeamRoute, version: str, *, for_good: bool) -> Patch:
    """Return the patch after which ``version``, which has no traffic, may lose its pods.

    Where somebody has written the route since it was read, to give it some, say, that fails.

    :param for_good: say also that nobody may return to it any more, unless that is said, or nobody could.
    """
    unsaid = for_good and route.owner is not None and route.stopped != version
    return [*route.as_read_tests(), *([annotate_op(STOPPED, version), *route.detach_patch(version)] if unsaid else [])]


def promote(route: TeamRoute, owner: str, stable: str, candidate: str) -> Patch:
    """Return the patch that makes the candidate the stable; it already has all traffic. Empty where it is so already.

    :raises FencedError: another owner, a brake, or less than the full weight.
    """
    if route.owner == owner and route.phase == PROMOTED:
        return []
    fenced = fence(route, owner, CANARY)
    try:
        route.check_share(stable, candidate, Shift(100, 0.0))
    except FencedError as error:
        raise FencedError(f"{error}: it does not give {candidate} all traffic, and cannot be promoted") from error
    return [*fenced, *route.unchanged_tests(candidate), annotate_op(PHASE, PROMOTED)]


def abandon(route: TeamRoute, owner: str) -> Patch:
    """Return the patch that says that this deployment touches the route no more, so that nobody waits for it.

    :raises FencedError: another owner.
    """
    if route.owner != owner:
        raise FencedError(f"route {route.name} belongs to {route.owner or 'nobody'} now")
    return [test_op(annotation_path(OWNER), owner), annotate_op(PHASE, ABANDONED)]


def confirm(route: TeamRoute, owner: str) -> Patch:
    """Return the patch that marks a promotion as verified, so that nothing of its run takes it back any more.

    :raises FencedError: another owner, or a phase other than PROMOTED.
    """
    if route.owner == owner and route.phase == VERIFIED:
        return []
    if route.owner != owner or route.phase != PROMOTED:
        raise FencedError(f"route {route.name} is {route.phase} by {route.owner or 'nobody'}; it cannot be verified")
    return [
        test_op(annotation_path(OWNER), owner),
        test_op(annotation_path(PHASE), PROMOTED),
        annotate_op(PHASE, VERIFIED),
    ]
