"""What goes wrong on the way to a cluster is one of our errors, so that the watch goes on."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from airflow_deploy.clients.cluster import Cluster
from airflow_deploy.domain.errors import TemporaryError
from tests.stack.tls import Authority


@pytest.fixture
def strangers_server(tmp_path: Path) -> Iterator[str]:
    """Serve with a certificate that nobody trusts, and return the address."""
    folder = tmp_path / "stranger"
    Authority.create(folder).issue("server", "server", hosts=("127.0.0.1",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_that_is_not_trusted_does_not_answer(
    strangers_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": strangers_server}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {"token": "x"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    connection = {"conn_type": "kubernetes", "extra": {"kube_config_path": str(path)}}
    monkeypatch.setenv("AIRFLOW_CONN_STRANGER", json.dumps(connection))
    with pytest.raises(TemporaryError, match=r"the cluster does not answer \(SSLError"):
        Cluster("stranger").route("shop", "payments-route")
