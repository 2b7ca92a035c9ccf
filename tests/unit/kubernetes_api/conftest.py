"""The API server in memory, and the real client that talks to it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.kubernetes_api import KubernetesApi


@pytest.fixture
def server() -> KubernetesApi:
    return KubernetesApi(clock=lambda: 1_800_000_000.0)


@pytest.fixture
def api(server: KubernetesApi) -> Any:
    return server.client()
