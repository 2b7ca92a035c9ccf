"""The cluster's one node: containerd, kubelet and kube-proxy, and the image that holds a pod's namespaces open."""

import hashlib
import io
import json
import platform
import subprocess
import tarfile
from pathlib import Path

from tests.stack.access import NODE, PKI, kubeconfig
from tests.stack.control_plane import POD_RANGE, server
from tests.stack.errors import StackError
from tests.stack.layout import CGROUP, CONFIG, CONTAINERD_SOCKET, LOG, NODE_ADDRESS, REGISTRY, RUN, STATE
from tests.stack.network import inside
from tests.stack.processes import Process, spawn

_SANDBOX = "localhost/pause:1"


def start_containerd() -> Process:
    """Start containerd, for the kubelet's containers and for Docker's alike."""
    certificates = CONFIG / "certs.d"
    (certificates / REGISTRY).mkdir(parents=True)
    (certificates / REGISTRY / "hosts.toml").write_text(
        f'server = "http://{REGISTRY}"\n[host."http://{REGISTRY}"]\n  capabilities = ["pull", "resolve"]\n'
    )
    networks = CONFIG / "net.d"
    networks.mkdir()
    bridge = {
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": True,
        "ipMasq": True,
        "hairpinMode": True,
        "ipam": {
            "type": "host-local",
            "dataDir": f"{STATE}/cni-addresses",
            "ranges": [[{"subnet": "10.244.0.0/24"}]],
            "routes": [{"dst": "0.0.0.0/0"}],
        },
    }
    plugins = [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}]
    network = {"cniVersion": "1.0.0", "name": "pods", "plugins": plugins}
    (networks / "10-pods.conflist").write_text(json.dumps(network))
    # restrict_oom_score_adj: without CAP_SYS_RESOURCE, as in many containers, runc could start nothing.
    # netns_mounts_under_state_dir: pods' namespaces then end with ours, and none is left in the host's /run/netns.
    config = CONFIG / "containerd.toml"
    config.write_text(f"""
version = 2
root = "{STATE}/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt"]
[grpc]
  address = "{CONTAINERD_SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{_SANDBOX}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{networks}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{certificates}"
""")
    return spawn("containerd", inside(["containerd", "--config", config]))


def containerd_ready() -> bool:
    """Whether containerd answers."""
    return _ctr("version").returncode == 0


def import_sandbox_image() -> None:
    """Give containerd the sandbox image, made of one static program, without any registry."""
    archive = RUN / "pause.tar"
    write_image(archive, _SANDBOX, server("pause"))
    done = _ctr("--namespace=k8s.io", "images", "import", str(archive))
    archive.unlink()
    if done.returncode:
        raise StackError(f"containerd did not take the sandbox image: {done.stderr.strip()}")


def write_image(archive: Path, name: str, program: Path) -> None:
    """Write an OCI image of one static program that is its entry point, as a tar file."""
    layer = _tar({"program": program.read_bytes()}, mode=0o755)
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/program"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
    }
    described = json.dumps(config).encode()
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": _descriptor(f"{kind}.config.v1+json", described),
        "layers": [_descriptor(f"{kind}.layer.v1.tar", layer)],
    }
    listed = json.dumps(manifest).encode()
    entry = _descriptor(f"{kind}.manifest.v1+json", listed) | {"annotations": {"io.containerd.image.name": name}}
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
    }
    files |= {f"blobs/sha256/{_digest(blob)[7:]}": blob for blob in (layer, described, listed)}
    archive.write_bytes(_tar(files, mode=0o644))


def start_kubelet() -> Process:
    """Start the kubelet, its pods in a cgroup of our own."""
    (CONFIG / "resolv.conf").touch()
    config = CONFIG / "kubelet.yaml"
    config.write_text(f"""
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
cgroupDriver: cgroupfs
cgroupRoot: /{CGROUP}
protectKernelDefaults: true
containerRuntimeEndpoint: "unix://{CONTAINERD_SOCKET}"
authentication: {{anonymous: {{enabled: false}}, webhook: {{enabled: true}}, x509: {{clientCAFile: "{PKI}/ca.crt"}}}}
authorization: {{mode: Webhook}}
tlsCertFile: "{PKI}/kubelet.crt"
tlsPrivateKeyFile: "{PKI}/kubelet.key"
resolvConf: "{CONFIG}/resolv.conf"
clusterDNS: []
podLogsDir: "{LOG}/pods"
volumePluginDir: "{STATE}/volume-plugins"
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%}}
imageGCHighThresholdPercent: 100
maxPods: 60
nodeStatusUpdateFrequency: 5s
""")
    argv: list[str | Path] = [
        server("kubelet"),
        f"--config={config}",
        f"--kubeconfig={kubeconfig('kubelet')}",
        f"--hostname-override={NODE}",
        f"--node-ip={NODE_ADDRESS}",
        # cAdvisor reads containers every 10 s by default, too seldom to judge a canary of a minute.
        "--housekeeping-interval=2s",
    ]
    return spawn("kubelet", inside(argv))


def start_kube_proxy() -> Process:
    """Start kube-proxy: service addresses by iptables, written within 50 ms of a change."""
    config = CONFIG / "kube-proxy.yaml"
    config.write_text(f"""
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {POD_RANGE}
hostnameOverride: {NODE}
clientConnection: {{kubeconfig: "{kubeconfig("kube-proxy")}"}}
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
iptables: {{minSyncPeriod: 50ms, syncPeriod: 30s}}
""")
    return spawn("kube-proxy", inside([server("kube-proxy"), f"--config={config}"]))


def _ctr(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = inside(["ctr", "--address", CONTAINERD_SOCKET, *arguments])
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def _digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": _digest(blob), "size": len(blob)}


def _tar(files: dict[str, bytes], mode: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()
