"""Look after what a service's deployments left in the cluster: stop it, delete it, and say what was changed by hand.

It has no memory and keeps nothing: what there is, it reads anew each time, and each write is fenced by what was read.
So it may be killed anywhere, and two may be at it at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import yaml

from airflow_deploy.clients import lease, mirror
from airflow_deploy.clients.artifacts import deployment_ids, frozen_manifest, frozen_plan
from airflow_deploy.clients.autoscalers import release_autoscalers
from airflow_deploy.clients.cluster import Cluster
from airflow_deploy.clients.inventory import OWN_KINDS
from airflow_deploy.clients.promoted import one_promoted
from airflow_deploy.clients.settling import settle
from airflow_deploy.clients.testers import close
from airflow_deploy.domain import route as routes
from airflow_deploy.domain.errors import PermanentError, RefusedError
from airflow_deploy.domain.names import triggered_at
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.teamroute import TeamRoute
from airflow_deploy.domain.values import printable
from airflow_deploy.domain.versions import SETTLES_ITSELF, Chores, Previous, Version, chores, drift, versions_of


@dataclass(frozen=True)
class Surveyed:
    """What the cluster has of one service; ``plan`` is its latest deployment's."""

    plan: DeploymentPlan
    cluster: Cluster
    route: TeamRoute
    versions: list[Version]


@dataclass
class Tidied:
    """What was done and what a person must hear of; or why nothing may be touched now."""

    done: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    left: str | None = None


def survey(cluster: Cluster, plan: DeploymentPlan) -> Surveyed:
    """Read the service's versions and then its route, which may say already that a run has begun."""
    versions = versions_of(plan.spec.service, cluster.objects(plan.spec.namespace, plan.spec.service))
    return Surveyed(plan, cluster, cluster.team_route_or_absent(*plan.spec.place), versions)


def tidy(seen: Surveyed, at: float) -> Tidied:
    """Do what is to be done ``at`` (unix seconds).

    Whoever calls it has made sure *after* the survey that no run of the service is live: what a run makes from then on
    is not among what was surveyed.

    :raises PermanentError: the cluster does not let us, or cannot.
    :raises TemporaryError: something has changed since the survey.
    """
    try:
        do = _decide(seen, at)
    except RefusedError as error:
        return Tidied(left=str(error))
    return do()


def _decide(seen: Surveyed, at: float) -> Callable[[], Tidied]:
    """Return what is to be done.

    :raises RefusedError: nothing may be touched.
    """
    if not seen.route.is_there:
        return partial(_without_route, seen)
    if seen.route.phase in routes.UNDER_WAY:
        return partial(_settle, seen, _dead_run(seen, at))
    previous = _previous(seen)
    todo = chores(seen.versions, seen.route, previous, seen.plan.spec.rollback.keep, at)
    return partial(_look_after, seen, todo, previous)


def _settle(seen: Surveyed, dead: DeploymentPlan) -> Tidied:
    owner = seen.route.owner or ""
    if lease.is_alive(seen.cluster, dead, owner):
        return Tidied(left=f"route {seen.route.name} is {seen.route.phase} by {owner}, and somebody looks at it")
    settled = settle(seen.cluster, dead)
    said = f"{dead.deployment_id} was {seen.route.phase}, and Airflow has no live run of it: {settled.reason}"
    return Tidied(alarms=[said])


def _without_route(seen: Surveyed) -> Tidied:
    """Touch nothing but a mirror, which nobody asks any more: a namespace that has one cannot be deleted."""
    return Tidied(_close_mirrors(seen), left=f"route {seen.route.name} is not there")


def _ended(seen: Surveyed) -> Callable[[str], bool]:
    """Return whether a deployment is over: whoever holds something is no live run any more."""
    return lambda by: frozen_plan(seen.plan.spec.service, by) is not None


def _close_mirrors(seen: Surveyed) -> list[str]:
    spec = seen.plan.spec
    closed = mirror.close(seen.cluster, spec.namespace, spec.service, spec.route.name, _ended(seen))
    return [f"deleted mirror {name}" for name in closed]


def _look_after(seen: Surveyed, todo: Chores, previous: Previous | None) -> Tidied:
    tidied = Tidied()
    namespace, ended = seen.plan.spec.namespace, _ended(seen)
    by_gateway = not seen.plan.divides_pods
    if by_gateway and (closed := close(seen.cluster, namespace, seen.plan.spec.route.name, ended)):
        tidied.done.append(f"deleted route {closed}")
    tidied.done += _close_mirrors(seen)
    tidied.alarms += [
        f"{version.name} has users, and {seen.route.serving()} should have them all: somebody has changed what the"
        " Service selects; let it select one of them"
        for version in todo.selected
    ]
    for version in todo.stop:
        if seen.route.selects(version.labels) and not _can_serve(seen):
            tidied.alarms.append(f"{version.name} alone has users, since {seen.route.serving()} has no ready pod")
            continue
        _stop(seen, version, for_good=previous is not None and version.name == previous.name)
        tidied.done.append(f"stopped {version.name}")
    for version in todo.delete:
        _delete(seen, version)
        tidied.done.append(f"deleted {version.name}")
    released = release_autoscalers(seen.cluster, namespace, ended)
    tidied.done += [f"gave {name} its minimum back" for name in released]
    for version in seen.versions:
        if version.pods and version not in todo.stop and (changed := _drift(seen, version)):
            tidied.alarms.append(f"{version.name} is not as it was applied: {printable('; '.join(changed), 500)}")
    return tidied


def _dead_run(seen: Surveyed, at: float) -> DeploymentPlan:
    """Return the plan of a run that is no more: whoever deleted it in Airflow, say, deleted its teardown too.

    :raises RefusedError: it is not known, or its own teardown may still be at it.
    """
    route = seen.route
    plan = frozen_plan(seen.plan.spec.service, (route.owner or "").rpartition("/")[0])
    candidate = next((version for version in seen.versions if plan and version.name == plan.candidate), None)
    if plan is None or candidate is None or at < candidate.made_at + SETTLES_ITSELF:
        raise RefusedError(f"route {route.name} is {route.phase} by {route.owner or 'nobody'}")
    return plan


def _previous(seen: Surveyed) -> Previous | None:
    """Return the version that a rollback would return to; None where what serves was not deployed by us.

    :raises RefusedError: nobody knows: the route is not at rest, or the record is lost.
    """
    if seen.route.phase not in routes.AT_REST:
        raise RefusedError(f"route {seen.route.name} is {seen.route.phase}: a person must look at it")
    if not seen.route.serving() and seen.route.phase == routes.SETTLED and not seen.route.versions[0]:
        return None  # the first version was taken back
    serving, service = seen.route.stable(), seen.plan.spec.service
    if all(version.name != serving for version in seen.versions):
        return None
    for identity in reversed(deployment_ids(service)):
        if triggered_at(identity) == int(serving.rpartition("-")[2]):
            item = one_promoted(service, identity)
            if item and item.plan.candidate == serving:
                return Previous(item.plan.stable, item.until)
    raise RefusedError(f"{serving} serves, and no deployment is recorded that ended so")


def _can_serve(seen: Surveyed) -> bool:
    stable = seen.route.stable()
    return seen.cluster.ready(seen.plan.spec.namespace, stable, seen.route.labels_of(stable)) > 0


def _stop(seen: Surveyed, version: Version, *, for_good: bool) -> None:
    if for_good:
        # The route says so first: a verification that wants to return to it at this moment comes before, or too late.
        seen.cluster.patch_route(seen.route, routes.stop(seen.route, version.name))
    seen.cluster.scale(seen.plan.spec.namespace, version.name, 0, version.objects["Deployment"])


def _delete(seen: Surveyed, version: Version) -> None:
    unread = {"kind": "ConfigMap", "metadata": {"namespace": seen.plan.spec.namespace, "name": version.name}}
    there = {**version.objects, "ConfigMap": unread}
    for kind in OWN_KINDS:
        if kind in there:
            seen.cluster.delete(there[kind])


def _drift(seen: Surveyed, version: Version) -> list[str]:
    manifest = frozen_manifest(seen.plan.spec.service, version.deployment_id)
    if manifest is None:
        return []
    try:
        found = drift([item for item in yaml.safe_load_all(manifest) if item], version)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise PermanentError(f"the manifest of {version.deployment_id} in the artifacts is not readable") from error
    there = seen.cluster.has_config_map(seen.plan.spec.namespace, version.name)
    return found if there else [*found, "ConfigMap is missing"]
