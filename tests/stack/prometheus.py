"""Prometheus, scraping the gateway and the kubelet's cAdvisor every two seconds."""

from pathlib import Path

from tests.stack.access import PKI, PROMETHEUS_TOKEN, kubectl
from tests.stack.gateway import METRICS_PORT
from tests.stack.http import get
from tests.stack.layout import ADDRESS, CONFIG, NODE_ADDRESS, STATE
from tests.stack.network import inside
from tests.stack.processes import Process, spawn

PORT = 9090
URL = f"http://{ADDRESS}:{PORT}"

ROLE = """
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: prometheus}
rules: [{apiGroups: [""], resources: [nodes/metrics], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: prometheus}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: prometheus}
subjects: [{kind: User, name: prometheus}]
"""


def grant_access() -> None:
    """Let Prometheus read the kubelet's metrics, and nothing else."""
    kubectl("apply", "--server-side", "--filename=-", stdin=ROLE)


def _gateway() -> str:
    return f"""
- job_name: gateway
  static_configs: [{{targets: ["127.0.0.1:{METRICS_PORT}"]}}]"""


def _services(targets: Path) -> str:
    return f"""
- job_name: services
  file_sd_configs: [{{files: ["{targets}"]}}]"""


def start(name: str = "prometheus", port: int = PORT, targets: Path | None = None) -> Process:
    """Start Prometheus; targets that are not up yet are simply down until they are.

    :param name: tells several apart; under the name of one that has ended, it goes on with what that one knew.
    :param targets: a file of what it asks instead of the gateway.
    """
    config = CONFIG / f"{name}.yaml"
    config.write_text(f"""
global: {{scrape_interval: 2s, scrape_timeout: 2s}}
scrape_configs:{_services(targets) if targets else _gateway()}
- job_name: cadvisor
  scheme: https
  metrics_path: /metrics/cadvisor
  authorization: {{credentials_file: "{PROMETHEUS_TOKEN}"}}
  tls_config: {{ca_file: "{PKI}/ca.crt"}}
  static_configs: [{{targets: ["{NODE_ADDRESS}:10250"]}}]
""")
    argv = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={STATE}/{name}",
        f"--web.listen-address=0.0.0.0:{port}",
    ]
    return spawn(name, inside(argv))


def ready(url: str = URL) -> bool:
    """Whether it answers queries."""
    return get(f"{url}/-/ready") is not None
