"""The steps without a gateway: the numbers of pods behind the team's one Service divide the traffic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.pods import ready_by_deployment, ready_pods, start_pods, withdraw_pods
from airflow_deploy.clients.kubernetes.routes import patch_route, read_route
from airflow_deploy.clients.kubernetes.versions import deployments_with
from airflow_deploy.domain.config.criticality import CRITICALITY
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.labels import VERSION
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.metrics.sources import MAX_DEPLOYMENT_NAME
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.http_route import DEFAULT_PORT
from airflow_deploy.domain.routing.record import BRAKED, CANARY
from airflow_deploy.domain.routing.service_route import ServiceRoute, shared_pod_labels
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.rollout.routers.base import RouterSteps

EQUAL_SPLIT_SETTINGS = {
    "publishNotReadyAddresses": False,
    "sessionAffinity": "None",
    "internalTrafficPolicy": "Cluster",
    "trafficDistribution": None,
}
"""What a Service must say, or leave out, so that each ready pod gets as much as any other."""


class ReplicasSteps(RouterSteps):
    """Of a team's Service."""

    def find_stable(self, cluster: KubernetesClient, spec: DeploymentSpec, route: TeamRoute) -> dict[str, Any]:
        """Return the Deployment that serves, the labels by which the Service knows it, and how many pods are ready."""
        stable, adopted = find_serving(cluster, spec, route)
        labels = adopted.get(stable) or route.labels_of(stable)
        ready = ready_pods(cluster, spec.namespace, stable, labels) if stable else 0
        return {"stable": stable, "adopted": adopted, "stable_port": DEFAULT_PORT, "stable_ready": ready}

    def check_plan(self, cluster: KubernetesClient, plan: DeploymentPlan, route: TeamRoute) -> None:
        """Check that pods give the shares that the deployment needs."""
        _check_shares(plan)

    def route_to_claim(self, cluster: KubernetesClient, plan: DeploymentPlan) -> TeamRoute:
        """Return the Service, which the team makes."""
        return read_route(cluster, *plan.spec.place)

    def adopt(self, cluster: KubernetesClient, plan: DeploymentPlan, route: TeamRoute) -> TeamRoute:
        """Let the Service record by which labels it knows the stable.

        A task that starts pods writes to the Service before: a claim that rests on what is returned would come too
        late. The pods of a run that died, which its claim names, and which may be starting still, are taken away.
        """
        service = _checked(plan.spec, route)
        stable, _ = find_serving(cluster, plan.spec, service)
        if service.phase in (CANARY, BRAKED) and service.versions[1] != stable:
            withdraw_pods(cluster, service, service.versions[1])
        return patch_route(cluster, service, service.adopt(stable))

    def scale(self, cluster: KubernetesClient, namespace: str, version: str, pods: int) -> None:
        """Set the number, unless a rollback has taken the pods away: they are the share."""
        start_pods(cluster, namespace, version, pods)

    def confirm_delivery(
        self, cluster: KubernetesClient, plan: DeploymentPlan, claim: Claim, *, mirrored: bool
    ) -> list[str]:
        """Return nothing: there is no gateway to ask."""
        return []

    def wait_until_drained(self, plan: DeploymentPlan) -> None:
        """Return None: the pods have ended with the share."""
        return

    def delete_testers_route(
        self, cluster: KubernetesClient, spec: DeploymentSpec, over: Callable[[str], bool]
    ) -> None:
        """Return None: there is none."""
        return


def find_serving(
    cluster: KubernetesClient, spec: DeploymentSpec, route: TeamRoute
) -> tuple[str, dict[str, dict[str, str]]]:
    """Return the Deployment that serves now, and by name the labels of what the team has brought.

    Its name is empty if there is none, and none that only lacks its pods: the candidate is then the first version.

    :raises RefusedError: it is not clear which one serves, or no version deployed beside it could serve.
    """
    service = _checked(spec, route)
    # Those that are still starting too: the pods of a run that died would join the others later.
    behind = ready_by_deployment(cluster, spec.namespace, service.selector)
    known, adopted = service.serving(), {name: dict(labels) for name, labels in service.adopted.items()}
    idle = [] if behind or known else deployments_with(cluster, spec.namespace, service.asked)
    if not (behind or known or idle):
        return "", {**adopted, "": dict(service.asked)}
    if len(behind) != 1 or not any(behind.values()):
        raise _unclear(service, " and ".join(sorted(behind)) if len(behind) > 1 else "no ready pod", idle)
    (stable,) = behind
    if not known and service.phase in (CANARY, BRAKED) and stable == service.versions[1]:
        # A first version that is not over, to which the Service's old selector was made to lead by hand.
        raise _unclear(service, stable, idle)
    if known and known != stable:
        raise RefusedError(
            f"route {route.name}: the last deployment left {known} there, and {stable} serves; select the pods of"
            " one of them by a label that the other does not have"
        )
    if len(stable) > MAX_DEPLOYMENT_NAME:
        raise RefusedError(
            f"route {route.name}: the name of the Deployment {stable} is too long, so that its pods cannot be told"
            f" apart by theirs; {MAX_DEPLOYMENT_NAME} characters are possible"
        )
    if not known:
        return stable, {**adopted, stable: dict(service.selector)}
    if stable not in adopted and not ready_by_deployment(cluster, spec.namespace, shared_pod_labels(stable)).get(
        stable
    ):
        raise RefusedError(
            f"route {route.name}: the pods of {stable} were not made to share a Service, and no label tells them and"
            " the next version from all others; let the Service select what served before, then deploy again"
        )
    return stable, adopted


def _unclear(service: ServiceRoute, found: str, idle: list[str]) -> RefusedError:
    """Return the error for a Service behind which it is not clear what serves.

    :param found: what is selected; ``idle``: the Deployments whose pods would be.
    """
    remedy = "let the pods of one Deployment serve it, then deploy again"
    if service.phase in (CANARY, BRAKED):
        remedy = f"the deployment {service.owner} is not over: wait until it is, or let the guard return its traffic"
    elif idle:
        remedy = f"start {' or '.join(idle)} and let it select that, or delete it, then deploy again"
    return RefusedError(f"route {service.name}: behind its Service there is {found}; {remedy}")


def _check_shares(plan: DeploymentPlan) -> None:
    """Check that pods give the shares that a deployment needs.

    A service's first version has no stable to share with.

    :raises RefusedError: one pod is more than the criticality permits at first, or all pods are fewer than those that
        carry the traffic now.
    """
    if plan.spec.replicas < plan.stable_ready:
        raise RefusedError(
            f"replicas: {plan.spec.replicas} pods would have to carry what {plan.stable_ready} pods of {plan.stable}"
            f" carry now, and could not be tried with so much before; set replicas to {plan.stable_ready} at least"
        )
    if not plan.stable:
        return
    first = plan.share(plan.spec.canary.stages[0])
    most = CRITICALITY[plan.spec.criticality].first_share
    if first > most:
        raise RefusedError(
            f"criticality: {plan.spec.criticality} permits {most} % at first, and beside {plan.stable_ready} pods of"
            f" {plan.stable} the candidate's would get {first} %; let more pods serve before, or use a gateway"
        )


def _checked(spec: DeploymentSpec, route: TeamRoute) -> ServiceRoute:
    if not isinstance(route, ServiceRoute) or not route.is_there:
        raise RefusedError(f"route: there is no Service {route.name}; correct route.name")
    if not route.asked:
        raise RefusedError(f"route {route.name}: its Service selects no pods; let it select those that serve")
    if (selected := route.selector.get(VERSION)) and not route.serving():
        remedy = f"let it select {VERSION}={selected} alone" if route.adopted else "let it select them by another label"
        raise RefusedError(
            f"route {route.name}: its Service selects pods by {VERSION}, by which versions are told apart; {remedy}"
        )
    for field, fair in EQUAL_SPLIT_SETTINGS.items():
        if (found := route.body["spec"].get(field) or fair) != fair:
            raise RefusedError(
                f"route {route.name}: {field} of its Service is {found}, so that its pods would not get equal shares;"
                " remove it, or use a gateway"
            )
    for port in route.body["spec"].get("ports") or []:
        target = port.get("targetPort", port["port"])
        if target not in ("http", spec.port):
            raise RefusedError(
                f"port: Service {route.name} sends requests to {target} of its pods, and a version has {spec.port},"
                " which is called http; correct port, or the Service's targetPort"
            )
    return route
