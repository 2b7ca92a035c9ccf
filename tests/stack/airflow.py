"""Airflow as separate processes on the host, configured by environment variables alone.

`environment` is the whole configuration: a test or a person that runs the `airflow` command with it talks to the same
installation.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from cryptography.fernet import Fernet

from tests.stack import cgroups, postgres, processes
from tests.stack.access import add_account
from tests.stack.cluster import Cluster
from tests.stack.errors import StackError
from tests.stack.http import get
from tests.stack.layout import (
    AIRFLOW_HOME,
    AIRFLOW_KUBECONFIG,
    ARTIFACTS,
    CHECKOUT,
    CONFIG,
    DAGS,
    INFO,
    LOG,
    airflow_port,
)
from tests.stack.processes import Process, spawn
from tests.stack.tls import new_secret, write_secret

ROLES = {"admin": "admin", "deployer": "op", "viewer": "viewer"}
"""User -> role in Airflow's simple auth manager."""

TRIGGERERS = 2

LOGS_ARE_LOCAL = "--skip-serve-logs"
"""The API server reads the same folder; serving logs would open ports on every address of the host."""

_AIRFLOW = Path(sys.executable).with_name("airflow")
_PASSWORDS = CONFIG / "airflow-passwords.json"
_SECRETS = CONFIG / "airflow-secrets.json"

# Measured: what lets a deployment react within a second, and survive the death of any one component.
SETTINGS: dict[str, dict[str, object]] = {
    "core": {
        "executor": "LocalExecutor",
        "parallelism": 16,
        "load_examples": False,
        "min_serialized_dag_update_interval": 0,  # by default a YAML that changes twice in 30 s is read and not kept
        "test_connection": "Enabled",
        "simple_auth_manager_users": ",".join(f"{user}:{role}" for user, role in ROLES.items()),
        "simple_auth_manager_passwords_file": _PASSWORDS,
        "dags_folder": DAGS,
    },
    "logging": {"logging_level": "INFO", "base_log_folder": LOG / "airflow"},
    "api": {"workers": 1, "host": "127.0.0.1"},
    "dag_processor": {"refresh_interval": 2, "min_file_process_interval": 120},
    "scheduler": {
        "scheduler_idle_sleep_time": 0.2,
        "orphaned_tasks_check_interval": 10,
        "scheduler_health_check_threshold": 15,
        "job_heartbeat_sec": 2,
        "scheduler_heartbeat_sec": 2,
        "trigger_timeout_check_interval": 5,
        "task_instance_heartbeat_timeout": 45,
        "task_instance_heartbeat_timeout_detection_interval": 2,
    },
    "workers": {
        "min_heartbeat_interval": 1,
        "execution_api_retries": 12,
        "execution_api_retry_wait_max": 5,
        "max_failed_heartbeats": 10,
    },
    "triggerer": {"triggerer_health_check_threshold": 10, "job_heartbeat_sec": 2},
    "airflow_deploy": {"artifact_store": f"file://{ARTIFACTS}"},
}


def url() -> str:
    """Where Airflow's API and UI are, for this host alone."""
    return f"http://127.0.0.1:{airflow_port()}"


def passwords() -> dict[str, str]:
    """User -> password."""
    found: dict[str, str] = json.loads(_PASSWORDS.read_text())
    return found


def prepare() -> None:
    """Make Airflow's home, its secrets and its DAG folder."""
    for folder in (AIRFLOW_HOME, ARTIFACTS, DAGS / "deployments"):
        folder.mkdir(parents=True, exist_ok=True)
    write_secret(_PASSWORDS, json.dumps({user: new_secret() for user in ROLES}))
    secrets = {
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "AIRFLOW__API_AUTH__JWT_SECRET": new_secret() + new_secret(),
        "AIRFLOW__API__SECRET_KEY": new_secret(),
    }
    write_secret(_SECRETS, json.dumps(secrets))
    install_deployments(sorted((CHECKOUT / "dags" / "deployments").glob("*.yaml")))


def give_access() -> None:
    """Make Airflow's ServiceAccount, which has no right before a service grants it some, and write its kubeconfig."""
    cluster = Cluster.load()
    write_secret(AIRFLOW_KUBECONFIG, add_account(cluster.account, cluster.label))


def install_deployments(specs: Iterable[Path]) -> None:
    """Put deployment YAMLs, and the checkout's DAG files, where Airflow looks for them.

    The DAG files are written anew even if they are the same: Airflow looks every 2 s for what has changed, and parses
    what has not only every two minutes, for that takes seconds of a small machine's time.
    """
    for spec in specs:
        shutil.copyfile(spec, DAGS / "deployments" / spec.name)
    for source in sorted((CHECKOUT / "dags").glob("*.py")):
        shutil.copyfile(source, DAGS / source.name)


def install_deployment(service: str, spec: str) -> None:
    """Put one service's YAML where Airflow looks for it, and let Airflow read it."""
    (DAGS / "deployments" / f"{service}.yaml").write_text(spec)
    (DAGS / "deployments.py").touch()


def environment() -> dict[str, str]:
    """The variables that make an `airflow` command, or a component, part of this installation."""
    cluster = Cluster.load()
    variables = {
        f"AIRFLOW__{section.upper()}__{option.upper()}": str(value)
        for section, options in SETTINGS.items()
        for option, value in options.items()
    }
    connections = {
        "KUBERNETES_DEFAULT": {"conn_type": "kubernetes", "extra": {"kube_config_path": str(AIRFLOW_KUBECONFIG)}},
        "PROMETHEUS_DEFAULT": {"conn_type": "prometheus", "host": cluster.prometheus_url},
    }
    variables |= {f"AIRFLOW_CONN_{name}": json.dumps(connection) for name, connection in connections.items()}
    variables |= {
        "AIRFLOW_HOME": str(AIRFLOW_HOME),
        "AIRFLOW__API__PORT": str(airflow_port()),
        "AIRFLOW__API__BASE_URL": url(),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url()}/execution/",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": postgres.url(),
        "AIRFLOW__AIRFLOW_DEPLOY__DOCKER_URL": cluster.docker_url,
        # Its processes rename themselves, and would write over the environment by which we know them.
        "SPT_NOENV": "1",
    }
    # What the caller's shell says of another installation does not reach this one.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
    return processes.environment(inherited | variables | json.loads(_SECRETS.read_text()))


def migrate() -> None:
    """Make Airflow's tables."""
    with (LOG / "airflow-database.log").open("ab") as log:
        done = subprocess.run(
            cgroups.entering([_AIRFLOW, "db", "migrate"]),
            env=environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(Path(log.name).read_text(errors="replace").splitlines()[-20:])
        raise StackError(f"`airflow db migrate` failed; the end of {log.name}:\n{tail}")


def start(component: str, *options: str, name: str | None = None) -> Process:
    """Start one component (`scheduler`, `api-server`, `triggerer`, `dag-processor`) under its supervisor."""
    supervisor: list[str | Path] = [sys.executable, "-IS", Path(__file__).with_name("supervisor.py"), INFO]
    return spawn(f"airflow-{name or component}", [*supervisor, _AIRFLOW, component, *options], environment())


def api_ready() -> bool:
    """Whether the API answers."""
    return get(f"{url()}/api/v2/monitor/health") is not None


def running(job_type: str, count: int = 1, since: float = 0) -> bool:
    """Whether that many components of a kind have reported for work.

    :param since: unix seconds; those that began before do not count.
    """
    jobs = postgres.query("SELECT job_type || ' ' || extract(epoch FROM start_date) FROM job WHERE state = 'running'")
    began = [float(at) for kind, at in map(str.split, jobs.splitlines()) if kind == job_type]
    return sum(at >= since for at in began) >= count
