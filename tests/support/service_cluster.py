"""One service on the API server of tests: its route, its Lease and its versions' pods, read and written past the API.

What the project's code does to it goes through the real client: ``cluster.client``, or any Airflow connection once
``lead_to(cluster.api, monkeypatch)`` was called. Faults are ordered of ``cluster.api``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from functools import cache
from typing import TypeVar

from airflow_deploy.clients.kubernetes.client import FIELD_MANAGER, KubernetesClient
from airflow_deploy.clients.kubernetes.routes import ROUTE_KINDS, patch_route
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.lease import Lease, lease_name, new_lease
from airflow_deploy.domain.routing.record import Patch
from airflow_deploy.domain.routing.team_route import TeamRoute, absent_route
from airflow_deploy.domain.routing.testers import route_name_for_testers
from airflow_deploy.domain.workloads.manifests import version_objects
from tests.support.kubernetes_api import KubernetesApi, Object, Workloads
from tests.support.kubernetes_api.copies import copied

Self = TypeVar("Self", bound="ServiceCluster")


class ServiceCluster:
    """A cluster with one service behind a gateway.

    Before a service's first version, the rules of its route are empty, and it has no Deployment.

    :param rules: how many rules the route has; each sends all requests to the stable.
    :param beside: another service; this one is on the same API server.
    """

    def __init__(self, plan: DeploymentPlan, rules: int = 1, beside: ServiceCluster | None = None) -> None:
        self.plan = plan
        self.api: KubernetesApi = beside.api if beside else KubernetesApi()
        self.workloads: Workloads = beside.workloads if beside else Workloads(self.api)
        self.client = KubernetesClient(self.api.client())
        self.replicas = Replicas(self)
        self._set_up(rules)

    def _set_up(self, rules: int) -> None:
        plan = self.plan
        stable = {"kind": "Service", "name": plan.stable, "port": plan.stable_port, "weight": 1}
        backends = [{"backendRefs": [dict(stable)]} if plan.stable else {} for _ in range(rules)]
        self._add("HTTPRoute", plan.spec.route.name, {"rules": backends})
        if plan.stable:
            self.add_version(plan.stable, replicas=2, image=f"{plan.spec.registry}/payments:v1")

    # States that a deployment reaches.

    @classmethod
    def at_share(
        cls: type[Self], plan: DeploymentPlan, share: int, at: float = 0.0, beside: ServiceCluster | None = None
    ) -> Self:
        """A canary with ``share`` % of the traffic since ``at``, or none yet."""
        cluster = cls(plan, beside=beside)
        cluster.apply(plan, replicas=cluster.pods_at(share))
        _, claim = routes.claim(cluster.team, plan.claim())
        cluster.write(claim)
        cluster.hold_lease(cluster.claim)
        return cluster.shift(share, at) if share else cluster

    @classmethod
    def promoted(cls: type[Self], plan: DeploymentPlan, at: float = 0.0, beside: ServiceCluster | None = None) -> Self:
        """A candidate that has all traffic since ``at``, and was promoted."""
        cluster = cls.at_share(plan, 100, at, beside)
        cluster.write(routes.promote(cluster.team, plan.claim(cluster.claim)))
        return cluster

    @classmethod
    def verified(cls: type[Self], plan: DeploymentPlan, beside: ServiceCluster | None = None) -> Self:
        """A version that was promoted and verified."""
        cluster = cls.promoted(plan, beside=beside)
        cluster.write(routes.confirm(cluster.team, plan.claim(cluster.claim)))
        return cluster

    def apply(self, plan: DeploymentPlan, *, replicas: int | None = None) -> None:
        """Add the objects of a plan's candidate, as ``apply_manifest`` does; its pods are ready at once."""
        for item in copied(_objects_of(json.dumps(plan.dump()))):
            if item["kind"] == "Deployment":
                item["spec"]["replicas"] = plan.spec.replicas if replicas is None else replicas
            self.api.add(item, manager=FIELD_MANAGER)

    def pods_at(self, share: int) -> int:
        """How many pods the candidate has for a share of the traffic."""
        return self.plan.spec.replicas

    def shift(self: Self, share: int, at: float, *, mirrored: bool = False) -> Self:
        """Give the candidate ``share`` % of the traffic, as ``shift_canary`` does."""
        self.write(routes.shift(self.team, self.plan.claim(self.claim), share, at, mirrored=mirrored))
        return self

    # The route.

    @property
    def kind(self) -> str:
        """The kind of the object that divides traffic."""
        return ROUTE_KINDS[self.plan.spec.router].kind

    @property
    def body(self) -> Object:
        """A copy of the route's object."""
        return self.api.get(self.kind, self.plan.spec.namespace, self.plan.spec.route.name)

    @property
    def team(self) -> TeamRoute:
        """The route, as the router of the plan has it."""
        namespace, name, router = self.plan.spec.place
        route, kind = ROUTE_KINDS[router]
        found = self.api.find(kind, namespace, name)
        return route(found) if found else absent_route(route, namespace, name)

    @property
    def now(self) -> HttpRoute:
        """The route, if it is an HTTPRoute."""
        route = self.team
        assert isinstance(route, HttpRoute)
        return route

    @property
    def claim(self) -> str:
        """Who owns the route, with its epoch."""
        owner = self.team.owner
        assert owner is not None
        return owner

    @property
    def writes(self) -> int:
        """How often the route was written through the API."""
        path = f"/namespaces/{self.plan.spec.namespace}/{self.kind.lower()}s/{self.plan.spec.route.name}"
        return sum(request.done for request in self.api.writes if request.path.endswith(path))

    def weights(self) -> dict[str, int]:
        """The first rule's weights."""
        return {backend.name: backend.weight for backend in self.now.backends(0)}

    def write(self, patch: Patch) -> None:
        """Write the route as the project's code does."""
        patch_route(self.client, self.team, patch)

    def edit(self: Self, change: Callable[[Object], object]) -> Self:
        """Write the route as any other client may: ``change`` alters its object in place."""

        def altered(body: Object) -> None:
            change(body)

        self.api.edit(self.kind, self.plan.spec.namespace, self.plan.spec.route.name, altered)
        return self

    def annotate(self: Self, key: str, value: str | None) -> Self:
        """Write an annotation of the route as any other client may; None removes it."""

        def change(body: Object) -> None:
            annotations = body["metadata"].setdefault("annotations", {})
            annotations.pop(key, None) if value is None else annotations.update({key: value})

        return self.edit(change)

    def without_route(self: Self) -> Self:
        """Let the route not exist."""
        self.api.remove(self.kind, self.plan.spec.namespace, self.plan.spec.route.name)
        return self

    @property
    def testers(self) -> Object | None:
        """The route for testers."""
        return self.api.find("HTTPRoute", self.plan.spec.namespace, route_name_for_testers(self.plan.spec.route.name))

    @property
    def mirror(self) -> dict[str, Object]:
        """The mirror's objects by kind."""
        found = [*self.api.all("Service"), *self.api.all("TraefikService")]
        return {item["kind"]: item for item in found if item["metadata"]["name"].endswith("-shadow")}

    # The Lease.

    @property
    def held(self) -> Lease | None:
        """The route's Lease."""
        body = self.api.find("Lease", self.plan.spec.namespace, self.lease_name)
        return Lease(body) if body else None

    def hold_lease(self, owner: str) -> None:
        """Let a deployment hold the Lease from now on, or renew it."""
        self.delete_lease()
        namespace, name, router = self.plan.spec.place
        self.api.add(new_lease(namespace, name, owner, self.plan.spec.lease, router))

    def delete_lease(self) -> None:
        """Delete the Lease, as any other client may."""
        if self.held:
            self.api.remove("Lease", self.plan.spec.namespace, self.lease_name)

    @property
    def lease_name(self) -> str:
        """The name of the route's Lease."""
        _, name, router = self.plan.spec.place
        return lease_name(name, router)

    # Versions.

    def add_version(
        self,
        name: str,
        *,
        replicas: int,
        labels: Mapping[str, str] | None = None,
        image: str = "x",
        service: bool = True,
    ) -> None:
        """Add a Deployment whose pods are ready at once, and a Service of its name.

        :param labels: those of its pods.
        """
        pods = {"app": name, **(labels or {})}
        template = {"metadata": {"labels": pods}, "spec": {"containers": [{"name": "main", "image": image}]}}
        spec = {"replicas": replicas, "selector": {"matchLabels": pods}, "template": template}
        self._add("Deployment", name, spec)
        if service:
            self._add("Service", name, {"selector": pods, "ports": [{"port": 80, "targetPort": 8080}]})

    def _add(self, kind: str, name: str, spec: Object) -> None:
        self.api.add({"kind": kind, "metadata": {"name": name, "namespace": self.plan.spec.namespace}, "spec": spec})


@cache
def _objects_of(plan: str) -> list[Object]:
    """Return the objects of a plan's candidate; to render and parse them takes longer than all else here."""
    return version_objects(DeploymentPlan.load(json.loads(plan)))


class Replicas(MutableMapping[str, int]):
    """How many pods each Deployment of the service's namespace wants; set as any other client may."""

    def __init__(self, cluster: ServiceCluster) -> None:
        self._cluster = cluster

    def __getitem__(self, name: str) -> int:
        found = self._cluster.api.find("Deployment", self._namespace, name)
        if found is None:
            raise KeyError(name)
        return int(found["spec"].get("replicas", 1))

    def __setitem__(self, name: str, replicas: int) -> None:
        if name not in self:
            self._cluster.add_version(name, replicas=replicas)
            return

        def change(body: Object) -> None:
            body["spec"]["replicas"] = replicas

        self._cluster.api.edit("Deployment", self._namespace, name, change)

    def __delitem__(self, name: str) -> None:
        self._cluster.api.remove("Deployment", self._namespace, name)

    def __iter__(self) -> Iterator[str]:
        return iter([item["metadata"]["name"] for item in self._cluster.api.all("Deployment", self._namespace)])

    def __len__(self) -> int:
        return len([*self])

    def __repr__(self) -> str:
        return repr(dict(self))

    @property
    def _namespace(self) -> str:
        return self._cluster.plan.spec.namespace
