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
    branches: Annotated[tuple[str, ...], Field(min_length=1, max_length=20), LIST] = ("main",)
    dockerfile: RelativePath = "Dockerfile"
    context: RelativePath = "."

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
    namespace: DnsLabel


class RouteSpec(Model):
    """The HTTPRoute that divides the service's traffic; with ``router: replicas``, the Service.

    If the HTTPRoute does not exist yet, the service's first deployment creates it, for all requests to ``hostnames``
    that ``gateway`` receives.
    """

    name: DnsLabel
    url: BaseUrl | None = None
    """The gateway's URL as Airflow's workers reach it. A probe names the service in its Host header."""
    gateway: GatewayRef | None = None
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=16), LIST] = ()
    ignored_by_gitops: bool = False
    """Whether the GitOps tool that owns the route ignores the fields that divide the traffic."""

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
    """Which component counts the requests, and the metric and label names that differ from its defaults."""

    preset: Literal[tuple(SOURCES)] = "traefik"  # type: ignore[valid-type]
    requests: MetricName | None = None
    duration: MetricName | None = None
    label: LabelName | None = None
    code: LabelName | None = None

    @property
    def names(self) -> MetricsSource:
        """The preset's names, with those of the spec in their places."""
        given = self.model_dump(exclude={"preset"}, exclude_none=True)
        return replace(SOURCES[self.preset], **given)


class CanarySpec(Model):
    """The stages of the canary, as shares in %, and how long each may take, in seconds."""

    stages: Annotated[tuple[int, ...], Field(min_length=1, max_length=20), LIST] = (5, 25, 50, 100)
    bake: Annotated[int, Field(ge=5, le=6 * 3600), DURATION] = 60
    warm_up: Annotated[int, Field(ge=0, le=3600), DURATION] = 10
    max_bake: Annotated[int, Field(ge=10, le=6 * 3600), DURATION] = 1800

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
    """A stage before the first share: the candidate gets copies of requests, and its answers are dropped."""

    share: Annotated[int, Field(ge=1, le=50)]
    """Share of the requests that are copied, in %."""
    safe_to_mirror: Annotated[bool, Field(validate_default=True)] = False

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
    """Seconds without a scrape after which counters are stale; None for two scrape intervals."""
    max_blind: Annotated[int, Field(ge=10, le=86_400), DURATION] = 900
    """Seconds of blindness after which a person is asked, or the deployment is rolled back; see ``then``."""
    then: Literal["hold", "rollback"] = "hold"


class RollbackSpec(Model):
    """How long a promoted version is still verified and rolled back if it fails, and which versions are kept."""

    window: Annotated[int, Field(ge=60, le=7 * 86_400), DURATION] = 86_400
    """Seconds for which the version before keeps its pods, so that a rollback is immediate."""
    keep: Annotated[int, Field(ge=1, le=50)] = 3
    """Number of versions that are kept beside the stable."""


class Scaling(Model):
    """The autoscaler of each version. Its minimum is the service's ``replicas``."""

    max: Annotated[int, Field(ge=1, le=500)]
    cpu: Annotated[int, Field(ge=1, le=100)] = 70
    """CPU utilisation, in % of the request, above which pods are added."""


class Resources(Model):
    """The limits of each pod; its requests are the same."""

    cpu: Quantity = "500m"
    memory: Quantity = "256Mi"


class Connections(Model):
    """Ids of the Airflow connections that this service's deployments use."""

    kubernetes: ConnectionId = "kubernetes_default"
    prometheus: ConnectionId = "prometheus_default"
    docker: ConnectionId = "docker_default"


class DeploymentSpec(Model):
    """The spec of one service. Only what the team alone can know has no default."""

    service: Annotated[str, StringConstraints(pattern=f"^{SERVICE_PATTERN}$", max_length=SERVICE_MAX)]
    namespace: DnsLabel
    source: Source
    registry: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9._-]+)*$")
    ]
    route: RouteSpec
    router: Literal["gateway", "replicas"] = "gateway"
    """What divides the traffic: the weights of an HTTPRoute, or the number of pods behind one Service."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    readiness_path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]*$", max_length=200)] = "/readyz"
    replicas: Annotated[int, Field(ge=1, le=500)] = 2
    capacity: Literal["full", "proportional"] = "full"
    """Whether the candidate has all its pods from the start, or only as many as its share needs."""
    max_unready: Annotated[float, Field(ge=0, lt=1)] = MAX_UNREADY
    """Share of the candidate's pods that may be unready while it has traffic, 0 to 1."""
    scaling: Scaling | None = None
    resources: Resources = Resources()
    config: dict[Annotated[str, StringConstraints(pattern=r"^[A-Z_][A-Z0-9_]{0,100}$")], str] = Field(
        default_factory=dict
    )
    metrics: Annotated[
        Metrics, BeforeValidator(lambda value: {"preset": value} if isinstance(value, str) else value)
    ] = Metrics()
    criticality: Literal[tuple(CRITICALITY)] = "medium"  # type: ignore[valid-type]
    canary: CanarySpec = CanarySpec()
    shadow: ShadowSpec | None = None
    gates: Annotated[dict[str, Limit], AfterValidator(merge_limits), Field(default_factory=dict, validate_default=True)]
    blindness: Blindness = Blindness()
    lease: Annotated[int, Field(ge=15, le=600), DURATION] = 45
    """Seconds without a renewal of the Lease after which the guard rolls the candidate back. A restart of the triggerer
    takes about 28 seconds without a renewal."""
    rollback: RollbackSpec = RollbackSpec()
    approval_timeout: Annotated[int, Field(ge=60, le=7 * 86_400), DURATION] = 3600
    connections: Connections = Connections()

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
    def place(self) -> tuple[str, str, str]:
        """Namespace and name of the object that divides the traffic, and the router."""
        return self.namespace, self.route.name, self.router

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
