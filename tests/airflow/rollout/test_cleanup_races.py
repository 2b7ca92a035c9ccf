"""Cleanup while others write, and cleanup that is killed: nothing with users is stopped, and the next pass ends it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from airflow_deploy.clients.kubernetes.kinds import KINDS
from airflow_deploy.clients.kubernetes.versions import VERSION_KINDS
from airflow_deploy.domain.errors import NotFinalizedError, TemporaryError
from airflow_deploy.rollout.cleanup import CleanupResult, clean_up, survey
from tests.support.claims import undo
from tests.support.kubernetes_api import Object, Request
from tests.support.versions import WINDOW, DeployedService, claim_route, send_all_to, touch

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture
def service() -> DeployedService:
    return DeployedService()


class TestChangedAfterTheSurvey:
    def test_a_version_that_was_changed_is_not_stopped(self, service: DeployedService) -> None:
        plan = service.apply()
        service.now += WINDOW
        seen = survey(service.cluster.client, plan)
        touch(service.cluster, "Deployment", plan)
        with pytest.raises(TemporaryError):
            clean_up(seen, service.now)
        assert service.pods() == {plan.candidate: 2}

    @pytest.mark.parametrize("kind", sorted(set(VERSION_KINDS) - {"ConfigMap"}))
    def test_a_version_that_was_changed_is_not_deleted(self, service: DeployedService, kind: str) -> None:
        first = service.deploy()
        service.deploy()
        service.clean_up(WINDOW)
        service.deploy()
        seen = survey(service.cluster.client, service.plans[-1])
        touch(service.cluster, kind, first)
        with pytest.raises(TemporaryError):
            clean_up(seen, service.now)
        assert kind in service.has(first)

    def test_the_stable_of_a_run_that_has_begun_is_not_stopped(self, service: DeployedService) -> None:
        first = service.deploy()
        service.deploy()
        service.now += WINDOW
        seen = survey(service.cluster.client, service.plans[-1])
        claim_route(service.cluster, service.apply())
        with pytest.raises(TemporaryError):
            clean_up(seen, service.now)
        assert service.pods_of(first) == 2

    def test_a_version_that_traffic_returned_to_is_not_stopped(self, service: DeployedService) -> None:
        first, second = service.deploy(), service.deploy()
        service.now += WINDOW
        seen = survey(service.cluster.client, second)
        assert undo(service.cluster.client, second)
        with pytest.raises(TemporaryError):
            clean_up(seen, service.now)
        assert service.pods_of(first) == 2

    @pytest.mark.parametrize("which", ["the previous one", "an older one"])
    def test_a_version_that_was_given_traffic_by_hand_is_not_stopped(
        self, service: DeployedService, which: str
    ) -> None:
        plans = [service.deploy() for _ in range(3)]
        chosen = plans[1 if which == "the previous one" else 0]
        service.now += WINDOW
        seen = survey(service.cluster.client, plans[-1])
        send_all_to(service.cluster, chosen.candidate)
        with pytest.raises(TemporaryError):
            clean_up(seen, service.now)
        assert service.pods_of(chosen) == 2


class TestRollbackOfAPromotion:
    def test_traffic_does_not_return_to_a_version_that_is_being_stopped(self, service: DeployedService) -> None:
        """The verification has read the route, and found pods that are ready."""
        first, second = service.deploy(), service.deploy()
        results: list[CleanupResult] = []
        service.cluster.api.after("endpointslices", lambda: results.append(service.clean_up(WINDOW)), method="GET")
        with pytest.raises(TemporaryError):
            undo(service.cluster.client, second)
        assert [result.done for result in results] == [[f"stopped {first.candidate}"]]
        assert service.cluster.weights() == {first.candidate: 0, second.candidate: 100}
        with pytest.raises(NotFinalizedError, match="is over; nothing was changed"):
            undo(service.cluster.client, second)

    def test_traffic_returns_to_a_stopped_version_that_a_person_has_made_the_stable_again(
        self, service: DeployedService
    ) -> None:
        """A person starts an old version and gives it the traffic; then the next fix comes."""
        first = service.deploy()
        service.deploy()
        service.clean_up(WINDOW)
        service.cluster.replicas[first.candidate] = 2

        def change(body: Object) -> None:
            for ref in body["spec"]["rules"][0]["backendRefs"]:
                ref["weight"] = 100 * (ref["name"] == first.candidate)

        service.cluster.edit(change)
        third = service.deploy()
        assert undo(service.cluster.client, third)


class Killed(BaseException):
    """The process ended here."""


class TestInterruptedCleanup:
    WRITES = (
        ("PATCH", "httproutes/"),
        ("PATCH", "deployments/"),
        *(("DELETE", f"{KINDS[kind].plural}/") for kind in VERSION_KINDS),
    )
    """The method and a part of the path of each write, in their order."""

    def prepared(self) -> DeployedService:
        """A version to be stopped, and one to be deleted."""
        service = DeployedService()
        service.deploy()
        service.deploy()
        service.deploy()
        service.cluster.replicas[service.plans[0].candidate] = 0
        service.now += WINDOW
        return service

    def check_done(self, service: DeployedService) -> None:
        first, second, third = service.plans
        assert service.has(first) == []
        assert service.pods() == {second.candidate: 0, third.candidate: 2}
        assert service.cluster.now.stopped == second.candidate

    def test_there_is_no_other_write_at_which_it_could_be_killed(self) -> None:
        service = self.prepared()
        with service.cluster.api.recorded() as requests:
            service.clean_up()
        writes = [request for request in requests if request.writes]
        assert [self.known(request) for request in writes] == [*self.WRITES]
        self.check_done(service)

    def known(self, request: Request) -> tuple[str, str]:
        (found,) = (one for one in self.WRITES if one[0] == request.method and one[1] in request.path)
        return found

    @pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
    @pytest.mark.parametrize(("method", "path"), WRITES, ids=lambda part: part.strip("/"))
    def test_the_next_pass_completes_what_was_killed(self, method: str, path: str, done: bool) -> None:
        service = self.prepared()
        seen = survey(service.cluster.client, service.plans[-1])
        service.cluster.api.fail(path, method=method, exception=Killed, done=done)
        with pytest.raises(Killed):
            clean_up(seen, service.now)
        service.clean_up()
        self.check_done(service)
        assert service.clean_up() == CleanupResult()

    @pytest.mark.parametrize("order", ["before", "after"])
    @pytest.mark.parametrize(("method", "path"), WRITES, ids=lambda part: part.strip("/"))
    def test_another_pass_at_the_same_time_does_no_harm(self, method: str, path: str, order: str) -> None:
        service = self.prepared()
        seen = survey(service.cluster.client, service.plans[-1])
        passes: list[None] = []

        def other() -> None:
            passes.append(None)
            self.attempt(service.clean_up)

        hook = service.cluster.api.before if order == "before" else service.cluster.api.after
        hook(path, other, method=method)
        self.attempt(lambda: clean_up(seen, service.now))
        assert len(passes) == 1
        service.clean_up()
        self.check_done(service)
        assert service.clean_up() == CleanupResult()

    @staticmethod
    def attempt(do: Callable[[], object]) -> None:
        with suppress(TemporaryError):
            do()
