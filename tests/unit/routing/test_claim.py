"""Claims: who owns a route, and that no name from a cluster's annotations reaches a path unchecked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.errors import FencedError
from airflow_deploy.domain.object_names import OBJECT_NAME_MAX, Place, epoch_of, object_name
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.lease import Lease, new_lease
from airflow_deploy.domain.routing.record import OWNER, VERSIONS
from airflow_deploy.domain.routing.service_route import ADOPTED, ServiceRoute
from airflow_deploy.domain.routing.team_route import TeamRoute
from tests.support.builders import make_plan

RUN = "DEP-1795417200-0a1b2c3d"
HOSTILE = [
    "../../kube-system/x",
    "..",
    ".",
    "a..b",
    ".a",
    "a.",
    "-a",
    "a-",
    "A",
    "a/b",
    "a%2fb",
    "a?b",
    "a b",
    "a\n",
    "ä",
    "a" * 64,
    "a" * 300,
    ".".join(["a" * 60] * 5),
]
NO_TEXTS: list[Any] = [None, 5, [], {}, True]
labels = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)


def route(stable: Any, candidate: Any, owner: str | None = f"{RUN}/3", kind: type[TeamRoute] = HttpRoute) -> TeamRoute:
    versions = {VERSIONS: json.dumps({"stable": stable, "candidate": candidate})}
    annotations = versions | ({} if owner is None else {OWNER: owner})
    metadata = {"namespace": "shop", "name": "payments-route", "annotations": annotations}
    return kind({"metadata": metadata, "spec": {}})


class TestNameFromACluster:
    @given(names)
    def test_name_that_an_object_can_have_is_accepted(self, name: str) -> None:
        assert object_name(name, "here") == name

    @pytest.mark.parametrize("text", [*HOSTILE, "", *NO_TEXTS])
    def test_name_that_no_object_can_have_is_refused(self, text: Any) -> None:
        with pytest.raises(FencedError, match=r"^here: .* is not the name of a Kubernetes object$"):
            object_name(text, "here")

    @given(st.text() | st.sampled_from(HOSTILE))
    def test_any_text_is_one_path_segment_or_refused(self, text: str) -> None:
        try:
            name = object_name(text, "here")
        except FencedError:
            return
        assert len(name) <= OBJECT_NAME_MAX
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
        assert ".." not in name
        assert name.strip(".-") == name


class TestClaimOfARoute:
    @given(names, names | st.just(""), st.integers(1, 10**9), st.sampled_from([HttpRoute, ServiceRoute]))
    def test_claim_equals_the_routes_record(
        self, candidate: str, stable: str, epoch: int, kind: type[TeamRoute]
    ) -> None:
        found = route(stable, candidate, f"{RUN}/{epoch}", kind)
        claim = found.latest_claim()
        assert claim == Claim(f"{RUN}/{epoch}", stable, candidate, Place("shop", "payments-route", kind.ROUTER))
        assert (claim.deployment_id, claim.epoch) == (RUN, epoch)

    @pytest.mark.parametrize("text", [*HOSTILE, *NO_TEXTS])
    def test_claim_with_an_invalid_version_name_is_refused(self, text: Any) -> None:
        for versions in ((text, "payments-0123456-1"), ("payments", text)):
            with pytest.raises(FencedError, match="is not the name of a Kubernetes object"):
                route(*versions).latest_claim()

    def test_claim_without_a_candidate_is_refused(self) -> None:
        with pytest.raises(FencedError, match="is not the name of a Kubernetes object"):
            route("payments", "").latest_claim()

    @pytest.mark.parametrize("owner", [None, ""])
    def test_claim_without_an_owner_is_refused(self, owner: str | None) -> None:
        with pytest.raises(FencedError, match="shop/payments-route has no owner"):
            route("payments", "payments-0123456-1", owner).latest_claim()

    @given(st.text(max_size=30) | st.sampled_from(HOSTILE), st.text(max_size=30) | st.sampled_from(HOSTILE))
    def test_claim_holds_checked_names_only(self, stable: str, candidate: str) -> None:
        try:
            claim = route(stable, candidate).latest_claim()
        except FencedError:
            return
        assert claim.candidate == object_name(candidate, "")
        assert not claim.stable or claim.stable == object_name(stable, "")


class TestClaimOfAPlan:
    def test_claim_of_a_plan_has_its_versions_and_route(self) -> None:
        plan = make_plan()
        claim = plan.claim(f"{plan.deployment_id}/7")
        assert claim == Claim(f"{plan.deployment_id}/7", plan.stable, plan.candidate, plan.spec.place)
        assert (plan.claim().deployment_id, plan.claim().epoch) == (plan.deployment_id, 0)

    @pytest.mark.parametrize("owner", [f"{RUN}/1", "nonsense", "/1", "DEP-1795417200-0a1b2c3d"])
    def test_plan_claim_for_another_owner_is_refused(self, owner: str) -> None:
        with pytest.raises(FencedError, match="is not one of DEP-"):
            make_plan().claim(owner)

    def test_only_its_own_deployment_reads_a_claim_at_the_present_epoch(self) -> None:
        claim = Claim(f"{RUN}/1", "a", "b", Place("shop", "payments-route", "gateway"))
        assert claim.as_held(route("a", "b", f"{RUN}/2")).owner == f"{RUN}/2"
        for owner in (None, "", "DEP-1-00000000/1", RUN):
            with pytest.raises(FencedError, match=f"not to {RUN}/1"):
                claim.as_held(route("a", "b", owner))


@pytest.mark.parametrize(
    ("owner", "epoch"),
    [("DEP-1/5", 5), ("5", 5), ("DEP-1/", 0), ("DEP-1/-1", 0), ("DEP-1/²", 0), (None, 0), ("DEP-1/" + "9" * 5000, 0)],
)
def test_epoch_is_read_from_the_owner_or_0(owner: str | None, epoch: int) -> None:
    assert epoch_of(owner) == epoch


def _lease(name: str) -> Lease:
    body = new_lease("shop", "payments", f"{RUN}/1", 45)
    body["metadata"]["name"] = name
    return Lease(body)


READERS: dict[str, Callable[[str], object]] = {
    "the route that a Lease stands for": lambda text: _lease(f"airflow-deploy-{text}").place,
    "what a Service has adopted": lambda text: (
        ServiceRoute(
            {
                "metadata": {"namespace": "shop", "name": "a", "annotations": {ADOPTED: json.dumps({text: {}})}},
                "spec": {},
            }
        ).adopted
    ),
}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("read", list(READERS.values()), ids=list(READERS))
def test_every_reader_of_names_refuses_invalid_ones(read: Callable[[str], object], text: str) -> None:
    with pytest.raises(FencedError, match="is not the name of a Kubernetes object"):
        read(text)
