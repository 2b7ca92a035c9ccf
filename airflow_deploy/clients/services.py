"""A team's Service in the place of a gateway's route: who serves behind it, and whether pods may divide its traffic."""

from __future__ import annotations

from airflow_deploy.clients.cluster import Cluster
from airflow_deploy.domain.criticality import CRITICALITY
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.podsroute import PodsRoute
from airflow_deploy.domain.presets import POD_NAMED
from airflow_deploy.domain.record import CANARY
from airflow_deploy.domain.spec import DeploymentSpec
from airflow_deploy.domain.teamroute import TeamRoute
from airflow_deploy.domain.versions import VERSION


def serving(cluster: Cluster, spec: DeploymentSpec, route: TeamRoute) -> tuple[str, dict[str, str]]:
    """Return the Deployment that serves now, and, where the team has brought it, the labels by which it is known.

    :raises RefusedError: it is not clear who serves, or whoever is deployed beside it could not serve.
    """
    service = _checked(spec, route)
    # Those that are still starting too: the pods of a run that died would join the others later.
    behind = cluster.workloads(spec.namespace, service.selector)
    if len(behind) != 1 or not any(behind.values()):
        found = " and ".join(sorted(behind)) if len(behind) > 1 else "no ready pod"
        remedy = "let the pods of one Deployment serve it, then deploy again"
        if route.phase == CANARY:
            remedy = f"the deployment {route.owner} is not over: wait until it is, or let the guard return its traffic"
        raise RefusedError(f"route {route.name}: behind its Service there is {found}; {remedy}")
    (stable,) = behind
    if (known := service.serving()) and known != stable:
        raise RefusedError(
            f"route {route.name}: the last deployment left {known} there, and {stable} serves; select the pods of"
            " one of them by a label that the other does not have"
        )
    if len(stable) > POD_NAMED:
        raise RefusedError(
            f"route {route.name}: the name of the Deployment {stable} is too long, so that its pods cannot be told"
            f" apart by theirs; {POD_NAMED} characters are possible"
        )
    return stable, dict(service.adopted.get(stable, {}) if known else service.selector)


def adopt(cluster: Cluster, plan: DeploymentPlan) -> PodsRoute:
    """Let the Service say by which labels it knows what serves, unless the plan's deployment has it; return it.

    Whoever starts pods writes to the Service before: a claim that rests on what is returned would come too late.

    :raises RefusedError: it is not clear who serves.
    :raises TemporaryError: somebody else has written the Service since it was read.
    """
    route = _checked(plan.spec, cluster.team_route(*plan.spec.place))
    if route.owned_by(plan.deployment_id):
        return route
    stable, _ = serving(cluster, plan.spec, route)
    return cluster.patch_route(route, route.adopt(stable))


def check_first_share(plan: DeploymentPlan) -> None:
    """Check that the first share is one that the service's criticality permits.

    :raises RefusedError: one pod is more than that.
    """
    first = plan.share(plan.spec.canary.stages[0])
    most = CRITICALITY[plan.spec.criticality].first_share
    if first > most:
        raise RefusedError(
            f"criticality: {plan.spec.criticality} permits {most} % at first, and beside {plan.stable_ready} pods of"
            f" {plan.stable} the candidate's would get {first} %; let more pods serve before, or use a gateway"
        )


def _checked(spec: DeploymentSpec, route: TeamRoute) -> PodsRoute:
    if not isinstance(route, PodsRoute) or not route.is_there:
        raise RefusedError(f"route: there is no Service {route.name}; correct route.name")
    if not route.selector:
        raise RefusedError(f"route {route.name}: its Service selects no pods; let it select those that serve")
    if VERSION in route.selector and not route.serving():
        raise RefusedError(
            f"route {route.name}: its Service selects pods by {VERSION}, by which versions are told apart; let it"
            " select them by another label"
        )
    for port in route.body["spec"].get("ports") or []:
        target = port.get("targetPort", port["port"])
        if target not in ("http", spec.port):
            raise RefusedError(
                f"port: Service {route.name} sends requests to {target} of its pods, and a version has {spec.port},"
                " which is called http; correct port, or the Service's targetPort"
            )
    return route
