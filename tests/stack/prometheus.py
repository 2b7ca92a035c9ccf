"""Prometheus, scraping the gateway and the kubelet's cAdvisor every two seconds."""

from tests.stack.access import PKI, PROMETHEUS_TOKEN, SERVER, kubectl
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


def rights(namespace: str) -> str:
    """Return the YAML of what Prometheus needs to find the Services' pods in ``namespace``."""
    return f"""
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: prometheus, namespace: {namespace}}}
rules:
  - {{apiGroups: [""], resources: [services, pods], verbs: [list, watch]}}
  - {{apiGroups: [discovery.k8s.io], resources: [endpointslices], verbs: [list, watch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: prometheus, namespace: {namespace}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: prometheus}}
subjects: [{{kind: User, name: prometheus}}]
"""


def _gateway() -> str:
    return f"""
- job_name: gateway
  static_configs: [{{targets: ["127.0.0.1:{METRICS_PORT}"]}}]"""


def _services(namespace: str) -> str:
    """Return the job that finds pods by their Services, and labels what they count as a ServiceMonitor does."""
    return f"""
- job_name: services
  kubernetes_sd_configs:
  - role: endpointslice
    api_server: {SERVER}
    authorization: {{credentials_file: "{PROMETHEUS_TOKEN}"}}
    tls_config: {{ca_file: "{PKI}/ca.crt"}}
    namespaces: {{names: [{namespace}]}}
  relabel_configs:
  - {{source_labels: [__meta_kubernetes_namespace], target_label: namespace}}
  - {{source_labels: [__meta_kubernetes_service_name], target_label: service}}
  - {{source_labels: [__meta_kubernetes_pod_name], target_label: pod}}"""


def start(name: str = "prometheus", port: int = PORT, services_of: str | None = None) -> Process:
    """Start Prometheus; targets that are not up yet are simply down until they are.

    :param name: tells several apart; under the name of one that has ended, it goes on with what that one knew.
    :param services_of: a namespace whose Services it asks itself; None to ask the gateway instead.
    """
    config = CONFIG / f"{name}.yaml"
    config.write_text(f"""
global: {{scrape_interval: 2s, scrape_timeout: 2s}}
scrape_configs:{_services(services_of) if services_of else _gateway()}
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
