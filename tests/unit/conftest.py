"""The clients read Airflow's connections: tests must not see those of the machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from airflow_deploy.clients.airflow_rest import runs
from tests.support.airflow_home import isolate
from tests.support.fake_airflow import FakeAirflow, serving

isolate()
# The same examples in every run, also on a slow machine: failures are repeatable.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("repeatable")


@pytest.fixture
def airflow(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAirflow]:
    """Airflow's REST API in memory; the environment has its address and login."""
    monkeypatch.setattr(runs, "RUN_POLL_SECONDS", 0.01)
    with serving(FakeAirflow()) as fake:
        for name, value in fake.environment.items():
            monkeypatch.setenv(name, value)
        yield fake
