"""The guard counts the time in which it saw that nobody looked, and no other time."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_deploy.domain.routing.lease import Lease
from airflow_deploy.domain.routing.lease_monitor import MAX_GAP_SECONDS, LeaseMonitor

SECONDS = 15


def lease(version: int, seconds: int = SECONDS, route: str = "payments", uid: str = "a") -> Lease:
    metadata = {"name": f"airflow-deploy-{route}", "namespace": "shop", "uid": uid, "resourceVersion": str(version)}
    return Lease({"metadata": metadata, "spec": {"holderIdentity": "DEP-1/1", "leaseDurationSeconds": seconds}})


class Watcher:
    """One vigil, and its clock."""

    def __init__(self) -> None:
        self.now, self.vigil = 1000.0, LeaseMonitor()

    def see(self, *leases: Lease, after: float = 1.0, took: float = 0.0) -> list[str]:
        """Ask ``after`` seconds, have an answer ``took`` seconds later, and return the routes that have lapsed."""
        self.now += after
        asked, self.now = self.now, self.now + took
        return [lapsed.lease.route for lapsed in self.vigil.see(leases, asked, self.now)]

    def until_lapsed(self, seen: Lease, **options: Any) -> float:
        """Return after how many seconds it is said."""
        begun = self.now
        for _ in range(1000):
            if self.see(seen, **options):
                return self.now - begun
        raise AssertionError("never")


def test_a_lease_that_never_changes_lapses_when_it_says_so() -> None:
    watcher = Watcher()
    watcher.see(lease(1))
    assert watcher.until_lapsed(lease(1)) == SECONDS


def test_one_that_changes_never_does() -> None:
    watcher = Watcher()
    assert not any(watcher.see(lease(version // 14)) for version in range(200))


def test_each_lease_by_its_own_time() -> None:
    watcher = Watcher()
    both = lease(1, 15, "payments"), lease(2, 30, "orders")
    said = [watcher.see(*both) for _ in range(31)]
    assert said[15:30] == [["payments"]] * 15
    assert said[30] == ["payments", "orders"]


def test_two_routers_may_have_a_route_of_one_name() -> None:
    """A service has gone from one to the other, say, and its old Lease stays."""
    watcher = Watcher()
    both = lease(1), lease(2, route="payments.pods")
    said = [watcher.see(*both) for _ in range(SECONDS + 1)]
    assert said == [[]] * SECONDS + [["payments", "payments"]]


def test_one_that_was_made_again_has_changed() -> None:
    """The versions of a new object need not differ from an old one's."""
    watcher = Watcher()
    for _ in range(SECONDS):
        watcher.see(lease(1))
    assert watcher.see(lease(1, uid="b")) == []


def test_one_that_was_away_for_a_sight_begins_anew() -> None:
    watcher = Watcher()
    for _ in range(SECONDS):
        watcher.see(lease(1))
    assert watcher.see() == []
    assert watcher.see(lease(1)) == []


def test_a_guard_that_has_just_started_knows_nothing_of_before() -> None:
    assert Watcher().see(lease(1), after=1e6) == []


class TestBlindTime:
    @pytest.mark.parametrize("minutes", [1, 60])
    def test_an_api_server_that_was_away_is_no_runs_fault(self, minutes: int) -> None:
        watcher = Watcher()
        for _ in range(10):
            watcher.see(lease(1))
        watcher.vigil.mark_unobserved()
        assert watcher.see(lease(1), after=60.0 * minutes) == []
        assert watcher.until_lapsed(lease(1)) == SECONDS - 9

    def test_one_that_fails_now_and_then_only_makes_it_later(self) -> None:
        """Blinks do not begin anew: where every fifth list fails, nobody would ever be taken back."""
        watcher, said, passed = Watcher(), False, 0
        while not said:
            passed += 1
            if passed % 5:
                said = bool(watcher.see(lease(1)))
            else:
                watcher.now += 1
                watcher.vigil.mark_unobserved()
        assert SECONDS < passed < 2 * SECONDS

    def test_the_time_that_an_answer_takes_does_not_count(self) -> None:
        """A renewal may have come while it was on its way, and renewals take as long."""
        watcher = Watcher()
        watcher.see(lease(1))
        assert watcher.until_lapsed(lease(1), took=9.0) == 10 * SECONDS

    def test_a_pause_of_the_guards_own_does_not_count(self) -> None:
        watcher = Watcher()
        watcher.see(lease(1))
        assert watcher.see(lease(1), after=MAX_GAP_SECONDS + 0.1) == []
        assert watcher.see(lease(1), after=3600.0) == []
        assert watcher.until_lapsed(lease(1)) == SECONDS
