"""The project's ``Cluster`` on the API server of tests."""

from __future__ import annotations

import pytest
from kubernetes.dynamic.discovery import Discoverer

from airflow_deploy.clients.kubernetes import cluster as clients
from airflow_deploy.clients.kubernetes.cluster import WRITE_RETRIES, Cluster
from airflow_deploy.clients.kubernetes.errors import REQUEST_TIMEOUT, Timeout
from tests.support.kubernetes_api import KubernetesApi


def lead_to(server: KubernetesApi, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each ``Cluster`` that is made from now on, by any connection, reach ``server``."""
    monkeypatch.setattr(
        clients, "_api_client", lambda _, purpose: server.client(retries=False if purpose else WRITE_RETRIES)
    )
    monkeypatch.setattr(Discoverer, "_write_cache", lambda _: None)  # the API list is kept in no file


def cluster_on(
    server: KubernetesApi, monkeypatch: pytest.MonkeyPatch, purpose: str = "test", timeout: Timeout = REQUEST_TIMEOUT
) -> Cluster:
    """Return a ``Cluster`` on ``server``."""
    lead_to(server, monkeypatch)
    return Cluster("server", purpose, timeout)
