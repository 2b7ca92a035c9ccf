"""The spec: what a team declares for its service in one YAML file."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from airflow_deploy.domain.config.criticality import CRITICALITY
from airflow_deploy.domain.config.gates import GATES, MAX_UNREADY, Gate, Kind, Limit, OwnGate, gate_table, merge_limits
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.metrics.sources import MAX_DEPLOYMENT_NAME, SOURCES, MetricsSource
from airflow_deploy.domain.names import SERVICE_MAX, SERVICE_PATTERN, mirror_name, version_name
from airflow_deploy.domain.object_names import Place
from airflow_deploy.domain.values import DURATION, LIST, Model, explain_invalid

DnsLabel = Annotated[str, StringConstraints(pattern=f"^{SERVICE_PATTERN}$", max_length=63)]
Quantity = Annotated[str, StringConstraints(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi)?$", max_length=20)]
ConnectionId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,200}$")]
BaseUrl = Annotated[str, StringConstraints(pattern=r"^https?://[a-z0-9.-]{1,253}(:[0-9]{1,5})?$")]
RelativePath = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._][A-Za-z0-9._/-]*$", max_length=200)]

HOSTNAME = r"^(\*\.)?[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
Hostname = Annotated[str, StringConstraints(pattern=HOSTNAME, max_length=253)]


def _no_parent(path: str) -> str:
    if ".." in path.split("/"):
        raise ValueError("leads out of the repository; remove the '..'")
    return path


class Source(Model):
    """The Git repository of the service, and the branches that may be deployed."""

    repository: Annotated[str, StringConstraints(pattern=r"^(https|ssh|file)://[^\s\x00-\x1f]+$", max_length=500)]
    """URL of the Git repository: https, ssh or file, without a login."""
    branches: Annotated[tuple[str, ...], Field(min_length=1, max_length=20), LIST] = ("main",)
    """Branches whose commits may be deployed."""
    dockerfile: RelativePath = "Dockerfile"
    """Path of the Dockerfile in the repository."""
    context: RelativePath = "."
    """Path of the build context in the repository."""

    @field_validator("repository")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        login, at, _ = url.split("/")[2].rpartition("@")
        if at and (":" in login or not url.startswith("ssh://")):
            raise ValueError(
                "contains a login, which logs and labels would show; remove it and use a Git credential helper"
            )
        return url

    _within = field_validator("dockerfile", "context")(_no_parent)

    @field_validator("branches")
    @classmethod
    def _plain_branches(cls, branches: tuple[str, ...]) -> tuple[str, ...]:
        for branch in branches:
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,99}", branch) or ".." in branch or branch.endswith("/"):
                raise ValueError("one of the branches is not a plain name; write names such as main or release/1.2")
        return branches


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


MetricName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$", max_length=200)]
LabelName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=200)]


class Metrics(Model):
    """The metrics source that counts the requests, and the names that differ from its preset."""

    preset: Literal[tuple(SOURCES)] = "traefik"  # type: ignore[valid-type]
    """Metrics source: the gateway or the pods that count the requests."""
    requests: MetricName | None = None
    """Name of the counter of requests, if it differs from the preset's."""
    duration: MetricName | None = None
    """Name of the histogram of durations in seconds, if it differs from the preset's."""
    label: LabelName | None = None
    """Label that tells versions apart, if it differs from the preset's."""
    code: LabelName | None = None
    """Label of the status code, if it differs from the preset's."""

    @property
    def names(self) -> MetricsSource:
        """The preset's names, with those of the spec in their places."""
        given = self.model_dump(exclude={"preset"}, exclude_none=True)
        return replace(SOURCES[self.preset], **given)


class CanarySpec(Model):
    """The stages of the canary, as shares in %, and how long each may take, in seconds."""

    stages: Annotated[tuple[int, ...], Field(min_length=1, max_length=20), LIST] = (5, 25, 50, 100)
    """Shares of the traffic in %, rising to 100. ``criticality`` caps the first."""
    bake: Annotated[int, Field(ge=5, le=6 * 3600), DURATION] = 60
    """Least time at a stage."""
    warm_up: Annotated[int, Field(ge=0, le=3600), DURATION] = 10
    """Time after the candidate's first request in which latency and CPU are not judged."""
    max_bake: Annotated[int, Field(ge=10, le=6 * 3600), DURATION] = 1800
    """Time of sight at a stage after which a person is asked."""

    @model_validator(mode="after")
    def _check(self) -> "CanarySpec":
        if list(self.stages) != sorted(set(self.stages)) or self.stages[0] < 1 or self.stages[-1] != 100:
            raise ValueError("stages do not rise from at least 1 to exactly 100; write shares such as [5, 25, 50, 100]")
        if self.max_bake < self.bake:
            raise ValueError("max_bake is shorter than bake; lengthen max_bake or shorten bake")
        if self.warm_up >= self.max_bake:
            raise ValueError("warm_up is not shorter than max_bake, so latency would never be judged; shorten warm_up")
        return self


class ShadowSpec(Model):
    """A stage before the first share: the candidate gets copies of requests, and users get the stable's answers."""

    share: Annotated[int, Field(ge=1, le=50)]
    """Share of the requests that are copied to the candidate, in %."""
    safe_to_mirror: Annotated[bool, Field(validate_default=True)] = False
    """Must be true: no request does harm if it is processed twice."""

    @field_validator("safe_to_mirror")
    @classmethod
    def _declared(cls, safe: bool) -> bool:
        if not safe:
            raise ValueError(
                "shadow copies every kind of request to the new version, also those that write; set"
                " safe_to_mirror: true if it is safe to handle each request twice, or remove shadow"
            )
        return safe


class Blindness(Model):
    """What happens while the metrics cannot be trusted (BLIND)."""

    stale_after: Annotated[int | None, Field(ge=5, le=600), DURATION] = None
    """Age at which the newest scrape is BLIND; by default two scrape intervals and 2 s."""
    max_blind: Annotated[int, Field(ge=10, le=86_400), DURATION] = 900
    """How long blindness may last."""
    then: Literal["hold", "rollback"] = "hold"
    """What happens after ``max_blind``: hold the share, or roll back."""


class RollbackSpec(Model):
    """How long a promoted version is verified and may be rolled back, and how many versions are kept."""

    window: Annotated[int, Field(ge=60, le=7 * 86_400), DURATION] = 86_400
    """How long a promoted version is verified, and the version before it stays warm."""
    keep: Annotated[int, Field(ge=1, le=50)] = 3
    """Number of versions that are kept beside the stable."""


class Scaling(Model):
    """The autoscaler of each version. Its minimum is the service's ``replicas``."""

    max: Annotated[int, Field(ge=1, le=500)]
    """Most pods of a version; at least ``replicas``."""
    cpu: Annotated[int, Field(ge=1, le=100)] = 70
    """CPU use in % above which pods are added."""


class Resources(Model):
    """The limits of each pod; its requests are the same."""

    cpu: Quantity = "500m"
    """CPU request and limit of a pod."""
    memory: Quantity = "256Mi"
    """Memory request and limit of a pod."""


class Connections(Model):
    """Ids of the Airflow connections that this service's deployments use."""

    kubernetes: ConnectionId = "kubernetes_default"
    """Airflow connection to the cluster."""
    prometheus: ConnectionId = "prometheus_default"
    """Airflow connection to Prometheus."""
    docker: ConnectionId = "docker_default"
    """Airflow connection to the registry."""


class DeploymentSpec(Model):
    """The spec of one service. Only what the team alone can know has no default."""

    service: Annotated[str, StringConstraints(pattern=f"^{SERVICE_PATTERN}$", max_length=SERVICE_MAX)]
    """Name of the service; its DAG is ``deploy_<service>``."""
    namespace: DnsLabel
    """Kubernetes namespace of the service and of its route."""
    source: Source
    """Git repository of the service."""
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
    lease: Annotated[int, Field(ge=15, le=600), DURATION] = 45
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
    def kinds(self) -> dict[str, Kind]:
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


def parse_spec(data: Any, origin: str) -> DeploymentSpec:
    """Return the spec in ``data``.

    :param origin: name of the file, for error messages.
    :raises RefusedError: one sentence for each invalid field, with its name, the cause and the remedy.
    """
    try:
        return DeploymentSpec.model_validate(data)
    except ValidationError as error:
        raise RefusedError(explain_invalid(origin, error)) from None


def load_spec(path: Path) -> DeploymentSpec:
    """Return the spec in one YAML file.

    :raises RefusedError: the file cannot be read, is not YAML, or its content is not valid.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(f"{path.name}: is not valid YAML; correct it: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise RefusedError(f"{path.name}: cannot be read ({error.strerror}); correct its permissions") from error
    return parse_spec(data, path.name)
