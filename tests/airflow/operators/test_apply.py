"""``apply_manifest`` records what it applies before the first object: a run that dies later can still be found."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from airflow_deploy.clients.artifacts import Artifacts, frozen_plan
from airflow_deploy.operators import apply as applying
from airflow_deploy.operators.apply import ApplyManifestOperator
from tests.support.builders import make_plan
from tests.support.cluster import lead_to
from tests.support.recorded_run import Run
from tests.support.service_cluster import ServiceCluster

pytestmark = pytest.mark.usefixtures("store")


class TestRecord:
    @pytest.fixture
    def cluster(self) -> ServiceCluster:
        return ServiceCluster(make_plan())

    @pytest.fixture
    def recorded(self, cluster: ServiceCluster) -> list[bool]:
        """Whether the plan was on record, for each write to the cluster."""
        found: list[bool] = []
        plan = cluster.plan
        cluster.api.on_write(lambda _: found.append(frozen_plan(plan.spec.service, plan.deployment_id) == plan))
        return found

    @pytest.fixture
    def apply(self, cluster: ServiceCluster, monkeypatch: pytest.MonkeyPatch) -> Callable[[], object]:
        lead_to(cluster.api, monkeypatch)
        monkeypatch.setattr(applying, "check_agreed", lambda *_: None)
        operator = ApplyManifestOperator(task_id="apply", agreed=("judge", "ask"), plan=cluster.plan.dump())
        return lambda: operator.execute(Run().at("apply"))

    def test_it_is_written_before_the_first_object(self, apply: Callable[[], object], recorded: list[bool]) -> None:
        apply()
        assert set(recorded) == {True}

    def test_nothing_else_is_written_if_it_cannot_be(
        self, apply: Callable[[], object], recorded: list[bool], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> str:
            raise OSError("no space left")

        monkeypatch.setattr(Artifacts, "write", full)
        with pytest.raises(OSError, match="no space left"):
            apply()
        assert recorded == []
