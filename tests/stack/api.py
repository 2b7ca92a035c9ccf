"""Airflow's REST API, as the demo and the tests use it."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from tests.stack.errors import StackError
from tests.stack.layout import DAGS

TIMEOUT = 30
ENDED = frozenset({"success", "failed"})


class Site(Protocol):
    """Where an Airflow is, and the passwords of its users."""

    @property
    def airflow_url(self) -> str: ...

    @property
    def users(self) -> Mapping[str, str]: ...


class AirflowApi:
    """One user's session.

    :param info: the stack that is up, or another Airflow.
    :param user: ``admin``, ``deployer`` or ``viewer``.
    """

    def __init__(self, info: Site, user: str = "deployer") -> None:
        self._url = info.airflow_url
        self.session = requests.Session()
        # Parts are killed on purpose, and Airflow's answers to reading fail meanwhile.
        again = Retry(
            total=6, backoff_factor=1, status_forcelist=(500, 502, 503), allowed_methods=("GET",), raise_on_status=False
        )
        self.session.mount("http://", HTTPAdapter(max_retries=again))
        login = {"username": user, "password": info.users[user]}
        answer = requests.post(f"{self._url}/auth/token", json=login, timeout=TIMEOUT)
        answer.raise_for_status()
        self.session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"

    def request(self, method: str, path: str, **body: Any) -> requests.Response:
        """Send one request to ``/api/v2/<path>`` and return the response."""
        return self.session.request(method, f"{self._url}/api/v2/{path}", json=body or None, timeout=TIMEOUT)

    def get(self, path: str) -> Any:
        """Return what a GET answers.

        :raises requests.HTTPError: it fails.
        """
        answer = self.request("GET", path)
        answer.raise_for_status()
        return answer.json()

    def has_dag(self, dag_id: str) -> bool:
        """Whether Airflow has read the DAG."""
        return self.request("GET", f"dags/{dag_id}").ok

    def await_read(self, dag_id: str) -> None:
        """Let Airflow read its DAG files again, and wait until it has.

        What changes while a file is being read is missed, and the file read again after two minutes only: so it is
        touched until it has been read twice, the second time from its beginning.

        :raises StackError: it is not within two minutes.
        """
        began, deadline = datetime.now(UTC), time.monotonic() + 120
        reads: set[datetime] = set()
        while len(reads) < 2:
            if time.monotonic() > deadline:
                raise StackError(f"Airflow does not read {dag_id}: look at the log of its dag-processor.")
            (DAGS / "deployments.py").touch()
            time.sleep(0.5)
            found = self.request("GET", f"dags/{dag_id}")
            if found.ok and (read := datetime.fromisoformat(found.json()["last_parsed_time"])) > began:
                reads.add(read)

    def trigger(self, dag_id: str, conf: dict[str, Any]) -> str:
        """Start a run and return its id: the one REST call that a deployment takes.

        :raises requests.HTTPError: Airflow refuses it.
        """
        answer = self.request("POST", f"dags/{dag_id}/dagRuns", logical_date=None, conf=conf)
        answer.raise_for_status()
        return str(answer.json()["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return ``queued``, ``running``, ``success`` or ``failed``."""
        return str(self.get(f"dags/{dag_id}/dagRuns/{run_id}")["state"])

    def unfinished(self, dag_id: str) -> list[str]:
        """Return the ids of the DAG's runs that are queued or running."""
        found = self.get(f"dags/{dag_id}/dagRuns?state=queued&state=running&limit=100")["dag_runs"]
        return [str(item["dag_run_id"]) for item in found]

    def end_run(self, dag_id: str, run_id: str) -> None:
        """Mark the run failed, as a person does in the UI."""
        self.request("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", state="failed").raise_for_status()

    def clear(self, dag_id: str, run_id: str, task_id: str) -> None:
        """Clear a task and all that follow it, as a person does in the UI."""
        asked = {"task_ids": [task_id], "include_downstream": True, "only_failed": False, "reset_dag_runs": True}
        path = f"dags/{dag_id}/clearTaskInstances"
        self.request("POST", path, dag_run_id=run_id, dry_run=False, **asked).raise_for_status()

    def task_states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return each task's state."""
        found = self.get(f"dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=100")["task_instances"]
        return {item["task_id"]: item["state"] for item in found}

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """Return an XCom's value; None if there is none."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}?deserialize=true"
        answer = self.request("GET", path)
        return answer.json()["value"] if answer.ok else None

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> list[str]:
        """Return the messages that a task's try has logged so far, exceptions as ``Type: text``."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        answer = self.request("GET", path)
        content = answer.json().get("content", []) if answer.ok else []
        lines = [line for line in content if isinstance(line, dict) and "event" in line]
        errors = [error for line in lines for error in line.get("error_detail") or []]
        said = [f"{error['exc_type']}: {error['exc_value']}" for error in errors]
        return [*(str(line["event"]) for line in lines), *said]

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task as done, as a person does in the UI."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        self.request("PATCH", path, new_state=state).raise_for_status()

    def question(self, dag_id: str, run_id: str, task_id: str) -> dict[str, Any]:
        """Return a task's question and its answer; empty if it has not asked."""
        answer = self.request("GET", f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails")
        return dict(answer.json()) if answer.ok else {}

    def answer(self, dag_id: str, run_id: str, task_id: str, option: str) -> int:
        """Answer the question that a task asks a person; return the HTTP status."""
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/-1/hitlDetails"
        return self.request("PATCH", path, chosen_options=[option], params_input={}).status_code

    def page(self, dag_id: str, run_id: str) -> str:
        """Return the address of the run's page."""
        return f"{self._url}/dags/{dag_id}/runs/{run_id}"
