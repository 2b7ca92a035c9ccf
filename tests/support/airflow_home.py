"""A home of its own for Airflow, set before it is imported: it reads its environment only then."""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

MARK = "AIRFLOW_DEPLOY_TEST_HOME"


def isolate() -> Path:
    """Point Airflow at an empty folder, once per process, and drop what the surroundings configure."""
    if MARK not in os.environ:
        if "airflow" in sys.modules:
            raise RuntimeError("Airflow was imported before its home was set")
        home = tempfile.mkdtemp(prefix="airflow-deploy-tests-")
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        for name in [name for name in os.environ if name.startswith(("AIRFLOW_", "_AIRFLOW_"))]:
            del os.environ[name]
        os.environ |= {
            MARK: home,
            "AIRFLOW_HOME": home,
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": f"{home}/dags",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__AIRFLOW_DEPLOY__ARTIFACT_STORE": f"file://{home}/artifacts",
            "AIRFLOW__DAG_PROCESSOR__DAG_VERSION_INFLATION_CHECK_LEVEL": "error",
        }
    return Path(os.environ[MARK])
