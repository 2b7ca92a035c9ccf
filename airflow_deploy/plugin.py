"""What Airflow's own processes load when they start.

Every task of Airflow is a fork of the scheduler's or the worker's process. What those have imported no task has to
import again, and a deployment's tasks follow each other as fast as they start.
"""

from __future__ import annotations

import kubernetes.client  # noqa: F401 - for the forks
from airflow.plugins_manager import AirflowPlugin

import airflow_deploy.factory.loader  # noqa: F401 - for the forks


class DeployPlugin(AirflowPlugin):
    """Loaded for its imports."""

    name = "airflow_deploy"
