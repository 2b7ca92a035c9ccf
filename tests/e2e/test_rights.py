"""The Role of `airflow-deploy rbac`, on a real API server: each verb of it is needed, and nothing else is permitted."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count, product
from typing import Any

import pytest
import yaml
from kubernetes import client

from airflow_deploy.clients.cluster import Cluster
from airflow_deploy.clients.manifests import objects, rbac
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.plan import DeploymentPlan
from tests.stack import StackInfo
from tests.stack import cluster as stacks
from tests.stack.access import kubectl
from tests.unit.builders import make_plan, make_spec

RIGHTS = "rights"
Right = tuple[str, str, str]
"""API group, resource and verb."""

ROLE, BINDING = yaml.safe_load_all(rbac(RIGHTS, [stacks.EMBEDDED.account]))


def rights_of(rules: list[dict[str, Any]]) -> set[Right]:
    return {right for rule in rules for right in product(rule.get("apiGroups", []), rule["resources"], rule["verbs"])}


@dataclass
class Namespace:
    """A namespace of services in which no pod may start, and those who have some rights in it."""

    admin: Cluster
    numbers: Iterator[int]

    def plan(self) -> DeploymentPlan:
        """Return one more deployment's plan."""
        spec = make_spec(service=RIGHTS, namespace=RIGHTS, route={"name": RIGHTS}, scaling={"max": 3})
        return make_plan(spec, created=1_795_417_200 + next(self.numbers))

    def version(self) -> DeploymentPlan:
        """Return the plan of one more version that is there."""
        plan = self.plan()
        self.admin.apply(objects(plan))
        return plan

    def made(self, kind: str, plan: DeploymentPlan) -> dict[str, Any]:
        """Return one of the version's objects."""
        unread = {"kind": "ConfigMap", "metadata": {"namespace": RIGHTS, "name": plan.candidate}}
        found = [*self.admin.objects(RIGHTS, RIGHTS), unread]
        return next(item for item in found if (item["kind"], item["metadata"]["name"]) == (kind, plan.candidate))

    def user(self, name: str) -> Cluster:
        """Return the cluster as the user ``name`` reaches it."""
        cluster = Cluster("rights_admin", name)
        cluster._api.set_default_header("Impersonate-User", name)
        return cluster


def apply(cluster: Cluster, there: Namespace) -> None:
    cluster.apply(objects(there.plan()))


def apply_again(cluster: Cluster, there: Namespace) -> None:
    cluster.apply(objects(there.version()))


def look_around(cluster: Cluster, there: Namespace) -> None:
    cluster.objects(RIGHTS, RIGHTS)


def delete(kind: str) -> Callable[[Cluster, Namespace], None]:
    def do(cluster: Cluster, there: Namespace) -> None:
        plan = there.version()
        for _ in range(50):
            # Its controller may have written it between the two calls; then the next pass of tidying deletes it.
            with suppress(TemporaryError):
                return cluster.delete(there.made(kind, plan))
        raise AssertionError(f"the {kind} never comes to rest")

    return do


def claim(cluster: Cluster, there: Namespace) -> None:
    route = there.admin.route(RIGHTS, RIGHTS)
    owner = {"op": "add", "path": "/metadata/annotations", "value": {"airflow-deploy/owner": "DEP-1-ffffffff/1"}}
    cluster.patch_route(route, [owner])


def settle(cluster: Cluster, there: Namespace) -> None:
    cluster.scale(RIGHTS, there.version().candidate, 0)


OWN = {
    ("apps", "deployments"): "Deployment",
    ("", "services"): "Service",
    ("", "configmaps"): "ConfigMap",
    ("autoscaling", "horizontalpodautoscalers"): "HorizontalPodAutoscaler",
    ("policy", "poddisruptionbudgets"): "PodDisruptionBudget",
    ("networking.k8s.io", "networkpolicies"): "NetworkPolicy",
}
NEEDED: dict[Right, Callable[[Cluster, Namespace], Any]] = {
    ("gateway.networking.k8s.io", "httproutes", "get"): lambda cluster, _: cluster.route(RIGHTS, RIGHTS),
    ("gateway.networking.k8s.io", "httproutes", "patch"): claim,
    ("apps", "deployments", "get"): lambda cluster, there: cluster.readiness(RIGHTS, there.version().candidate),
    ("apps", "deployments/scale", "patch"): settle,
    ("", "pods", "list"): lambda cluster, _: cluster.parts_of(RIGHTS, RIGHTS),
    ("discovery.k8s.io", "endpointslices", "list"): lambda cluster, _: cluster.ready_endpoints(RIGHTS, RIGHTS),
    **{(*kind, "create"): apply for kind in OWN},
    **{(*kind, "patch"): apply_again for kind in OWN},
    **{(*kind, "list"): look_around for kind, name in OWN.items() if name != "ConfigMap"},
    **{(*kind, "delete"): delete(name) for kind, name in OWN.items()},
}
"""What cannot be done without a right."""

EVERYTHING = "everything"


def without(right: Right) -> str:
    return "without-" + "-".join(right).replace("/", "-")


def roles() -> Iterator[dict[str, Any]]:
    """Yield the Role for one user, and for each right the Role without it for another."""
    for missing in (None, *NEEDED):
        user = without(missing) if missing else EVERYTHING
        metadata = {"name": user, "namespace": RIGHTS}
        rules = [
            {"apiGroups": [group], "resources": [resource], "verbs": [verb]}
            for group, resource, verb in sorted(rights_of(ROLE["rules"]) - {missing})
        ]
        yield {**ROLE, "metadata": metadata, "rules": rules}
        subjects = [{"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}]
        yield {**BINDING, "metadata": metadata, "roleRef": {**BINDING["roleRef"], "name": user}, "subjects": subjects}


@pytest.fixture(scope="module")
def there(stack: StackInfo) -> Iterator[Namespace]:
    stacked = stacks.Cluster.load()
    metadata = {"name": RIGHTS, "namespace": RIGHTS}
    home = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": RIGHTS, "labels": stacked.label}}
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": metadata, "spec": {"hard": {"pods": "0"}}}
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata,
        "spec": {"rules": [{"backendRefs": [{"name": RIGHTS, "port": 80}]}]},
    }
    kubectl("delete", "namespace", RIGHTS, "--ignore-not-found", "--wait")
    made = "\n".join(json.dumps(item) for item in (home, quota, route, *roles()))
    kubectl("apply", "--server-side", "-f", "-", stdin=made)
    kubectl("apply", "--server-side", "-f", "-", stdin=rbac(RIGHTS, [stacked.account]))
    with pytest.MonkeyPatch.context() as patch:
        for name, path in {"RIGHTS_ADMIN": stack.admin_kubeconfig, "RIGHTS_AIRFLOW": stack.airflow_kubeconfig}.items():
            connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": path}}
            patch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))
        yield Namespace(Cluster("rights_admin"), count())
    kubectl("delete", "namespace", RIGHTS, "--wait=false")


def test_every_right_has_something_that_needs_it() -> None:
    assert rights_of(ROLE["rules"]) == set(NEEDED)


@pytest.mark.parametrize("right", NEEDED, ids=lambda right: "-".join(right))
def test_a_right_is_needed(there: Namespace, right: Right) -> None:
    do = NEEDED[right]
    do(there.user(EVERYTHING), there)
    _, resource, verb = right
    with pytest.raises(RefusedError) as caught:
        do(there.user(without(right)), there)
    cause = caught.value.__cause__
    assert isinstance(cause, client.ApiException)
    assert f'cannot {verb} resource "{resource}"' in json.loads(cause.body)["message"]


def permitted(cluster: Cluster, namespace: str) -> set[Right]:
    """Return all that the API server says that this user may do there."""
    review = client.AuthorizationV1Api(cluster._api).create_self_subject_rules_review(
        {"spec": {"namespace": namespace}}
    )
    assert not review.status.incomplete
    return {
        right
        for rule in review.status.resource_rules
        for right in product(rule.api_groups or [], rule.resources or [], rule.verbs)
    }


def test_nothing_else_is_permitted(there: Namespace) -> None:
    nobody = permitted(there.user("nobody-in-particular"), RIGHTS)
    assert permitted(there.user(EVERYTHING), RIGHTS) - nobody == set(NEEDED)


def test_airflow_has_this_role_and_no_other_anywhere(there: Namespace) -> None:
    airflow = Cluster("rights_airflow")
    nobody = permitted(there.user("nobody-in-particular"), RIGHTS)
    assert permitted(airflow, RIGHTS) - nobody == set(NEEDED)
    for namespace in ("default", "kube-system", "gateway"):
        assert permitted(airflow, namespace) <= nobody
