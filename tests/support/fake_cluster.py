"""A cluster in memory: one route, some Deployments, and the faults that a test orders."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any, TypeVar

from airflow_deploy.clients.kubernetes.errors import REQUEST_TIMEOUT
from airflow_deploy.clients.kubernetes.pods import PodParts, Readiness
from airflow_deploy.domain.errors import FencedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.lease import Lease, lease_name, new_lease
from airflow_deploy.domain.routing.record import Patch
from airflow_deploy.domain.routing.team_route import TeamRoute, absent_route
from tests.support.json_patch import PatchRefused, apply_patch

R = TypeVar("R", bound=TeamRoute)


class FakeCluster:
    """Stands for ``Cluster``; its writes are atomic, as the API server's are.

    Before a service's first version, the rules of its route are empty.
    """

    def __init__(self, plan: DeploymentPlan, rules: int = 1) -> None:
        self.plan = plan
        stable = {"kind": "Service", "name": plan.stable, "port": plan.stable_port, "weight": 1}
        self.body: dict[str, Any] = {
            "metadata": {"name": plan.spec.route.name, "namespace": plan.spec.namespace, "resourceVersion": "1"},
            "spec": {"rules": [{"backendRefs": [dict(stable)]} if plan.stable else {} for _ in range(rules)]},
        }
        self.testers: dict[str, Any] | None = None
        """The testers' route."""
        self.mirror: dict[str, dict[str, Any]] = {}
        """The mirror's objects, by kind."""
        self.replicas = {plan.stable: 2} if plan.stable else {}
        self.scalers: list[dict[str, Any]] = []
        """The HorizontalPodAutoscalers of the namespace, all of them the stable's."""
        self.writes = 0
        self.lose_answers = 0
        """How many of the next writes are done and seem to have failed."""
        self.readiness_answers: list[Readiness] = []
        """What is answered first; after that, all pods that are wanted are ready."""
        self.parts = PodParts(images=(f"{plan.spec.registry}/payments:v1",), config_maps=())
        self.config_maps: set[str] = set()
        self.selected_by: list[dict[str, str]] = [{"app": plan.stable}]
        self._faults: dict[str, list[Exception]] = defaultdict(list)
        self._held: dict[str, Any] | None = None
        self._versions = count(1)

    @classmethod
    def at_share(cls, plan: DeploymentPlan, share: int, at: float = 0.0) -> FakeCluster:
        """A canary with ``share`` % of the traffic since ``at``."""
        cluster = cls(plan)
        cluster.replicas[plan.candidate] = 2
        _, claim = routes.claim(cluster.team, plan.claim())
        cluster.patch_route(cluster.team, claim)
        cluster.hold_lease(cluster.claim)
        return cluster.shift(share, at) if share else cluster

    @classmethod
    def promoted(cls, plan: DeploymentPlan, at: float = 0.0) -> FakeCluster:
        cluster = cls.at_share(plan, 100, at)
        cluster.patch_route(cluster.team, routes.promote(cluster.team, plan.claim(cluster.claim)))
        return cluster

    @classmethod
    def verified(cls, plan: DeploymentPlan) -> FakeCluster:
        cluster = cls.promoted(plan)
        cluster.patch_route(cluster.team, routes.confirm(cluster.team, plan.claim(cluster.claim)))
        return cluster

    def shift(self, share: int, at: float, *, mirrored: bool = False) -> FakeCluster:
        plan = self.plan
        given = routes.shift(self.team, plan.claim(self.claim), share, at, mirrored=mirrored)
        self.patch_route(self.team, given)
        return self

    def annotate(self, key: str, value: str | None) -> FakeCluster:
        """Write over an annotation, as anybody may; None removes it."""
        annotations = self.body["metadata"].setdefault("annotations", {})
        if value is None:
            annotations.pop(key, None)
        else:
            annotations[key] = value
        return self

    def fail(self, method: str, *errors: Exception) -> None:
        """Let the next calls of ``method`` raise these, one after the other."""
        self._faults[method] += errors

    @property
    def now(self) -> HttpRoute:
        return HttpRoute(copy.deepcopy(self.body))

    @property
    def team(self) -> TeamRoute:
        """What divides the traffic."""
        return self.now

    @property
    def claim(self) -> str:
        owner = self.team.owner
        assert owner is not None
        return owner

    def weights(self) -> dict[str, int]:
        """The first rule's weights."""
        return {backend.name: backend.weight for backend in self.now.backends(0)}

    def route(self, namespace: str, name: str) -> HttpRoute:
        assert (namespace, name) == (self.plan.spec.namespace, self.plan.spec.route.name)
        self._raise("route")
        if not self.now.is_there:
            raise RefusedError("404")
        return self.now

    def team_route(self, namespace: str, name: str, router: str) -> TeamRoute:
        assert router == self.plan.spec.router
        return self.route(namespace, name)

    def team_route_or_absent(self, namespace: str, name: str, router: str) -> TeamRoute:
        assert router == self.plan.spec.router
        return self.route_or_absent(namespace, name)

    def route_or_absent(self, namespace: str, name: str) -> HttpRoute:
        if name == self.plan.spec.route.name:
            return self.route(namespace, name) if self.now.is_there else absent_route(HttpRoute, namespace, name)
        assert (namespace, name) == (self.plan.spec.namespace, f"testers-{self.plan.spec.route.name}")
        self._raise("route_or_absent")
        return HttpRoute(copy.deepcopy(self.testers)) if self.testers else absent_route(HttpRoute, namespace, name)

    def create_route(self, body: Mapping[str, Any], *, dry_run: bool = False) -> HttpRoute:
        self._raise("create_route")
        testers = body["metadata"]["name"].startswith("testers-")
        if self.testers if testers else self.now.is_there:
            raise TemporaryError("409")
        made = {**copy.deepcopy(dict(body)), "metadata": {**body["metadata"], "resourceVersion": "1"}}
        if testers:
            self._keep_testers(made)
        elif not dry_run:
            self.body = made
        return HttpRoute(made)

    def delete_route(self, route: HttpRoute) -> None:
        self._raise("delete_route")
        if self.testers and self.testers["metadata"]["resourceVersion"] != route.body["metadata"]["resourceVersion"]:
            raise TemporaryError("409")
        self.testers = None

    def _keep_testers(self, body: dict[str, Any]) -> None:
        body["metadata"]["resourceVersion"] = str(next(self._versions))
        self.testers = body

    def without_route(self) -> FakeCluster:
        """Let nobody have made the route yet."""
        self.body = {"metadata": {}, "spec": {}}
        return self

    def patch_route(self, route: R, patch: Patch) -> R:
        if not patch:
            return route
        self._raise("patch_route")
        if self.testers and route.body["metadata"]["name"] == self.testers["metadata"]["name"]:
            try:
                self._keep_testers(apply_patch(self.testers, patch))
            except PatchRefused as error:
                raise TemporaryError(str(error)) from error
            return type(route)(self.testers)
        try:
            self.body = apply_patch(self.body, patch)
        except PatchRefused as error:
            raise TemporaryError(str(error)) from error
        self.writes += 1
        self.body["metadata"]["resourceVersion"] = str(self.writes + 1)
        if self.lose_answers:
            self.lose_answers -= 1
            raise TemporaryError("the answer was lost")
        return type(route)(copy.deepcopy(self.body))

    def apply(self, objects: Sequence[Mapping[str, Any]], *, dry_run: bool = False) -> None:
        """Of what is applied, mirrors alone are kept here."""
        self._raise("apply")
        if not dry_run:
            mirrors = {item["kind"]: dict(item) for item in objects if item["metadata"]["name"].endswith("-shadow")}
            self.mirror.update(mirrors)

    def make(self, item: Mapping[str, Any]) -> None:
        """Deployments alone are made, each of them once."""
        self._raise("make")
        self.replicas.setdefault(item["metadata"]["name"], item["spec"].get("replicas", 1))

    def mirrors(self, namespace: str) -> list[dict[str, Any]]:
        self._raise("mirrors")
        return [copy.deepcopy(self.mirror["Service"])] if "Service" in self.mirror else []

    def delete_mirror(self, service: Mapping[str, Any]) -> None:
        self._raise("delete_mirror")
        assert service["metadata"]["name"] not in json.dumps(self.body["spec"]), "users would be answered by nobody"
        self.mirror = {}

    def exists(self, namespace: str, name: str) -> bool:
        self._raise("exists")
        return name in self.replicas

    def selectors(self, namespace: str) -> list[dict[str, str]]:
        self._raise("selectors")
        return self.selected_by

    def ready_endpoints(self, namespace: str, service: str, timeout: tuple[float, float] = REQUEST_TIMEOUT) -> int:
        self._raise("ready_endpoints")
        return self.replicas.get(service, 0)

    def ready(
        self,
        namespace: str,
        version: str,
        labels: Mapping[str, str] | None,
        timeout: tuple[float, float] = REQUEST_TIMEOUT,
    ) -> int:
        assert labels is None
        return self.ready_endpoints(namespace, version, timeout)

    def withdraw(self, route: TeamRoute, version: str) -> None:
        """Do nothing: a gateway has taken its traffic away."""

    def scale(self, namespace: str, name: str, replicas: int) -> None:
        self._raise("scale")
        assert name in self.replicas
        self.replicas[name] = replicas

    def autoscalers(self, namespace: str, service: str) -> list[dict[str, Any]]:
        assert service == self.plan.stable
        return self.all_autoscalers(namespace)

    def all_autoscalers(self, namespace: str) -> list[dict[str, Any]]:
        self._raise("all_autoscalers")
        return copy.deepcopy(self.scalers)

    def patch_autoscaler(self, item: dict[str, Any], patch: Patch, *, dry_run: bool = False) -> None:
        self._raise("patch_autoscaler")
        (index,) = (i for i, one in enumerate(self.scalers) if one["metadata"]["name"] == item["metadata"]["name"])
        try:
            patched = apply_patch(self.scalers[index], patch)
        except PatchRefused as error:
            raise TemporaryError(str(error)) from error
        if not dry_run:
            self.scalers[index] = patched

    def readiness(self, namespace: str, name: str) -> Readiness:
        self._raise("readiness")
        if self.readiness_answers:
            return self.readiness_answers.pop(0)
        wanted = self.replicas[name]
        return Readiness(wanted, wanted, None)

    def parts_of(self, namespace: str, service: str) -> PodParts:
        self._raise("parts_of")
        assert service in (self.plan.stable_service, self.plan.candidate)
        return self.parts

    def has_config_map(self, namespace: str, name: str) -> bool:
        self._raise("has_config_map")
        return name in self.config_maps

    @property
    def held(self) -> Lease | None:
        """The route's Lease."""
        return Lease(copy.deepcopy(self._held)) if self._held else None

    def hold_lease(self, owner: str) -> None:
        """Let a deployment hold the Lease from now on, or renew it."""
        self.delete_lease()
        self._keep(new_lease(self.plan.spec.namespace, self.plan.spec.route.name, owner, self.plan.spec.lease))

    def delete_lease(self) -> None:
        """As anybody may."""
        self._held = None

    def lease(self, namespace: str, name: str) -> Lease | None:
        self._check_name(namespace, name)
        self._raise("lease")
        return self.held

    def leases(self, namespace: str | None) -> list[Lease]:
        self._raise("leases")
        return [self.held] if self.held else []

    def create_lease(self, namespace: str, body: Mapping[str, Any]) -> None:
        self._check_name(namespace, body["metadata"]["name"])
        self._raise("create_lease")
        if self._held:
            raise TemporaryError("409")
        self._keep(body)

    def patch_lease(self, namespace: str, name: str, patch: Patch) -> bool:
        self._check_name(namespace, name)
        self._raise("patch_lease")
        if not self._held:
            return False
        try:
            self._keep(apply_patch(self._held, patch))
        except PatchRefused as error:
            raise FencedError(str(error)) from error
        return True

    def _keep(self, lease: Mapping[str, Any]) -> None:
        version = str(next(self._versions))
        uid = lease["metadata"].get("uid", version)
        self._held = {**lease, "metadata": {**lease["metadata"], "uid": uid, "resourceVersion": version}}

    def _check_name(self, namespace: str, name: str) -> None:
        assert (namespace, name) == (self.plan.spec.namespace, lease_name(self.plan.spec.route.name))

    def _raise(self, method: str) -> None:
        if self._faults[method]:
            raise self._faults[method].pop(0)
