"""A gateway that mirrors by the standard filter: weights stay, and the filter stands while copies are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_deploy.domain.errors import FencedError, RefusedError
from airflow_deploy.domain.names import mirror_name
from airflow_deploy.domain.routing import testers
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.http_route import TRAEFIK_CONTROLLER, HttpRoute, mirror_filter
from airflow_deploy.domain.routing.record import BRAKED, SETTLED, Patch, Shift
from airflow_deploy.domain.workloads import mirror
from tests.support.builders import make_plan, make_spec
from tests.support.claims import guard_patch
from tests.support.gateways import ENVOY, taken_by
from tests.support.json_patch import PatchRefused
from tests.unit.routing.test_shadow import SHADOWED
from tests.unit.routing.test_transitions import CANDIDATE, CLAIM, OURS, STABLE, backend, body, weights, write

MIRROR = mirror_name(CANDIDATE)
COPIES = mirror_filter(CANDIDATE, 80, 25)
THEIRS = {"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x-debug"]}}
AUDIT = {"type": "RequestMirror", "requestMirror": {"backendRef": {"name": "audit-shadow", "port": 80}}}
"""The team's own, to a Service of its own."""


def claimed(*filters: dict[str, Any], controller: str = ENVOY, rules: int = 2, left: str = "") -> HttpRoute:
    found = taken_by(controller, body(*[[backend(STABLE)] for _ in range(rules)]), left)
    for rule in found["spec"]["rules"] if filters else []:
        rule["filters"] = list(filters)
    route = HttpRoute(found)
    return write(route, routes.claim(route, CLAIM)[1])


def mirrored(*filters: dict[str, Any], rules: int = 2) -> HttpRoute:
    route = claimed(*filters, rules=rules)
    return write(route, routes.shift(route, CLAIM, 25, 100.0, mirrored=True))


def filters(route: HttpRoute) -> list[Any]:
    return [rule.get("filters") for rule in route.body["spec"]["rules"]]


def first(route: HttpRoute) -> Patch:
    return routes.shift(route, CLAIM, 5, 200.0)


WAYS_OUT: list[Callable[[HttpRoute], Patch]] = [
    first,
    lambda route: routes.rollback(route, CLAIM, BRAKED, "why"),
    lambda route: routes.rollback(route, CLAIM, SETTLED),
    lambda route: guard_patch(route, "Lease expired"),
]


@pytest.mark.parametrize("before", [[], [THEIRS], [THEIRS, AUDIT]])
def test_mirroring_adds_one_filter_and_changes_no_weight(before: list[dict[str, Any]]) -> None:
    route = mirrored(*before)
    assert (filters(route), weights(route)) == ([[*before, COPIES]] * 2, [{STABLE: 100, CANDIDATE: 0}] * 2)
    assert COPIES["requestMirror"] == {"backendRef": {"kind": "Service", "name": MIRROR, "port": 80}, "percent": 25}
    assert (route.serves(CANDIDATE), route.mirrors_to(CANDIDATE), route.mentions(MIRROR)) == (False, True, True)
    assert route.shifts == [Shift(25, 100.0, mirrored=True)]
    assert routes.shift(route, CLAIM, 25, 200.0, mirrored=True) == []


@pytest.mark.parametrize("out", WAYS_OUT)
@pytest.mark.parametrize("before", [[], [THEIRS, AUDIT]])
def test_first_share_rollback_and_guard_remove_the_filter(
    before: list[dict[str, Any]], out: Callable[[HttpRoute], Patch]
) -> None:
    route = mirrored(*before)
    for rule in route.body["spec"]["rules"]:
        rule["filters"].append(THEIRS)  # by the team, meanwhile
    after = write(route, out(route))
    assert (filters(after), after.mirrors_to(CANDIDATE)) == ([[*before, THEIRS]] * 2, False)


@pytest.mark.parametrize("out", WAYS_OUT)
def test_patch_is_refused_if_the_filter_has_moved(out: Callable[[HttpRoute], Patch]) -> None:
    route, changed = mirrored(THEIRS), mirrored(THEIRS)
    changed.body["spec"]["rules"][0]["filters"].reverse()
    with pytest.raises(PatchRefused):
        write(changed, out(route))


def test_rollback_removes_the_filter_from_a_rule_without_the_candidate() -> None:
    route = mirrored()
    del route.body["spec"]["rules"][0]["backendRefs"][1]
    assert not write(route, routes.rollback(route, CLAIM, BRAKED)).mentions(MIRROR)


def test_shift_is_refused_if_the_filter_was_removed_by_hand() -> None:
    route = mirrored(THEIRS)
    route.body["spec"]["rules"][1]["filters"].pop()
    with pytest.raises(FencedError, match=r"what rule 1 copies to .* was changed by hand"):
        first(route)


def test_second_rollback_removes_a_remaining_filter() -> None:
    route = mirrored()
    braked = write(route, routes.rollback(route, CLAIM, BRAKED))
    braked.body["spec"]["rules"][0]["filters"].append(COPIES)
    assert not write(braked, routes.rollback(braked, CLAIM, BRAKED)).mirrors_to(CANDIDATE)


def test_route_with_an_active_mirror_cannot_be_claimed() -> None:
    with pytest.raises(RefusedError, match=f"{STABLE} and {MIRROR} serves it; the deployment {OURS} is not over"):
        mirrored().stable()


def test_teams_own_mirror_is_ignored() -> None:
    route = claimed(AUDIT)
    assert (route.stable(), route.mirrors_to(CANDIDATE)) == (STABLE, False)


def test_traefik_and_unaccepted_routes_mirror_by_a_service() -> None:
    for route in (claimed(controller=TRAEFIK_CONTROLLER), HttpRoute(body([backend(STABLE)]))):
        assert not route.mirrors_by_filter
    assert claimed().mirrors_by_filter
    assert claimed(left=TRAEFIK_CONTROLLER).mirrors_by_filter  # it was Traefik's once


def test_mirroring_by_filter_needs_one_service() -> None:
    plan = make_plan(make_spec(**SHADOWED))
    assert mirror.mirror_objects(plan, copied=True, by_filter=True) == mirror.mirror_objects(plan, copied=True)[:1]


def test_testers_requests_are_answered_by_the_stable_and_all_copied() -> None:
    made = testers.route_for_testers(claimed(THEIRS), CLAIM, mirrored=True)
    assert made is not None
    assert testers.backends_of(made) == [STABLE, STABLE]
    mark = {
        "type": "ResponseHeaderModifier",
        "responseHeaderModifier": {"set": [{"name": testers.VERSION_HEADER, "value": MIRROR}]},
    }
    for rule in made["spec"]["rules"]:
        assert rule["filters"] == [THEIRS, mirror_filter(CANDIDATE, 80, 100), mark]
        assert [ref["weight"] for ref in rule["backendRefs"]] == [100]
