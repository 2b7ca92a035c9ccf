"""The answer to the joined query yields the raw samples again, if each step sees each scrape."""

from __future__ import annotations

from bisect import bisect_right
from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.metrics.batch_query import (
    PART_LABEL,
    batch_query,
    largest_by_step,
    raw_samples,
    split_answer,
)
from airflow_deploy.domain.metrics.counters import Series

Samples = list[tuple[float, float]]


@st.composite
def scraped(draw: st.DrawFn) -> Samples:
    """A counter's raw samples: scrapes are a second or more apart, and never on the second."""
    at, value, found = 100.25, 0.0, []
    for _ in range(draw(st.integers(1, 15))):
        found.append((at, value))
        at += draw(st.integers(1, 7))
        value += draw(st.integers(0, 3))
    return found


def evaluated(samples: Samples, until: float, step: int = 1) -> Samples:
    """The answer of an instant query at each step: the newest sample."""
    times = [at for at, _ in samples]
    steps = range(ceil(times[0] / step) * step, ceil(until) + 1, step)
    return [(float(at), samples[index - 1][1]) for at in steps if (index := bisect_right(times, at))]


def times_of(samples: Samples) -> Samples:
    return [(at, at) for at, _ in samples]


@given(scraped(), scraped())
def test_raw_samples_are_restored_exactly_for_each_target(one: Samples, other: Samples) -> None:
    until = max(one[-1][0], other[-1][0]) + 5
    targets = {"gateway-0": one, "gateway-1": other}
    counters = [Series({"instance": name}, evaluated(found, until)) for name, found in targets.items()]
    scrapes = [Series({"instance": name}, evaluated(times_of(found), until)) for name, found in targets.items()]
    assert [item.samples for item in raw_samples(counters, scrapes)] == [one, other]


@given(scraped(), st.integers(2, 9))
def test_longer_step_merges_scrapes_and_invents_none(samples: Samples, step: int) -> None:
    until = samples[-1][0] + step
    counter = Series({}, evaluated(samples, until, step))
    (found,) = raw_samples([counter], [Series({}, evaluated(times_of(samples), until, step))])
    assert set(found.samples) <= set(samples)
    assert found.samples[-1] == samples[-1]


def test_counter_of_a_target_without_scrape_times_has_no_samples() -> None:
    counter = Series({"instance": "gateway-0"}, [(101.0, 1.0)])
    assert raw_samples([counter], [Series({"instance": "gateway-1"}, [(101.0, 100.25)])])[0].samples == []


def test_answer_is_split_by_part_without_the_parts_label() -> None:
    answer = [
        Series({PART_LABEL: "memory"}, [(1.0, 0.5)]),
        Series({PART_LABEL: "counters", "code": "200"}, [(1.0, 7.0)]),
    ]
    assert split_answer(answer) == {
        "memory": [Series({}, [(1.0, 0.5)])],
        "counters": [Series({"code": "200"}, [(1.0, 7.0)])],
    }


def test_expression_that_ends_in_a_comment_does_not_hide_the_next() -> None:
    query = batch_query({"one": "up # a team's remark", 'o"dd': "sum(x)"}, 30, 5)
    assert "\nup # a team's remark\n, " in query
    assert '"o\\"dd"' in query
    assert query.endswith(")[30s:5s]")
    assert query.count(" or ") == 1


def test_largest_value_is_taken_at_each_step() -> None:
    one, other = Series({"pod": "a"}, [(1.0, 0.2), (2.0, 0.9)]), Series({"pod": "b"}, [(2.0, 0.4), (3.0, 0.5)])
    assert largest_by_step([one, other]) == [(1.0, 0.2), (2.0, 0.9), (3.0, 0.5)]
    assert largest_by_step([]) == []
