"""Before the first share a request of ours must reach the candidate, through a gateway that answers for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_deploy.clients.kubernetes.errors import AlreadyExistsError, ConflictError
from airflow_deploy.clients.kubernetes.routes import delete_route
from airflow_deploy.domain.errors import (
    FencedError,
    NotFinalizedError,
    ProbeFailedError,
    RefusedError,
    TemporaryError,
)
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.testers import TESTERS_LABELS
from airflow_deploy.operators.finalize import FinalizeOperator
from airflow_deploy.operators.rollback import RollbackOperator
from airflow_deploy.rollout.routers import probe as testers
from airflow_deploy.rollout.routers.probe import PROBE_WAIT_SECONDS, delete_testers_route
from airflow_deploy.tasks.base import recorded_steps
from tests.support.delivery import Answer, FirstShare, Gateway, serving
from tests.support.judgement import START
from tests.support.kubernetes_api import Object


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with serving() as server:
        yield server


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, gateway: Gateway, request: pytest.FixtureRequest) -> FirstShare:
    return FirstShare(monkeypatch, gateway.url, request.node.name)


def delivered(plan: DeploymentPlan, status: int = 200) -> Callable[[], Answer]:
    return lambda: (status, {"x-canary-version": plan.candidate})


class TestProbe:
    def test_probe_that_arrives_permits_the_first_share(self, stage: FirstShare, gateway: Gateway) -> None:
        gateway.answer = delivered(stage.plan, 404)
        stage.shift()
        ((path, headers),) = gateway.asked
        assert (path, headers["host"], headers["x-canary"]) == ("/", "shop.example.com", "always")
        assert stage.share == 5
        (first, _) = recorded_steps(stage.run.context, ["shift"])
        assert first.reason.endswith(f"; a request to {gateway.url} with x-canary: always was seen to arrive")

    def test_probe_is_sent_until_it_arrives(self, stage: FirstShare, gateway: Gateway) -> None:
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
    def test_probe_that_does_not_arrive_permits_no_share(
        self, stage: FirstShare, gateway: Gateway, answer: Answer, said: str
    ) -> None:
        status, headers = answer
        gateway.answer = lambda: (status, {k: v.format(candidate=stage.plan.candidate) for k, v in headers.items()})
        with pytest.raises(ProbeFailedError, match=said):
            stage.shift()
        assert PROBE_WAIT_SECONDS <= stage.clock.now - START <= PROBE_WAIT_SECONDS + 1
        assert (stage.share, stage.cluster.now.shifts) == (0, [])
        assert recorded_steps(stage.run.context, ["shift"]) == []

    def test_run_whose_probe_failed_is_rolled_back_and_says_why(self, stage: FirstShare, gateway: Gateway) -> None:
        gateway.answer = lambda: (200, {})
        with pytest.raises(ProbeFailedError):
            stage.shift()
        operator = RollbackOperator(task_id="rollback", judges=[], gates=[], **stage.ending())
        operator.execute(stage.run.at("rollback"))
        back, done = recorded_steps(stage.run.context, ["rollback"])
        assert (back.to, done.to) == (State.ROLLING_BACK, State.ROLLED_BACK)
        assert back.reason.startswith(f"shift: no traffic is given, since a GET of {gateway.url}/ with Host shop.")
        assert "HTTP 200, not from payments-" in back.reason
        assert back.reason.endswith("then deploy again")

    def test_probe_is_sent_before_the_first_share_alone(self, stage: FirstShare, gateway: Gateway) -> None:
        stage.cluster.shift(5, 0.0)
        stage.shift(25)
        assert (gateway.asked, stage.share) == ([], 25)

    def test_probe_of_an_address_without_a_server_ends_the_deployment(
        self, monkeypatch: pytest.MonkeyPatch, gateway: Gateway
    ) -> None:
        stage = FirstShare(monkeypatch, "http://127.0.0.1:1", "unserved")
        with pytest.raises(ProbeFailedError, match=r"no answer \(.*NewConnectionError"):
            stage.shift()
        assert stage.share == 0

    def test_share_without_an_address_says_that_no_probe_was_sent(self, monkeypatch: pytest.MonkeyPatch) -> None:
        stage = FirstShare(monkeypatch, None, "unknown")
        stage.shift()
        (first, _) = recorded_steps(stage.run.context, ["shift"])
        assert "the gateway was not asked, since route.url is not set" in first.reason
        assert (stage.share, stage.cluster.testers is not None) == (5, True)


def route_for_testers(name: str, labels: dict[str, str], rules: list[Any]) -> Object:
    metadata = {"name": "testers-payments-route", "namespace": "shop", "labels": labels, "annotations": {"is": name}}
    return {"kind": "HTTPRoute", "metadata": metadata, "spec": {"rules": rules}}


THEIRS = [{"name": "theirs"}]
"""The rules that another run has written."""


class TestRouteForTesters:
    def test_testers_route_is_written_once_and_again_by_the_next_deployment(
        self, stage: FirstShare, gateway: Gateway
    ) -> None:
        gateway.answer = delivered(stage.plan)
        stage.shift()
        mine = stage.cluster.testers
        assert mine is not None

        def unshifted(body: Object) -> None:
            body["metadata"]["annotations"]["airflow-deploy/shifts"] = "[]"
            stable, candidate = body["spec"]["rules"][0]["backendRefs"]
            stable["weight"], candidate["weight"] = 100, 0

        stage.cluster.edit(unshifted)
        stage.shift()
        assert stage.cluster.testers == mine

        def of_an_earlier_run(body: Object) -> None:
            body["metadata"]["annotations"]["airflow-deploy/owner"] = "DEP-1-00000000/1"
            body["spec"]["rules"] = []

        stage.cluster.api.edit("HTTPRoute", "shop", "testers-payments-route", of_an_earlier_run)
        testers._open(stage.cluster.client, stage.plan, stage.plan.claim(stage.cluster.claim), mirrored=False)
        assert stage.cluster.testers is not None
        (ref,) = stage.cluster.testers["spec"]["rules"][0]["backendRefs"]
        assert ref["name"] == stage.plan.candidate

    def test_testers_route_is_not_written_by_a_run_that_was_overtaken(self, stage: FirstShare) -> None:
        """The next one claims the route and writes its own between our two reads and our write."""
        cluster, theirs = stage.cluster, route_for_testers("theirs", TESTERS_LABELS, THEIRS)
        cluster.api.before("httproutes", lambda: cluster.api.add(theirs), method="POST")
        with pytest.raises(AlreadyExistsError):
            stage.shift()
        assert cluster.testers is not None
        assert cluster.testers["spec"] == {"rules": THEIRS}
        with pytest.raises(FencedError):
            testers.probe_candidate(cluster.client, stage.plan, stage.plan.claim())
        assert cluster.testers["spec"] == {"rules": THEIRS}

    def test_testers_route_of_an_earlier_run_is_not_written_over_by_a_run_that_was_overtaken(
        self, stage: FirstShare
    ) -> None:
        """The next one writes its own between our two reads and our write."""
        cluster = stage.cluster
        cluster.api.add(route_for_testers("earlier", TESTERS_LABELS, [{"name": "an earlier run's"}]))

        def written() -> None:
            cluster.api.edit(
                "HTTPRoute", "shop", "testers-payments-route", lambda body: body["spec"].update(rules=THEIRS)
            )

        cluster.api.before("httproutes/payments-route", written, method="GET")
        with pytest.raises(TemporaryError):
            testers._open(cluster.client, stage.plan, stage.plan.claim(cluster.claim), mirrored=False)
        assert cluster.testers is not None
        assert cluster.testers["spec"] == {"rules": THEIRS}

    @pytest.mark.parametrize("labels", [{}, {"app.kubernetes.io/managed-by": "airflow-deploy"}])
    def test_route_of_a_team_that_has_the_name_is_left_alone(self, stage: FirstShare, labels: dict[str, str]) -> None:
        """So is a route of that name that the first deployment of a service has made."""
        cluster = stage.cluster
        cluster.api.add(route_for_testers("team's", labels, []))
        with pytest.raises(RefusedError, match=r"is not one of airflow-deploy's for testers; rename it"):
            stage.shift()
        assert delete_testers_route(cluster.client, "shop", "payments-route", lambda _: True) is None
        assert cluster.testers is not None

    def test_testers_route_is_deleted_at_the_end_of_its_own_run_alone(
        self, stage: FirstShare, gateway: Gateway
    ) -> None:
        gateway.answer = delivered(stage.plan)
        stage.shift()
        client = stage.cluster.client
        assert delete_testers_route(client, "shop", "payments-route", "DEP-1-00000000".__eq__) is None
        assert stage.cluster.testers is not None
        ending = stage.ending(State.ROLLING_BACK, State.ROLLED_BACK)
        stage.run.returned("audit", "there")
        with pytest.raises(NotFinalizedError, match="did not reach VERIFIED"):
            FinalizeOperator(task_id="finalize", audit="audit", **ending).execute(stage.run.at("finalize"))
        assert stage.cluster.testers is None

    def test_testers_route_that_was_written_since_it_was_read_is_not_deleted(
        self, stage: FirstShare, gateway: Gateway
    ) -> None:
        gateway.answer = delivered(stage.plan)
        stage.shift()
        there = HttpRoute(dict(stage.cluster.testers or {}))
        stale = {**there.body, "metadata": {**there.body["metadata"], "resourceVersion": "0"}}
        with pytest.raises(ConflictError):
            delete_route(stage.cluster.client, HttpRoute(stale))
        assert stage.cluster.testers is not None
