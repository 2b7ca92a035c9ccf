"""The Roles of the deployer and the guard, on a real API server: each verb is needed, and nothing else is permitted."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import pytest
import yaml
from kubernetes import client

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.errors import ConflictError, ForbiddenError
from airflow_deploy.clients.kubernetes.leases import create_lease, find_lease, list_leases, patch_lease
from airflow_deploy.clients.kubernetes.pods import (
    deployment_readiness,
    parts_of,
    ready_endpoints,
    ready_pods,
    withdraw_pods,
)
from airflow_deploy.clients.kubernetes.routes import (
    create_route,
    delete_route,
    patch_route,
    read_http_route,
    read_route,
)
from airflow_deploy.clients.kubernetes.versions import (
    apply_all,
    delete_mirror,
    delete_object,
    list_mirrors,
    list_versions,
)
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing.lease import lease_name, new_lease, renewal_patch
from airflow_deploy.domain.routing.service_route import ServiceRoute
from airflow_deploy.domain.workloads.manifests import render_guard, render_rbac, route_object, version_objects
from airflow_deploy.domain.workloads.mirror import mirror_objects
from tests.stack import StackInfo
from tests.stack import cluster as stacks
from tests.stack.access import kubectl
from tests.support.builders import make_plan, make_spec

RIGHTS = "rights"
OWNER = "DEP-1795417200-ffffffff/1"
Right = tuple[str, str, str]
"""API group, resource and verb."""

ROLE, BINDING = yaml.safe_load_all(render_rbac(RIGHTS, [stacks.EMBEDDED.account]))
GUARD, GUARD_OF_PODS = (
    next(
        item
        for item in yaml.safe_load_all(render_guard("image", RIGHTS, [RIGHTS], replicas=more))
        if item["kind"] == "Role"
    )
    for more in (False, True)
)


def rights_of(rules: list[dict[str, Any]]) -> set[Right]:
    return {right for rule in rules for right in product(rule.get("apiGroups", []), rule["resources"], rule["verbs"])}


@dataclass
class Namespace:
    """A namespace of services in which no pod may start, and those who have some rights in it."""

    admin: KubernetesClient
    numbers: Iterator[int]

    def plan(self) -> DeploymentPlan:
        """Return one more deployment's plan."""
        spec = make_spec(service=RIGHTS, namespace=RIGHTS, route={"name": RIGHTS}, scaling={"max": 3})
        return make_plan(spec, created=1_795_417_200 + next(self.numbers))

    def version(self) -> DeploymentPlan:
        """Return the plan of one more version that is there."""
        plan = self.plan()
        apply_all(self.admin, version_objects(plan))
        return plan

    def made(self, kind: str, plan: DeploymentPlan) -> dict[str, Any]:
        """Return one of the version's objects."""
        unread = {"kind": "ConfigMap", "metadata": {"namespace": RIGHTS, "name": plan.candidate}}
        found = [*list_versions(self.admin, RIGHTS, RIGHTS), unread]
        return next(item for item in found if (item["kind"], item["metadata"]["name"]) == (kind, plan.candidate))

    def user(self, name: str) -> KubernetesClient:
        """Return the cluster as the user ``name`` reaches it."""
        cluster = connect("rights_admin", name)
        cluster._api.set_default_header("Impersonate-User", name)
        return cluster


def apply(cluster: KubernetesClient, there: Namespace) -> None:
    apply_all(cluster, version_objects(there.plan()))


def apply_again(cluster: KubernetesClient, there: Namespace) -> None:
    apply_all(cluster, version_objects(there.version()))


def look_around(cluster: KubernetesClient, there: Namespace) -> None:
    list_versions(cluster, RIGHTS, RIGHTS)


def delete(kind: str) -> Callable[[KubernetesClient, Namespace], None]:
    def do(cluster: KubernetesClient, there: Namespace) -> None:
        plan = there.version()
        for _ in range(50):
            # Its controller may have written it between the two calls; then the next pass of tidying deletes it.
            with suppress(ConflictError):
                return delete_object(cluster, there.made(kind, plan))
        raise AssertionError(f"the {kind} never comes to rest")

    return do


def claim(cluster: KubernetesClient, there: Namespace) -> None:
    current = read_http_route(there.admin, RIGHTS, RIGHTS)
    owner = {"op": "add", "path": "/metadata/annotations", "value": {"airflow-deploy/owner": OWNER}}
    patch_route(cluster, current, [owner])


def claim_service(cluster: KubernetesClient, there: Namespace) -> None:
    current = read_route(there.admin, RIGHTS, RIGHTS, "replicas")
    owner = {"op": "add", "path": "/metadata/annotations", "value": {"airflow-deploy/owner": OWNER}}
    patch_route(cluster, current, [owner])


def withdraw(cluster: KubernetesClient, there: Namespace) -> None:
    plan = there.version()
    metadata = {"namespace": RIGHTS, "name": RIGHTS, "annotations": {"airflow-deploy/owner": f"{plan.deployment_id}/1"}}
    withdraw_pods(cluster, ServiceRoute({"metadata": metadata, "spec": {}}), plan.candidate)


def make_route(cluster: KubernetesClient, there: Namespace) -> None:
    plan = there.plan()
    where = {"name": plan.candidate, "gateway": {"name": RIGHTS, "namespace": RIGHTS}, "hostnames": [f"{RIGHTS}.test"]}
    create_route(cluster, route_object(make_spec(namespace=RIGHTS, route=where)))


def route_of_testers(there: Namespace) -> dict[str, Any]:
    name = f"testers-{there.plan().candidate}"
    kind = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute"}
    return {**kind, "metadata": {"name": name, "namespace": RIGHTS}, "spec": {}}


def close_to_testers(cluster: KubernetesClient, there: Namespace) -> None:
    body = route_of_testers(there)
    create_route(there.admin, body)
    for _ in range(50):
        # The gateway may write its status between the two calls.
        with suppress(ConflictError):
            return delete_route(cluster, read_http_route(there.admin, RIGHTS, body["metadata"]["name"]))
    raise AssertionError("the route never comes to rest")


@contextmanager
def mirror_of(there: Namespace) -> Iterator[list[dict[str, Any]]]:
    """Yield a mirror's objects; afterwards their finalizers do not keep the namespace from being deleted."""
    found = mirror_objects(there.plan(), copied=False)
    try:
        yield found
    finally:
        delete_mirror(there.admin, found[0])


def mirror(cluster: KubernetesClient, there: Namespace) -> None:
    with mirror_of(there) as version_objects:
        apply_all(cluster, version_objects)


def mirror_again(cluster: KubernetesClient, there: Namespace) -> None:
    with mirror_of(there) as version_objects:
        apply_all(there.admin, version_objects)
        apply_all(cluster, version_objects)


def close_mirror(cluster: KubernetesClient, there: Namespace) -> None:
    with mirror_of(there) as version_objects:
        apply_all(there.admin, version_objects)
        delete_mirror(cluster, version_objects[0])
        assert list_mirrors(cluster, RIGHTS) == []


def make_lease(cluster: KubernetesClient, there: Namespace) -> None:
    create_lease(cluster, new_lease(RIGHTS, there.plan().candidate, OWNER, 45))


def renew_lease(cluster: KubernetesClient, there: Namespace) -> None:
    name = there.plan().candidate
    create_lease(there.admin, new_lease(RIGHTS, name, OWNER, 45))
    patch_lease(cluster, RIGHTS, lease_name(name), renewal_patch(OWNER))


OWN = {
    ("apps", "deployments"): "Deployment",
    ("", "services"): "Service",
    ("", "configmaps"): "ConfigMap",
    ("autoscaling", "horizontalpodautoscalers"): "HorizontalPodAutoscaler",
    ("policy", "poddisruptionbudgets"): "PodDisruptionBudget",
    ("networking.k8s.io", "networkpolicies"): "NetworkPolicy",
}
BY_PODS: dict[Right, Callable[[KubernetesClient, Namespace], Any]] = {
    ("", "services", "get"): lambda cluster, _: read_route(cluster, RIGHTS, RIGHTS, "replicas"),
    ("", "services", "patch"): claim_service,
    ("", "pods", "list"): lambda cluster, _: ready_pods(cluster, RIGHTS, RIGHTS, {"app": RIGHTS}),
    ("apps", "deployments", "patch"): withdraw,
}
TRAFFIC: dict[Right, Callable[[KubernetesClient, Namespace], Any]] = {
    ("gateway.networking.k8s.io", "httproutes", "get"): lambda cluster, _: read_http_route(cluster, RIGHTS, RIGHTS),
    ("gateway.networking.k8s.io", "httproutes", "patch"): claim,
    ("discovery.k8s.io", "endpointslices", "list"): lambda cluster, _: ready_endpoints(cluster, RIGHTS, RIGHTS),
}
NEEDED = {
    "deployer": {
        **TRAFFIC,
        ("", "services", "get"): BY_PODS["", "services", "get"],
        ("gateway.networking.k8s.io", "httproutes", "create"): make_route,
        ("gateway.networking.k8s.io", "httproutes", "delete"): close_to_testers,
        ("coordination.k8s.io", "leases", "get"): lambda cluster, _: find_lease(cluster, RIGHTS, RIGHTS),
        ("coordination.k8s.io", "leases", "create"): make_lease,
        ("coordination.k8s.io", "leases", "patch"): renew_lease,
        ("apps", "deployments", "get"): lambda cluster, there: deployment_readiness(
            cluster, RIGHTS, there.version().candidate
        ),
        ("traefik.io", "traefikservices", "create"): mirror,
        ("traefik.io", "traefikservices", "patch"): mirror_again,
        ("traefik.io", "traefikservices", "delete"): close_mirror,
        ("", "pods", "list"): lambda cluster, _: parts_of(cluster, RIGHTS, RIGHTS),
        **{(*kind, "create"): apply for kind in OWN},
        **{(*kind, "patch"): apply_again for kind in OWN},
        **{(*kind, "list"): look_around for kind, name in OWN.items() if name != "ConfigMap"},
        **{(*kind, "delete"): delete(name) for kind, name in OWN.items()},
    },
    "guard": {
        **TRAFFIC,
        ("coordination.k8s.io", "leases", "list"): lambda cluster, _: list_leases(cluster, RIGHTS),
    },
    "guard-of-pods": {
        **TRAFFIC,
        **BY_PODS,
        ("coordination.k8s.io", "leases", "list"): lambda cluster, _: list_leases(cluster, RIGHTS),
    },
}
"""What cannot be done without a right, by who needs it."""
RULES: dict[str, list[dict[str, Any]]] = {
    "deployer": ROLE["rules"],
    "guard": GUARD["rules"],
    "guard-of-pods": GUARD_OF_PODS["rules"],
}


def user(who: str, missing: Right | None = None) -> str:
    """Return the name of who has all rights but one."""
    return "-".join([who, *(("without", *missing) if missing else ())]).replace("/", "-")


def roles() -> Iterator[dict[str, Any]]:
    """Yield each Role for one user, and for each of its rights the Role without it for another."""
    for who, missing in ((who, missing) for who, needed in NEEDED.items() for missing in (None, *needed)):
        metadata = {"name": user(who, missing), "namespace": RIGHTS}
        rules = [
            {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
            for group, resource, verb in sorted(rights_of(RULES[who]) - {missing})
        ]
        yield {**ROLE, "metadata": metadata, "rules": rules}
        subjects = [{"kind": "User", "name": metadata["name"], "apiGroup": "rbac.authorization.k8s.io"}]
        role = {**BINDING["roleRef"], "name": metadata["name"]}
        yield {**BINDING, "metadata": metadata, "roleRef": role, "subjects": subjects}


@pytest.fixture(scope="module")
def there(stack: StackInfo) -> Iterator[Namespace]:
    stacked = stacks.Cluster.load()
    metadata = {"name": RIGHTS, "namespace": RIGHTS}
    home = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": RIGHTS, "labels": stacked.label}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "0"}}}
    route_object = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata,
        "spec": {"rules": [{"backendRefs": [{"name": RIGHTS, "port": 80}]}]},
    }
    service = {"apiVersion": "v1", "kind": "Service", "metadata": metadata}
    service["spec"] = {"selector": {"app": RIGHTS}, "ports": [{"port": 80}]}
    kubectl("delete", "namespace", RIGHTS, "--ignore-not-found", "--wait")
    mirror_objects = "\n".join(json.dumps(item) for item in (home, quota, route_object, service, *roles()))
    kubectl("apply", "--server-side", "-f", "-", stdin=mirror_objects)
    kubectl("apply", "--server-side", "-f", "-", stdin=render_rbac(RIGHTS, [stacked.account]))
    with pytest.MonkeyPatch.context() as patch:
        for name, path in {"RIGHTS_ADMIN": stack.admin_kubeconfig, "RIGHTS_AIRFLOW": stack.airflow_kubeconfig}.items():
            connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": path}}
            patch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
        yield Namespace(connect("rights_admin"), count())
    kubectl("delete", "namespace", RIGHTS, "--wait=false")


@pytest.mark.parametrize("who", NEEDED)
def test_each_right_of_a_role_has_an_action_that_needs_it(who: str) -> None:
    assert rights_of(RULES[who]) == set(NEEDED[who])


@pytest.mark.parametrize(
    ("who", "right"),
    [pytest.param(who, right, id="-".join([who, *right])) for who, needed in NEEDED.items() for right in needed],
)
def test_an_action_fails_without_its_right(there: Namespace, who: str, right: Right) -> None:
    do = NEEDED[who][right]
    do(there.user(user(who)), there)
    _, resource, verb = right
    with pytest.raises(ForbiddenError) as caught:
        do(there.user(user(who, right)), there)
    cause = caught.value.__cause__
    assert isinstance(cause, client.ApiException)
    assert f'cannot {verb} resource "{resource}"' in json.loads(cause.body)["message"]


def permitted(cluster: KubernetesClient, namespace: str) -> set[Right]:
    """Return all that the API server says that this user may do there."""
    api = client.AuthorizationV1Api(cluster._api)
    review = api.create_self_subject_rules_review({"spec": {"namespace": namespace}})
    assert not review.status.incomplete
    return {
        right
        for rule in review.status.resource_rules
        for right in product(rule.api_groups or [], rule.resources or [], rule.verbs)
    }


@pytest.mark.parametrize("who", NEEDED)
def test_a_role_permits_nothing_else(there: Namespace, who: str) -> None:
    anonymous = permitted(there.user("without-rights"), RIGHTS)
    assert permitted(there.user(user(who)), RIGHTS) - anonymous == set(NEEDED[who])


def test_airflow_has_the_deployers_role_in_this_namespace_alone(there: Namespace) -> None:
    airflow = connect("rights_airflow")
    anonymous = permitted(there.user("without-rights"), RIGHTS)
    assert permitted(airflow, RIGHTS) - anonymous == set(NEEDED["deployer"])
    for namespace in ("default", "kube-system", "gateway"):
        assert permitted(airflow, namespace) <= anonymous
