"""Part of the spec: the object that divides the service's traffic, and its gateway."""

from typing import Annotated

from pydantic import Field, StringConstraints, model_validator

from airflow_deploy.domain.names import SERVICE_PATTERN
from airflow_deploy.domain.values import LIST, Model

DnsLabel = Annotated[str, StringConstraints(pattern=f"^{SERVICE_PATTERN}$", max_length=63)]
BaseUrl = Annotated[str, StringConstraints(pattern=r"^https?://[a-z0-9.-]{1,253}(:[0-9]{1,5})?$")]

HOSTNAME = r"^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
Hostname = Annotated[str, StringConstraints(pattern=HOSTNAME, max_length=253)]


class GatewayRef(Model):
    """A Gateway of the cluster."""

    name: DnsLabel
    """Name of the Gateway."""
    namespace: DnsLabel
    """Namespace of the Gateway."""


class RouteSpec(Model):
    """The HTTPRoute that divides the service's traffic; with ``router: replicas``, the Service.

    If there is no HTTPRoute yet, the service's first deployment creates it, for all requests to ``hostnames`` that
    ``gateway`` gets.
    """

    name: DnsLabel
    """Name of the HTTPRoute; with ``router: replicas``, of the Service."""
    url: BaseUrl | None = None
    """Address at which Airflow's workers reach the gateway, for the probe. The Host header names the service."""
    gateway: GatewayRef | None = None
    """Gateway of a route that the first deployment creates."""
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=16), LIST] = ()
    """Hostnames of a route that the first deployment creates."""
    ignored_by_gitops: bool = False
    """True if the GitOps tool that owns the route ignores the fields that divide the traffic."""

    @model_validator(mode="after")
    def _check(self) -> "RouteSpec":
        if bool(self.gateway) != bool(self.hostnames):
            raise ValueError(
                "gateway and hostnames belong together; write both, or neither if the route exists already"
            )
        return self
