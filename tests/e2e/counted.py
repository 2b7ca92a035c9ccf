"""A Prometheus that knows nothing of the gateway: it asks the pods of one namespace themselves."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.stack import StackInfo, prometheus
from tests.stack.access import kubectl
from tests.stack.api import AirflowApi
from tests.stack.errors import StackError
from tests.stack.layout import ADDRESS
from tests.stack.processes import end, wait_until

Targets = Callable[[str], list[dict[str, Any]]]
"""Returns what Prometheus asks in a namespace, as it reads that from a file."""


def by_service(namespace: str) -> list[dict[str, Any]]:
    """Return the pods behind the namespace's Services."""
    slices = json.loads(kubectl("-n", namespace, "get", "endpointslices", "-o", "json"))["items"]
    return [
        {
            "targets": [f"{endpoint['addresses'][0]}:{found['ports'][0]['port']}"],
            "labels": {"namespace": namespace, "service": found["metadata"]["labels"]["kubernetes.io/service-name"]},
        }
        for found in slices
        for endpoint in found.get("endpoints") or []
    ]


def by_pod(namespace: str) -> list[dict[str, Any]]:
    """Return the namespace's pods, each of them once."""
    pods = json.loads(kubectl("-n", namespace, "get", "pods", "-o", "json"))["items"]
    return [
        {
            "targets": [f"{pod['status']['podIP']}:8080"],
            "labels": {"namespace": namespace, "pod": pod["metadata"]["name"]},
        }
        for pod in pods
        if pod["status"].get("podIP")
    ]


@contextmanager
def counted(stack: StackInfo, namespace: str, port: int, folder: Path, targets: Targets) -> Iterator[str]:
    """Ask the namespace's pods for as long as the block lasts, and yield the Airflow connection to Prometheus."""
    admin, url = AirflowApi(stack, "admin"), f"http://{ADDRESS}:{port}"
    admin.request("DELETE", f"connections/{namespace}")
    connection = {"connection_id": namespace, "conn_type": "prometheus", "host": url}
    admin.request("POST", "connections", **connection).raise_for_status()
    with _discovered(namespace, targets, file := folder / "targets.json"):
        process = prometheus.start(namespace, port, file)
        try:
            assert wait_until(lambda: prometheus.ready(url), 60), process.log_tail()
            yield namespace
        finally:
            end(process)
    admin.request("DELETE", f"connections/{namespace}").raise_for_status()


@contextmanager
def _discovered(namespace: str, targets: Targets, file: Path) -> Iterator[None]:
    """Do what Prometheus does by itself if it is built with Kubernetes' service discovery. Debian's is not."""
    over = threading.Event()

    def discover() -> None:
        while not over.wait(1):
            with suppress(StackError):  # the API server is busy, or the namespace is about to go
                written = file.with_suffix(".new")
                written.write_text(json.dumps(targets(namespace)))
                written.replace(file)

    file.write_text("[]")
    thread = threading.Thread(target=discover)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
