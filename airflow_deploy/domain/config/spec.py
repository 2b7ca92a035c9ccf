"""The spec: what a team declares for its service in one YAML file. Each of its objects has a module beside this one."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
)

from airflow_deploy.domain.config.connections import Connections
from airflow_deploy.domain.config.criticality import CRITICALITY
from airflow_deploy.domain.config.gates import (
    GATES,
    MAX_UNREADY,
    Gate,
    GateKind,
    Limit,
    OwnGate,
    gate_table,
    merge_limits,
)
from airflow_deploy.domain.config.git_source import BuildSpec, Source
from airflow_deploy.domain.config.metrics_spec import Blindness, Metrics
from airflow_deploy.domain.config.pod_spec import Resources, Scaling
from airflow_deploy.domain.config.route_spec import DnsLabel, RouteSpec
from airflow_deploy.domain.config.stages import CanarySpec, RollbackSpec, ShadowSpec
from airflow_deploy.domain.metrics.sources import MAX_DEPLOYMENT_NAME
from airflow_deploy.domain.names import SERVICE_MAX, SERVICE_PATTERN, mirror_name, version_name
from airflow_deploy.domain.object_names import Place
from airflow_deploy.domain.values import DURATION, Model

MIN_LEASE_SECONDS, DEFAULT_LEASE_SECONDS, MAX_LEASE_SECONDS = 15, 45, 600
"""Seconds that a Lease may last."""


class DeploymentSpec(Model):
    """The spec of one service. Only what the team alone can know has no default."""

    service: Annotated[str, StringConstraints(pattern=f"^{SERVICE_PATTERN}$", max_length=SERVICE_MAX)]
    """Name of the service; its DAG is ``deploy_<service>``."""
    namespace: DnsLabel
    """Kubernetes namespace of the service and of its route."""
    source: Source
    """Git repository of the service."""
    build: BuildSpec = BuildSpec()
    """Bounds of the image's build."""
    registry: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9._-]+)*$")
    ]
    """Registry, and optionally a path in it, that images are pushed to."""
    route: RouteSpec
    """HTTPRoute, or Service, that divides the traffic."""
    router: Literal["gateway", "replicas"] = "gateway"
    """What divides the traffic: weights of an HTTPRoute (gateway), or pods behind one Service (replicas)."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """Port on which the container serves."""
    readiness_path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]*$", max_length=200)] = "/readyz"
    """HTTP path of the readiness probe."""
    replicas: Annotated[int, Field(ge=1, le=500)] = 2
    """Number of pods of a version; with ``scaling``, the least number."""
    capacity: Literal["full", "proportional"] = "full"
    """Pods of the candidate: all from the start (full), or as many as each share needs (proportional)."""
    max_unready: Annotated[float, Field(ge=0, lt=1)] = MAX_UNREADY
    """Share of the candidate's pods that may be unready while it has traffic, 0 to 1."""
    scaling: Scaling | None = None
    """Autoscaler of each version."""
    resources: Resources = Resources()
    """CPU and memory of each pod; limits and requests are the same."""
    config: dict[Annotated[str, StringConstraints(pattern=r"^[A-Z_][A-Z0-9_]{0,100}$")], str] = Field(
        default_factory=dict
    )
    """Environment variables of the container."""
    metrics: Annotated[
        Metrics,
        BeforeValidator(
            lambda value: {"preset": value} if isinstance(value, str) else value, json_schema_input_type=str | Metrics
        ),
    ] = Metrics()
    """Metrics source: a preset's name (``traefik`` by default), or an object with names that differ."""
    criticality: Literal[tuple(CRITICALITY)] = "medium"  # type: ignore[valid-type]
    """Criticality of the service; high caps the first share at 10 %."""
    canary: CanarySpec = CanarySpec()
    """Stages of the canary, and their times."""
    shadow: ShadowSpec | None = None
    """Stage of copied requests before the first share."""
    gates: Annotated[dict[str, Limit], AfterValidator(merge_limits), Field(default_factory=dict, validate_default=True)]
    """Limits of the gates, and gates of the team's own, by name."""
    blindness: Blindness = Blindness()
    """What happens while the metrics cannot be trusted."""
    lease: Annotated[int, Field(ge=MIN_LEASE_SECONDS, le=MAX_LEASE_SECONDS), DURATION] = DEFAULT_LEASE_SECONDS
    """Longest time without a look for a candidate that has traffic; then the guard rolls back."""
    rollback: RollbackSpec = RollbackSpec()
    """How long a rollback stays possible, and how many versions are kept."""
    approval_timeout: Annotated[int, Field(ge=60, le=7 * 86_400), DURATION] = 3600
    """How long a question to a person stays open; silence is a no."""
    connections: Connections = Connections()
    """Airflow connections of this service's deployments."""

    @field_validator("router")
    @classmethod
    def _router_fits_route(cls, router: str, others: ValidationInfo) -> str:
        route, service = others.data.get("route"), others.data.get("service")  # None if they are not valid
        if router == "replicas" and route and (route.url or route.gateway):
            raise ValueError(
                "replicas uses no gateway; remove route.url and route.gateway, and set route.name to the Service's name"
            )
        if (
            router == "replicas"
            and service
            and len(service) > (most := MAX_DEPLOYMENT_NAME - len(version_name("", "0" * 7, 10**9)))
        ):
            raise ValueError(
                f"with replicas, pods are identified by their names; shorten service to at most {most} characters"
            )
        return router

    @field_validator("metrics")
    @classmethod
    def _preset_fits_router(cls, metrics: Metrics, others: ValidationInfo) -> Metrics:
        if (router := others.data.get("router")) and (router == "replicas") != (metrics.preset == "pods"):
            raise ValueError("router: replicas needs the preset pods, and no other router does; set both or neither")
        return metrics

    @field_validator("canary")
    @classmethod
    def _first_share_fits_criticality(cls, canary: CanarySpec, others: ValidationInfo) -> CanarySpec:
        level = others.data.get("criticality")  # None if it is not valid, which is reported by itself
        first = canary.stages[0]
        if level and first > (most := CRITICALITY[level].first_share):
            raise ValueError(
                f"canary.stages begins with {first} %, but criticality {level} permits at most {most} %;"
                " begin with a smaller share"
            )
        return canary

    @field_validator("shadow")
    @classmethod
    def _can_mirror(cls, shadow: ShadowSpec | None, others: ValidationInfo) -> ShadowSpec | None:
        route, service = others.data.get("route"), others.data.get("service")  # None if they are not valid
        if shadow and others.data.get("router") == "replicas":
            raise ValueError("router: replicas cannot copy requests, since a Service does not; remove shadow")
        if shadow and route and not route.url:
            raise ValueError(
                "a probe must first verify that the gateway copies requests; set route.url for it, or remove shadow"
            )
        if shadow and service and len(mirror_name(service)) > SERVICE_MAX:
            most = SERVICE_MAX - len(mirror_name(""))
            raise ValueError(
                f"service has more than {most} characters, too many for the mirror's name; shorten it, or remove shadow"
            )
        return shadow

    @field_validator("scaling")
    @classmethod
    def _can_scale(cls, scaling: Scaling | None, others: ValidationInfo) -> Scaling | None:
        replicas = others.data.get("replicas")  # None if it is not valid, which is reported by itself
        if scaling and replicas and scaling.max < replicas:
            raise ValueError(f"scaling.max is {scaling.max}, less than replicas ({replicas}); raise scaling.max")
        if scaling and others.data.get("capacity") == "proportional":
            raise ValueError("an autoscaler and capacity: proportional both set the number of pods; remove one of them")
        if scaling and others.data.get("router") == "replicas":
            raise ValueError("with router: replicas, an autoscaler would change the shares of traffic; remove scaling")
        return scaling

    @property
    def place(self) -> Place:
        """Which object divides the traffic."""
        return Place(self.namespace, self.route.name, self.router)

    @property
    def limits(self) -> dict[str, float]:
        """Every gate's limit, by name."""
        return {name: gate.limit if isinstance(gate, OwnGate) else gate for name, gate in self.gates.items()}

    @property
    def own_gates(self) -> dict[str, OwnGate]:
        """The team's own gates, by name."""
        return {name: gate for name, gate in self.gates.items() if isinstance(gate, OwnGate)}

    @property
    def kinds(self) -> dict[str, GateKind]:
        """The kind of each of the team's own gates, by name."""
        return {name: own.kind for name, own in self.own_gates.items()}

    @property
    def counted_gates(self) -> dict[str, tuple[Gate, float]]:
        """The gates that count, each with its limit, by name."""
        return {name: (gate, self.limits[name]) for name, gate in gate_table(self.kinds).items() if gate.counted}

    @property
    def latency_limits(self) -> dict[str, float]:
        """Limit of each latency gate in seconds, by name. Each must be an edge of the histogram's buckets."""
        return {name: self.limits[name] for name, gate in GATES.items() if gate.kind == "latency"}
