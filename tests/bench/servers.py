"""Real servers for a benchmark in a folder of its own: PostgreSQL, Prometheus, and Airflow's processes.

They run beside the stack of `make up` and share nothing with it: other ports, other folders, no namespaces.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

import yaml
from cryptography.fernet import Fernet

from tests.bench.processes import process
from tests.stack import airflow
from tests.stack.errors import StackError
from tests.stack.http import get
from tests.stack.layout import CHECKOUT
from tests.stack.processes import environment
from tests.stack.tls import new_secret, write_secret

STARTING, STOPPING = 120.0, 20.0
"""Seconds within which a server must be ready, and have ended."""
AIRFLOW = Path(sys.executable).with_name("airflow")
USER = "admin"
SCRAPE = "1s"
COMPONENTS = (
    ("scheduler", airflow.LOGS_ARE_LOCAL),
    ("dag-processor",),
    *[("triggerer", airflow.LOGS_ARE_LOCAL)] * airflow.TRIGGERERS,
)


@contextmanager
def postgres() -> Iterator[str]:
    """Run PostgreSQL on a Unix socket, and give the address of an empty database.

    :raises StackError: it is not installed, or does not come up.
    """
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if not programs:
        raise StackError("PostgreSQL is missing: `make up` installs it, or `apt-get install postgresql` does.")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="airflow-deploy-bench-postgres-"))
    try:
        if user:
            shutil.chown(folder, user, user)
        options = ("--username=airflow", "--auth=trust", "--no-sync", "--locale=C.UTF-8", f"--pgdata={folder}/data")
        _run([programs[-1] / "initdb", *options], environment(), user)
        # Nothing that it stores outlives the benchmark.
        fast = [f"-c{name}=off" for name in ("fsync", "synchronous_commit", "full_page_writes")]
        address = ["-clisten_addresses=", f"-cunix_socket_directories={folder}", "-cmax_connections=200"]
        # In the data folder: in /dev/shm it would stay there.
        memory = "-cdynamic_shared_memory_type=mmap"
        argv: list[str | Path] = [programs[-1] / "postgres", "-D", folder / "data", *fast, *address, memory]
        with process(argv, environment(), folder, user=user) as server:
            sql: list[str | Path] = [programs[-1] / "psql", "--host", folder, "--username=airflow", "--dbname=postgres"]
            _await("PostgreSQL", server, lambda: _succeeds([*sql, "--command=SELECT 1"]))
            _run([*sql, "--command=CREATE DATABASE airflow"], environment())
            try:
                yield f"postgresql+psycopg2://airflow@/airflow?host={quote(str(folder))}"
            finally:
                server.send_signal(signal.SIGQUIT)  # it removes what it keeps in the kernel
                server.wait(STOPPING)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """Run Prometheus on ``target`` (``host:port``), and give its URL.

    :raises StackError: it is not installed, or does not come up.
    """
    if not shutil.which("prometheus"):
        raise StackError("Prometheus is missing: `make up` installs it, or `apt-get install prometheus` does.")
    port = free_port()
    config = folder / "prometheus.yaml"
    jobs = [{"job_name": "gateway", "static_configs": [{"targets": [target]}]}]
    config.write_text(
        yaml.safe_dump({"global": {"scrape_interval": SCRAPE, "scrape_timeout": SCRAPE}, "scrape_configs": jobs})
    )
    options = [f"--storage.tsdb.path={folder}/prometheus", f"--web.listen-address=127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}"
    with process(["prometheus", f"--config.file={config}", *options], environment(), folder) as server:
        _await("Prometheus", server, lambda: get(f"{url}/-/ready") is not None)
        yield url


def airflow_environment(folder: Path, database: str, cluster: str, prometheus: str, docker: str) -> dict[str, str]:
    """Return the variables of an Airflow in ``folder`` with the settings of `make up`.

    :param database: its SQLAlchemy address; ``cluster``, ``prometheus`` and ``docker``: what it deploys to.
    """
    password_file, kubeconfig, port = folder / "passwords.json", folder / "kubeconfig", free_port()
    write_secret(password_file, json.dumps({USER: new_secret()}))
    kubeconfig.write_text(yaml.safe_dump(_kubeconfig(cluster)))
    url = f"http://127.0.0.1:{port}"
    settings = {section: dict(options) for section, options in airflow.SETTINGS.items()}
    settings["core"] |= {
        "dags_folder": folder / "dags",
        "simple_auth_manager_users": f"{USER}:admin",
        "simple_auth_manager_passwords_file": password_file,
        "fernet_key": Fernet.generate_key().decode(),
        "execution_api_server_url": f"{url}/execution/",
    }
    settings["api"] |= {"port": port, "base_url": url, "secret_key": new_secret()}
    settings["logging"] |= {"base_log_folder": folder / "logs"}
    settings["airflow_deploy"] |= {"artifact_store": f"file://{folder}/artifacts", "docker_url": docker}
    settings |= {"api_auth": {"jwt_secret": new_secret() * 2}, "database": {"sql_alchemy_conn": database}}
    connections = {
        "KUBERNETES_DEFAULT": {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubeconfig)}},
        "PROMETHEUS_DEFAULT": {"conn_type": "prometheus", "host": prometheus},
    }
    variables = {
        f"AIRFLOW__{section}__{name}".upper(): str(value)
        for section, options in settings.items()
        for name, value in options.items()
    }
    variables |= {f"AIRFLOW_CONN_{name}": json.dumps(connection) for name, connection in connections.items()}
    inherited = {name: value for name, value in environment().items() if not name.startswith("AIRFLOW_")}
    return inherited | variables | {"AIRFLOW_HOME": str(folder), "PYTHONPATH": str(CHECKOUT)}


@contextmanager
def running(env: Mapping[str, str], folder: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Run Airflow's processes, each by itself as in the stack, and give them.

    :raises StackError: one of them does not come up.
    """
    _run([AIRFLOW, "db", "migrate"], env)
    with ExitStack() as components:
        api = components.enter_context(process([AIRFLOW, "api-server"], env, folder, name="api-server"))
        health = f"{env['AIRFLOW__API__BASE_URL']}/api/v2/monitor/health"
        _await("Airflow's API server", api, lambda: get(health) is not None)
        others = [process([AIRFLOW, *component], env, folder, name=component[0]) for component in COMPONENTS]
        yield [api, *(components.enter_context(other) for other in others)]


def free_port() -> int:
    """Return a TCP port of this machine that is not in use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _kubeconfig(server: str) -> dict[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "bench",
        "clusters": [{"name": "bench", "cluster": {"server": server}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "users": [{"name": "bench", "user": {"token": "bench"}}],
    }


def _await(what: str, server: subprocess.Popen[bytes], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + STARTING
    while not ready():
        if server.poll() is not None or time.monotonic() > deadline:
            raise StackError(f"{what} does not come up: run it again with --keep, and see its log.")
        time.sleep(0.2)


def _run(argv: Sequence[str | Path], env: Mapping[str, str], user: str | None = None) -> None:
    done = subprocess.run(argv, env=env, cwd="/", user=user, group=user, capture_output=True, text=True, check=False)
    if done.returncode:
        raise StackError(f"{Path(argv[0]).name} failed: {(done.stderr or done.stdout)[-2000:].strip()}")


def _succeeds(argv: Sequence[str | Path]) -> bool:
    return subprocess.run(argv, env=environment(), cwd="/", capture_output=True, check=False).returncode == 0
