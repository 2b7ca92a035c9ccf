"""Where images are built and kept: dockerd and a registry."""

import json

from tests.stack.http import answers_on_socket, get
from tests.stack.layout import ADDRESS, CGROUP, CONFIG, CONTAINERD_SOCKET, DOCKER_SOCKET, REGISTRY, STATE
from tests.stack.network import inside
from tests.stack.processes import Process, spawn

REGISTRY_URL = f"http://{ADDRESS}:{REGISTRY.rpartition(':')[2]}"


def start_registry() -> Process:
    """Start the registry: plain HTTP, without accounts, reachable in our network namespace and from this host alone."""
    config = CONFIG / "registry.yaml"
    config.write_text(f"""
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: "{STATE}/registry"}}, cache: {{blobdescriptor: inmemory}}}}
http: {{addr: "0.0.0.0:{REGISTRY.rpartition(":")[2]}"}}
""")
    return spawn("registry", inside(["docker-registry", "serve", config]), {"OTEL_TRACES_EXPORTER": "none"})


def registry_ready() -> bool:
    """Whether it answers."""
    return get(f"{REGISTRY_URL}/v2/") is not None


def start_dockerd() -> Process:
    """Start dockerd, for builds only: no bridge and no iptables rules, so a RUN step has no network."""
    config = CONFIG / "docker.json"
    # Only a file can say where its key goes, which would else be the host's /etc/docker.
    config.write_text(json.dumps({"deprecated-key-path": f"{CONFIG}/docker-key.json"}))
    argv = [
        "dockerd",
        f"--config-file={config}",  # never the host's
        f"--host=unix://{DOCKER_SOCKET}",
        f"--containerd={CONTAINERD_SOCKET}",
        f"--data-root={STATE}/docker",
        "--exec-root=/run/docker",
        "--pidfile=/run/docker.pid",
        "--bridge=none",
        "--iptables=false",
        "--ip6tables=false",
        "--ip-forward=false",
        "--ip-masq=false",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        f"--cgroup-parent=/{CGROUP}/docker",
        "--oom-score-adjust=0",
        "--group=root",
    ]
    return spawn("dockerd", inside(argv))


def dockerd_ready() -> bool:
    """Whether it answers; its socket is then open to root alone."""
    if not answers_on_socket(DOCKER_SOCKET, "/_ping"):
        return False
    DOCKER_SOCKET.chmod(0o600)
    return True
