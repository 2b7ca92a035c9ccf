"""The clients read Airflow's connections: no test may see those of its surroundings."""

from __future__ import annotations

from hypothesis import settings

from tests.unit.airflow_home import isolate

isolate()
# The same examples in every run, however slow the machine is: what fails once fails always.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.load_profile("repeatable")
