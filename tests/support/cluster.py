"""The project's client on the API server of tests."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from airflow_deploy.clients.kubernetes import connection as connections
from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import REQUEST_RETRIES, connect
from airflow_deploy.clients.kubernetes.errors import REQUEST_TIMEOUT, Timeout
from tests.support.kubernetes_api import KubernetesApi


def lead_to(server: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each client that is made from now on, by any connection, reach ``server``."""
    monkeypatch.setattr(
        connections, "_api_client", lambda _, purpose: server.client(retries=False if purpose else REQUEST_RETRIES)
    )


def lead_each_to(servers: Mapping[str, KubernetesApi], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each Airflow connection of these names lead to a server of its own. A request is sent once."""
    monkeypatch.setattr(connections, "_api_client", lambda connection, _: servers[connection].client())


def cluster_on(
    server: KubernetesApi, monkeypatch: pytest.MonkeyPatch, purpose: str = "test", timeout: Timeout = REQUEST_TIMEOUT
) -> KubernetesClient:
    """Return a client of ``server``."""
    lead_to(server, monkeypatch)
    return connect("server", purpose, timeout)
