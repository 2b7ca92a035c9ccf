"""Where everything of the stack lives: folders, names and addresses, and nothing else.

All state is under one folder of the checkout, all network traffic inside one network namespace. Host programs (Airflow,
a browser, the tests) reach the servers in it over a veth pair whose /30 comes from the range reserved for benchmarks
(RFC 2544), which no real network uses.
"""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
STATE = CHECKOUT / ".stack"
LOG = STATE / "log"
RUN = STATE / "run"
CONFIG = STATE / "config"
ARTIFACTS = STATE / "artifacts"
DEMO = STATE / "demo"
LOCK = STATE / "lock"
INFO = STATE / "stack.json"
CLUSTER = STATE / "cluster.json"
"""The cluster of Airflow if it is the user's own; absent if it is the stack's."""
KEPT_BY_DOWN = (ARTIFACTS, DEMO, LOG, LOCK)

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "airflow-deploy"

NAMESPACE = "airflow-deploy"
NETNS = Path("/run/netns") / NAMESPACE
HOST_LINK = "airflow-deploy0"
HOST_ADDRESS = "198.18.0.1"
ADDRESS = "198.18.0.2"
NODE_ADDRESS = "10.240.0.1"
CGROUP = "airflow-deploy"

MARKER = "AIRFLOW_DEPLOY_STACK"
"""Environment variable that every process which the stack starts inherits; its value is the state folder."""

DOCKER_SOCKET = RUN / "docker.sock"
CONTAINERD_SOCKET = Path("/run/containerd/containerd.sock")
"""In the stack's own mount namespace, and where the kubelet's cAdvisor looks for it: it takes no other path."""
ADMIN_KUBECONFIG = STATE / "admin.kubeconfig"
AIRFLOW_HOME = STATE / "airflow"
AIRFLOW_KUBECONFIG = AIRFLOW_HOME / "kubeconfig"
GUARD_KUBECONFIG = CONFIG / "guard.kubeconfig"
DAGS = AIRFLOW_HOME / "dags"

REGISTRY = "127.0.0.1:5000"
"""The registry's name in images: Docker and containerd both run inside the namespace."""


def embedded() -> bool:
    """Whether the cluster is the stack's own."""
    return not CLUSTER.exists()


def airflow_port() -> int:
    """The host port of Airflow's API and UI."""
    return int(os.environ.get("AIRFLOW_PORT", "8080"))
