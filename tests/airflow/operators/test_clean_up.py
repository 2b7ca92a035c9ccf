"""One pass of ``clean_up`` over all services: what one of them suffers is no other's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from airflow.sdk import Context

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.domain.errors import PermanentError
from airflow_deploy.operators import cleanup as cleaning
from airflow_deploy.operators.cleanup import CleanupOperator
from tests.support.cluster import lead_each_to
from tests.support.judgement import START
from tests.support.kubernetes_api import Object
from tests.support.versions import WINDOW, DeployedService

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def one_pass(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Return what runs the task over some services, and returns what it logs of them."""
    lines: list[str] = []
    log = logging.getLogger("a pass of the cleanup")
    monkeypatch.setattr(log, "info", lambda text, *given: lines.append(text % given))
    monkeypatch.setattr(CleanupOperator, "log", log)

    def run(*services: DeployedService, live: dict[str, str] | None = None) -> list[str]:
        lines.clear()
        lead_each_to({f"to-{service.name}": service.cluster.api for service in services}, monkeypatch)
        now = max(service.now for service in services) if services else START
        monkeypatch.setattr(cleaning, "time", SimpleNamespace(time=lambda: now))

        def count(dag_id: str, *, states: list[str]) -> int:
            return int((live or {}).get(dag_id) in states)

        context = cast("Context", {"ti": SimpleNamespace(get_dr_count=count)})
        CleanupOperator(task_id="cleanup").execute(context)
        return lines[1:-1]

    yield run
    assert all(line.isprintable() for line in lines)


def with_work(name: str) -> DeployedService:
    """Return a service with a version that is to be stopped, and with a cluster and a connection of its own."""
    service = DeployedService(name)
    service.deploy()
    service.deploy()
    service.now += WINDOW
    for plan in service.plans:
        connections = plan.spec.connections.model_copy(update={"kubernetes": f"to-{service.name}"})
        moved = plan.model_copy(update={"spec": plan.spec.model_copy(update={"connections": connections})})
        Artifacts(moved).freeze(Artifacts(plan).read(f"manifest_{plan.deployment_id}.yaml"))
    return service


def outcomes(lines: list[str]) -> list[str]:
    """Return what became of each service."""
    return [line.split()[1] for line in lines]


class TestPass:
    def test_every_service_is_cleaned_up(self, one_pass: Callable[..., list[str]]) -> None:
        services = [with_work("orders"), with_work("payments")]
        assert [line.split()[:3] for line in one_pass(*services)] == [
            ["orders", "TIDIED", "stopped"],
            ["payments", "TIDIED", "stopped"],
        ]
        assert [line.split()[:2] for line in one_pass(*services)] == [["orders", "TIDY"], ["payments", "TIDY"]]

    def test_it_succeeds_without_any_deployment(self, one_pass: Callable[..., list[str]]) -> None:
        assert one_pass() == []

    @pytest.mark.parametrize("state", ["queued", "running"])
    def test_a_service_with_a_live_run_is_left(self, one_pass: Callable[..., list[str]], state: str) -> None:
        services = [with_work("orders"), with_work("payments")]
        before = services[0].state()
        assert outcomes(one_pass(*services, live={"deploy_orders": state})) == ["LEFT", "TIDIED"]
        assert services[0].state() == before

    def test_live_runs_are_asked_for_after_the_survey(self, one_pass: Callable[..., list[str]]) -> None:
        """A run that begins in between has its candidate among what was seen."""
        service = with_work("payments")
        live: dict[str, str] = {}
        service.cluster.api.before(
            "/httproutes/payments-route", lambda: live.update(deploy_payments="running"), method="GET"
        )
        assert outcomes(one_pass(service, live=live)) == ["LEFT"]
        assert live

    def test_a_service_whose_record_is_garbled_is_passed_over(
        self, one_pass: Callable[..., list[str]], store: Path
    ) -> None:
        services = [with_work("orders"), with_work("payments")]
        for path in (store / "orders").glob("*/plan_*.json"):
            path.write_text("[" * 20_000)
        assert [line.split()[0] for line in one_pass(*services)] == ["payments"]


class TestFaults:
    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", "/pods"),
            ("GET", "/deployments"),
            ("GET", "/httproutes/"),
            ("PATCH", "/httproutes/"),
            ("PATCH", "deployments/"),
        ],
    )
    @pytest.mark.parametrize("fault", [{"status": 503}, {"exception": ZeroDivisionError("a\nb")}], ids=["503", "bug"])
    def test_a_service_whose_server_does_not_answer_is_left_to_a_later_pass(
        self, one_pass: Callable[..., list[str]], method: str, path: str, fault: dict[str, Any]
    ) -> None:
        services = [with_work("orders"), with_work("payments")]
        services[0].cluster.api.fail(path, method=method, **fault)
        assert outcomes(one_pass(*services)) == ["LEFT", "TIDIED"]
        assert outcomes(one_pass(*services)) == ["TIDIED", "TIDY"]

    @pytest.mark.parametrize("path", ["/deployments", "/httproutes/"])
    def test_a_service_whose_namespace_is_gone_is_left(self, one_pass: Callable[..., list[str]], path: str) -> None:
        """With the namespace, the right to read it is gone."""
        service = with_work("payments")
        service.cluster.api.fail(path, 403, method="GET")
        assert outcomes(one_pass(service)) == ["LEFT"]

    @pytest.mark.parametrize(("status", "body"), [(403, None), (400, "no")], ids=["forbidden", "not accepted"])
    def test_it_fails_at_its_end_if_a_write_is_not_permitted(
        self, one_pass: Callable[..., list[str]], status: int, body: str | None
    ) -> None:
        services = [with_work("orders"), with_work("payments")]
        services[0].cluster.api.fail("deployments/", status, method="PATCH", body=body)
        with pytest.raises(PermanentError, match=rf"^orders: writing Deployment orders/\S+: HTTP {status}"):
            one_pass(*services)
        assert services[1].cluster.now.stopped == services[1].plans[0].candidate

    def test_it_fails_at_its_end_if_a_version_was_changed_and_names_the_field(
        self, one_pass: Callable[..., list[str]]
    ) -> None:
        services = [with_work("orders"), with_work("payments")]
        name = services[0].plans[1].candidate

        def change(body: Object) -> None:
            body["spec"]["selector"] = {}

        services[0].cluster.api.edit("Service", "orders", name, change)
        with pytest.raises(PermanentError, match=rf"^orders: {name} is not as it was applied: Service\.spec\.selector"):
            one_pass(*services)
        assert services[1].cluster.now.stopped == services[1].plans[0].candidate
