"""The payment service as its team runs it before us: repository, image, objects, and its YAML for Airflow."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import docker

from tests.stack.access import kubectl
from tests.stack.airflow import install_deployments
from tests.stack.info import StackInfo
from tests.stack.layout import CACHE
from tests.stack.sample.base_image import import_base
from tests.stack.sample.manifests import payments
from tests.stack.sample.repository import Sample, make_repository

SPEC = """\
service: payments
namespace: payments
source: {{repository: "file://{repository}", branches: [main]}}
registry: {registry}
route: {{name: payments}}
criticality: {criticality}
canary: {{stages: {stages}, bake: {bake}s, max_bake: {max_bake}s}}
approval_timeout: {approval_timeout}s
gates: {{error_rate: 0.01, latency_p95: 0.5, latency_p99: 1.0}}
resources: {{cpu: 250m, memory: 64Mi}}
config: {{CURRENCY: EUR}}
"""

BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "RoleBinding",
    "metadata": {"name": "airflow-deploy", "namespace": "payments"},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "airflow-deploy"},
    "subjects": [{"kind": "ServiceAccount", "name": "airflow-deploy", "namespace": "airflow"}],
}


def serve(
    info: StackInfo,
    bake: int = 15,
    max_bake: int = 300,
    stages: Sequence[int] = (5, 25, 50, 100),
    criticality: str = "high",
    approval_timeout: int = 3600,
) -> Sample:
    """Bring the running version up behind its route, as a team had it before us, and give Airflow its YAML.

    Whatever an earlier call left of the service is removed first, its artifacts too: they are a service's history,
    and what comes next would depend on it.

    :param bake: seconds that a stage takes at least, ``max_bake`` at most; ``stages``: the shares in %.
    :param approval_timeout: seconds after which silence is a no.
    """
    sample = make_repository(Path(info.state) / "repository")
    client = docker.DockerClient(base_url=f"unix://{info.docker_socket}")
    import_base(client, CACHE)
    image = build(client, sample.path, sample.running, f"{info.registry}/payments")
    shutil.rmtree(Path(info.artifacts) / "payments", ignore_errors=True)
    kubectl("delete", "namespace", "payments", "--ignore-not-found", "--wait")
    kubectl("apply", "--server-side", "-f", "-", stdin=payments(image, "payments-before-us"))
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(BINDING))
    kubectl("-n", "payments", "rollout", "status", "deployment/payments", "--timeout=120s")
    canary = {"stages": list(stages), "bake": bake, "max_bake": max_bake, "approval_timeout": approval_timeout}
    spec = SPEC.format(repository=sample.path, registry=info.registry, criticality=criticality, **canary)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "payments.yaml"
        path.write_text(spec)
        install_deployments([path])
    return sample


def build(client: docker.DockerClient, repository: Path, commit: str, name: str) -> str:
    """Build a commit as a team's own pipeline would, push it, and return the image by digest."""
    tag = f"{name}:{commit}"
    with tempfile.TemporaryDirectory() as tree:
        archive = subprocess.run(["git", "-C", repository, "archive", commit], capture_output=True, check=True).stdout
        subprocess.run(["tar", "-x", "-C", tree], input=archive, check=True)
        client.images.build(path=tree, tag=tag, rm=True)
    for line in client.images.push(name, tag=commit, stream=True, decode=True):
        if "error" in line:
            raise RuntimeError(f"pushing {tag}: {line['error']}")
        digest = (line.get("aux") or {}).get("Digest")
        if digest:
            return f"{name}@{digest}"
    raise RuntimeError(f"pushing {tag}: the registry gave no digest")
