"""The payment service as its team runs it before us: repository, image, objects, and its YAML for Airflow.

It may run more than once, under several names, so that tests need not take turns.
"""

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker
import yaml
from docker.errors import DockerException

from airflow_deploy.domain.config.spec_file import parse_spec
from airflow_deploy.domain.workloads.manifests import render_rbac
from tests.stack.access import kubectl
from tests.stack.airflow import install_deployment
from tests.stack.cluster import Cluster
from tests.stack.errors import StackError
from tests.stack.info import StackInfo
from tests.stack.layout import CACHE, embedded
from tests.stack.sample.base_image import import_base
from tests.stack.sample.manifests import payments
from tests.stack.sample.repository import Sample, make_repository

PAYMENTS = "payments"


def serve(info: StackInfo, service: str = PAYMENTS, commit: str = "running", **declared: Any) -> Sample:
    """Bring a version up behind its route, as a team had it before us, and give Airflow the service's YAML.

    :param service: its name, and its namespace's; `<service>.test` to its users.
    :param commit: which of the sample's commits is running.
    :param declared: what ``declare`` takes.
    """
    sample = ground(info, service, **declared)
    client = docker.DockerClient(base_url=info.docker_url)
    image = build(client, sample.path, getattr(sample, commit), f"{info.registry}/{service}")
    kubectl("apply", "--server-side", "-f", "-", stdin=_team(service, image))
    _wait_served(service, image)
    return sample


def ground(info: StackInfo, service: str, **declared: Any) -> Sample:
    """Make the service's namespace, with the rights to deploy to it, and give Airflow its YAML; nothing of it runs yet.

    Objects and artifacts of an earlier call are removed first: they are the service's history, on which later tests
    would depend.

    :param declared: what ``declare`` takes.
    """
    cluster = Cluster.load()
    sample = make_repository(Path(info.state) / "repositories" / service)
    # First of all, so that Airflow, which may be reading the one before, reads this one while the service comes up.
    declare(info, sample, service, **declared)
    if embedded():
        import_base(docker.DockerClient(base_url=info.docker_url), CACHE)
    shutil.rmtree(Path(info.artifacts) / service, ignore_errors=True)
    _make_room(cluster, service)
    namespace = next(yaml.safe_load_all(_team(service)))
    for objects in (yaml.safe_dump(namespace), render_rbac(service, [cluster.account])):
        kubectl("apply", "--server-side", "-f", "-", stdin=objects)
    return sample


def _team(service: str, image: str = "") -> str:
    """Return what the team has in the cluster, its namespace first."""
    cluster = Cluster.load()
    where: dict[str, Any] = {"gateway": cluster.gateway, "label": cluster.label}
    return payments(image, f"{service}-before-us", service=service, **where)


def declare(
    info: StackInfo,
    sample: Sample,
    service: str = PAYMENTS,
    bake: int = 15,
    max_bake: int = 300,
    stages: Sequence[int] = (5, 25, 50, 100),
    approval_timeout: int = 3600,
    branches: Sequence[str] = ("main",),
    **fields: Any,
) -> None:
    """Give Airflow the service's YAML.

    :param bake: seconds that a stage takes at least, ``max_bake`` at most; ``stages``: the shares in %.
    :param approval_timeout: seconds after which silence is a no.
    :param branches: those that may be deployed.
    :param fields: more of the YAML's fields, or other values of those here.
    :raises RefusedError: they are no service's that Airflow would make a DAG of.
    """
    spec: dict[str, Any] = {
        "service": service,
        "namespace": service,
        "source": {"repository": f"file://{sample.path}", "branches": list(branches)},
        "registry": info.registry,
        "route": {"name": service, "url": Cluster.load().gateway_url},
        "criticality": "high",
        "canary": {"stages": list(stages), "bake": bake, "max_bake": max_bake},
        "approval_timeout": approval_timeout,
        "gates": {"error_rate": 0.01, "latency_p95": 0.5, "latency_p99": 1.0},
        "resources": {"cpu": "250m", "memory": "64Mi"},
        "config": {"CURRENCY": "EUR"},
        **fields,
    }
    parse_spec(spec, f"{service}.yaml")
    install_deployment(service, yaml.safe_dump(spec, sort_keys=False))


def _make_room(cluster: Cluster, service: str) -> None:
    kubectl("delete", "namespace", cluster.selector, f"--field-selector=metadata.name={service}", "--wait")
    if kubectl("get", "namespace", service, "--ignore-not-found", "--output=name"):
        raise StackError(f"The cluster has a namespace `{service}` that is not the demo's: it is left alone.")


def _wait_served(service: str, image: str) -> None:
    """Wait until the version is ready and its route accepted.

    :raises StackError: it does not come to that, and why that may be.
    """
    accepted = "jsonpath={.status.parents[*].conditions[?(@.type=='Accepted')].status}=True"
    try:
        kubectl("-n", service, "rollout", "status", f"deployment/{service}", "--timeout=120s")
        kubectl("-n", service, "wait", f"httproute/{service}", f"--for={accepted}", "--timeout=30s")
    except StackError as error:
        raise StackError(
            f"The service does not come up ({error}): can the nodes pull {image}, and does the Gateway take routes from"
            f" the namespace {service}?"
        ) from None


def build(client: docker.DockerClient, repository: Path, commit: str, name: str) -> str:
    """Build a commit as a team's own pipeline would, push it, and return the image by digest."""
    tag = f"{name}:{commit}"
    with tempfile.TemporaryDirectory() as tree:
        archive = subprocess.run(["git", "-C", repository, "archive", commit], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
        try:
            client.images.build(path=tree, tag=tag, rm=True)
        except DockerException as error:
            raise StackError(f"Building {tag}: {error}") from None
    for line in client.images.push(name, tag=commit, stream=True, decode=True):
        if "error" in line:
            raise StackError(f"Pushing {tag}: {line['error']}")
        digest = (line.get("aux") or {}).get("Digest")
        if digest:
            return f"{name}@{digest}"
    raise StackError(f"Pushing {tag}: the registry gave no digest.")
