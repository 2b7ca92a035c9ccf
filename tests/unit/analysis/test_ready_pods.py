"""Too few ready pods are harm after enough looks and enough time, and not before."""

from __future__ import annotations

import pytest

from airflow_deploy.domain.analysis.judge import Judge, Terms, evaluate
from airflow_deploy.domain.analysis.ready_pods import UNREADY_LOOKS, UNREADY_SECONDS, UNSEEN_PODS_SECONDS, PodWatch
from tests.support.builders import make_plan, make_spec
from tests.support.judgement import CANDIDATE, STABLE, START, limits


def breached_at(ready: list[int | None], needed: int = 2, max_unready: float = 0.5, every: float = 1.0) -> float | None:
    """Return after how many seconds the pods are harm; None in ``ready`` is a look without an answer."""
    watch = PodWatch(CANDIDATE, max_unready)
    for number, count in enumerate(ready):
        if count is not None:
            watch.observe(START + number * every, count, needed)
            if watch.harm():
                return number * every
    return None


def test_no_ready_pod_is_harm_after_three_seconds() -> None:
    assert breached_at([2, 2, 2, *[0] * 9]) == 3 + UNREADY_SECONDS


def test_rare_looks_still_need_three_observations() -> None:
    assert breached_at([0] * 9, every=5.0) == 5.0 * (UNREADY_LOOKS - 1)


@pytest.mark.parametrize(
    ("ready", "needed", "max_unready", "harm"),
    [
        (1, 2, 0.5, False),
        (1, 3, 0.5, True),
        (0, 1, 0.5, True),
        (4, 5, 0.2, False),
        (3, 5, 0.2, True),
        (1, 2, 0.0, True),
        (2, 2, 0.0, False),
        (5, 2, 0.0, False),
        (1, 100, 0.99, False),
        (0, 100, 0.99, True),
    ],
)
def test_up_to_max_unready_pods_are_no_harm(ready: int, needed: int, max_unready: float, harm: bool) -> None:
    assert (breached_at([ready] * 9, needed, max_unready) is not None) is harm


def test_pods_that_recover_in_time_are_no_harm() -> None:
    assert breached_at([0, 0, 0, 2] * 9) is None


def test_looks_without_an_answer_neither_count_nor_reset() -> None:
    assert breached_at([0, None, None, 0]) is None
    assert breached_at([0, None, None, 0, 0]) == 4


def test_long_silence_restarts_the_count() -> None:
    assert breached_at([0, 0, *[None] * int(UNSEEN_PODS_SECONDS), 0, 0]) is None


def test_finding_names_ready_and_needed_pods() -> None:
    judge = Judge(Terms(limits(), CANDIDATE, STABLE, max_unready=0.25))
    for second in range(4):
        assert judge.observe_pods(START + second, 1, 3)
    verdict, (finding,) = evaluate(judge, "Prometheus does not answer", None)
    assert verdict == "BREACHED"
    assert finding.reason == (f"ready_pods: 1 of 3 pods of {CANDIDATE} are ready, for 3 s; at most 25% may be unready")
    assert finding.numbers == {"ready": 1, "needed": 3, "seconds": 3}


@pytest.mark.parametrize(
    ("capacity", "share", "needed"),
    [
        ("full", 1, 8),
        ("full", 100, 8),
        ("proportional", 0, 1),
        ("proportional", 1, 1),
        ("proportional", 12, 1),
        ("proportional", 13, 2),
        ("proportional", 25, 2),
        ("proportional", 26, 3),
        ("proportional", 99, 8),
        ("proportional", 100, 8),
    ],
)
def test_share_needs_its_proportion_of_the_pods(capacity: str, share: int, needed: int) -> None:
    assert make_plan(make_spec(replicas=8, capacity=capacity)).pods_for(share) == needed
