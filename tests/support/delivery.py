"""A gateway that answers for real, and a deployment before its first share, for which it is asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.operators.canary import ShiftCanaryOperator
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.routers import probe
from airflow_deploy.tasks.decisions import store_decision
from tests.support.builders import make_plan, make_spec
from tests.support.cluster import lead_to
from tests.support.ending import ENDING
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster
from tests.support.world import Clock

Answer = tuple[int, dict[str, str]]


class Gateway(HTTPServer):
    """Answers as it is told; ``asked`` holds path and headers of each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.answer: Callable[[], Answer] = lambda: (404, {})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        self.server.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        status, headers = self.server.answer()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Gateway]:
    """Serve a gateway for the time of a ``with`` block."""
    server = Gateway()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class FirstShare:
    """One deployment that has claimed its route and given no share yet; its watch renews the Lease all the time.

    :param url: the gateway's address, if the spec has one.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, url: str | None, name: str, **fields: Any) -> None:
        spec = make_spec(route={"name": "payments-route", **({"url": url} if url else {})}, **fields)
        self.plan = make_plan(spec, run_id=name)
        self.cluster, self.clock, self.run = ServiceCluster.at_share(self.plan, 0), Clock(), Run()
        self.cluster.edit(lambda body: body["spec"].update(hostnames=["shop.example.com"]))
        store_decision(self.plan, "judge", "HEALTHY", goes_on=True)
        monkeypatch.setattr(lease.LeaseRenewal, "seen", lambda _: True)
        monkeypatch.setattr(probe, "time", SimpleNamespace(monotonic=self.clock.time, sleep=self.clock.sleep))
        lead_to(self.cluster.api, monkeypatch)

    def shift(self, share: int = 5, claim: str | None = None, *, mirrored: bool = False) -> None:
        """Execute the task that gives a share, or copies."""
        owned: dict[str, Any] = {"plan": self.plan.dump(), "claim": claim or self.cluster.claim}
        step = ShiftCanaryOperator(task_id="shift", share=share, mirrored=mirrored, agreed=("judge", ""), **owned)
        step.execute(self.run.at("shift"))

    def ending(self, *rolled_back: State) -> dict[str, Any]:
        """Let the run have applied the candidate, and return the arguments of the tasks that end it.

        :param rolled_back: what ``rollback`` has recorded.
        """
        self.run.planned(self.plan)
        self.run.reach("apply", State.INIT, State.BUILDING, State.DEPLOYING)
        if rolled_back:
            self.run.reach("rollback", *rolled_back)
        return {**ENDING, "steps_of": ["apply", "shift", "rollback"]}

    @property
    def share(self) -> int:
        """The candidate's weight."""
        return self.cluster.weights()[self.plan.candidate]
