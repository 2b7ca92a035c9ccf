"""Limits on the PromQL of specs and requests, so that no query overloads Prometheus.

Prometheus' own time-out is not enough: one subquery over years took gigabytes and minutes in spite of it. While
Prometheus does not answer, every analysis is blind.
"""

import re

MAX_RANGE_SECONDS = 86_400
"""Longest permitted range, in seconds."""
MAX_SUBQUERY_STEPS = 1440
"""Largest number of steps of a query's subqueries: each minute of a day. Those of nested subqueries multiply."""
DEFAULT_STEP_SECONDS = 60.0
"""Seconds between two steps of a subquery that names no step: Prometheus' default."""

PROMQL_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
PROMQL_DURATION = r"(?:[0-9]{1,9}(?:ms|[smhdwy]))+"
TEXT_OR_COMMENT = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`|\#[^\n]*""")
RANGE = re.compile(rf"\s*({PROMQL_DURATION})\s*(?:(:)\s*({PROMQL_DURATION})?\s*)?")


def check_ranges(query: str) -> str:
    """Return ``query`` unchanged.

    :raises ValueError: one of its ranges is too long or not valid, or its subqueries have too many steps.
    """
    steps = 1.0
    for part in TEXT_OR_COMMENT.sub(" ", query).split("[")[1:]:
        found = RANGE.fullmatch(part.partition("]")[0])
        if not found:
            raise ValueError("one of its ranges is not valid; write ranges such as [5m] or [30m:1m]")
        length, subquery, step = found.groups()
        if _seconds(length) > MAX_RANGE_SECONDS:
            raise ValueError("one of its ranges is longer than 1d; shorten it")
        if subquery:
            steps *= max(1, _seconds(length) / (_seconds(step) if step else DEFAULT_STEP_SECONDS))
    if steps > MAX_SUBQUERY_STEPS:
        raise ValueError(
            f"its subqueries have more than {MAX_SUBQUERY_STEPS} steps; shorten their ranges or lengthen their steps"
        )
    return query


def _seconds(duration: str) -> float:
    # At least a millisecond: Prometheus refuses a step of 0, and here it would divide by zero.
    parts = re.findall(r"([0-9]+)(ms|[smhdwy])", duration)
    return max(sum(int(number) * PROMQL_UNITS[unit] for number, unit in parts), 0.001)
