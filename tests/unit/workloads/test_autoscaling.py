"""An autoscaler's minimum is raised for a run and restored afterwards, even if a run dies or people interfere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_deploy.domain.workloads.autoscaling import (
    HELD_ANNOTATION,
    autoscalers_of,
    hold_patch,
    holder_of,
    release_patch,
)
from tests.support.autoscalers import autoscaler
from tests.support.json_patch import PatchRefused, apply_patch

RUN, LATER = "DEP-1-aaaaaaaa", "DEP-2-bbbbbbbb"


def held(pods: int = 5, **made: Any) -> dict[str, Any]:
    before = autoscaler(**made)
    return apply_patch(before, hold_patch(before, RUN, pods))


class TestHolding:
    def test_hold_raises_the_minimum_to_the_stables_pods(self) -> None:
        assert held(5)["spec"]["minReplicas"] == 5

    def test_hold_never_exceeds_the_maximum(self) -> None:
        assert held(50, maximum=10)["spec"]["minReplicas"] == 10

    @pytest.mark.parametrize("pods", [0, 1, 2])
    def test_hold_writes_nothing_if_the_minimum_is_high_enough(self, pods: int) -> None:
        assert hold_patch(autoscaler(minimum=2), RUN, pods) == []

    def test_second_hold_writes_nothing(self) -> None:
        assert hold_patch(held(5), RUN, 5) == []

    @pytest.mark.parametrize("minimum", [1, 2, 3])
    def test_lowered_minimum_is_raised_again(self, minimum: int) -> None:
        """The team applies its own manifest again, say."""
        lowered = held(5, minimum=2)
        lowered["spec"]["minReplicas"] = minimum
        after = apply_patch(lowered, hold_patch(lowered, RUN, 5))
        assert after["spec"]["minReplicas"] == 5
        assert apply_patch(after, release_patch(after))["spec"]["minReplicas"] == minimum

    def test_hold_keeps_other_annotations(self) -> None:
        assert held(5, note="of the team")["metadata"]["annotations"]["note"] == "of the team"

    def test_minimum_before_a_dead_run_stays_recorded(self) -> None:
        after = apply_patch(left := held(5), hold_patch(left, LATER, 7))
        assert after["spec"]["minReplicas"] == 7
        assert apply_patch(after, release_patch(after))["spec"]["minReplicas"] == 2

    def test_later_run_takes_over_the_hold_of_a_dead_run(self) -> None:
        after = apply_patch(left := held(5), hold_patch(left, LATER, 3))
        assert apply_patch(after, release_patch(after))["spec"]["minReplicas"] == 2

    def test_concurrent_change_is_not_overwritten(self) -> None:
        patches = [hold_patch(autoscaler(), RUN, 5), release_patch(held(5))]
        for before, patch in zip((autoscaler(), held(5)), patches, strict=True):
            before["metadata"]["resourceVersion"] = "8"
            with pytest.raises(PatchRefused):
                apply_patch(before, patch)


class TestReleasing:
    def test_release_restores_the_minimum(self) -> None:
        before = held(5, note="of the team")
        assert holder_of(before) == RUN
        after = apply_patch(before, release_patch(before))
        assert after == autoscaler(note="of the team")
        assert holder_of(after) is None

    def test_release_without_a_hold_writes_nothing(self) -> None:
        assert release_patch(autoscaler()) == release_patch(autoscaler(note="of the team")) == []

    def test_release_keeps_a_minimum_that_was_changed_meanwhile(self) -> None:
        changed = held(5)
        changed["spec"]["minReplicas"] = 7
        after = apply_patch(changed, release_patch(changed))
        assert (after["spec"]["minReplicas"], after["metadata"]["annotations"]) == (7, {})

    @pytest.mark.parametrize(
        "text",
        ["", "null", "[]", "5", "{}", "[" * 20_000, json.dumps({"by": RUN, "before": "2", "raised": 5})]
        + [json.dumps({"by": RUN, "before": before, "raised": 5}) for before in (0, -1, 6, 10**9, None, True)],
    )
    def test_release_with_a_damaged_record_changes_no_minimum(self, text: str) -> None:
        garbled = held(5)
        garbled["metadata"]["annotations"][HELD_ANNOTATION] = text
        assert holder_of(garbled) in (RUN, None)
        after = apply_patch(garbled, release_patch(garbled))
        assert (after["spec"]["minReplicas"], after["metadata"]["annotations"]) == (5, {})


class TestFinding:
    DEPLOYMENTS = tuple(
        {"metadata": {"name": name}, "spec": {"template": {"metadata": {"labels": labels}}}}
        for name, labels in {"web": {"app": "web", "tier": "x"}, "batch": {"app": "batch"}, "none": None}.items()
    )

    def test_autoscalers_of_the_services_pods_are_found(self) -> None:
        batch, other = autoscaler(), autoscaler()
        batch["spec"]["scaleTargetRef"]["name"] = "batch"
        other["spec"]["scaleTargetRef"]["kind"] = "StatefulSet"
        service = {"spec": {"selector": {"app": "web"}}}
        assert autoscalers_of([service], self.DEPLOYMENTS, [batch, other, autoscaler()]) == [autoscaler()]

    @pytest.mark.parametrize("services", [[], [{"spec": {}}], [{"spec": {"selector": {}}}]])
    def test_service_without_a_selector_has_no_autoscalers(self, services: list[dict[str, Any]]) -> None:
        assert autoscalers_of(services, self.DEPLOYMENTS, [autoscaler()]) == []
