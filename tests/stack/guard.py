"""The guard beside Airflow, with a ServiceAccount of its own that may do what the guard's manifest says and no more."""

import sys
from pathlib import Path

import yaml

from airflow_deploy.domain.workloads import manifests
from tests.stack.access import add_account, kubectl
from tests.stack.cluster import Cluster
from tests.stack.layout import GUARD_KUBECONFIG, INFO
from tests.stack.processes import Process, spawn
from tests.stack.tls import write_secret

_COMMAND = Path(sys.executable).with_name("airflow-deploy")
_RIGHTS = ("ClusterRole", "ClusterRoleBinding")


def give_access() -> None:
    """Make the guard's ServiceAccount, grant it the manifest's rights, and write its kubeconfig."""
    cluster = Cluster.load()
    home, _, _ = cluster.account.partition(":")
    write_secret(GUARD_KUBECONFIG, add_account(f"{home}:airflow-deploy-guard", cluster.label))
    manifest = yaml.safe_load_all(manifests.render_guard("unused", home, (), replicas=True))
    rights = [item for item in manifest if item["kind"] in _RIGHTS]
    kubectl("apply", "--server-side", "--filename=-", stdin=yaml.safe_dump_all(rights))


def start() -> Process:
    """Start the guard under a supervisor, as in production: without Airflow's settings."""
    supervisor: list[str | Path] = [sys.executable, "-IS", Path(__file__).with_name("supervisor.py"), INFO]
    return spawn("guard", [*supervisor, _COMMAND, "guard"], {"KUBECONFIG": str(GUARD_KUBECONFIG)})
