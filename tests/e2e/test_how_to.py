"""docs/how-to/your-service.md, run word for word: its blocks in their order, with other addresses, by a reader who has
an Airflow of their own, in a fresh virtual environment, and a service that serves already.
"""

import configparser
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import docker
import pytest
import requests
import yaml
from cryptography.fernet import Fernet

from tests.e2e.world import PATIENCE, free_port
from tests.stack import postgres
from tests.stack.access import add_account, kubectl
from tests.stack.airflow import SETTINGS
from tests.stack.cluster import EMBEDDED
from tests.stack.info import StackInfo
from tests.stack.layout import ADDRESS, CACHE, CHECKOUT
from tests.stack.load import Request, read
from tests.stack.processes import recorded
from tests.stack.sample.base_image import import_base
from tests.stack.sample.manifests import payments
from tests.stack.sample.repository import Sample, make_repository
from tests.stack.service import build
from tests.stack.traffic import users

PAGE = CHECKOUT / "docs/how-to/your-service.md"
COMPONENTS = (
    ("api-server",),
    ("scheduler", "--skip-serve-logs"),
    ("dag-processor",),
    ("triggerer", "--skip-serve-logs"),
)
PASSWORD = "change me"


class Block(NamedTuple):
    """One fenced block, and the number of the step that it stands in."""

    step: int
    language: str
    text: str


def blocks() -> list[Block]:
    found, step = [], 0
    for heading, language, text in re.findall(
        r"^## (\d+)|^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    ):
        step = int(heading or step)
        found += [Block(step, language, text)] if language else []
    return found


class Reader:
    """A reader who follows the page.

    :param other: what the page says -> what it is here.
    """

    def __init__(self, home: Path, bin: Path, kubeconfig: str, other: dict[str, str]) -> None:
        self.home, self._other = home, other
        self._shell = home / "shell"
        env = {
            "HOME": str(home),
            "AIRFLOW_HOME": str(home),
            "KUBECONFIG": kubeconfig,
            "LANG": "C.UTF-8",
            "NO_PROXY": f"127.0.0.1,{ADDRESS}",
            "PATH": f"{bin}:/usr/local/bin:/usr/bin:/bin",
            "PIP_FIND_LINKS": str(home / "dist"),  # where this package is, before it is published
            "PIP_NO_INDEX": "1",
            "SPT_NOENV": "1",
        }
        self._shell.write_text("".join(f"export {name}='{value}'\n" for name, value in env.items()))

    def here(self, text: str) -> str:
        for there, here in self._other.items():
            text = text.replace(there, here)
        return text

    def follow(self, step: int) -> list[str]:
        """Do what the step says; return what its commands print."""
        return [self._do(block) for block in blocks() if block.step == step]

    def run(self, script: str) -> str:
        """Run a script in the reader's one shell."""
        whole = f"set -euo pipefail\nsource {self._shell}\ncd {self.home}\n{script}\nexport -p > {self._shell}\n"
        done = subprocess.run(
            ["bash", "-c", whole], env={}, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _do(self, block: Block) -> str:
        text = self.here(block.text)
        if block.language == "sh":
            return self.run(text)
        if block.language == "text":
            return ""
        name = text.split("\n", 1)[0].removeprefix("# ")
        path = self.home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name == "airflow.cfg":
            self._configure(text)
        else:
            path.write_text(text)
        return ""

    def _configure(self, text: str) -> None:
        config = configparser.ConfigParser(interpolation=None)
        config.read(self.home / "airflow.cfg")
        config.read_string(text)
        with (self.home / "airflow.cfg").open("w") as file:
            config.write(file)


def install(folder: Path, home: Path) -> Path:
    """Make the reader's environment: all that this package needs, but not the package; return its programs' folder."""
    uv = Path(sys.executable).with_name("uv")
    _run(sys.executable, "-m", "venv", folder)
    _run(uv, "build", "--wheel", "--out-dir", home / "dist", CHECKOUT)
    (wheel,) = (home / "dist").glob("*.whl")
    locked = ("--constraints", CHECKOUT / "requirements.lock")
    _run(uv, "pip", "install", "--python", folder, *locked, wheel, "asyncpg", "psycopg2-binary")
    _run(uv, "pip", "uninstall", "--python", folder, "airflow-deploy")
    (folder / "bin/kubectl").symlink_to(Path(sys.executable).with_name("kubectl"))
    return folder / "bin"


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def configure(home: Path, url: str) -> None:
    """Write the airflow.cfg that the reader has before they read the page."""
    (home / "passwords.json").write_text(json.dumps({"deployer": PASSWORD}))
    port = url.rpartition(":")[2]
    config = configparser.ConfigParser(interpolation=None)
    config.read_dict(
        {
            "core": {
                "dags_folder": str(home / "dags"),
                "executor": "LocalExecutor",
                "load_examples": "False",
                "fernet_key": Fernet.generate_key().decode(),
                "execution_api_server_url": f"{url}/execution/",
                "simple_auth_manager_users": "deployer:op",
                "simple_auth_manager_passwords_file": str(home / "passwords.json"),
            },
            "database": {"sql_alchemy_conn": postgres.url("how_to")},
            "api": {"host": "127.0.0.1", "port": port, "base_url": url, "workers": "1", "secret_key": "how-to"},
            "api_auth": {"jwt_secret": "how-to" * 10},
        }
    )
    (home / "dags").mkdir()
    with (home / "airflow.cfg").open("w") as file:
        config.write(file)


@contextlib.contextmanager
def airflow(reader: Reader) -> Iterator[None]:
    """Run the reader's Airflow."""
    logs = reader.home / "logs"
    logs.mkdir(exist_ok=True)
    try:
        for component, *options in COMPONENTS:
            log = logs / f"{component}.log"
            reader.run(f"setsid airflow {component} {' '.join(options)} > {log} 2>&1 < /dev/null &")
        yield
    finally:
        mark = f"AIRFLOW_HOME={reader.home}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    os.kill(int(process.name), signal.SIGKILL)


def until(condition: Callable[[], Any], what: str, seconds: float = 300) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain until {what}"
        time.sleep(0.5)
    return found


def serve_orders(info: StackInfo, sample: Sample) -> None:
    """Bring up a service without earlier deployments, in its team's own namespace."""
    client = docker.DockerClient(base_url=info.docker_url)
    import_base(client, CACHE)
    image = build(client, sample.path, sample.good, f"{info.registry}/shop/orders")
    text = payments(image, "orders-before-us", gateway=EMBEDDED.gateway, label=EMBEDDED.label, service="orders")
    namespace, *objects = yaml.safe_load_all(text)
    namespace["metadata"]["name"] = "shop"
    for item in objects:
        item["metadata"]["namespace"] = "shop"
    items = {"apiVersion": "v1", "kind": "List", "items": [namespace, *objects]}
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(items))
    kubectl("-n", "shop", "rollout", "status", "deployment/orders", "--timeout=120s")


def untouched() -> Any:
    """The objects that must not change: the adopted Deployment and Service, and the pods behind them."""
    kinds, listed = ["deployment/orders", "service/orders"], json.loads
    items = listed(kubectl("-n", "shop", "get", *kinds, "-o", "json"))["items"]
    pods = listed(kubectl("-n", "shop", "get", "pods", "-l", "app.kubernetes.io/name=orders", "-o", "json"))["items"]
    restarts = {p["metadata"]["uid"]: p["status"]["containerStatuses"][0]["restartCount"] for p in pods}
    return [item["spec"] for item in items], restarts


def route() -> dict[str, int]:
    body = json.loads(kubectl("-n", "shop", "get", "httproute", "orders", "-o", "json"))
    return {ref["name"]: ref["weight"] for ref in body["spec"]["rules"][0]["backendRefs"]}


@pytest.fixture
def reader(stack: StackInfo, tmp_path: Path) -> Iterator[Reader]:
    sample = make_repository(tmp_path / "repository")
    serve_orders(stack, sample)
    accounts = [add_account(f"airflow:airflow-{which}", EMBEDDED.label) for which in ("worker", "triggerer")]
    home = tmp_path / "home"
    home.mkdir()
    (home / "kubeconfig").write_text(accounts[0])
    url = f"http://127.0.0.1:{free_port()}"
    other = {
        "https://git.example.com/shop/orders.git": f"file://{sample.path}",
        "registry.example.com": stack.registry,
        "http://prometheus.monitoring:9090": stack.prometheus_url,
        "https://airflow.example.com": url,
        "{in_cluster: true}": f"{{kube_config_path: {home}/kubeconfig}}",
        "unix:///var/run/docker.sock": stack.docker_url,
        "file:///srv/deployments": f"file://{tmp_path}/artifacts",
        "abc1234": sample.good,
        "bake: 60s": "bake: 5s",
    }
    assert not [there for there in other if there not in PAGE.read_text()]
    postgres.query("CREATE DATABASE how_to", database="postgres")
    try:
        configure(home, url)
        reader = Reader(home, install(tmp_path / "venv", home), stack.admin_kubeconfig, other)
        reader.run("airflow db migrate")
        yield reader
    finally:
        postgres.query("DROP DATABASE how_to WITH (FORCE)", database="postgres")
        kubectl("delete", "namespace", "shop", "airflow", "--ignore-not-found", "--wait")


def test_the_page_leads_to_a_first_deployment(stack: StackInfo, reader: Reader, tmp_path: Path) -> None:
    with users(tmp_path / "requests.jsonl", rate=150, host="orders.test") as record:
        until(lambda: len(read(record)) > 500, "users are served")
        before = untouched()
        settings = next(block.text for block in blocks() if block.step == 1 and block.language == "text")
        traefik = Path(f"/proc/{recorded()['traefik'].pid}/cmdline").read_text().split("\0")
        assert set(settings.split()) <= set(traefik)
        reader.follow(1)
        _check_scraping(reader.home / "prometheus.yml")
        for step in (2, 3, 4, 5, 6):
            reader.follow(step)
        _check_settings(reader.home / "airflow.cfg")
        assert (CHECKOUT / "dags/deployments.py").read_text() in _after_name(reader.home / "dags/deployments.py")
        assert (CHECKOUT / "dags/verification.py").read_text() in _after_name(reader.home / "dags/verification.py")

        with airflow(reader):
            until(lambda: _has_dag(reader), "the DAG appears")
            deployed, _, versions, stopped = reader.follow(7)
            _check_said(reader, deployed)
            first = next(name for name in re.findall(r"^(orders-\S+) 100$", versions, re.MULTILINE))
            assert "orders 0\n" in versions
            assert re.search(r"^exit code [12]$", stopped, re.MULTILINE)
            assert (route()[first], sum(route().values())) == (100, 100)
            assert untouched() == before

            reader.follow(8)
            seen = time.time() + 1
            until(lambda: [r for r in read(record) if r.sent > seen], "users are served after the rollback")
    assert route() == {"orders": 100}
    requests_sent: list[Request] = read(record)
    assert {request.version for request in requests_sent if request.sent > seen} == {"orders-before-us"}
    assert [request for request in requests_sent if request.failed] == []
    assert first in {request.version for request in requests_sent}
    assert untouched() == before


def _has_dag(reader: Reader) -> bool:
    url = reader.here("https://airflow.example.com")
    login = {"username": "deployer", "password": PASSWORD}
    try:
        token = requests.post(f"{url}/auth/token", json=login, timeout=10).json()["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        return requests.get(f"{url}/api/v2/dags/deploy_orders", headers=headers, timeout=10).ok
    except (requests.RequestException, ValueError):
        return False


def _check_scraping(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    for job in config["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs")  # Debian's Prometheus is built without Kubernetes
    path.write_text(yaml.safe_dump(config))
    _run("promtool", "check", "config", "--syntax-only", path)


def _check_settings(path: Path) -> None:
    """The page recommends what the stack has."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(path)
    for section in ("scheduler", "workers", "triggerer"):
        assert dict(config[section]) == {name: str(value) for name, value in SETTINGS[section].items()}


def _check_said(reader: Reader, printed: str) -> None:
    """Each line that the page shows was printed; its "…" stands for anything."""
    shown = next(block.text for block in blocks() if block.step == 7 and block.language == "text")
    for line in reader.here(shown).splitlines():
        pattern = ".*".join(re.escape(part) for part in line.split("…"))
        assert re.search(f"^{pattern}$", printed, re.MULTILINE), f"{line!r} is not in\n{printed}"


def _after_name(path: Path) -> str:
    return path.read_text().split("\n", 1)[1]
