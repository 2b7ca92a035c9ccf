"""Airflow's REST API, to trigger and watch a deployment from outside Airflow.

It imports nothing of Airflow, so it works beside any safety gate. Every answer is checked: the address may be that of a
proxy, a login page or another version.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.util.retry import Retry

from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.values import printable

API_TIMEOUT = (5, 30)
"""Seconds to connect, and between two parts of an answer."""
PAGE = 100
"""Entries asked for at a time; a site may have set less, so that the number received counts."""

URL = "AIRFLOW_DEPLOY_URL"
USER = "AIRFLOW_DEPLOY_USER"
PASSWORD = "AIRFLOW_DEPLOY_PASSWORD"  # noqa: S105 - the variable's name
TOKEN = "AIRFLOW_DEPLOY_TOKEN"  # noqa: S105 - the variable's name

READ_RETRIES = Retry(
    total=2, backoff_factor=0.5, status_forcelist=(502, 503, 504), allowed_methods=("GET",), raise_on_status=False,
    respect_retry_after_header=False,
)  # fmt: skip
"""A GET is sent again at once; the caller decides whether to send a POST again."""

RETRYABLE_CLIENT_ERRORS = frozenset({408, 425, 429})
"""Client errors after which the same call may succeed."""


@dataclass(frozen=True)
class Login:
    """A token, or else a user and a password for which Airflow issues one. Its text shows no secret."""

    token: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)


class _Bearer(AuthBase):
    """Sends the token. If it were a header of the session, requests would replace it by the login in ~/.netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class AirflowApi:
    """One Airflow, as one user sees it.

    :param url: the address of its UI, such as ``https://airflow.example.com``.
    :raises RefusedError: the address or the login is not valid.
    """

    def __init__(self, url: str, login: Login) -> None:
        self.url = _checked(url)
        if not login.token and not (login.user and login.password):
            raise RefusedError(f"the login for Airflow is missing; set {TOKEN}, or {USER} and {PASSWORD}")
        if not all(" " < character <= "~" for character in login.token):
            raise RefusedError(f"{TOKEN}: is not a token; remove spaces, line ends and non-ASCII characters")
        self._login = login
        self._token = login.token
        self._session = requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(max_retries=READ_RETRIES))

    @classmethod
    def from_environment(
        cls, url: str | None = None, token: str | None = None, environment: Mapping[str, str] = os.environ
    ) -> AirflowApi:
        """Return the API at ``url`` for ``token``; each that is None is read from ``AIRFLOW_DEPLOY_*``.

        :raises RefusedError: the address or the login is missing.
        """
        address = url or environment.get(URL)
        if not address:
            raise RefusedError(f"the address of Airflow is missing; set {URL}, or pass url")
        login = Login(token or environment.get(TOKEN, ""), environment.get(USER, ""), environment.get(PASSWORD, ""))
        return cls(address, login)

    def page(self, dag_id: str, run_id: str) -> str:
        """Return the address of a run's page in the UI."""
        return f"{self.url}/dags/{_part(dag_id)}/runs/{_part(run_id)}"

    def question_page(self, dag_id: str, run_id: str, task_id: str) -> str:
        """Return the address at which the UI shows a task's question and takes the answer."""
        return f"{self.page(dag_id, run_id)}/tasks/{_part(task_id)}/required_actions"

    def check_dag(self, dag_id: str) -> None:
        """Make sure that a run of the DAG would start.

        :raises RefusedError: there is no such DAG, or it is paused.
        """
        dag = self._get(f"dags/{_part(dag_id)}", {}, f"DAG {dag_id}")
        if dag.get("is_paused"):
            raise RefusedError(f"DAG {dag_id} is paused, so its runs do not start; unpause it in Airflow's UI")

    def trigger(self, dag_id: str, run_id: str, conf: Mapping[str, Any]) -> None:
        """Start a run. The caller chooses its id, so it can send the request again if the answer is lost.

        :raises RefusedError: Airflow does not accept it.
        :raises TemporaryError: Airflow may or may not have received it.
        """
        path = f"dags/{_part(dag_id)}/dagRuns"
        body = {"logical_date": None, "dag_run_id": run_id, "conf": dict(conf)}
        answer = self._send("POST", path, json=body)
        if answer.status_code != 409:  # the run exists: the answer to an earlier request was lost
            _check(answer, f"triggering {dag_id}", self.url)

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return ``queued``, ``running``, ``success`` or ``failed``."""
        what = f"run {run_id} of {dag_id}"
        return str(self._get(f"dags/{_part(dag_id)}/dagRuns/{_part(run_id)}", {}, what).get("state"))

    def tasks(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return each task's state; None before it has one."""
        path = f"dags/{_part(dag_id)}/dagRuns/{_part(run_id)}/taskInstances"
        found = self._all(path, "task_instances", {})
        return {str(item.get("task_id")): item.get("state") for item in found}

    def xcoms_of(self, dag_id: str, run_id: str, key: str) -> dict[str, str]:
        """Return, by task, the time of its latest XCom with this key, as Airflow writes it."""
        path = f"dags/{_part(dag_id)}/dagRuns/{_part(run_id)}/taskInstances/~/xcomEntries"
        found = self._all(path, "xcom_entries", {"xcom_key": key})
        return {str(item.get("task_id")): str(item.get("timestamp")) for item in found if item.get("key") == key}

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """Return an XCom's value; None if there is none."""
        entry = f"taskInstances/{_part(task_id)}/xcomEntries/{_part(key)}"
        path = f"dags/{_part(dag_id)}/dagRuns/{_part(run_id)}/{entry}"
        answer = self._send("GET", path, params={"deserialize": "true"})
        if answer.status_code == 404:
            return None
        return _json(_check(answer, f"XCom {key} of {task_id}", self.url), self.url).get("value")

    def error_of(self, dag_id: str, run_id: str, task_id: str) -> str | None:
        """Return the text of the error that a task's last try logged; None if there is none."""
        task = f"dags/{_part(dag_id)}/dagRuns/{_part(run_id)}/taskInstances/{_part(task_id)}"
        attempt = int(self._get(task, {}, f"task {task_id}").get("try_number") or 1)
        content = self._get(f"{task}/logs/{attempt}", {}, f"log of {task_id}").get("content")
        lines = content if isinstance(content, list) else []
        found = [line["error_detail"] for line in lines if isinstance(line, dict) and line.get("error_detail")]
        try:
            return str(found[-1][0]["exc_value"])  # the first is what was raised, the others are its causes
        except (IndexError, KeyError, TypeError):
            return None

    def _get(self, path: str, params: Mapping[str, str], what: str) -> dict[str, Any]:
        return _json(_check(self._send("GET", path, params=params), what, self.url), self.url)

    def _all(self, path: str, key: str, params: Mapping[str, str]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = self._get(path, {**params, "limit": str(PAGE), "offset": str(len(found))}, path)
            entries, total = page.get(key), page.get("total_entries")
            if not isinstance(entries, list) or not isinstance(total, int):
                raise TemporaryError(f"{self.url} does not answer like Airflow's API; check the address")
            found += [item for item in entries if isinstance(item, dict)]
            if not entries or len(found) >= total:
                return found

    def _send(self, method: str, path: str, **arguments: Any) -> requests.Response:
        if not self._token:
            self._token = self._new_token()
        answer = self._request(method, f"api/v2/{path}", auth=_Bearer(self._token), **arguments)
        if answer.status_code == 401 and self._login.user and not self._login.token:
            self._token = self._new_token()  # a token lasts for hours, a deployment that waits for a person for days
            answer = self._request(method, f"api/v2/{path}", auth=_Bearer(self._token), **arguments)
        return answer

    def _new_token(self) -> str:
        login = {"username": self._login.user, "password": self._login.password}
        answer = self._request("POST", "auth/token", json=login)
        if 400 <= answer.status_code < 500 and answer.status_code not in RETRYABLE_CLIENT_ERRORS:
            # The answer is not shown: it may repeat the password.
            raise RefusedError(
                f"Airflow refuses the login of {printable(self._login.user)} (HTTP {answer.status_code});"
                f" check {USER} and {PASSWORD}, or set {TOKEN}"
            )
        token = _json(_check(answer, "the login", self.url), self.url).get("access_token")
        if not isinstance(token, str) or not token:
            raise TemporaryError(f"{self.url} does not answer like Airflow's API; check the address")
        return token

    def _request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        try:
            # Redirects are refused: a POST would arrive as a GET, and a login at another host.
            return self._session.request(
                method, f"{self.url}/{path}", timeout=API_TIMEOUT, allow_redirects=False, **arguments
            )
        except (requests.RequestException, OSError, ValueError) as error:
            # The error's type alone: its text may hold the whole request.
            raise TemporaryError(
                f"Airflow at {self.url} does not answer ({type(error).__name__}); check the address and the network"
            ) from error


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and not (parts.query or parts.fragment)
        if not usable or "@" in parts.netloc or parts.port == 0 or not all(" " < c <= "~" for c in url):
            raise ValueError
    except ValueError as error:
        # The address is not repeated: it may contain a login.
        raise RefusedError(
            "the address of Airflow is not valid; write one such as https://airflow.example.com, and put the login into"
            f" {USER} and {PASSWORD}"
        ) from error
    return url.rstrip("/")


def _part(text: str) -> str:
    return quote(text, safe="")


def _check(answer: requests.Response, what: str, url: str) -> requests.Response:
    """Return a successful answer.

    :raises RefusedError: the same request would be refused again.
    :raises TemporaryError: the same request may succeed later.
    """
    status = answer.status_code
    if answer.ok and not answer.is_redirect:
        return answer
    if 300 <= status < 400:
        target = printable(answer.headers.get("Location", "another address"), 200)
        raise RefusedError(f"{url} redirects to {target}; give the address at which Airflow itself answers")
    if status >= 500 or status in RETRYABLE_CLIENT_ERRORS:
        raise TemporaryError(f"{what}: Airflow failed (HTTP {status}){_detail(answer)}")
    remedies = {
        401: f"Airflow does not accept the login; check {TOKEN}, or {USER} and {PASSWORD}",
        403: "the user lacks the permission; ask for a role that may trigger and read the DAG",
        404: "not found in Airflow; check the name, and that the service's YAML is in its dags/deployments folder",
    }
    raise RefusedError(f"{what}: {remedies.get(status) or f'refused by Airflow (HTTP {status})'}{_detail(answer)}")


def _json(answer: requests.Response, url: str) -> dict[str, Any]:
    try:
        content = answer.json()
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise TemporaryError(f"{url} does not answer like Airflow's API; check the address")
    return content


def _detail(answer: requests.Response) -> str:
    """Return the answer's own account of the error, without the input that FastAPI repeats in it."""
    try:
        detail = answer.json()["detail"]
        if isinstance(detail, list):
            detail = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in detail)
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f": {printable(' '.join(str(detail).split()), 500)}"
