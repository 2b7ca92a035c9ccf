"""Airflow reads its environment when it is imported, so its home is set here, before any test module is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.airflow_home import isolate

isolate()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty store of artifacts, of this test's own."""
    monkeypatch.setenv("AIRFLOW__AIRFLOW_DEPLOY__ARTIFACT_STORE", f"file://{tmp_path}/store/")
    return tmp_path / "store"
