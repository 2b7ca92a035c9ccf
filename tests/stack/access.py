"""Who may talk to the API server, and the kubeconfig files by which they do."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.stack.errors import StackError
from tests.stack.layout import ADDRESS, ADMIN_KUBECONFIG, CONFIG, NODE_ADDRESS, STATE
from tests.stack.processes import environment
from tests.stack.tls import Authority, new_key, new_secret, write_secret

PKI = CONFIG / "pki"
TOKENS = CONFIG / "tokens.csv"
PROMETHEUS_TOKEN = CONFIG / "prometheus.token"
SERVER = f"https://{ADDRESS}:6443"
NODE = "node"

_CLIENTS = {
    "admin": ("admin", "system:masters"),
    "kube-controller-manager": ("system:kube-controller-manager", ""),
    "kube-scheduler": ("system:kube-scheduler", ""),
    "kubelet": (f"system:node:{NODE}", "system:nodes"),
    "kube-proxy": ("system:kube-proxy", ""),
    "traefik": ("traefik", ""),
    "prometheus": ("prometheus", ""),
}
"""Part of the stack -> the user and the group that it is to the API server."""


def create() -> None:
    """Make certificates, tokens and kubeconfigs, all new: nothing of an earlier start is valid."""
    service = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local")
    authority = Authority.create(PKI)
    authority.issue(
        "apiserver", "kube-apiserver", hosts=("localhost", *service, "127.0.0.1", "10.96.0.1", NODE_ADDRESS, ADDRESS)
    )
    authority.issue("apiserver-kubelet", "apiserver-kubelet", group="system:masters")
    authority.issue("front-proxy", "front-proxy")
    authority.issue("kubelet", f"system:node:{NODE}", group="system:nodes", hosts=(NODE, NODE_ADDRESS))
    new_key(PKI / "service-accounts.key")

    tokens = {client: new_secret() for client in _CLIENTS}
    rows = [f'{tokens[client]},{user},{user},"{group}"' for client, (user, group) in _CLIENTS.items()]
    write_secret(TOKENS, "\n".join(rows) + "\n")
    for client, token in tokens.items():
        _write_kubeconfig(kubeconfig(client), token)
    write_secret(PROMETHEUS_TOKEN, tokens["prometheus"])


def kubeconfig(client: str) -> Path:
    """The kubeconfig of one part of the stack."""
    return ADMIN_KUBECONFIG if client == "admin" else CONFIG / f"{client}.kubeconfig"


def _write_kubeconfig(path: Path, token: str) -> None:
    """Write a kubeconfig for the stack's cluster; it works on the host and inside the namespace alike."""
    write_secret(
        path,
        f"""apiVersion: v1
kind: Config
clusters: [{{name: stack, cluster: {{server: "{SERVER}", certificate-authority: "{PKI}/ca.crt"}}}}]
users: [{{name: user, user: {{token: {token}}}}}]
contexts: [{{name: stack, context: {{cluster: stack, user: user}}}}]
current-context: stack
""",
    )


def add_account(account: str, label: Mapping[str, str]) -> str:
    """Make a ServiceAccount `namespace:name` without any right, and return a kubeconfig for it.

    :param label: of its namespace, which is made too.
    """
    namespace, _, name = account.partition(":")
    home = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": label}}
    made = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace}}
    for item in (home, made):
        kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps(item))
    token = kubectl("create", "token", name, f"--namespace={namespace}", "--duration=24h").strip()
    config = json.loads(kubectl("config", "view", "--minify", "--flatten", "--raw", "--output=json"))
    config["users"] = [{"name": name, "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = name
    return json.dumps(config)


def kubectl(*arguments: str, stdin: str | None = None, config: Path | None = ADMIN_KUBECONFIG) -> str:
    """Run kubectl as the cluster's administrator and give what it prints.

    :param config: a kubeconfig; None for the one that the user's shell names.
    :raises StackError: when it fails; it says why.
    """
    # Its cache of what a server offers is kept by address, and ours is the same for every new cluster.
    options = [f"--cache-dir={STATE}/kubectl", *([f"--kubeconfig={config}"] if config else [])]
    done = subprocess.run(
        [Path(sys.executable).with_name("kubectl"), *options, *arguments],
        input=stdin,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise StackError(f"kubectl {' '.join(arguments[:3])}: {' '.join(done.stderr.split())}")
    return done.stdout
