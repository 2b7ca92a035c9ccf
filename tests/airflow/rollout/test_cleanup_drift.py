"""A version that is not as it was applied is reported with the field that differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.kubernetes_api import Object
from tests.support.versions import DeployedService

pytestmark = [pytest.mark.usefixtures("store"), pytest.mark.parametrize("which", [0, 1], ids=["warm", "serving"])]

Change = Callable[[str, str, Any], list[str]]


@pytest.fixture
def service() -> DeployedService:
    """Two versions: one that serves, and the one before."""
    service = DeployedService()
    service.deploy()
    service.deploy()
    return service


@pytest.fixture
def change(service: DeployedService, which: int) -> Change:
    """Return what changes a field of the version by hand, and returns what the next pass reports."""

    def changed(kind: str, path: str, value: Any) -> list[str]:
        *parents, last = [part.replace("~1", "/") for part in path.split("/")]

        def write(body: Object) -> None:
            target: Any = body
            for part in parents:
                target = target[int(part) if part.isdigit() else part]
            assert target.get(last) != value
            target[last] = value

        service.cluster.api.edit(kind, "payments", service.plans[which].candidate, write)
        return service.clean_up(60).alarms

    return changed


class TestDrift:
    @pytest.mark.parametrize(
        ("kind", "path", "value"),
        [
            ("Deployment", "spec/template/spec/containers/0/image", "evil:latest"),
            ("Deployment", "spec/template/spec/containers/0/env", []),
            ("Deployment", "spec/template/spec/containers/0/resources/limits/cpu", "2"),
            ("Deployment", "spec/template/spec/containers/0/securityContext/allowPrivilegeEscalation", True),
            ("Service", "spec/selector", {"app": "other"}),
            ("PodDisruptionBudget", "spec/minAvailable", 0),
            ("NetworkPolicy", "spec/ingress/0/ports/0/port", 22),
        ],
    )
    def test_a_field_that_was_declared_and_changed_is_reported_without_its_value(
        self, service: DeployedService, change: Change, which: int, kind: str, path: str, value: Any
    ) -> None:
        (said,) = change(kind, path, value)
        name = service.plans[which].candidate
        assert said.startswith(f"{name} is not as it was applied: {kind}.{path.split('/')[0]}")
        assert str(value) not in said or not isinstance(value, str)

    @pytest.mark.parametrize(
        ("kind", "path", "value"),
        [
            ("Deployment", "spec/replicas", 7),
            ("Deployment", "spec/template/spec/containers/0/resources/limits/cpu", "0.5"),
            ("Deployment", "spec/revisionHistoryLimit", 10),
            ("Deployment", "metadata/labels/app.kubernetes.io~1x", "added"),
            ("Service", "spec/clusterIP", "10.0.0.1"),
        ],
    )
    def test_a_field_that_was_not_declared_or_is_written_differently_is_not_reported(
        self, change: Change, kind: str, path: str, value: Any
    ) -> None:
        assert change(kind, path, value) == []

    @pytest.mark.parametrize("kind", ["ConfigMap", "Service", "NetworkPolicy", "PodDisruptionBudget"])
    def test_a_missing_object_is_reported(self, service: DeployedService, which: int, kind: str) -> None:
        service.cluster.api.remove(kind, "payments", service.plans[which].candidate)
        (said,) = service.clean_up(60).alarms
        assert f"{kind} is missing" in said
