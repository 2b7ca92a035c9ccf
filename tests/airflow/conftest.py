"""Airflow reads its environment when it is imported, so its home is set here, before any test module is."""

from __future__ import annotations

from tests.unit.airflow_home import isolate

isolate()
