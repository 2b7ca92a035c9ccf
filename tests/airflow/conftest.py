"""Airflow reads its environment when it is imported, so its home is set here, before any test module is."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from tests.support.airflow_home import isolate
from tests.support.fake_registry import FakeRegistry

isolate()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of artifacts, of this test's own."""
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DEPLOY__ARTIFACT_STORE", f"file://{tmp_path}/store/")
    return tmp_path / "store"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> FakeRegistry:
    """The registry of the stable's images: no test here has a Docker daemon."""
    made = FakeRegistry()
    monkeypatch.setattr("airflow_deploy.rollout.preflight.Images", made)
    return made


@pytest.fixture(autouse=True)
def drained(monkeypatch: pytest.MonkeyPatch) -> list[DeploymentPlan]:
    """The deployments whose draining was awaited: without a gateway, each is drained at once."""
    asked: list[DeploymentPlan] = []
    monkeypatch.setattr("airflow_deploy.rollout.routers.draining.wait_until_drained", asked.append)
    return asked


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how long a client would have waited before it sent requests again: it does not wait."""
    waits: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", waits.append)
    return waits
