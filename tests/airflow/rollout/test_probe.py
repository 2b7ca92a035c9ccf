"""Before the first share a request of ours must arrive at the candidate, through a gateway that answers for real."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from airflow_deploy.domain.errors import FencedError, ProbeFailedError, RefusedError, TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.testers import TESTERS_LABELS
from airflow_deploy.operators import canary
from airflow_deploy.operators import finalize as settling
from airflow_deploy.operators.canary import ShiftCanaryOperator
from airflow_deploy.operators.finalize import FinalizeOperator, RollbackOperator
from airflow_deploy.rollout import lease
from airflow_deploy.rollout.routers import probe as testers
from airflow_deploy.rollout.routers.probe import PROBE_WAIT_SECONDS, delete_testers_route
from airflow_deploy.tasks.base import recorded_steps
from tests.airflow.operators.test_operators import ENDING, Run
from tests.airflow.rollout.test_rollback import real
from tests.support.builders import make_plan, make_spec
from tests.support.fake_cluster import FakeCluster
from tests.support.fake_world import Clock
from tests.support.judgement import START

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
        pass


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    server = Gateway()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Stage:
    """One deployment that has claimed its route and given no share yet; somebody looks all the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, url: str | None, name: str, **fields: Any) -> None:
        spec = make_spec(route={"name": "payments-route", **({"url": url} if url else {})}, **fields)
        self.plan = make_plan(spec, run_id=name)
        self.cluster, self.clock, self.run = FakeCluster.at_share(self.plan, 0), Clock(), Run()
        self.cluster.body["spec"]["hostnames"] = ["shop.example.com"]
        self.run.judged("judge", {"verdict": "HEALTHY"})
        monkeypatch.setattr(lease.LeaseRenewal, "seen", lambda _: True)
        monkeypatch.setattr(testers, "time", self.clock_of())
        for module in (canary, settling):
            monkeypatch.setattr(module, "Cluster", lambda _: self.cluster)

    def clock_of(self) -> Any:
        return type("Time", (), {"monotonic": self.clock.time, "sleep": self.clock.sleep})

    def shift(self, share: int = 5, claim: str | None = None, *, mirrored: bool = False) -> None:
        owned: dict[str, Any] = {"plan": self.plan.dump(), "claim": claim or self.cluster.claim}
        step = ShiftCanaryOperator(task_id="shift", share=share, mirrored=mirrored, agreed=("judge", ""), **owned)
        step.execute(self.run.at("shift"))

    @property
    def share(self) -> int:
        return self.cluster.weights()[self.plan.candidate]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, gateway: Gateway, request: pytest.FixtureRequest) -> Stage:
    return Stage(monkeypatch, gateway.url, request.node.name)


def delivered(plan: DeploymentPlan, status: int = 200) -> Callable[[], Answer]:
    return lambda: (status, {"x-canary-version": plan.candidate})


class TestProbe:
    def test_that_arrives_lets_the_first_share_be_given(self, stage: Stage, gateway: Gateway) -> None:
        gateway.answer = delivered(stage.plan, 404)
        stage.shift()
        ((path, headers),) = gateway.asked
        assert (path, headers["host"], headers["x-canary"]) == ("/", "shop.example.com", "always")
        assert stage.share == 5
        (first, _) = recorded_steps(stage.run.context, ["shift"])
        assert first.reason.endswith(f"; a request to {gateway.url} with x-canary: always was seen to arrive")

    def test_is_sent_until_it_arrives(self, stage: Stage, gateway: Gateway) -> None:
        answers = iter([(404, {}), (503, {"x-canary-version": stage.plan.candidate})])
        gateway.answer = lambda: next(answers, delivered(stage.plan)())
        stage.shift()
        assert (len(gateway.asked), stage.share) == (3, 5)

    @pytest.mark.parametrize(
        ("answer", "said"),
        [
            ((200, {}), "HTTP 200, not from payments-"),
            ((200, {"x-canary-version": "payments-fffffff-1"}), "HTTP 200, not from payments-"),
            ((302, {"Location": "http://127.0.0.1:1/"}), "HTTP 302, not from payments-"),
            ((503, {"x-canary-version": "{candidate}"}), ": 503; see whether"),
        ],
    )
    def test_that_does_not_arrive_lets_no_share_be_given(
        self, stage: Stage, gateway: Gateway, answer: Answer, said: str
    ) -> None:
        status, headers = answer
        gateway.answer = lambda: (status, {k: v.format(candidate=stage.plan.candidate) for k, v in headers.items()})
        with pytest.raises(ProbeFailedError, match=said):
            stage.shift()
        assert PROBE_WAIT_SECONDS <= stage.clock.now - START <= PROBE_WAIT_SECONDS + 1
        assert (stage.share, stage.cluster.now.shifts) == (0, [])
        assert recorded_steps(stage.run.context, ["shift"]) == []

    def test_that_nobody_answers_ends_rolled_back_and_says_why(
        self, stage: Stage, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        gateway.answer = lambda: (200, {})
        with pytest.raises(ProbeFailedError):
            stage.shift()
        stage.run.planned(stage.plan)
        stage.run.reach("apply", State.INIT, State.BUILDING, State.DEPLOYING)
        ending: dict[str, Any] = {**ENDING, "steps_of": ["apply", "shift", "rollback"]}
        RollbackOperator(task_id="rollback", judges=[], gates=[], **ending).execute(stage.run.at("rollback"))
        back, done = recorded_steps(stage.run.context, ["rollback"])
        assert (back.to, done.to) == (State.ROLLING_BACK, State.ROLLED_BACK)
        assert back.reason.startswith(f"shift: no traffic is given, since a GET of {gateway.url}/ with Host shop.")
        assert "HTTP 200, not from payments-" in back.reason
        assert back.reason.endswith("then deploy again")

    def test_comes_before_the_first_share_alone(self, stage: Stage, gateway: Gateway) -> None:
        stage.cluster.shift(5, 0.0)
        stage.shift(25)
        assert (gateway.asked, stage.share) == ([], 25)

    def test_of_an_address_at_which_nobody_is_ends_the_deployment(
        self, monkeypatch: pytest.MonkeyPatch, gateway: Gateway
    ) -> None:
        stage = Stage(monkeypatch, "http://127.0.0.1:1", "nobody")
        with pytest.raises(ProbeFailedError, match=r"no answer \(.*NewConnectionError"):
            stage.shift()
        assert stage.share == 0

    def test_without_an_address_the_share_says_that_it_was_not_seen(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stage = Stage(monkeypatch, None, "unknown")
        stage.shift()
        (first, _) = recorded_steps(stage.run.context, ["shift"])
        assert "the gateway was not asked, since route.url is not set" in first.reason
        assert (stage.share, stage.cluster.testers is not None) == (5, True)


class TestRoute:
    def test_is_written_once_and_again_by_the_next_deployment(self, stage: Stage, gateway: Gateway) -> None:
        gateway.answer = delivered(stage.plan)
        stage.shift()
        mine = stage.cluster.testers
        assert mine is not None
        stage.cluster.body["metadata"]["annotations"]["airflow-deploy/shifts"] = "[]"
        stage.cluster.body["spec"]["rules"][0]["backendRefs"][1]["weight"] = 0
        stage.cluster.body["spec"]["rules"][0]["backendRefs"][0]["weight"] = 100
        stage.shift()
        assert stage.cluster.testers == mine
        mine["metadata"]["annotations"]["airflow-deploy/owner"] = "DEP-1-00000000/1"
        mine["spec"]["rules"] = []
        testers._open(real(stage.cluster), stage.plan, stage.plan.claim(stage.cluster.claim), mirrored=False)
        (ref,) = stage.cluster.testers["spec"]["rules"][0]["backendRefs"]
        assert ref["name"] == stage.plan.candidate

    def test_is_not_written_by_a_run_that_was_overtaken(
        self, stage: Stage, gateway: Gateway, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The next one claims the route and writes its own between our two reads and our write."""
        named = {"name": "testers-payments-route", "namespace": "shop", "labels": TESTERS_LABELS}
        theirs: dict[str, Any] = {"metadata": named, "spec": {"rules": ["theirs"]}}
        create = stage.cluster.create_route

        def meanwhile(body: dict[str, Any]) -> None:
            create(theirs)
            create(body)

        monkeypatch.setattr(stage.cluster, "create_route", meanwhile)
        with pytest.raises(TemporaryError):
            stage.shift()
        assert stage.cluster.testers is not None
        assert stage.cluster.testers["spec"] == {"rules": ["theirs"]}
        with pytest.raises(FencedError):
            testers.probe_candidate(real(stage.cluster), stage.plan, stage.plan.claim())
        assert stage.cluster.testers["spec"] == {"rules": ["theirs"]}

    def test_of_an_earlier_run_is_not_written_over_by_one_that_was_overtaken(
        self, stage: Stage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        named = {"name": "testers-payments-route", "namespace": "shop", "labels": TESTERS_LABELS}
        theirs: dict[str, Any] = {"metadata": {**named, "annotations": {}}, "spec": {"rules": ["an earlier run's"]}}
        stage.cluster.create_route(theirs)
        route = stage.cluster.route

        def meanwhile(*where: str) -> HttpRoute:
            """Let the next one write its own between our two reads and our write."""
            there = stage.cluster.route_or_absent("shop", "testers-payments-route")
            patch = [{"op": "replace", "path": "/spec/rules", "value": ["theirs"]}]
            monkeypatch.setattr(stage.cluster, "route", route)
            stage.cluster.patch_route(there, patch)
            return route(*where)

        monkeypatch.setattr(stage.cluster, "route", meanwhile)
        with pytest.raises(TemporaryError):
            testers._open(real(stage.cluster), stage.plan, stage.plan.claim(stage.cluster.claim), mirrored=False)
        assert stage.cluster.testers is not None
        assert stage.cluster.testers["spec"] == {"rules": ["theirs"]}

    @pytest.mark.parametrize("labels", [{}, {"app.kubernetes.io/managed-by": "airflow-deploy"}])
    def test_of_a_team_is_left_alone(self, stage: Stage, labels: dict[str, str]) -> None:
        """As is one that the first deployment of a service has made whose name is so."""
        named = {"name": "testers-payments-route", "namespace": "shop", "labels": labels}
        own: dict[str, Any] = {"metadata": named, "spec": {}}
        stage.cluster.create_route(own)
        with pytest.raises(RefusedError, match=r"is not one of airflow-deploy's for testers; rename it"):
            stage.shift()
        assert delete_testers_route(real(stage.cluster), "shop", "payments-route", lambda _: True) is None
        assert stage.cluster.testers is not None

    def test_is_deleted_at_the_end_of_its_run_and_of_no_other(self, stage: Stage, gateway: Gateway) -> None:
        gateway.answer = delivered(stage.plan)
        stage.shift()
        assert delete_testers_route(real(stage.cluster), "shop", "payments-route", "DEP-1-00000000".__eq__) is None
        run = stage.run
        run.planned(stage.plan)
        run.reach("apply", State.INIT, State.BUILDING, State.DEPLOYING)
        run.reach("rollback", State.ROLLING_BACK, State.ROLLED_BACK)
        run.returned("audit", "there")
        assert stage.cluster.testers is not None
        ending: dict[str, Any] = {**ENDING, "steps_of": ["apply", "shift", "rollback"]}
        with pytest.raises(Exception, match="did not reach VERIFIED"):
            FinalizeOperator(task_id="finalize", audit="audit", **ending).execute(run.at("finalize"))
        assert stage.cluster.testers is None

    def test_that_was_written_anew_meanwhile_is_not_deleted(self, stage: Stage, gateway: Gateway) -> None:
        gateway.answer = delivered(stage.plan)
        stage.shift()
        there = HttpRoute(dict(stage.cluster.testers or {}))
        stale = {**there.body, "metadata": {**there.body["metadata"], "resourceVersion": "0"}}
        with pytest.raises(TemporaryError):
            stage.cluster.delete_route(HttpRoute(stale))
