"""The way to a cluster of a test's own: a kubeconfig, and the Airflow connection that names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def write(folder: Path, server: str) -> Path:
    """Write a kubeconfig that leads to ``server``, an address, and return its path."""
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "x", "cluster": {"server": server}}],
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "users": [{"name": "x", "user": {"token": "x"}}],
    }
    path = folder / f"kubeconfig-{server.rpartition(':')[2]}"
    path.write_text(json.dumps(config))
    return path


def connect(monkeypatch: pytest.MonkeyPatch, connection: str, folder: Path, server: str) -> None:
    """Let the Airflow connection ``connection`` lead to ``server``."""
    extra = {"kube_config_path": str(write(folder, server))}
    monkeypatch.setenv(f"AIRFLOW_CONN_{connection.upper()}", json.dumps({"conn_type": "kubernetes", "extra": extra}))
