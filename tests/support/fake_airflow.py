"""As much of Airflow's REST API as our client uses, on this machine, with faults on demand."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from airflow_deploy.domain.lifecycle.xcom_keys import PLAN_KEY, VERDICT_KEY
from tests.support.builders import make_plan

USER, PASSWORD = "gate", "pass-w0rd-never-shown"
RUN = "deploy__INC-001__abc123def456__20261123T070000Z-0a1b2c3d"
FOLDER = "file:///artifacts/payments/DEP-1"


def step(to: str, second: int, reason: str = "so it is") -> dict[str, Any]:
    at = f"2026-11-23T07:00:{second:02}Z"
    return {"to": to, "at": at, "task": "t", "try_number": 1, "reason": reason, "evidence": None}


def event(verdict: str, reason: str) -> dict[str, Any]:
    return {"verdict": verdict, "reason": reason, "at": "2026-11-23T07:00:00Z", "restored_at": None, "numbers": {}}


@dataclass
class Frame:
    """What Airflow says of the run at one moment: XComs are by task and key."""

    run: str
    tasks: Mapping[str, str | None]
    xcoms: Mapping[tuple[str, str], Any] = field(default_factory=dict)


PLANNED = {("plan", PLAN_KEY): make_plan(digest=None).dump(), ("plan", "steps"): [step("INIT", 0)]}
BUILT = {
    **PLANNED,
    ("build_image", PLAN_KEY): make_plan().dump(),
    ("build_image", "steps"): [step("BUILDING", 1)],
}
APPLIED = {**BUILT, ("apply_manifest", "steps"): [step("DEPLOYING", 2)]}
SHIFTED = {**APPLIED, ("canary_5.shift", "steps"): [step("CANARY", 3), step("CANARY_WAITING", 4)]}

QUEUED = Frame("queued", {"plan": None, "audit": None, "finalize": None})
CANARY = Frame(
    "running", {"plan": "success", "canary_5.gate": "deferred", "watch": "deferred", "finalize": None}, SHIFTED
)
ASKED = Frame(
    "running",
    {"plan": "success", "canary_5.gate": "success", "canary_5.ask": "deferred", "watch": "deferred", "finalize": None},
    {
        **SHIFTED,
        ("canary_5.gate", VERDICT_KEY): event("UNDECIDED", "after 1800 s: 12 of 12 good"),
        ("canary_5.gate", "steps"): [step("CANARY_EVALUATING", 5)],
        ("canary_5.ask", "steps"): [{**step("AWAITING_APPROVAL", 6), "task": "canary_5.ask"}],
    },
)
ANSWERED = Frame("running", {**ASKED.tasks, "canary_5.ask": "success"}, ASKED.xcoms)
GOOD = Frame(
    "success",
    {
        "plan": "success",
        "canary_25.gate": "success",
        "canary_5.gate": "success",
        "watch": "success",
        "verify": "success",
        "rollback": "skipped",
        "audit": "success",
        "finalize": "success",
    },
    {
        **SHIFTED,
        ("canary_5.gate", VERDICT_KEY): event("HEALTHY", "90 of 90 good"),
        ("canary_25.gate", VERDICT_KEY): event("HEALTHY", "190 of 190 good"),
        ("watch", VERDICT_KEY): event("CLOSED", "promoted"),
        ("verify", VERDICT_KEY): event("HEALTHY", "still good"),
        ("verify", "steps"): [step("VERIFYING", 30), step("VERIFIED", 40, "HEALTHY: still good")],
        ("audit", "return_value"): FOLDER,
    },
)
BAD = Frame(
    "failed",
    {
        "plan": "success",
        "canary_5.gate": "skipped",
        "watch": "failed",
        "rollback": "success",
        "audit": "success",
        "finalize": "failed",
    },
    {
        **SHIFTED,
        ("canary_5.gate", VERDICT_KEY): event("CLOSED", "braked"),
        ("watch", VERDICT_KEY): event("BREACHED", "worse than the stable"),
        # The gate's last word comes after the brake.
        ("canary_5.gate", "steps"): [step("CANARY_EVALUATING", 50)],
        ("rollback", "steps"): [step("ROLLING_BACK", 20, "watch: BREACHED"), step("ROLLED_BACK", 21, "settled")],
        ("audit", "return_value"): FOLDER,
    },
)
REFUSED = Frame("failed", {"plan": "failed", "build_image": "upstream_failed", "finalize": "skipped"})
LOG = [
    "plain text of an old log",
    {"event": "starting"},
    {"event": "Task failed with exception", "error_detail": [{"exc_type": "RefusedError", "exc_value": "conf: no"}]},
]


@dataclass
class FakeAirflow:
    """Answers one DAG and its runs. Each question for a run's state shows the next frame, and the last one for ever."""

    frames: list[Frame] = field(default_factory=lambda: [GOOD])
    faults: deque[tuple[int, bytes] | None] = field(default_factory=deque)
    """What the next requests get instead of an answer: status and body, or None for a dropped connection."""
    headers: dict[str, str] = field(default_factory=dict)
    paused: bool = False
    page: int = 3
    """Entries that a site permits at a time."""
    accept: set[str] = field(default_factory=lambda: {"secret-token"})
    requests: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    runs: list[str] = field(default_factory=lambda: [RUN])
    port: int = 0
    hang: float = 0.0
    """Seconds before each answer."""
    lose_answers: int = 0
    """How many triggers are obeyed, with their answers lost."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {"AIRFLOW_DEPLOY_URL": self.url, "AIRFLOW_DEPLOY_USER": USER, "AIRFLOW_DEPLOY_PASSWORD": PASSWORD}

    def triggers(self) -> list[str]:
        return [path for method, path in self.requests if method == "POST" and path.endswith("dagRuns")]

    def answer(self, method: str, target: str, body: Any, authorization: str | None) -> tuple[int, Any]:
        parts = urlsplit(target)
        path = [unquote(part) for part in parts.path.strip("/").split("/")]
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if path == ["auth", "token"]:
            return self._login(body)
        if (authorization or "").removeprefix("Bearer ") not in self.accept:
            return 401, {"detail": "Invalid JWT token"}
        if path[:3] != ["api", "v2", "dags"] or path[3] != "deploy_payments":
            return 404, {"detail": "The DAG was not found"}
        if method == "POST":
            return self._trigger(body)
        return self._read(path[4:], query)

    def _login(self, body: Any) -> tuple[int, Any]:
        if body != {"username": USER, "password": PASSWORD}:
            return 422, {"detail": [{"loc": ["body"], "msg": "wrong", "input": body}]}
        token = f"token-{len(self.requests)}"
        self.accept.add(token)
        return 201, {"access_token": token}

    def _trigger(self, body: Any) -> tuple[int, Any]:
        if body["dag_run_id"] in self.runs:
            return 409, {"detail": "exists"}
        self.runs.append(body["dag_run_id"])
        return 200, {"dag_run_id": body["dag_run_id"]}

    def _read(self, path: list[str], query: Mapping[str, str]) -> tuple[int, Any]:
        if not path:
            return 200, {"is_paused": self.paused}
        if path[1] not in self.runs:
            return 404, {"detail": "The DagRun was not found"}
        frame = self.frames[0]
        if len(path) == 2:
            self.frames = self.frames[1:] or self.frames
            self._now = frame
            return 200, {"state": frame.run}
        return self._read_tasks(self._now, path[3:], query)

    def _read_tasks(self, frame: Frame, path: list[str], query: Mapping[str, str]) -> tuple[int, Any]:
        if not path:
            return 200, self._paged(
                "task_instances", [{"task_id": t, "state": s} for t, s in frame.tasks.items()], query
            )
        if path == ["~", "xcomEntries"]:
            found = [
                {"task_id": task, "key": key, "timestamp": f"{len(value)}"}
                for (task, key), value in frame.xcoms.items()
                if key == query["xcom_key"]
            ]
            return 200, self._paged("xcom_entries", found, query)
        if path[1:2] == ["xcomEntries"]:
            value = frame.xcoms.get((path[0], path[2]))
            return (404, {"detail": "none"}) if value is None else (200, {"value": value})
        if path[1:2] == ["logs"]:
            return 200, {"content": LOG}
        return 200, {"try_number": 1}

    def _paged(self, key: str, entries: list[Any], query: Mapping[str, str]) -> dict[str, Any]:
        start, limit = int(query["offset"]), min(int(query["limit"]), self.page)
        return {key: entries[start : start + limit], "total_entries": len(entries)}

    def __post_init__(self) -> None:
        self._now = self.frames[0]


@contextmanager
def serving(fake: FakeAirflow) -> Iterator[FakeAirflow]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            fake.requests.append((self.command, self.path))
            content = self.rfile.read(int(self.headers["Content-Length"] or 0))
            body = json.loads(content) if content else None
            fake.bodies.append(body)
            authorization = self.headers["Authorization"]
            time.sleep(fake.hang)
            if fake.faults:
                fault = fake.faults.popleft()
                if fault is None:
                    return
                status, data = fault
            else:
                status, answer = fake.answer(self.command, self.path, body, authorization)
                data = json.dumps(answer).encode()
                if self.command == "POST" and "dagRuns" in self.path and fake.lose_answers:
                    fake.lose_answers -= 1
                    return
            with suppress(OSError):
                self.send_response(status)
                for name, value in fake.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        do_GET = do_POST = _serve

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.port = server.server_port
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
