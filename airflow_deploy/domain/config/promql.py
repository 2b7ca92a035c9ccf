"""How much a caller's PromQL may ask of Prometheus.

Its own time-out does not help: measured, one subquery over years took gigabytes and minutes in spite of it, and while
Prometheus is away nobody can judge any deployment.
"""

import re

MAX_RANGE_SECONDS = 86_400
"""Seconds that a range may cover."""
MAX_SUBQUERY_STEPS = 1440
"""How often the subqueries of one query may be evaluated: each minute of a day. Nested ones multiply."""
DEFAULT_STEP_SECONDS = 60.0
"""Seconds between two steps where a subquery names none, as Prometheus has it by default."""

PROMQL_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}
PROMQL_DURATION = r"(?:[0-9]{1,9}(?:ms|[smhdwy]))+"
TEXT_OR_COMMENT = re.compile(r""""(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`|\#[^\n]*""")
RANGE = re.compile(rf"\s*({PROMQL_DURATION})\s*(?:(:)\s*({PROMQL_DURATION})?\s*)?")


def check_ranges(query: str) -> str:
    """Return the query.

    :raises ValueError: one of its ranges is too long, or cannot be read.
    """
    steps = 1.0
    for part in TEXT_OR_COMMENT.sub(" ", query).split("[")[1:]:
        found = RANGE.fullmatch(part.partition("]")[0])
        if not found:
            raise ValueError("write its ranges such as [5m] or [30m:1m]")
        length, subquery, step = found.groups()
        if _seconds(length) > MAX_RANGE_SECONDS:
            raise ValueError("a range may cover 1d at most; shorten it")
        if subquery:
            steps *= max(1, _seconds(length) / (_seconds(step) if step else DEFAULT_STEP_SECONDS))
    if steps > MAX_SUBQUERY_STEPS:
        raise ValueError(
            f"its subqueries have more than {MAX_SUBQUERY_STEPS} steps; shorten their ranges or lengthen their steps"
        )
    return query


def _seconds(duration: str) -> float:
    # No step is shorter than a millisecond: a step of 0 is Prometheus' to refuse, and ours not to divide by.
    parts = re.findall(r"([0-9]+)(ms|[smhdwy])", duration)
    return max(sum(int(number) * PROMQL_UNITS[unit] for number, unit in parts), 0.001)
