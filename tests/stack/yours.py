"""A cluster of the user's own, which KUBECONFIG names: checked before anything is written to it, and left as it was."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import docker
import requests
from docker.errors import APIError, DockerException

from tests.stack.access import kubectl
from tests.stack.cluster import Cluster
from tests.stack.errors import StackError
from tests.stack.http import get
from tests.stack.layout import ADMIN_KUBECONFIG, CLUSTER, embedded
from tests.stack.tls import new_secret, write_secret

HOW_TO = "docs/how-to/your-service.md"

_RIGHTS = (
    ("create", "namespaces"),
    ("delete", "namespaces"),
    ("create", "serviceaccounts"),
    ("create", "serviceaccounts", "--subresource=token"),
    ("create", "roles.rbac.authorization.k8s.io"),
    ("create", "rolebindings.rbac.authorization.k8s.io"),
    ("create", "deployments.apps"),
    ("create", "services"),
    ("create", "httproutes.gateway.networking.k8s.io"),
)
_METRICS = {
    "traefik_config_reloads_total": "the gateway",
    "container_cpu_usage_seconds_total": "the kubelets' cAdvisor",
}
_NO_SUCH_IMAGE = r"manifest unknown|name unknown|not found"


def asked_for() -> bool:
    """Whether KUBECONFIG names a cluster, and not the stack's own."""
    named = os.environ.get("KUBECONFIG")
    return bool(named) and Path(str(named)).resolve() != ADMIN_KUBECONFIG


def check_same() -> None:
    """Raise if KUBECONFIG names another cluster than that of the stack that is up."""
    if asked_for() and (embedded() or _server(_users_config()) != server()):
        raise StackError("This checkout's stack is up on another cluster than KUBECONFIG's: run `make down` first.")


def server() -> str:
    """The address of the API server of the cluster in use."""
    return _server(json.loads(kubectl("config", "view", "--output=json")))


def adopt() -> None:
    """Find out what there is, and keep it for all that follows: what the user's shell says may change.

    :raises StackError: the first thing that is missing, with its remedy; nothing has been written to the cluster.
    """
    write_secret(ADMIN_KUBECONFIG, json.dumps(_users_config()))
    kubectl("get", "--raw=/version")
    cluster = _find()
    _check_namespace()
    _check_rights()
    _check_docker(cluster)
    _check_prometheus(cluster)
    _check_gateway_url(cluster)
    CLUSTER.write_text(json.dumps(asdict(cluster), indent=2))


def let_go() -> list[str]:
    """Remove what is ours from the cluster; gives a line for each thing that would not go."""
    if embedded():
        return []
    selector = Cluster.load().selector
    try:
        kubectl("delete", "namespaces", selector, "--wait", "--timeout=180s")
    except StackError as error:
        return [f"the cluster keeps what `kubectl get namespaces {selector}` shows: {error}"]
    return []


def _users_config() -> Any:
    """The user's kubeconfig, reduced to its current context, and independent of any other file."""
    try:
        shown = kubectl("config", "view", "--minify", "--flatten", "--raw", "--output=json", config=None)
    except StackError as error:
        raise StackError(
            f"KUBECONFIG: {os.environ['KUBECONFIG']} names no cluster ({error}): correct it, or unset it for a cluster"
            " on this machine."
        ) from None
    return json.loads(shown)


def _server(config: Any) -> str:
    return str(config["clusters"][0]["cluster"]["server"])


def _find() -> Cluster:
    if "httproutes.gateway.networking.k8s.io" not in kubectl("api-resources", "--output=name").split():
        raise StackError("The cluster does not know HTTPRoute: install the Gateway API's standard CRDs, and Traefik.")
    gateway, url = _gateway()
    return Cluster(
        gateway=gateway,
        gateway_url=(os.environ.get("GATEWAY_URL") or url or _unset("GATEWAY_URL", "where users reach the Gateway")),
        prometheus_url=_named("PROMETHEUS_URL", "the Prometheus that scrapes the gateway and the kubelets").rstrip("/"),
        registry=_named("REGISTRY", "the registry, as in images' names, that Docker pushes to and the nodes pull from"),
        docker_url=os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock",
        mark=new_secret()[:12],
    )


def _named(variable: str, what: str) -> str:
    return os.environ.get(variable) or _unset(variable, what)


def _unset(variable: str, what: str) -> str:
    raise StackError(f"KUBECONFIG is set, {variable} is not: set it to {what}; or unset KUBECONFIG.")


def _gateway() -> tuple[str, str | None]:
    """Return the Gateway's `namespace/name`, and its URL if its status has an address."""
    items = json.loads(_read("gateways.gateway.networking.k8s.io", "--all-namespaces", "--output=json"))["items"]
    found = {f"{item['metadata']['namespace']}/{item['metadata']['name']}": item for item in items}
    there = f"it has {', '.join(sorted(found)) or 'none'}"
    name = os.environ.get("GATEWAY") or next(iter(found), "")
    if name not in found:
        raise StackError(f"GATEWAY: the cluster has no Gateway {name}: {there}.".replace("  ", " "))
    if len(found) > 1 and not os.environ.get("GATEWAY"):
        raise StackError(f"The cluster has several Gateways: set GATEWAY to one of them ({there}).")
    chosen = found[name]
    kind = _read("gatewayclass", chosen["spec"]["gatewayClassName"], "--output=jsonpath={.spec.controllerName}")
    if kind != "traefik.io/gateway-controller":
        raise StackError(
            f"The Gateway {name} is of {kind}, and only Traefik's metrics are known: set GATEWAY to one of its."
        )
    return name, next(_urls(chosen), None)


def _urls(gateway: Any) -> Iterator[str]:
    for listener in gateway["spec"]["listeners"]:
        for address in gateway.get("status", {}).get("addresses", []):
            if listener["protocol"] == "HTTP":
                yield f"http://{address['value']}:{listener['port']}"


def _check_namespace() -> None:
    if _read("namespace", "payments", "--ignore-not-found", "--output=name"):
        raise StackError(
            "The cluster has a namespace payments, and the demo makes one, and removes it: use another cluster, or run"
            " `kubectl delete namespace payments` if it is not needed."
        )


def _check_rights() -> None:
    for right in _RIGHTS:
        try:
            kubectl("auth", "can-i", "--quiet", "--all-namespaces", *right)
        except StackError:
            raise StackError(
                f"KUBECONFIG: its user may not {' '.join(right[:2])}: use one who administers it."
            ) from None


def _check_docker(cluster: Cluster) -> None:
    try:
        client = docker.DockerClient(base_url=cluster.docker_url)
        client.ping()
    except DockerException as error:
        raise StackError(f"Docker does not answer at {cluster.docker_url} ({error}): set DOCKER_HOST.") from None
    try:
        client.api.inspect_distribution(f"{cluster.registry}/payments:none")  # type: ignore[no-untyped-call]
    except APIError as error:
        if not re.search(_NO_SUCH_IMAGE, str(error), re.IGNORECASE):
            raise StackError(
                f"REGISTRY: Docker does not reach {cluster.registry} ({error.explanation}): correct it, or run"
                " `docker login` for it."
            ) from None


def _check_prometheus(cluster: Cluster) -> None:
    for metric, whose in _METRICS.items():
        answer = get(f"{cluster.prometheus_url}/api/v1/query?query=count({metric})", seconds=10)
        if answer is None:
            raise StackError(f"PROMETHEUS_URL: {cluster.prometheus_url} answers no queries: correct it.")
        if not json.loads(answer)["data"]["result"]:
            raise StackError(f"PROMETHEUS_URL: there is no {metric}: let Prometheus scrape {whose}; {HOW_TO} says how.")


def _check_gateway_url(cluster: Cluster) -> None:
    try:
        requests.get(cluster.gateway_url, timeout=10)  # any answer will do: without a route it is a 404
    except requests.RequestException as error:
        raise StackError(
            f"GATEWAY_URL: {cluster.gateway_url} does not answer ({type(error).__name__}): set it to where users reach"
            f" the Gateway {cluster.gateway}."
        ) from None


def _read(*arguments: str) -> str:
    return kubectl("get", *arguments)
