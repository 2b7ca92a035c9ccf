"""Let testers reach the candidate before users do, and see by a request of our own that the gateway delivers it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.routes import (
    create_route,
    delete_route,
    find_http_route,
    patch_route,
    read_http_route,
)
from airflow_deploy.domain.errors import FencedError, ProbeFailedError, RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.names import mirror_name
from airflow_deploy.domain.routing import testers
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.record import OWNER
from airflow_deploy.domain.routing.testers import VERSION_HEADER, ProbeRequest, probe_request
from airflow_deploy.domain.values import printable

log = logging.getLogger(__name__)

PROBE_WAIT_SECONDS = 60.0
"""Seconds in which the gateway must be seen to deliver a request to the candidate."""
PROBE_POLL_SECONDS = 0.5
PROBE_TIMEOUT = (2.0, 5.0)
"""Seconds to connect to the gateway, and to wait for its answer."""


def probe_candidate(cluster: KubernetesClient, plan: DeploymentPlan, claim: Claim) -> str:
    """Open the testers' route, send a request through it, and return in words what was seen.

    :param claim: that of the team's route.
    :raises ProbeFailedError: the gateway does not bring it to the candidate, or that answers with an error.
    :raises FencedError: another deployment has the route; RefusedError: a team has a route of that name.
    """
    body = _open(cluster, plan, claim, mirrored=False)
    if body is None:
        return f"the gateway was not asked, since the route's own rules divide by {testers.CANARY_HEADER} already"
    asked = probe_request(body)
    if plan.spec.route.url is None or asked is None:
        why = "no match of the route can be met by a GET" if plan.spec.route.url else "route.url is not set"
        return f"the gateway was not asked, since {why}: whether it delivers is seen by its counters alone"
    _await_answer(plan, plan.spec.route.url, asked, plan.candidate)
    header = f"{testers.CANARY_HEADER}: {testers.CANARY_HEADER_VALUE}"
    return f"a request to {plan.spec.route.url} with {header} was seen to arrive"


def probe_mirror(cluster: KubernetesClient, plan: DeploymentPlan, claim: Claim) -> str:
    """Let testers be answered through the mirror, and return in words that the stable was seen to answer.

    :raises ProbeFailedError: it was not, or no request could show it.
    :raises FencedError: another deployment has the route; RefusedError: a team has a route of that name.
    """
    body = _open(cluster, plan, claim, mirrored=True)
    asked = probe_request(body) if body else None
    if plan.spec.route.url is None or asked is None:
        raise ProbeFailedError("no GET of ours could show that the gateway answers through the mirror")
    _await_answer(plan, plan.spec.route.url, asked, mirror_name(plan.candidate))
    return f"a request to {plan.spec.route.url} was seen to be answered through the mirror"


def delete_testers_route(
    cluster: KubernetesClient, namespace: str, route: str, over: Callable[[str], bool]
) -> str | None:
    """Delete the testers' route, and return its name; None if there is none of a deployment that is over.

    :param over: whether a deployment is, by its id.
    """
    there = find_http_route(cluster, namespace, testers.route_name_for_testers(route))
    if not testers.is_testers_route(there) or not over((there.owner or "").rpartition("/")[0]):
        return None
    delete_route(cluster, there)
    log.info("deleted route %s", there.name)
    return there.name


def _open(cluster: KubernetesClient, plan: DeploymentPlan, claim: Claim, *, mirrored: bool) -> dict[str, Any] | None:
    """Write the testers' route, unless it stands as it should, and return it."""
    namespace, name = plan.spec.namespace, plan.spec.route.name
    # Before the team's route: if that is ours, a later claim also writes later, and the fence keeps us from
    # writing over what they wrote.
    there = find_http_route(cluster, namespace, testers.route_name_for_testers(name))
    if there.is_there and not testers.is_testers_route(there):
        raise RefusedError(
            f"HTTPRoute {there.name} is not one of airflow-deploy's for testers; rename it, then deploy again"
        )
    route = read_http_route(cluster, namespace, name)
    if route.owner != claim.owner:
        raise FencedError(f"route {route.name} belongs to {route.owner or 'no deployment'} now, not to {claim.owner}")
    body = testers.route_for_testers(route, claim, mirrored=mirrored)
    if body is None:
        return None
    if there.is_there:
        patch_route(cluster, there, _anew(there, body))
    else:
        create_route(cluster, body)
    log.info("route %s leads testers to %s", body["metadata"]["name"], testers.backends_of(body)[0])
    return body


def _anew(there: HttpRoute, body: dict[str, Any]) -> list[dict[str, Any]]:
    mine = there.owner == body["metadata"]["annotations"][OWNER]
    if mine and testers.backends_of(there.body) == testers.backends_of(body):
        return []  # by an earlier try
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": there.body["metadata"]["resourceVersion"]},
        {"op": "add", "path": "/metadata/annotations", "value": body["metadata"]["annotations"]},
        {"op": "replace", "path": "/spec", "value": body["spec"]},
    ]


def _await_answer(plan: DeploymentPlan, url: str, asked: ProbeRequest, backend: str) -> None:
    deadline = time.monotonic() + PROBE_WAIT_SECONDS
    while came := _undelivered(url, asked, backend):
        if time.monotonic() >= deadline:
            raise ProbeFailedError(
                f"no traffic is given, since a GET of {url}{printable(asked.target)} with"
                f" Host {asked.headers.get('Host', 'as in the URL')} and"
                f" {testers.CANARY_HEADER}: {testers.CANARY_HEADER_VALUE} was not seen"
                f" to reach {backend} in {PROBE_WAIT_SECONDS:.0f} s: {came}; see whether route.url is the"
                f" Gateway's address, and what the status of HTTPRoute {plan.spec.namespace}/"
                f"{testers.route_name_for_testers(plan.spec.route.name)} says while it is tried, then deploy again"
            )
        time.sleep(PROBE_POLL_SECONDS)


def _undelivered(url: str, asked: ProbeRequest, backend: str) -> str | None:
    """Ask once; return what came back instead of an answer by the backend, None if it was one."""
    from requests import RequestException, Session

    with Session() as session:
        settings = session.merge_environment_settings(url, {}, True, None, None)
        session.trust_env = False  # a login that the worker has for that host is not for the service
        try:
            answer = session.get(
                url + asked.target,
                headers=dict(asked.headers),
                timeout=PROBE_TIMEOUT,
                allow_redirects=False,
                **settings,
            )
        except (RequestException, OSError, ValueError) as error:
            return f"no answer ({printable(str(error), 200)})"
    if answer.headers.get(VERSION_HEADER) != backend:
        return f"HTTP {answer.status_code}, not from {backend}"
    return f"{answer.status_code}" if answer.status_code >= 500 else None
