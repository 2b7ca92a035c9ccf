"""What a team declares for its service, once, in one YAML file."""

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
        raise ValueError("may not leave the repository; remove the '..'")
    return path


class Source(Model):
    """Where the service's code comes from, and which branches may be deployed."""

    repository: Annotated[str, StringConstraints(pattern=r"^(https|ssh|file)://[^\s\x00-\x1f]+$", max_length=500)]
    branches: Annotated[tuple[str, ...], Field(min_length=1, max_length=20), LIST] = ("main",)
    dockerfile: RelativePath = "Dockerfile"
    context: RelativePath = "."

    @field_validator("repository")
    @classmethod
    def _no_secret(cls, url: str) -> str:
        login, at, _ = url.split("/")[2].rpartition("@")
        if at and (":" in login or not url.startswith("ssh://")):
            raise ValueError("may not carry a login: it is shown in logs and labels; use a Git credential helper")
        return url

    _within = field_validator("dockerfile", "context")(_no_parent)

    @field_validator("branches")
    @classmethod
    def _plain_branches(cls, branches: tuple[str, ...]) -> tuple[str, ...]:
        for branch in branches:
            if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._/-]{0,99}", branch) or ".." in branch or branch.endswith("/"):
                raise ValueError("a branch is a plain name such as main or release/1.2")
        return branches


class GatewayRef(Model):
    """A Gateway of the cluster."""

    name: DnsLabel
    namespace: DnsLabel


class RouteSpec(Model):
    """The HTTPRoute that divides the service's traffic; with ``router: replicas``, the Service.

    Where an HTTPRoute is not there yet, the service's first deployment makes it, for all requests to ``hostnames`` that
    ``gateway`` gets.
    """

    name: DnsLabel
    url: BaseUrl | None = None
    """Where Airflow's workers reach the gateway; the request says by its Host header which service it is for."""
    gateway: GatewayRef | None = None
    hostnames: Annotated[tuple[Hostname, ...], Field(max_length=16), LIST] = ()
    ignored_by_gitops: bool = False
    """Whether the GitOps tool that owns the route was told to leave alone what divides the traffic."""

    @model_validator(mode="after")
    def _check(self) -> "RouteSpec":
        if bool(self.gateway) != bool(self.hostnames):
            raise ValueError("gateway and hostnames are needed together; a route that is there needs neither")
        return self


MetricName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_:][a-zA-Z0-9_:]*$", max_length=200)]
LabelName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=200)]


class Metrics(Model):
    """Who counts the requests, and how those names are called that are not as usual there."""

    preset: Literal[tuple(SOURCES)] = "traefik"  # type: ignore[valid-type]
    requests: MetricName | None = None
    duration: MetricName | None = None
    label: LabelName | None = None
    code: LabelName | None = None

    @property
    def names(self) -> MetricsSource:
        """All names."""
        given = self.model_dump(exclude={"preset"}, exclude_none=True)
        return replace(SOURCES[self.preset], **given)


class CanarySpec(Model):
    """The stages of the canary and how long each may take."""

    stages: Annotated[tuple[int, ...], Field(min_length=1, max_length=20), LIST] = (5, 25, 50, 100)
    bake: Annotated[int, Field(ge=5, le=6 * 3600), DURATION] = 60
    warm_up: Annotated[int, Field(ge=0, le=3600), DURATION] = 10
    max_bake: Annotated[int, Field(ge=10, le=6 * 3600), DURATION] = 1800

    @model_validator(mode="after")
    def _check(self) -> "CanarySpec":
        if list(self.stages) != sorted(set(self.stages)) or self.stages[0] < 1 or self.stages[-1] != 100:
            raise ValueError("stages must rise from at least 1 to exactly 100")
        if self.max_bake < self.bake:
            raise ValueError("max_bake must not be shorter than bake")
        if self.warm_up >= self.max_bake:
            raise ValueError("warm_up must be shorter than max_bake: latency is not judged before")
        return self


class ShadowSpec(Model):
    """A stage before the first share: the candidate gets copies of requests, and nobody gets its answers."""

    share: Annotated[int, Field(ge=1, le=50)]
    """How many of the requests are copied, in %."""
    safe_to_mirror: Annotated[bool, Field(validate_default=True)] = False

    @field_validator("safe_to_mirror")
    @classmethod
    def _declared(cls, safe: bool) -> bool:
        if not safe:
            raise ValueError(
                "copies of requests, of those that write too, would reach the new version; declare"
                " safe_to_mirror: true if none does harm when it is done twice, or remove shadow"
            )
        return safe


class Blindness(Model):
    """What happens while the metrics cannot be trusted."""

    stale_after: Annotated[int | None, Field(ge=5, le=600), DURATION] = None
    """Seconds after which counters are stale; None for two scrape intervals."""
    max_blind: Annotated[int, Field(ge=10, le=86_400), DURATION] = 900
    then: Literal["hold", "rollback"] = "hold"


class RollbackSpec(Model):
    """How long a promoted version is still checked and may be taken back by itself, and what is kept afterwards."""

    window: Annotated[int, Field(ge=60, le=7 * 86_400), DURATION] = 86_400
    """Seconds for which the version before it stays warm."""
    keep: Annotated[int, Field(ge=1, le=50)] = 3
    """How many versions are kept beside the one that serves."""


class Scaling(Model):
    """The autoscaler that each version gets; the service's ``replicas`` are its minimum."""

    max: Annotated[int, Field(ge=1, le=500)]
    cpu: Annotated[int, Field(ge=1, le=100)] = 70
    """The use of its CPU, in %, at which pods are added."""


class Resources(Model):
    """Limits of each pod; its requests are the same."""

    cpu: Quantity = "500m"
    memory: Quantity = "256Mi"


class Connections(Model):
    """The Airflow connections that this service's deployments use."""

    kubernetes: ConnectionId = "kubernetes_default"
    prometheus: ConnectionId = "prometheus_default"
    docker: ConnectionId = "docker_default"


class DeploymentSpec(Model):
    """One service. Everything has a default but what only the team can know."""

    service: Annotated[str, StringConstraints(pattern=f"^{SERVICE_PATTERN}$", max_length=SERVICE_MAX)]
    namespace: DnsLabel
    source: Source
    registry: Annotated[
        str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9._-]+)*$")
    ]
    route: RouteSpec
    router: Literal["gateway", "replicas"] = "gateway"
    """What divides the traffic: the weights of an HTTPRoute, or the numbers of pods behind one Service."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    readiness_path: Annotated[str, StringConstraints(pattern=r"^/[A-Za-z0-9._~/-]*$", max_length=200)] = "/readyz"
    replicas: Annotated[int, Field(ge=1, le=500)] = 2
    capacity: Literal["full", "proportional"] = "full"
    """Whether the candidate has all its pods from the start, or as many as its share needs."""
    max_unready: Annotated[float, Field(ge=0, lt=1)] = MAX_UNREADY
    """Share of the candidate's pods that may be unready while it has traffic."""
    scaling: Scaling | None = None
    resources: Resources = Resources()
    config: dict[Annotated[str, StringConstraints(pattern=r"^[A-Z_][A-Z0-9_]{0,100}$")], str] = Field(
        default_factory=dict
    )
    metrics: Annotated[Metrics, BeforeValidator(lambda said: {"preset": said} if isinstance(said, str) else said)] = (
        Metrics()
    )
    criticality: Literal[tuple(CRITICALITY)] = "medium"  # type: ignore[valid-type]
    canary: CanarySpec = CanarySpec()
    shadow: ShadowSpec | None = None
    gates: Annotated[dict[str, Limit], AfterValidator(merge_limits), Field(default_factory=dict, validate_default=True)]
    blindness: Blindness = Blindness()
    lease: Annotated[int, Field(ge=15, le=600), DURATION] = 45
    """Seconds for which a candidate may have traffic while nobody looks, before the guard returns it. A triggerer's
    restart takes 28."""
    rollback: RollbackSpec = RollbackSpec()
    approval_timeout: Annotated[int, Field(ge=60, le=7 * 86_400), DURATION] = 3600
    connections: Connections = Connections()

    @field_validator("router")
    @classmethod
    def _without_gateway(cls, router: str, others: ValidationInfo) -> str:
        route, service = others.data.get("route"), others.data.get("service")  # None where they are not valid
        if router == "replicas" and route and (route.url or route.gateway):
            raise ValueError("replicas needs no gateway: of route, set the name alone, which is that of the Service")
        if (
            router == "replicas"
            and service
            and len(service) > (most := MAX_DEPLOYMENT_NAME - len(version_name("", "0" * 7, 10**9)))
        ):
            raise ValueError(f"replicas tells pods apart by their names; service may have {most} characters at most")
        return router

    @field_validator("metrics")
    @classmethod
    def _counted_by_pods(cls, metrics: Metrics, others: ValidationInfo) -> Metrics:
        if (router := others.data.get("router")) and (router == "replicas") != (metrics.preset == "pods"):
            raise ValueError(
                "router: replicas needs the preset pods, since no gateway counts, and no other router does"
            )
        return metrics

    @field_validator("canary")
    @classmethod
    def _modest_first_share(cls, canary: CanarySpec, others: ValidationInfo) -> CanarySpec:
        level = others.data.get("criticality")  # None where it is itself not valid, which is said anyway
        first = canary.stages[0]
        if level and first > (most := CRITICALITY[level].first_share):
            raise ValueError(
                f"canary.stages begins with {first} %, and criticality {level} permits {most} % at first;"
                " begin with a smaller share"
            )
        return canary

    @field_validator("shadow")
    @classmethod
    def _mirrors(cls, shadow: ShadowSpec | None, others: ValidationInfo) -> ShadowSpec | None:
        route, service = others.data.get("route"), others.data.get("service")  # None where they are not valid
        if shadow and others.data.get("router") == "replicas":
            raise ValueError("a Service copies no requests, so router: replicas cannot mirror; remove shadow")
        if shadow and route and not route.url:
            raise ValueError("the gateway must be seen to mirror before users meet it; set route.url, or remove shadow")
        if shadow and service and len(mirror_name(service)) > SERVICE_MAX:
            most = SERVICE_MAX - len(mirror_name(""))
            raise ValueError(f"service has more than {most} characters, too many for a mirror's name; remove shadow")
        return shadow

    @field_validator("scaling")
    @classmethod
    def _room_to_scale(cls, scaling: Scaling | None, others: ValidationInfo) -> Scaling | None:
        replicas = others.data.get("replicas")  # None where it is itself not valid, which is said anyway
        if scaling and replicas and scaling.max < replicas:
            raise ValueError(f"scaling.max is {scaling.max}, and replicas are {replicas}; raise max")
        if scaling and others.data.get("capacity") == "proportional":
            raise ValueError("an autoscaler and capacity: proportional would fight over the pods; remove one of them")
        if scaling and others.data.get("router") == "replicas":
            raise ValueError("an autoscaler would change the shares that router: replicas gives; remove scaling")
        return scaling

    @property
    def place(self) -> tuple[str, str, str]:
        """Namespace, name and router of what divides the traffic."""
        return self.namespace, self.route.name, self.router

    @property
    def limits(self) -> dict[str, float]:
        """Every gate's limit, by name."""
        return {name: said.limit if isinstance(said, OwnGate) else said for name, said in self.gates.items()}

    @property
    def own_gates(self) -> dict[str, OwnGate]:
        """The team's own gates, by name."""
        return {name: said for name, said in self.gates.items() if isinstance(said, OwnGate)}

    @property
    def kinds(self) -> dict[str, Kind]:
        """How each of the team's own gates is judged, by name."""
        return {name: own.kind for name, own in self.own_gates.items()}

    @property
    def counted_gates(self) -> dict[str, tuple[Gate, float]]:
        """The gates that are judged on counts, with their limits, by name."""
        return {name: (gate, self.limits[name]) for name, gate in gate_table(self.kinds).items() if gate.counted}

    @property
    def latency_limits(self) -> dict[str, float]:
        """Seconds by latency gate: each must be an edge of the histogram's buckets."""
        return {name: self.limits[name] for name, gate in GATES.items() if gate.kind == "latency"}


def parse_spec(data: Any, origin: str) -> DeploymentSpec:
    """Return the spec in ``data``.

    :param origin: the file's name, for the error's sentence.
    :raises RefusedError: one sentence that names each wrong field.
    """
    try:
        return DeploymentSpec.model_validate(data)
    except ValidationError as error:
        raise RefusedError(explain_invalid(origin, error)) from None


def load_spec(path: Path) -> DeploymentSpec:
    """Read one YAML file.

    :raises RefusedError: the file is no YAML, or its content is not valid.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(f"{path.name}: is not valid YAML; {' '.join(str(error).split())}") from error
    except OSError as error:
        raise RefusedError(f"{path.name}: cannot be read; {error.strerror}") from error
    return parse_spec(data, path.name)
