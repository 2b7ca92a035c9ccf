"""Gateways that lose requests when a weight becomes 0: a version without a share keeps the least weight."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.http_route import FINE_TOTAL_WEIGHT, HttpRoute
from airflow_deploy.domain.routing.record import BRAKED, SETTLED
from tests.support.claims import undo_patch
from tests.support.gateways import ENVOY, TRAEFIK, taken_by
from tests.support.json_patch import PatchRefused
from tests.unit.routing.test_transitions import CANDIDATE, CLAIM, PLACE, STABLE, backend, body, weights, write

FILTERS = [{"type": "RequestHeaderModifier", "requestHeaderModifier": {"remove": ["x-debug"]}}]
LEAST_WEIGHT = [{STABLE: FINE_TOTAL_WEIGHT - 1, CANDIDATE: 1}]


def served_by(controller: str, *refs: dict[str, Any], left: str = "") -> HttpRoute:
    return HttpRoute(taken_by(controller, body(list(refs)), left))


def claimed(controller: str = ENVOY, filters: list[dict[str, Any]] = FILTERS) -> HttpRoute:
    route = served_by(controller, {**backend(STABLE), **({"filters": filters} if filters else {})})
    _, patch = routes.claim(route, CLAIM)
    return write(route, patch)


def shifted(*shares: int) -> HttpRoute:
    route = claimed()
    for share in shares:
        route = write(route, routes.shift(route, CLAIM, share, 100.0))
    return route


def promoted() -> HttpRoute:
    route = shifted(50, 100)
    return write(route, routes.promote(route, CLAIM))


def verified() -> HttpRoute:
    route = promoted()
    return write(route, routes.confirm(route, CLAIM))


def test_claimed_candidate_has_the_least_weight_and_no_traffic() -> None:
    route = claimed()
    assert weights(route) == LEAST_WEIGHT
    assert (route.serving(), route.serves(CANDIDATE)) == (STABLE, False)


@pytest.mark.parametrize(("controller", "filters"), [(TRAEFIK, FILTERS), (ENVOY, [])])
def test_other_gateways_and_backends_without_filters_get_weight_0(controller: str, filters: Any) -> None:
    assert weights(claimed(controller, filters)) == [{STABLE: 100, CANDIDATE: 0}]


def test_gateway_that_the_route_has_left_does_not_count() -> None:
    route = served_by(TRAEFIK, {**backend(STABLE), "filters": FILTERS}, left=ENVOY)
    _, patch = routes.claim(route, CLAIM)
    assert weights(write(route, patch)) == [{STABLE: 100, CANDIDATE: 0}]


def test_single_backend_serves_at_any_weight_above_0() -> None:
    assert served_by(ENVOY, backend(STABLE, 1)).serving() == STABLE


@given(st.lists(st.integers(1, 100), min_size=1, max_size=4, unique=True).map(sorted))
def test_shares_are_exact_and_no_weight_is_ever_0(shares: list[int]) -> None:
    route = shifted(*shares)
    (found,) = weights(route)
    assert sum(found.values()) == FINE_TOTAL_WEIGHT
    assert found[CANDIDATE] == min(shares[-1] * FINE_TOTAL_WEIGHT // 100, FINE_TOTAL_WEIGHT - 1)
    assert routes.shift(route, CLAIM, shares[-1], 200.0) == []


@pytest.mark.parametrize("share", [5, 100])
def test_rollback_leaves_the_least_weight_until_the_pods_end(share: int) -> None:
    route = shifted(share)
    braked = write(route, routes.rollback(route, CLAIM, BRAKED))
    assert (weights(braked), braked.serves(CANDIDATE)) == (LEAST_WEIGHT, False)
    assert routes.rollback(braked, CLAIM, BRAKED) == []
    settled = write(braked, routes.rollback(braked, CLAIM, SETTLED))
    assert weights(settled) == [{STABLE: FINE_TOTAL_WEIGHT, CANDIDATE: 0}]
    assert routes.rollback(settled, CLAIM, SETTLED) == []


def test_replaced_version_keeps_the_least_weight_until_it_is_stopped() -> None:
    route = verified()
    assert (weights(route), route.serving()) == ([{STABLE: 1, CANDIDATE: FINE_TOTAL_WEIGHT - 1}], CANDIDATE)
    stopped = write(route, routes.stop(route, STABLE, for_good=True))
    assert weights(stopped) == [{STABLE: 0, CANDIDATE: FINE_TOTAL_WEIGHT - 1}]
    assert stopped.serving() == CANDIDATE


def test_stop_is_refused_if_the_backends_have_changed() -> None:
    route = verified()
    changed = verified()
    changed.body["spec"]["rules"][0]["backendRefs"].reverse()
    with pytest.raises(PatchRefused):
        write(changed, routes.stop(route, STABLE, for_good=True))


def test_undo_of_a_promotion_leaves_the_candidate_at_weight_0() -> None:
    route = verified()
    back = write(route, undo_patch(route, CLAIM))
    assert weights(back) == [{STABLE: FINE_TOTAL_WEIGHT, CANDIDATE: 0}]
    assert back.serving() == STABLE


def test_next_claim_drops_the_version_with_the_least_weight() -> None:
    newer = "payments-fedcba9-1795417300"
    route = verified()
    _, patch = routes.claim(route, Claim("DEP-1795417300-0a1b2c3d/0", CANDIDATE, newer, PLACE))
    (rule,) = write(route, patch).body["spec"]["rules"]
    assert {ref["name"]: ref["weight"] for ref in rule["backendRefs"]} == {CANDIDATE: FINE_TOTAL_WEIGHT - 1, newer: 1}


def test_shift_is_refused_if_a_weight_was_changed_by_hand() -> None:
    route = shifted(5)
    route.body["spec"]["rules"][0]["backendRefs"][1]["weight"] = 50_001
    with pytest.raises(FencedError, match="they were changed by hand"):
        routes.shift(route, CLAIM, 25, 100.0)
