"""How Airflow's triggerer bears a thousand gates: ``python -m tests.bench.gates [--gates N] [--seconds S]``.

A real ``airflow triggerer`` on a database of its own runs the deferred gates of N deployments, which Prometheus and the
Kubernetes API answer as stand-ins in processes of their own. What it does is read from their records: a look begins
with the route's read and asks Prometheus then. The event loop's delays are seen by a trigger that runs among the gates.
The results go to ``.bench/gates.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.request import urlopen

import psutil
import yaml
from cryptography.fernet import Fernet

from airflow_deploy.tasks.triggers import LOOK_INTERVAL, LOOKS_PER_SECOND

CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = CHECKOUT / ".bench" / "gates.json"
AIRFLOW = Path(sys.executable).with_name("airflow")
STARTING = 180.0
"""Seconds within which all gates must have looked."""
SETTLING = 15.0
"""Seconds after the last gate's first look that are not measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gates", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=120, help="how long to measure")
    parser.add_argument("--keep", action="store_true", help="keep Airflow's home with its logs")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything is ended then too
    folder = Path(tempfile.mkdtemp(prefix="airflow-deploy-bench-"))
    try:
        found = bench(folder, options.gates, options.seconds)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def bench(folder: Path, gates: int, seconds: float) -> dict[str, Any]:
    """Run it in ``folder``, and return the row of results."""
    env = os.environ | {"AIRFLOW_DEPLOY_BENCH_BEGAN": f"{time.time():.3f}", "PYTHONPATH": str(CHECKOUT)}
    with ExitStack() as running:
        prometheus, cluster = (running.enter_context(stand_in(kind, env, folder)) for kind in ("prometheus", "cluster"))
        env |= airflow(folder, prometheus, cluster)
        prepare(folder, gates, env)
        triggerer = running.enter_context(process([AIRFLOW, "triggerer", "--skip-serve-logs"], env, folder))
        begun = await_all(cluster, gates, triggerer)
        time.sleep(SETTLING)
        before, since = cpu(triggerer.pid), time.time()
        time.sleep(seconds)
        after, until = cpu(triggerer.pid), time.time()
        looks, queries = asked(cluster), asked(prometheus)
        interval = max(LOOK_INTERVAL, gates / LOOKS_PER_SECOND)
        late = [delay for at in looks.values() for delay in lateness([t for t in at if since <= t < until], interval)]
        counted = sum(since <= at < until for every in looks.values() for at in every)
        look_ms = subprocess.run(
            [sys.executable, "-m", "tests.bench.arithmetic"], env=env, check=True, capture_output=True, text=True
        )
        pulse = json.loads((folder / "pulse.json").read_text())
        ours = [t for every in queries.values() for t in every if since <= t < until]
        return {
            "gates": gates,
            "seconds": round(seconds),
            "interval_s": round(interval, 2),
            "looks_per_s": round(counted / (until - since), 1),
            "late_p50_s": round(median(late), 3),
            "late_p99_s": round(quantiles(late, n=100)[98], 3),
            "late_max_s": round(max(late), 3),
            "queries_per_look": round(len(ours) / counted, 3),
            "triggerer_rss_mb": round(memory(triggerer.pid)),
            "runner_rss_mb": round(psutil.Process(pulse["pid"]).memory_info().rss / 2**20),
            "runner_threads": pulse["threads"],
            "triggerer_cpu": round((after - before) / (until - since), 3),
            "loop_blocked_max_s": round(max(delay for _, delay in pulse["blocked"]), 3),
            "loop_blocked_steady_max_s": round(max(delay for at, delay in pulse["blocked"] if at >= since), 3),
            "look_ms": round(float(look_ms.stdout), 2),
            "all_begun_after_s": round(begun, 1),
        }


def airflow(folder: Path, prometheus: str, cluster: str) -> dict[str, str]:
    """Return the variables of an Airflow installation in ``folder``."""
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "bench",
                "clusters": [
                    {
                        "name": "bench",
                        "cluster": {"server": cluster, "certificate-authority": str(folder / "pki" / "ca.crt")},
                    }
                ],
                "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
                "users": [{"name": "bench", "user": {"token": "bench"}}],
            }
        )
    )
    connections = {
        "KUBERNETES_DEFAULT": {"conn_type": "kubernetes", "extra": {"kube_config_path": str(kubeconfig)}},
        "PROMETHEUS_DEFAULT": {"conn_type": "prometheus", "host": prometheus},
    }
    return {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags"),
        "AIRFLOW__CORE__FERNET_KEY": Fernet.generate_key().decode(),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder}/airflow.db",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        "AIRFLOW__TRIGGERER__CAPACITY": "2000",
        "AIRFLOW__AIRFLOW_DEPLOY__ARTIFACT_STORE": f"file://{folder}/artifacts",
        **{f"AIRFLOW_CONN_{name}": json.dumps(connection) for name, connection in connections.items()},
    }


def prepare(folder: Path, gates: int, env: Mapping[str, str]) -> None:
    """Make Airflow's tables, its DAG, and the deferred gates."""
    from tests.bench.seed import DAG

    (folder / "dags").mkdir()
    (folder / "dags" / "bench.py").write_text(DAG)
    steps: list[list[str | Path]] = [
        [AIRFLOW, "db", "migrate"],
        [AIRFLOW, "dags", "reserialize"],
        [sys.executable, "-m", "tests.bench.seed", str(gates), folder],
    ]
    for argv in steps:
        with (folder / "prepare.log").open("ab") as log:
            subprocess.run(argv, env=env, check=True, stdout=log, stderr=log)


@contextmanager
def process(argv: Sequence[str | Path], env: Mapping[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process in a session of its own; end all of it afterwards."""
    with (folder / f"{Path(argv[0]).name}-{time.time():.3f}.log").open("wb") as log:
        child = subprocess.Popen(argv, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            yield child
        finally:
            everything = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
            for each in everything:
                with suppress(psutil.NoSuchProcess):
                    each.send_signal(signal.SIGKILL)
            child.wait()


@contextmanager
def stand_in(kind: str, env: Mapping[str, str], folder: Path) -> Iterator[str]:
    """Run a stand-in, and give its address."""
    path = folder / f"{kind}.json"
    with process([sys.executable, "-m", "tests.bench.stand_ins", kind, folder], env, folder) as child:
        while not path.exists():
            if child.poll() is not None:
                raise RuntimeError(f"the stand-in of the {kind} has ended; see the logs in {folder}")
            time.sleep(0.1)
        yield json.loads(path.read_text())


def asked(url: str) -> dict[str, list[float]]:
    """Return a stand-in's record."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with urlopen(f"{url}/asked", context=context if url.startswith("https") else None) as answer:
        found: dict[str, list[float]] = json.load(answer)
    return found


def await_all(cluster: str, gates: int, triggerer: subprocess.Popen[bytes]) -> float:
    """Wait until every gate has looked, and return how long after the first the last did."""
    deadline = time.monotonic() + STARTING
    while len(looks := asked(cluster)) < gates:
        if triggerer.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"only {len(looks)} of {gates} gates have looked; see the triggerer's log")
        time.sleep(1)
    first = [at[0] for at in looks.values()]
    return max(first) - min(first)


def lateness(looks: list[float], interval: float) -> list[float]:
    """Return by how many seconds each look of one gate was late.

    A look is due one interval after the one before was due; the earliest look in this sense was not late.
    """
    offsets = [at - interval * number for number, at in enumerate(looks)]
    return [offset - min(offsets) for offset in offsets]


def family(pid: int) -> list[psutil.Process]:
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def cpu(pid: int) -> float:
    """Return the CPU seconds of the triggerer and its runner so far."""
    return float(sum(sum(each.cpu_times()[:2]) for each in family(pid)))


def memory(pid: int) -> float:
    return float(sum(each.memory_info().rss for each in family(pid)) / 2**20)


if __name__ == "__main__":
    main()
