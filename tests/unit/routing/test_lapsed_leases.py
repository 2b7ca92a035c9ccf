"""A Lease lapses after the guard has seen it unrenewed for its duration; time that it could not see does not count."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_deploy.domain.routing.lapsed_leases import MAX_GAP_SECONDS, LeaseMonitor
from airflow_deploy.domain.routing.lease import Lease

SECONDS = 15


def lease(version: int, seconds: int = SECONDS, route: str = "payments", uid: str = "a") -> Lease:
    metadata = {"name": f"airflow-deploy-{route}", "namespace": "shop", "uid": uid, "resourceVersion": str(version)}
    return Lease({"metadata": metadata, "spec": {"holderIdentity": "DEP-1/1", "leaseDurationSeconds": seconds}})


class Watcher:
    """A monitor and its clock."""

    def __init__(self) -> None:
        self.now, self.monitor = 1000.0, LeaseMonitor()

    def see(self, *leases: Lease, after: float = 1.0, took: float = 0.0) -> list[str]:
        """Ask ``after`` seconds, have an answer ``took`` seconds later, and return the routes that have lapsed."""
        self.now += after
        asked, self.now = self.now, self.now + took
        return [lapsed.lease.route for lapsed in self.monitor.see(leases, asked, self.now)]

    def until_lapsed(self, seen: Lease, **options: Any) -> float:
        """Return the seconds until it lapses."""
        begun = self.now
        for _ in range(1000):
            if self.see(seen, **options):
                return self.now - begun
        raise AssertionError("never")


def test_unrenewed_lease_lapses_after_its_duration() -> None:
    watcher = Watcher()
    watcher.see(lease(1))
    assert watcher.until_lapsed(lease(1)) == SECONDS


def test_renewed_lease_never_lapses() -> None:
    watcher = Watcher()
    assert not any(watcher.see(lease(version // 14)) for version in range(200))


def test_each_lease_lapses_after_its_own_duration() -> None:
    watcher = Watcher()
    both = lease(1, 15, "payments"), lease(2, 30, "orders")
    said = [watcher.see(*both) for _ in range(31)]
    assert said[15:30] == [["payments"]] * 15
    assert said[30] == ["payments", "orders"]


def test_leases_of_two_routers_with_one_route_name_are_separate() -> None:
    """After a service changes its router, its old Lease may remain."""
    watcher = Watcher()
    both = lease(1), lease(2, route="payments.pods")
    said = [watcher.see(*both) for _ in range(SECONDS + 1)]
    assert said == [[]] * SECONDS + [["payments", "payments"]]


def test_recreated_lease_counts_as_renewed() -> None:
    """A new object may have the resource version of the old one."""
    watcher = Watcher()
    for _ in range(SECONDS):
        watcher.see(lease(1))
    assert watcher.see(lease(1, uid="b")) == []


def test_lease_missing_from_one_list_starts_again() -> None:
    watcher = Watcher()
    for _ in range(SECONDS):
        watcher.see(lease(1))
    assert watcher.see() == []
    assert watcher.see(lease(1)) == []


def test_first_list_after_a_start_lapses_no_lease() -> None:
    assert Watcher().see(lease(1), after=1e6) == []


class TestBlindTime:
    @pytest.mark.parametrize("minutes", [1, 60])
    def test_api_server_outage_does_not_count(self, minutes: int) -> None:
        watcher = Watcher()
        for _ in range(10):
            watcher.see(lease(1))
        watcher.monitor.mark_unobserved()
        assert watcher.see(lease(1), after=60.0 * minutes) == []
        assert watcher.until_lapsed(lease(1)) == SECONDS - 9

    def test_failing_lists_delay_the_lapse_but_do_not_prevent_it(self) -> None:
        """A failed list does not restart the time: if every fifth failed, no Lease would ever lapse."""
        watcher, said, passed = Watcher(), False, 0
        while not said:
            passed += 1
            if passed % 5:
                said = bool(watcher.see(lease(1)))
            else:
                watcher.now += 1
                watcher.monitor.mark_unobserved()
        assert SECONDS < passed < 2 * SECONDS

    def test_response_time_of_a_list_does_not_count(self) -> None:
        """A renewal may have come while it was on its way, and renewals take as long."""
        watcher = Watcher()
        watcher.see(lease(1))
        assert watcher.until_lapsed(lease(1), took=9.0) == 10 * SECONDS

    def test_pause_of_the_guard_does_not_count(self) -> None:
        watcher = Watcher()
        watcher.see(lease(1))
        assert watcher.see(lease(1), after=MAX_GAP_SECONDS + 0.1) == []
        assert watcher.see(lease(1), after=3600.0) == []
        assert watcher.until_lapsed(lease(1)) == SECONDS
