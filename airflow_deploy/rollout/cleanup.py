"""Clean up what a service's deployments left in the cluster: stop it, delete it, and report what was changed by hand.

It is stateless: each pass reads the cluster again, and each write is fenced by what was read. So it may be killed
anywhere, and two passes may run at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import yaml

from airflow_deploy.clients.artifacts import deployment_ids, frozen_manifest, frozen_plan
from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.pods import config_map_exists, ready_pods, scale_deployment, started_at
from airflow_deploy.clients.kubernetes.routes import find_route, patch_route
from airflow_deploy.clients.kubernetes.versions import VERSION_KINDS, delete_object, list_versions
from airflow_deploy.domain.errors import PermanentError, RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.names import triggered_at
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.domain.values import printable
from airflow_deploy.domain.workloads.drift import drift
from airflow_deploy.domain.workloads.versions import (
    RUN_GRACE_SECONDS,
    CleanupPlan,
    PreviousVersion,
    Version,
    plan_cleanup,
    versions_of,
)
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.history import promoted_deployment
from airflow_deploy.rollout.teardown import release, roll_back_and_stop


@dataclass(frozen=True)
class Survey:
    """What the cluster has of one service; ``plan`` is its latest deployment's.

    ``elsewhere`` are other routes by which one of its versions was deployed, and that are still there.
    """

    plan: DeploymentPlan
    cluster: KubernetesClient
    route: TeamRoute
    versions: list[Version]
    elsewhere: list[TeamRoute] = field(default_factory=list)


@dataclass
class CleanupResult:
    """What was done and what a person must hear of; or why nothing may be touched now."""

    done: list[str] = field(default_factory=list)
    alarms: list[str] = field(default_factory=list)
    left: str | None = None


def survey(cluster: KubernetesClient, plan: DeploymentPlan) -> Survey:
    """Read the service's versions and then its routes, which may say already that a run has begun."""
    service, namespace = plan.spec.service, plan.spec.namespace
    # The pods last: a Deployment that was started before it was read has some by now, or will have.
    objects = list_versions(cluster, namespace, service)
    versions = versions_of(service, objects, started_at(cluster, namespace))
    plans = (frozen_plan(service, version.deployment_id) for version in versions)
    before = {one.spec.place for one in plans if one} - {plan.spec.place}
    route, *others = [find_route(cluster, *place) for place in (plan.spec.place, *sorted(before))]
    return Survey(plan, cluster, route, versions, [one for one in others if one.is_there])


def clean_up(seen: Survey, at: float) -> CleanupResult:
    """Do what is to be done ``at`` (unix seconds).

    The caller has made sure *after* the survey that no run of the service is live: objects that a run makes from then
    on are not in the survey.

    :raises PermanentError: the cluster does not let us, or cannot.
    :raises TemporaryError: something has changed since the survey.
    """
    try:
        do = _decide(seen, at)
    except RefusedError as error:
        return CleanupResult(left=str(error))
    return do()


def _decide(seen: Survey, at: float) -> Callable[[], CleanupResult]:
    """Return what is to be done.

    :raises RefusedError: nothing may be touched.
    """
    if not seen.route.is_there:
        return partial(_without_route, seen)
    if seen.route.phase in routes.ACTIVE_PHASES:
        return partial(_roll_back_lost_run, seen, _dead_run(seen, at))
    previous = _previous(seen)
    todo = plan_cleanup(seen.versions, seen.route, previous, seen.plan.spec.rollback.keep, at, seen.elsewhere)
    return partial(_clean, seen, todo, previous, at)


def _roll_back_lost_run(seen: Survey, dead: DeploymentPlan) -> CleanupResult:
    owner = seen.route.owner or ""
    if lease.is_alive(seen.cluster, dead, owner):
        return CleanupResult(left=f"route {seen.route.name} is {seen.route.phase} by {owner}, whose watch is alive")
    outcome = roll_back_and_stop(seen.cluster, dead)
    said = f"{dead.deployment_id} was {seen.route.phase}, and Airflow has no live run of it: {outcome.reason}"
    return CleanupResult(alarms=[said])


def _without_route(seen: Survey) -> CleanupResult:
    """Delete nothing but mirrors, which no route names any more: a namespace that has one cannot be deleted."""
    deleted = release(seen.cluster, seen.plan, mirrors_of=_ended(seen))
    return CleanupResult(deleted, left=f"route {seen.route.name} is not there")


def _ended(seen: Survey) -> Callable[[str], bool]:
    """Return whether a deployment is over: none that holds something is a live run."""
    return lambda by: frozen_plan(seen.plan.spec.service, by) is not None


def _clean(seen: Survey, todo: CleanupPlan, previous: PreviousVersion | None, at: float) -> CleanupResult:
    ended = _ended(seen)
    within = previous is not None and at < previous.until
    # The previous version is kept large enough for as long as it may have to take all traffic.
    kept = {version.deployment_id for version in seen.versions if within and seen.route.serves(version.name)}
    result = CleanupResult(release(seen.cluster, seen.plan, testers_of=ended, mirrors_of=ended))
    result.alarms += [
        f"{version.name} has users, and {seen.route.serving()} should have them all: the selector of the Service was"
        " changed by hand; let it select one of them"
        for version in todo.selected
    ]
    if not within:  # until then, users may have to be given back to it
        result.alarms += [
            f"{version.name} is not stopped: it has users by a route that its service had before; let them come by"
            f" route {seen.route.name}"
            for version in todo.elsewhere
        ]
    route = seen.route
    for version in todo.stop:
        if seen.route.selects(version.labels) and not _can_serve(seen):
            result.alarms.append(f"{version.name} alone has users, since {seen.route.serving()} has no ready pod")
            continue
        route = _stop(seen, route, version, for_good=previous is not None and version.name == previous.name)
        result.done.append(f"stopped {version.name}")
    for version in todo.delete:
        _delete(seen, version)
        result.done.append(f"deleted {version.name}")
    result.done += release(seen.cluster, seen.plan, autoscalers_of=lambda by: by not in kept and ended(by))
    for version in seen.versions:
        if version.pods and version not in todo.stop and (changed := _drift(seen, version)):
            result.alarms.append(f"{version.name} is not as it was applied: {printable('; '.join(changed), 500)}")
    return result


def _dead_run(seen: Survey, at: float) -> DeploymentPlan:
    """Return the plan of a run that is no more: with its deletion in Airflow, say, its teardown was deleted too.

    :raises RefusedError: it is not known, or its own teardown may still be at it.
    """
    route = seen.route
    plan = frozen_plan(seen.plan.spec.service, (route.owner or "").rpartition("/")[0])
    candidate = next((version for version in seen.versions if plan and version.name == plan.candidate), None)
    if plan is None or candidate is None or at < candidate.made_at + RUN_GRACE_SECONDS:
        raise RefusedError(f"route {route.name} is {route.phase} by {route.owner or 'no deployment'}")
    return plan


def _previous(seen: Survey) -> PreviousVersion | None:
    """Return the version that a rollback would return to; None if we have not deployed what serves.

    :raises RefusedError: it is not known: the route is not at rest, or the record is lost.
    """
    if seen.route.phase not in routes.RESTING_PHASES:
        raise RefusedError(f"route {seen.route.name} is {seen.route.phase}: a person must correct it")
    if not seen.route.serving() and seen.route.phase == routes.SETTLED and not seen.route.versions[0]:
        return None  # the first version was rolled back
    serving, service = seen.route.stable(), seen.plan.spec.service
    if all(version.name != serving for version in seen.versions):
        return None
    for identity in reversed(deployment_ids(service)):
        if triggered_at(identity) == int(serving.rpartition("-")[2]):
            item = promoted_deployment(service, identity)
            if item and item.plan.candidate == serving:
                return PreviousVersion(item.plan.stable, item.until)
    raise RefusedError(f"{serving} serves, and no deployment is recorded that ended so")


def _can_serve(seen: Survey) -> bool:
    stable = seen.route.stable()
    return ready_pods(seen.cluster, seen.plan.spec.namespace, stable, seen.route.labels_of(stable)) > 0


def _stop(seen: Survey, route: TeamRoute, version: Version, *, for_good: bool) -> TeamRoute:
    """Stop it, and return the route as it is then.

    :raises TemporaryError: the route or the Deployment is not as it was read.
    """
    # The route first. If another client gives the version traffic meanwhile, this write fails and nothing is stopped;
    # a verification that comes later reads that it may not return to it.
    written = patch_route(seen.cluster, route, routes.stop(route, version.name, for_good=for_good))
    scale_deployment(seen.cluster, seen.plan.spec.namespace, version.name, 0, version.objects["Deployment"])
    return written


def _delete(seen: Survey, version: Version) -> None:
    unread = {"kind": "ConfigMap", "metadata": {"namespace": seen.plan.spec.namespace, "name": version.name}}
    there = {**version.objects, "ConfigMap": unread}
    for kind in VERSION_KINDS:
        if kind in there:
            delete_object(seen.cluster, there[kind])


def _drift(seen: Survey, version: Version) -> list[str]:
    manifest = frozen_manifest(seen.plan.spec.service, version.deployment_id)
    if manifest is None:
        return []
    try:
        found = drift([item for item in yaml.safe_load_all(manifest) if item], version)
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise PermanentError(f"the manifest of {version.deployment_id} in the artifacts is not readable") from error
    there = config_map_exists(seen.cluster, seen.plan.spec.namespace, version.name)
    return found if there else [*found, "ConfigMap is missing"]
