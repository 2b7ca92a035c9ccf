"""The route's patches: each is applied whole or refused, and a fenced run writes nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_deploy.domain.errors import DeployError, FencedError, RefusedError
from airflow_deploy.domain.object_names import Place
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.record import FINAL_VERDICT, OWNER, PHASE, SHIFTS, VERSIONS, Patch, Shift
from tests.support.claims import guard_patch, undo_patch
from tests.support.json_patch import PatchRefused, apply_patch

STABLE, CANDIDATE, RUN = "payments", "payments-0123456-1795417200", "DEP-1795417200-0a1b2c3d"
OURS = f"{RUN}/1"
PLACE = Place("shop", "payments-route", "gateway")
CLAIM = Claim(OURS, STABLE, CANDIDATE, PLACE)
FIRST = replace(CLAIM, stable="")
"""The claim of a service's first version."""
Body = dict[str, Any]
Change = Callable[[Body], None]


def backend(name: str, weight: int | None = None, port: int = 80) -> Body:
    return {
        "group": "",
        "kind": "Service",
        "name": name,
        "port": port,
        **({} if weight is None else {"weight": weight}),
    }


def body(*rules: list[Body], annotations: dict[str, str] | None = None) -> Body:
    metadata: Body = {"name": "payments-route", "namespace": "shop", "resourceVersion": "7"}
    if annotations is not None:
        metadata["annotations"] = annotations
    matched = [{"matches": [{"path": {"value": f"/{i}"}}], "backendRefs": refs} for i, refs in enumerate(rules)]
    return {"metadata": metadata, "spec": {"hostnames": ["pay.example.com"], "rules": matched}}


def write(route: HttpRoute, patch: Patch) -> HttpRoute:
    return HttpRoute(apply_patch(route.body, patch))


def claimed(rules: int = 1, annotations: dict[str, str] | None = None) -> HttpRoute:
    route = HttpRoute(body(*[[backend(STABLE)] for _ in range(rules)], annotations=annotations))
    claim, patch = routes.claim(route, CLAIM)
    assert claim.deployment_id == RUN
    return write(route, patch)


def shifted(share: int, rules: int = 1) -> HttpRoute:
    route = claimed(rules)
    return write(route, routes.shift(route, CLAIM, share, 100.0))


def weights(route: HttpRoute) -> list[dict[str, int]]:
    """The weights of every rule that names the candidate."""
    return [{b.name: b.weight for b in route.backends(rule)} for rule in route.rules_with(CANDIDATE)]


INVALID_ANNOTATIONS = [
    "[]",
    "{}",
    "[1]",
    '[{"share": 5}]',
    '[{"share": [], "at": 1}]',
    "DEP-1/²",
    "/",
    "a/b/3",
    "null",
    "5",
]
shares = st.integers(0, 100)
rule_counts = st.integers(1, 3)


class TestClaim:
    @given(rule_counts, st.integers(0, 10**6), st.none() | st.just({"team": "pay"}))
    def test_claim_raises_the_epoch_and_moves_no_traffic(
        self, rules: int, epoch: int, others: dict[str, str] | None
    ) -> None:
        before = {**(others or {}), **({OWNER: f"DEP-1-00000000/{epoch}"} if epoch else {})}
        route = HttpRoute(body(*[[backend(STABLE, 1)] for _ in range(rules)], annotations=before or None))
        claim, patch = routes.claim(route, CLAIM)
        after = write(route, patch)
        assert claim.owner == f"{RUN}/{epoch + 1}" == after.owner
        assert after.latest_claim() == claim
        assert (after.epoch, after.phase, after.shifts) == (epoch + 1, routes.CANARY, [])
        assert weights(after) == [{STABLE: 100, CANDIDATE: 0}] * rules
        assert set(others or {}) <= set(after.annotations)

    def test_claim_keeps_everything_else_of_the_route(self) -> None:
        filters = [{"type": "RequestHeaderModifier"}]
        before = body([{**backend(STABLE, 3), "filters": filters}], [backend("static", 1)])
        before["spec"]["rules"][1]["backendRefs"][0]["weight"] = 0
        after = claimed_from(before)
        assert after.body["spec"]["hostnames"] == ["pay.example.com"]
        assert after.body["spec"]["rules"][0]["matches"] == [{"path": {"value": "/0"}}]
        assert after.body["spec"]["rules"][0]["backendRefs"][0]["filters"] == filters
        assert after.body["spec"]["rules"][1] == before["spec"]["rules"][1]

    def test_claim_drops_backends_of_earlier_deployments(self) -> None:
        left = [backend("payments-abcdef0-1795417000", 0), backend("payments-abcdef0-1795417000-shadow", 0)]
        after = claimed_from(body([*left, backend(STABLE, 100)]))
        assert weights(after) == [{STABLE: 100, CANDIDATE: 0}]

    def test_claim_drops_the_original_service_once_it_is_no_rollback_target(self) -> None:
        """The team may delete that Service: some gateways answer every request with 500 if a backend is missing."""
        promoted = write(shifted(100), routes.promote(shifted(100), CLAIM))
        route = write(promoted, routes.confirm(promoted, CLAIM))
        later = "payments-fffffff-1795417999"
        after = write(route, routes.claim(route, Claim("DEP-2-00000000/0", CANDIDATE, later, PLACE))[1])
        assert [{b.name: b.weight for b in after.backends(0)}] == [{CANDIDATE: 100, later: 0}]

    def test_backends_and_rules_of_weight_0_stay_unchanged(self) -> None:
        """Backends and whole rules of weight 0 are unchanged after every step of a deployment."""
        own, off = backend("payments-by-hand", 0), [backend(STABLE, 0), backend("maintenance", 0)]
        route = claimed_from(body([backend(STABLE, 1), own], off))

        def is_kept(now: HttpRoute) -> bool:
            rules = now.body["spec"]["rules"]
            return own in rules[0]["backendRefs"] and rules[1]["backendRefs"] == off

        for share in (5, 100):
            route = write(route, routes.shift(route, CLAIM, share, 1.0))
            assert is_kept(route)
            assert not routes.shift(route, CLAIM, share, 1.0)
            restored = write(route, routes.rollback(route, CLAIM, routes.SETTLED))
            assert is_kept(restored)
            assert restored.serving() == STABLE
        route = write(route, routes.promote(route, CLAIM))
        route = write(route, routes.confirm(route, CLAIM))
        assert (is_kept(route), route.serving()) == (True, CANDIDATE)
        back = write(route, undo_patch(route, CLAIM))
        assert (is_kept(back), back.serving()) == (True, STABLE)

    def test_first_version_keeps_backends_of_weight_0(self) -> None:
        own = backend("payments-by-hand", 0)
        route = HttpRoute(body([own]))
        after = write(route, routes.claim(route, FIRST)[1])
        assert own in after.body["spec"]["rules"][0]["backendRefs"]

    def test_shift_is_refused_if_a_backend_was_switched_on_by_hand(self) -> None:
        route = claimed_from(body([backend(STABLE, 1), backend("payments-by-hand", 0)]))
        route.body["spec"]["rules"][0]["backendRefs"][2]["weight"] = 1
        with pytest.raises(FencedError, match="they were changed by hand"):
            routes.shift(route, CLAIM, 5, 1.0)

    def test_claim_of_a_rule_that_names_the_stable_twice_is_refused(self) -> None:
        """Two backends of one name cannot share one weight: the sum would no longer be 100."""
        with pytest.raises(DeployError):
            claimed_from(body([backend(STABLE, 50, 80), backend(STABLE, 50, 8080)]))

    def test_claim_is_refused_if_another_version_serves_than_planned(self) -> None:
        with pytest.raises(FencedError, match="served by other now, not by payments"):
            claimed_from(body([backend("other", 1)]))

    def test_claim_is_refused_if_the_candidate_serves_already(self) -> None:
        """Two runs of one commit in one second have one name: shifting to it would set all weights to 0."""
        route = HttpRoute(body([backend(STABLE)]))
        with pytest.raises(FencedError, match="payments serves already; trigger a new run"):
            routes.claim(route, replace(CLAIM, candidate=STABLE))

    def test_candidate_gets_the_stables_port_and_filters_in_each_rule(self) -> None:
        """It may become the stable: a missing filter would then be lost."""
        filters = [{"type": "RequestHeaderModifier"}]
        after = claimed_from(body([{**backend(STABLE, 1, 80), "filters": filters}], [backend(STABLE, 7, 8443)]))
        for rule in (0, 1):
            stable, candidate = after.body["spec"]["rules"][rule]["backendRefs"]
            assert {**candidate, "name": STABLE, "weight": 100} == stable
        assert [after.body["spec"]["rules"][rule]["backendRefs"][1]["port"] for rule in (0, 1)] == [80, 8443]

    def test_claim_clears_the_final_verdict_of_an_earlier_deployment(self) -> None:
        after = claimed_from(body([backend(STABLE)], annotations={FINAL_VERDICT: "it was braked"}))
        assert after.final_verdict == ""

    def test_claim_patch_is_refused_if_the_route_has_changed(self) -> None:
        route = HttpRoute(body([backend(STABLE)]))
        _, patch = routes.claim(route, CLAIM)
        newer = copy.deepcopy(dict(route.body))
        newer["metadata"]["resourceVersion"] = "8"
        with pytest.raises(PatchRefused):
            apply_patch(newer, patch)

    def test_claim_fences_the_previous_owner(self) -> None:
        route = shifted(5)
        write_back = write(route, routes.rollback(route, CLAIM, routes.SETTLED))
        claim, patch = routes.claim(write_back, Claim("DEP-2-ffffffff/0", STABLE, "payments-fedcba9-2", PLACE))
        newer = write(write_back, patch)
        assert claim.owner == "DEP-2-ffffffff/2"
        for attempt in attempts(newer):
            with pytest.raises(FencedError):
                attempt()


def claimed_from(before: Body) -> HttpRoute:
    route = HttpRoute(before)
    _, patch = routes.claim(route, CLAIM)
    return write(route, patch)


def attempts(route: HttpRoute) -> list[Callable[[], Patch]]:
    """Every write of an owner, tried on ``route``."""
    return [
        lambda: routes.shift(route, CLAIM, 25, 200.0),
        lambda: routes.rollback(route, CLAIM, routes.BRAKED),
        lambda: routes.promote(route, CLAIM),
        lambda: routes.abandon(route, CLAIM),
        lambda: routes.confirm(route, CLAIM),
    ]


class TestShift:
    @given(rule_counts, st.lists(shares, min_size=1, max_size=6))
    def test_weights_sum_to_100_and_match_the_share(self, rules: int, asked: list[int]) -> None:
        route = claimed(rules)
        for at, share in enumerate(asked):
            route = write(route, routes.shift(route, CLAIM, share, float(at)))
            assert weights(route) == [{STABLE: 100 - share, CANDIDATE: share}] * rules
        assert [shift.share for shift in route.shifts] == [s for before, s in pairwise([0, *asked]) if s != before]

    def test_shift_records_when_each_share_began(self) -> None:
        route = shifted(5)
        route = write(route, routes.shift(route, CLAIM, 25, 160.5))
        assert route.shifts == [Shift(5, 100.0), Shift(25, 160.5)]

    @given(shares)
    def test_second_shift_to_the_same_share_writes_nothing(self, share: int) -> None:
        assert routes.shift(shifted(share), CLAIM, share, 999.0) == []

    @given(st.integers(1, 2), st.integers(0, 1), st.integers(0, 100), st.integers(0, 100))
    def test_shift_is_refused_if_weights_were_changed_by_hand(
        self, rules: int, rule: int, stable: int, mine: int
    ) -> None:
        route = copy.deepcopy(dict(shifted(5, rules).body))
        refs = route["spec"]["rules"][min(rule, rules - 1)]["backendRefs"]
        refs[0]["weight"], refs[1]["weight"] = stable, mine
        if (stable, mine) == (95, 5):
            assert routes.shift(HttpRoute(route), CLAIM, 25, 200.0)
        else:
            with pytest.raises(FencedError, match="they were changed by hand"):
                routes.shift(HttpRoute(route), CLAIM, 25, 200.0)

    @pytest.mark.parametrize(
        "phase", [routes.BRAKED, routes.PROMOTED, routes.VERIFIED, routes.SETTLED, routes.ABANDONED]
    )
    def test_shift_is_refused_outside_the_canary_phase(self, phase: str) -> None:
        route = copy.deepcopy(dict(shifted(5).body))
        route["metadata"]["annotations"][PHASE] = phase
        with pytest.raises(FencedError, match=f"is {phase}, and this step needs it canary"):
            routes.shift(HttpRoute(route), CLAIM, 25, 200.0)


class TestRestore:
    @given(
        st.lists(st.tuples(shares, shares, st.none() | shares), min_size=1, max_size=3),
        st.sampled_from([routes.CANARY, routes.BRAKED, routes.PROMOTED, routes.SETTLED]),
        st.sampled_from([routes.BRAKED, routes.SETTLED]),
    )
    @example([(100, 0, 50)], routes.BRAKED, routes.BRAKED)
    @example([(100, 0, None), (0, 0, None)], routes.BRAKED, routes.BRAKED)
    def test_rollback_returns_all_traffic_at_any_weights(
        self, rules: list[tuple[int, int, int | None]], before: str, after: str
    ) -> None:
        refs = [
            [backend(STABLE, a), backend(CANDIDATE, b), *([] if c is None else [backend("third", c)])]
            for a, b, c in rules
        ]
        route = HttpRoute(body(*refs, annotations={OWNER: OURS, PHASE: before, SHIFTS: "[]"}))
        patch = routes.rollback(route, CLAIM, after)
        restored = write(route, patch)
        assert restored.phase == after
        for rule in weights(restored):
            assert {name for name, weight in rule.items() if weight > 0} == {STABLE}
            assert sum(rule.values()) == 100 or not patch, "a route that is whole keeps its weights"

    def test_second_rollback_writes_nothing(self) -> None:
        route = shifted(50)
        braked = write(route, routes.rollback(route, CLAIM, routes.BRAKED))
        assert routes.rollback(braked, CLAIM, routes.BRAKED) == []

    def test_rollback_keeps_the_record_of_the_shifts(self) -> None:
        route = shifted(50)
        assert write(route, routes.rollback(route, CLAIM, routes.BRAKED)).shifts == [Shift(50, 100.0)]

    def test_rollback_records_its_reason_on_the_route(self) -> None:
        route = shifted(50)
        braked = write(route, routes.rollback(route, CLAIM, routes.BRAKED, "too many errors"))
        assert braked.final_verdict == "too many errors"
        settled = write(braked, routes.rollback(braked, CLAIM, routes.SETTLED))
        assert (settled.phase, settled.final_verdict) == (routes.SETTLED, "too many errors")

    def test_first_rollback_reason_is_kept(self) -> None:
        route = shifted(50)
        braked = write(route, routes.rollback(route, CLAIM, routes.BRAKED, "too many errors"))
        assert routes.rollback(braked, CLAIM, routes.BRAKED, "another") == []

    @pytest.mark.parametrize("position", [0, 1])
    @pytest.mark.parametrize("added", [STABLE, "maintenance"])
    def test_rollback_leaves_an_added_rule_without_the_candidate_unchanged(self, added: str, position: int) -> None:
        now = copy.deepcopy(dict(shifted(50).body))
        rule = {"matches": [{"path": {"value": "/new"}}], "backendRefs": [backend(added, 7)]}
        now["spec"]["rules"].insert(position, rule)
        route = HttpRoute(now)
        restored = write(route, routes.rollback(route, CLAIM, routes.BRAKED))
        assert weights(restored) == [{STABLE: 100, CANDIDATE: 0}]
        assert restored.body["spec"]["rules"][position] == rule
        assert restored.phase == routes.BRAKED
        for attempt in attempts(HttpRoute(now))[:1] if added == STABLE else []:
            with pytest.raises(FencedError, match="no longer names both"):
                attempt()

    def test_rollback_leaves_a_rule_with_the_candidate_alone_unchanged(self) -> None:
        """That rule has no stable to take the traffic."""
        now = copy.deepcopy(dict(shifted(50).body))
        now["spec"]["rules"].append({"backendRefs": [backend(CANDIDATE, 1)]})
        route = HttpRoute(now)
        assert (route.has_foreign_rule(CLAIM), shifted(50).has_foreign_rule(CLAIM)) == (
            True,
            False,
        )
        restored = write(route, routes.rollback(route, CLAIM, routes.BRAKED))
        assert restored.weights(CANDIDATE) == [{STABLE: 100, CANDIDATE: 0}, {CANDIDATE: 1}]

    def test_rollback_writes_only_the_phase_if_the_candidate_was_removed(self) -> None:
        """The team ran ``kubectl apply`` with its own manifest."""
        now = copy.deepcopy(dict(shifted(50).body))
        del now["spec"]["rules"][0]["backendRefs"][1]
        route = HttpRoute(now)
        restored = write(route, routes.rollback(route, CLAIM, routes.SETTLED))
        assert restored.phase == routes.SETTLED
        assert restored.body["spec"] == now["spec"]


LATER = "DEP-1795420000-ffffffff"
LATEST = "payments-fedcba9-1795420000"
NEXT = Claim(f"{LATER}/0", CANDIDATE, LATEST, PLACE)
"""A later deployment's claim, with our candidate as its stable."""


def verified(rules: int = 1, refs: list[Body] | None = None) -> HttpRoute:
    """The route after promotion and verification."""
    route = shifted_from(body(*[copy.deepcopy(refs or [backend(STABLE)]) for _ in range(rules)]))
    route = write(route, routes.promote(route, CLAIM))
    return write(route, routes.confirm(route, CLAIM))


def shifted_from(before: Body) -> HttpRoute:
    route = claimed_from(before)
    return write(route, routes.shift(route, CLAIM, 100, 100.0))


def came_and_went(route: HttpRoute, *, share: int = 50) -> HttpRoute:
    """A later deployment got some traffic and was rolled back."""
    claim, patch = routes.claim(route, NEXT)
    route = write(route, patch)
    route = write(route, routes.shift(route, claim, share, 200.0))
    return write(route, routes.rollback(route, claim, routes.SETTLED, "too slow"))


def reclaimed(route: HttpRoute) -> HttpRoute:
    return write(route, undo_patch(route, CLAIM))


STANDING: dict[str, Callable[[], HttpRoute]] = {
    "verified": verified,
    "after a later deployment that came to nothing": lambda: came_and_went(verified()),
    "after two of them": lambda: came_and_went(came_and_went(verified())),
    "under several rules": lambda: verified(rules=3),
    "under several rules after a later deployment": lambda: came_and_went(verified(rules=3)),
}


@pytest.mark.parametrize("make", list(STANDING.values()), ids=list(STANDING))
class TestReclaim:
    def test_undo_gives_the_previous_version_all_traffic_in_every_rule(self, make: Callable[[], HttpRoute]) -> None:
        route = make()
        after = reclaimed(route)
        assert weights(after) == [{STABLE: 100, CANDIDATE: 0}] * len(route.rules_with(CANDIDATE))
        assert after.stable() == STABLE
        assert (after.phase, after.final_verdict) == (routes.SETTLED, "worse")

    def test_undo_claims_the_route_and_fences_every_earlier_owner(self, make: Callable[[], HttpRoute]) -> None:
        """Every earlier owner is fenced, this deployment's own run as well."""
        route = make()
        after = reclaimed(route)
        assert after.owner == f"{RUN}/{route.epoch + 1}"
        assert after.shifts == []
        for attempt in attempts(after):
            with pytest.raises(FencedError):
                attempt()

    def test_second_undo_is_refused(self, make: Callable[[], HttpRoute]) -> None:
        route = make()
        patch = undo_patch(route, CLAIM)
        after = write(route, patch)
        assert not routes.at_rest(after, CLAIM)
        with pytest.raises(FencedError, match=f"is settled by {RUN}"):
            undo_patch(after, CLAIM)
        with pytest.raises(PatchRefused):
            apply_patch(after.body, patch)

    def test_route_can_be_claimed_after_an_undo(self, make: Callable[[], HttpRoute]) -> None:
        after = reclaimed(make())
        claim, patch = routes.claim(after, replace(NEXT, stable=STABLE))
        again = write(after, patch)
        assert (again.owner, again.epoch) == (claim.owner, after.epoch + 1)
        assert all(set(rule) == {STABLE, LATEST} for rule in again.weights(LATEST))

    def test_settle_after_an_undo_writes_nothing(self, make: Callable[[], HttpRoute]) -> None:
        after = reclaimed(make())
        assert routes.rollback(after, CLAIM.as_held(after), routes.SETTLED) == []

    @pytest.mark.parametrize(
        "name",
        [
            "another run claimed it",
            "the same run claimed it again",
            "the watch braked",
            "it was promoted",
            "its annotations were removed",
            "the candidate was renamed",
            "the stable was renamed",
            "a rule was put before",
            "the backends were reordered",
            "the candidate was removed",
            "all backends were removed",
            "a backend was put before",
            "all rules were removed",
        ],
    )
    def test_undo_patch_is_refused_after_a_concurrent_write(self, make: Callable[[], HttpRoute], name: str) -> None:
        route = make()
        patch = undo_patch(route, CLAIM)
        now = copy.deepcopy(dict(route.body))
        OVERTAKEN[name](now)
        with pytest.raises(PatchRefused):
            apply_patch(now, patch)

    @pytest.mark.parametrize("key", ["weight", "port", "filters"])
    def test_undo_patch_is_refused_after_any_change_of_a_backend(self, make: Callable[[], HttpRoute], key: str) -> None:
        """It replaces whole backends, so it must not overwrite a concurrent change."""
        route = make()
        patch = undo_patch(route, CLAIM)
        for rule in route.rules_with(CANDIDATE):
            for ref in (0, 1):
                now = copy.deepcopy(dict(route.body))
                now["spec"]["rules"][rule]["backendRefs"][ref][key] = 42
                with pytest.raises(PatchRefused):
                    apply_patch(now, patch)


class TestReclaimKeeps:
    filters: list[Body] = [{"type": "RequestHeaderModifier"}]  # noqa: RUF012

    @pytest.mark.parametrize("later", [False, True])
    def test_undo_keeps_ports_and_filters_of_each_rule(self, later: bool) -> None:
        before = body([{**backend(STABLE, 1, 80), "filters": self.filters}], [backend(STABLE, 7, 8443)])
        route = shifted_from(before)
        route = write(route, routes.promote(route, CLAIM))
        route = write(route, routes.confirm(route, CLAIM))
        after = reclaimed(came_and_went(route) if later else route)
        for rule, expected in enumerate(before["spec"]["rules"]):
            (original,) = expected["backendRefs"]
            stable, candidate = after.body["spec"]["rules"][rule]["backendRefs"]
            assert stable == {**original, "weight": 100}
            assert candidate == {**original, "name": CANDIDATE, "weight": 0}
            assert after.body["spec"]["rules"][rule]["matches"] == expected["matches"]

    def test_undo_keeps_other_rules_hostnames_and_annotations(self) -> None:
        before = body([backend(STABLE)], [backend("static", 0)], annotations={"team": "pay"})
        route = shifted_from(before)
        route = write(route, routes.promote(route, CLAIM))
        after = reclaimed(write(route, routes.confirm(route, CLAIM)))
        assert after.body["spec"]["rules"][1] == before["spec"]["rules"][1]
        assert after.body["spec"]["hostnames"] == before["spec"]["hostnames"]
        assert after.annotations["team"] == "pay"


class TestAtRest:
    def changed(self, route: HttpRoute, change: Change) -> HttpRoute:
        now = copy.deepcopy(dict(route.body))
        change(now)
        return HttpRoute(now)

    @pytest.mark.parametrize("make", list(STANDING.values()), ids=list(STANDING))
    def test_route_is_at_rest_if_the_promoted_version_serves_and_no_deployment_runs(
        self, make: Callable[[], HttpRoute]
    ) -> None:
        assert routes.at_rest(make(), CLAIM)

    @pytest.mark.parametrize(
        "phase",
        [routes.CANARY, routes.BRAKED, routes.PROMOTED, routes.SETTLED, routes.ABANDONED, "", "nonsense"],
    )
    def test_route_is_not_at_rest_in_another_phase_of_its_deployment(self, phase: str) -> None:
        route = self.changed(verified(), _set(PHASE, phase))
        assert not routes.at_rest(route, CLAIM)
        with pytest.raises(FencedError):
            reclaimed(route)

    @pytest.mark.parametrize(
        "phase", [routes.CANARY, routes.BRAKED, routes.PROMOTED, routes.VERIFIED, routes.ABANDONED, "", "nonsense"]
    )
    def test_route_is_not_at_rest_in_another_phase_of_a_later_deployment(self, phase: str) -> None:
        route = self.changed(came_and_went(verified()), _set(PHASE, phase))
        assert not routes.at_rest(route, CLAIM)
        with pytest.raises(FencedError):
            reclaimed(route)

    def overtaken(self) -> HttpRoute:
        """A later deployment was verified in its place."""
        route = verified()
        claim, patch = routes.claim(route, NEXT)
        route = write(route, patch)
        route = write(route, routes.shift(route, claim, 100, 200.0))
        route = write(route, routes.promote(route, claim))
        return write(route, routes.confirm(route, claim))

    def test_route_is_not_at_rest_if_a_later_deployment_was_verified(self) -> None:
        route = self.overtaken()
        assert not routes.at_rest(route, CLAIM)
        assert routes.at_rest(route, NEXT)

    def test_route_is_at_rest_after_a_later_promotion_was_undone(self) -> None:
        route = self.overtaken()
        route = write(route, undo_patch(route, NEXT))
        assert routes.at_rest(route, CLAIM)
        assert weights(reclaimed(route)) == [{STABLE: 100, CANDIDATE: 0}]

    @pytest.mark.parametrize("make", [verified, lambda: came_and_went(verified())], ids=["own", "later"])
    @pytest.mark.parametrize("key", [OWNER, PHASE])
    def test_route_is_not_at_rest_without_its_annotations(self, make: Callable[[], HttpRoute], key: str) -> None:
        """A patch cannot test a missing annotation: it would always be refused."""
        route = self.changed(make(), lambda now: now["metadata"]["annotations"].pop(key))
        assert not routes.at_rest(route, CLAIM)

    def test_shared_weights_set_by_hand_are_reported(self) -> None:
        route = self.changed(verified(), _refs(lambda refs: refs[0].update(weight=1)))
        with pytest.raises(RefusedError, match="give one Service the whole weight"):
            routes.at_rest(route, CLAIM)

    def test_route_is_not_at_rest_after_a_rollback_by_hand(self) -> None:
        def swap(refs: list[Body]) -> None:
            refs[0]["weight"], refs[1]["weight"] = 100, 0

        assert not routes.at_rest(self.changed(verified(), _refs(swap)), CLAIM)

    @given(st.text(max_size=20) | st.sampled_from(INVALID_ANNOTATIONS))
    @example("[" * 20_000)
    def test_undo_with_foreign_annotations_raises_deploy_errors_only(self, text: str) -> None:
        for key in (OWNER, PHASE, SHIFTS, FINAL_VERDICT):
            route = self.changed(verified(), _set(key, text))
            with suppress(DeployError):
                reclaimed(route)


class TestConfirm:
    def test_confirm_moves_no_traffic_and_writes_once(self) -> None:
        promoted = self.promoted()
        verified = write(promoted, routes.confirm(promoted, CLAIM))
        assert verified.phase == routes.VERIFIED
        assert verified.body["spec"] == promoted.body["spec"]
        assert routes.confirm(verified, CLAIM) == []

    @pytest.mark.parametrize("phase", [routes.CANARY, routes.BRAKED, routes.SETTLED, routes.ABANDONED])
    def test_confirm_is_refused_before_the_promotion(self, phase: str) -> None:
        now = copy.deepcopy(dict(self.promoted().body))
        now["metadata"]["annotations"][PHASE] = phase
        with pytest.raises(FencedError, match=f"is {phase} by {OURS}; it cannot be verified"):
            routes.confirm(HttpRoute(now), CLAIM)

    @pytest.mark.parametrize("phase", [routes.PROMOTED, routes.VERIFIED])
    def test_confirm_is_refused_for_another_owner(self, phase: str) -> None:
        now = copy.deepcopy(dict(self.promoted().body))
        now["metadata"]["annotations"] |= {OWNER: "DEP-2-ffffffff/2", PHASE: phase}
        with pytest.raises(FencedError):
            routes.confirm(HttpRoute(now), CLAIM)

    @pytest.mark.parametrize("name", ["another run claimed it", "the watch braked", "it was settled"])
    def test_confirm_patch_is_refused_if_the_route_has_changed(self, name: str) -> None:
        promoted = self.promoted()
        patch = routes.confirm(promoted, CLAIM)
        now = copy.deepcopy(dict(promoted.body))
        OVERTAKEN[name](now)
        with pytest.raises(PatchRefused):
            apply_patch(now, patch)

    def promoted(self) -> HttpRoute:
        route = shifted(100)
        return write(route, routes.promote(route, CLAIM))


class TestAbandon:
    @pytest.mark.parametrize("change", ["the candidate was renamed", "all rules were removed", "the watch braked"])
    def test_abandon_is_written_for_any_backends(self, change: str) -> None:
        """Otherwise watch and gates would never end: no run may write that route."""
        now = copy.deepcopy(dict(shifted(50).body))
        OVERTAKEN[change](now)
        abandoned = write(HttpRoute(now), routes.abandon(HttpRoute(now), CLAIM))
        assert abandoned.phase == routes.ABANDONED
        assert abandoned.body["spec"] == now["spec"]

    def test_abandon_is_refused_after_another_deployments_claim(self) -> None:
        route = shifted(50)
        patch = routes.abandon(route, CLAIM)
        now = copy.deepcopy(dict(route.body))
        OVERTAKEN["another run claimed it"](now)
        with pytest.raises(PatchRefused):
            apply_patch(now, patch)
        with pytest.raises(FencedError, match="belongs to DEP-2-ffffffff/2 now"):
            routes.abandon(HttpRoute(now), CLAIM)


class TestPromote:
    def test_promote_moves_no_traffic_and_ends_the_canary(self) -> None:
        route = shifted(100, rules=2)
        promoted = write(route, routes.promote(route, CLAIM))
        assert promoted.phase == routes.PROMOTED
        assert weights(promoted) == weights(route) == [{STABLE: 0, CANDIDATE: 100}] * 2
        assert routes.promote(promoted, CLAIM) == []

    @given(st.integers(0, 99))
    def test_promote_is_refused_below_the_full_weight(self, share: int) -> None:
        with pytest.raises(FencedError, match="cannot be promoted"):
            routes.promote(shifted(share), CLAIM)

    def test_promote_is_refused_below_the_full_weight_in_any_rule(self) -> None:
        route = copy.deepcopy(dict(shifted(100, rules=2).body))
        route["spec"]["rules"][1]["backendRefs"][1]["weight"] = 0
        with pytest.raises(FencedError):
            routes.promote(HttpRoute(route), CLAIM)

    def test_promoted_version_is_the_next_stable(self) -> None:
        route = shifted(100)
        promoted = write(route, routes.promote(route, CLAIM))
        assert promoted.stable() == CANDIDATE
        assert promoted.port_of(CANDIDATE) == 80


def _set(key: str, value: str) -> Change:
    def change(document: Body) -> None:
        document["metadata"]["annotations"][key] = value

    return change


def _refs(edit: Callable[[list[Body]], None]) -> Change:
    return lambda document: edit(document["spec"]["rules"][0]["backendRefs"])


def _rule_first(document: Body) -> None:
    document["spec"]["rules"].insert(0, {"backendRefs": [backend("maintenance", 1)]})


def _no_rules(document: Body) -> None:
    document["spec"]["rules"] = []


def _no_annotations(document: Body) -> None:
    del document["metadata"]["annotations"]


OVERTAKEN: dict[str, Change] = {
    "another run claimed it": _set(OWNER, "DEP-2-ffffffff/2"),
    "the same run claimed it again": _set(OWNER, f"{RUN}/2"),
    "the watch braked": _set(PHASE, routes.BRAKED),
    "it was settled": _set(PHASE, routes.SETTLED),
    "it was promoted": _set(PHASE, routes.PROMOTED),
    "its annotations were removed": _no_annotations,
    "the candidate was renamed": _refs(lambda refs: refs[1].update(name="other")),
    "the stable was renamed": _refs(lambda refs: refs[0].update(name="other")),
    "the backends were reordered": _refs(lambda refs: refs.reverse()),
    "the candidate was removed": _refs(lambda refs: refs.__delitem__(1)),
    "all backends were removed": _refs(lambda refs: refs.clear()),
    "a backend was put before": _refs(lambda refs: refs.insert(0, backend("other", 1))),
    "a rule was put before": _rule_first,
    "all rules were removed": _no_rules,
}


class TestOvertaken:
    @pytest.mark.parametrize("change", list(OVERTAKEN.values()), ids=list(OVERTAKEN))
    @pytest.mark.parametrize("attempt", [0, 1, 2], ids=["shift", "restore", "promote"])
    def test_patch_prepared_before_a_change_is_refused(self, change: Change, attempt: int) -> None:
        route = shifted(100 if attempt == 2 else 5)
        patch = attempts(route)[attempt]()
        assert apply_patch(route.body, patch) != route.body
        now = copy.deepcopy(dict(route.body))
        change(now)
        with pytest.raises(PatchRefused):
            apply_patch(now, patch)

    @pytest.mark.parametrize("attempt", [0, 2], ids=["shift", "promote"])
    def test_shift_and_promote_are_refused_if_a_backend_was_added(self, attempt: int) -> None:
        route = shifted(100 if attempt == 2 else 5)
        patch = attempts(route)[attempt]()
        now = copy.deepcopy(dict(route.body))
        now["spec"]["rules"][0]["backendRefs"].append(backend("other", 1))
        with pytest.raises(PatchRefused):
            apply_patch(now, patch)

    @pytest.mark.parametrize("attempt", [0, 2], ids=["shift", "promote"])
    @pytest.mark.parametrize("ref", [0, 1])
    def test_shift_and_promote_are_refused_if_weights_have_changed(self, attempt: int, ref: int) -> None:
        route = shifted(100 if attempt == 2 else 5)
        patch = attempts(route)[attempt]()
        now = copy.deepcopy(dict(route.body))
        now["spec"]["rules"][0]["backendRefs"][ref]["weight"] = 42
        with pytest.raises(PatchRefused):
            apply_patch(now, patch)

    @pytest.mark.parametrize(
        "name", ["another run claimed it", "the same run claimed it again", "its annotations were removed"]
    )
    def test_every_write_is_refused_if_the_route_has_another_owner(self, name: str) -> None:
        now = copy.deepcopy(dict(shifted(100).body))
        OVERTAKEN[name](now)
        for attempt in attempts(HttpRoute(now)):
            with pytest.raises(FencedError):
                attempt()

    @given(st.text(max_size=20) | st.sampled_from(INVALID_ANNOTATIONS))
    @example("[" * 20_000)
    @example('[{"share": 1e999, "at": 1}]')
    def test_writes_with_foreign_annotations_raise_deploy_errors_only(self, text: str) -> None:
        for key in (OWNER, PHASE, SHIFTS, FINAL_VERDICT):
            now = copy.deepcopy(dict(shifted(5).body))
            now["metadata"]["annotations"][key] = text
            for attempt in attempts(HttpRoute(now)):
                try:
                    attempt()
                except DeployError:
                    continue
            assert HttpRoute(now).epoch >= 0

    @pytest.mark.parametrize("text", ["[{}]", '[{"at": 1}]', '[{"share": 5}]'])
    def test_incomplete_record_of_shifts_is_refused(self, text: str) -> None:
        now = copy.deepcopy(dict(shifted(5).body))
        now["metadata"]["annotations"][SHIFTS] = text
        with pytest.raises(FencedError):
            _ = HttpRoute(now).shifts


def seized(route: HttpRoute) -> HttpRoute:
    return write(route, guard_patch(route, "worse"))


class TestSeize:
    """The guard's write: it claims the route in the run's name and gives the stable all traffic."""

    @given(st.integers(1, 100), rule_counts)
    def test_guard_returns_all_traffic_in_every_rule(self, share: int, rules: int) -> None:
        after = seized(shifted(share, rules))
        assert weights(after) == [{STABLE: 100, CANDIDATE: 0}] * rules
        assert (after.owner, after.phase, after.final_verdict) == (f"{RUN}/2", routes.BRAKED, "worse")
        assert after.shifts == shifted(share, rules).shifts

    def test_run_can_only_settle_after_the_guards_rollback(self) -> None:
        after = seized(shifted(25))
        for attempt in attempts(after):
            with pytest.raises(FencedError):
                attempt()
        settled = write(after, routes.rollback(after, CLAIM.as_held(after), routes.SETTLED))
        assert settled.phase == routes.SETTLED

    @pytest.mark.parametrize("attempt", [0, 1, 2], ids=["shift", "restore", "promote"])
    def test_patch_prepared_by_the_run_is_refused_after_the_guards_rollback(self, attempt: int) -> None:
        route = shifted(100 if attempt == 2 else 5)
        patch = attempts(route)[attempt]()
        with pytest.raises(PatchRefused):
            apply_patch(seized(route).body, patch)

    def test_only_one_of_two_guards_writes(self) -> None:
        route = shifted(25)
        patch = guard_patch(route, "worse")
        with pytest.raises(PatchRefused):
            apply_patch(write(route, patch).body, patch)

    @pytest.mark.parametrize("change", list(OVERTAKEN.values()), ids=list(OVERTAKEN))
    def test_guards_patch_is_refused_after_any_change(self, change: Change) -> None:
        route = shifted(25)
        patch = guard_patch(route, "worse")
        now = copy.deepcopy(dict(route.body))
        change(now)
        with pytest.raises(PatchRefused):
            apply_patch(now, patch)

    @given(
        st.text(max_size=20)
        | st.sampled_from([*INVALID_ANNOTATIONS, '{"stable": "payments"}', '{"stable": 1, "candidate": []}'])
    )
    def test_guard_with_foreign_annotations_raises_deploy_errors_only(self, text: str) -> None:
        for key in (OWNER, PHASE, VERSIONS):
            now = copy.deepcopy(dict(shifted(5).body))
            now["metadata"]["annotations"][key] = text
            with suppress(DeployError):
                guard_patch(HttpRoute(now), "worse")

    def test_claim_records_both_versions(self) -> None:
        assert claimed().versions == (STABLE, CANDIDATE)


class TestReading:
    def test_prefix_of_a_run_id_is_not_its_owner(self) -> None:
        route = claimed()
        assert route.owned_by(RUN)
        assert not route.owned_by(RUN[:-1])
        assert not route.owned_by("")
        assert not HttpRoute(body([backend(STABLE)])).owned_by(RUN)

    def test_backend_without_a_weight_has_weight_1(self) -> None:
        route = HttpRoute(body([backend(STABLE)], [backend("other", 3)]))
        assert route.weights(STABLE) == [{STABLE: 1}]
        assert route.serves(STABLE)
        assert route.weights("unknown") == []
        assert not route.serves("unknown")

    def test_version_serves_if_one_rule_gives_it_traffic(self) -> None:
        assert HttpRoute(body([backend(STABLE, 0)], [backend(STABLE, 1), backend("other", 0)])).serves(STABLE)
        assert not HttpRoute(body([backend(STABLE, 0)], [backend("other", 1)])).serves(STABLE)

    @pytest.mark.parametrize(
        ("rules", "who"),
        [
            ([[backend("a", 1), backend("b", 1)]], "a and b"),
            ([[backend("a", 1)], [backend("a", 1), backend("b", 1)]], "a and b"),
            ([[backend("a", 0)]], "no Service"),
            ([[]], "no Service"),
            ([], "no Service"),
        ],
    )
    def test_stable_must_serve_alone(self, rules: list[list[Body]], who: str) -> None:
        with pytest.raises(RefusedError, match=f"shop/payments-route: {who} serves it; give one Service"):
            HttpRoute(body(*rules)).stable()

    def test_route_to_several_services_is_refused(self) -> None:
        with pytest.raises(RefusedError, match=r"a and b serves it; its rules lead to several .* a route of its own"):
            HttpRoute(body([backend("a", 1)], [backend("b", 1)])).serving()

    def test_running_canary_is_named(self) -> None:
        with pytest.raises(RefusedError, match=rf"serves it; the deployment {OURS} is not over: wait until it is"):
            shifted(25).stable()

    def test_port_is_that_of_the_backend(self) -> None:
        assert HttpRoute(body([backend("other", 0, 1)], [backend(STABLE, 1, 8443)])).port_of(STABLE) == 8443

    def test_stable_reached_by_several_ports_is_refused(self) -> None:
        """The candidate has one port: one of the rules would send it nowhere."""
        route = HttpRoute(body([backend(STABLE, 1, 80)], [backend(STABLE, 1, 8443)]))
        with pytest.raises(RefusedError, match="its rules reach payments by several ports; use one"):
            route.port_of(STABLE)
        assert HttpRoute(body([backend(STABLE, 1, 80)], [backend(STABLE, 1, 80)])).port_of(STABLE) == 80

    def test_gitops_manager_of_the_rules_is_found(self) -> None:
        managed = body([backend(STABLE)])
        managed["metadata"]["managedFields"] = [
            {"manager": "argocd-controller", "fieldsV1": {"f:spec": {"f:rules": {}}}},
            {"manager": "kustomize-controller", "fieldsV1": {"f:metadata": {"f:labels": {}}}},
            {"manager": "kubectl-edit", "fieldsV1": {"f:spec": {"f:rules": {}}}},
            {"manager": "helm-controller"},
        ]
        assert HttpRoute(managed).gitops_managers() == ["argocd-controller"]
        assert HttpRoute(body([backend(STABLE)])).gitops_managers() == []
