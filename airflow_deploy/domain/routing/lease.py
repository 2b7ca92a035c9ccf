"""The Lease beside a route: as long as it changes, the deployment that holds it has a watch.

Its times are for people. A reader learns whether a run is alive by seeing whether the Lease changes, by its own clock,
so that no two clocks need to agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from airflow_deploy.domain.config.spec import DEFAULT_LEASE_SECONDS, MAX_LEASE_SECONDS, MIN_LEASE_SECONDS
from airflow_deploy.domain.object_names import Place, object_name
from airflow_deploy.domain.routing.record import Patch

LEASE_LABELS = {"app.kubernetes.io/managed-by": "airflow-deploy"}
LEASE_PREFIX = "airflow-deploy-"
LEASE_SUFFIXES = {"gateway": "", "replicas": ".pods"}
"""What the names of Leases end with, by router: no route's name has a dot, so that no two Leases have one name."""


def lease_name(route: str, router: str = "gateway") -> str:
    """Return the name of the one Lease that a route has, in the route's own namespace."""
    return f"{LEASE_PREFIX}{route}{LEASE_SUFFIXES[router]}"


@dataclass(frozen=True)
class Lease:
    """What a Lease says. ``body`` is the object itself."""

    body: Mapping[str, Any]

    @property
    def namespace(self) -> str:
        """The route's namespace."""
        return str(self.body["metadata"]["namespace"])

    @property
    def name(self) -> str:
        """``namespace/route``, for messages."""
        return f"{self.namespace}/{self.route}"

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from all other Leases of a cluster: two routers may have a route of one name."""
        return self.namespace, str(self.body["metadata"]["name"])

    @property
    def route(self) -> str:
        """The name of the route that it stands for."""
        return str(self.body["metadata"]["name"]).removeprefix(LEASE_PREFIX).removesuffix(LEASE_SUFFIXES[self.router])

    @property
    def place(self) -> Place:
        """The route that it stands for.

        :raises FencedError: no route can have that name.
        """
        source = f"Lease {self.namespace}/{self.body['metadata']['name']}"
        return Place(object_name(self.namespace, source), object_name(self.route, source), self.router)

    @property
    def router(self) -> str:
        """The router of that route."""
        name = str(self.body["metadata"]["name"])
        return next(
            (router for router, suffix in LEASE_SUFFIXES.items() if suffix and name.endswith(suffix)), "gateway"
        )

    @property
    def holder(self) -> str | None:
        """The route's owner, ``<DEP-id>/<epoch>``, whose watch renews it."""
        return self._spec.get("holderIdentity")

    @property
    def seconds(self) -> int:
        """How long a run may be silent, within what a spec may say: other clients may write Leases too."""
        seconds = self._spec.get("leaseDurationSeconds")
        if not isinstance(seconds, int) or seconds <= 0:
            return DEFAULT_LEASE_SECONDS
        return min(max(seconds, MIN_LEASE_SECONDS), MAX_LEASE_SECONDS)

    @property
    def version(self) -> tuple[str, str]:
        """Another one after every write, and after it was deleted and made again."""
        metadata = self.body["metadata"]
        return str(metadata.get("uid")), str(metadata["resourceVersion"])

    @property
    def _spec(self) -> Mapping[str, Any]:
        return self.body.get("spec") or {}


def new_lease(namespace: str, route: str, owner: str, seconds: int, router: str = "gateway") -> dict[str, Any]:
    """Return the Lease of a route that ``owner`` holds from now on."""
    now = _now()
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": lease_name(route, router), "namespace": namespace, "labels": LEASE_LABELS},
        "spec": {"holderIdentity": owner, "leaseDurationSeconds": seconds, "acquireTime": now, "renewTime": now},
    }


def takeover_patch(lease: Lease, owner: str, seconds: int) -> Patch:
    """Return the patch by which ``owner`` takes the Lease from an earlier deployment; fenced by what was read."""
    metadata = lease.body["metadata"]
    anew = new_lease(lease.namespace, lease.route, owner, seconds, lease.router)
    return [
        {"op": "test", "path": "/metadata/resourceVersion", "value": metadata["resourceVersion"]},
        {"op": "add", "path": "/metadata/labels", "value": {**(metadata.get("labels") or {}), **LEASE_LABELS}},
        {"op": "add", "path": "/spec", "value": anew["spec"]},
    ]


def renewal_patch(owner: str) -> Patch:
    """Return the patch by which ``owner``, and no other deployment, renews the Lease."""
    return [
        {"op": "test", "path": "/spec/holderIdentity", "value": owner},
        {"op": "add", "path": "/spec/renewTime", "value": _now()},
    ]


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
