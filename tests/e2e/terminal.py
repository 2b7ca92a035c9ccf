"""The command ``airflow-deploy`` as a user types it."""

import subprocess
import sys
from pathlib import Path

from tests.e2e.world import PATIENCE
from tests.stack.info import StackInfo


def run(info: StackInfo, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command as the user ``deployer`` does in a terminal."""
    login = {"AIRFLOW_DEPLOY_USER": "deployer", "AIRFLOW_DEPLOY_PASSWORD": info.users["deployer"]}
    done = subprocess.run(
        [Path(sys.executable).with_name("airflow-deploy"), *arguments],
        input=stdin,
        env={"AIRFLOW_DEPLOY_URL": info.airflow_url, **login},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert info.users["deployer"] not in done.stdout + done.stderr
    return done


def summary(output: str) -> dict[str, str]:
    """Return the rows that ``watch`` prints at the end."""
    rows = [line.split(None, 1) for line in output.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2}
