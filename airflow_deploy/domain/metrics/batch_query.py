"""One query for all that a look needs, and the way back from its answer to raw samples.

PromQL joins instant vectors by ``or``, but no raw samples. So the joined vector is evaluated at every step of a
subquery, and the times of the scrapes are one more part of it: a counter's value at a step is its sample of the scrape
that the same step names. That restores the raw samples exactly where the step is no longer than a scrape interval; a
longer step takes several scrapes for one.
"""

from collections.abc import Iterable, Mapping, Sequence

from airflow_deploy.domain.metrics.counters import Samples, Series
from airflow_deploy.domain.names import promql_string

PART_LABEL = "airflow_deploy"
"""Names the part that a series of the answer belongs to."""


def batch_query(parts: Mapping[str, str], seconds: int, step: int = 1) -> str:
    """Return the query for all ``parts`` over ``seconds``, at every ``step`` seconds."""
    # Each expression stands on lines of its own, since it may end in a comment.
    marked = (
        f'label_replace(\n{query}\n, "{PART_LABEL}", {promql_string(name)}, "", "")' for name, query in parts.items()
    )
    return f"({' or '.join(marked)})[{seconds}s:{step}s]"


def split_answer(answer: Iterable[Series]) -> dict[str, list[Series]]:
    """Return the series of each part, as it gave them."""
    found: dict[str, list[Series]] = {}
    for item in answer:
        labels = dict(item.labels)
        found.setdefault(labels.pop(PART_LABEL, ""), []).append(Series(labels, item.samples))
    return found


def raw_samples(counters: Iterable[Series], scrapes: Iterable[Series]) -> list[Series]:
    """Return the raw samples of ``counters``.

    :param scrapes: one series for each target, whose value is the time of its scrape (unix seconds).
    """
    times = {item.labels.get("instance", ""): dict(item.samples) for item in scrapes}
    return [
        Series(item.labels, _raw(item.samples, times.get(item.labels.get("instance", ""), {}))) for item in counters
    ]


def _raw(samples: Samples, scraped_at: Mapping[float, float]) -> Samples:
    # The first step after a scrape is the one that counts.
    found = {scraped_at[step]: value for step, value in reversed(samples) if step in scraped_at}
    return list(found.items())[::-1]


def largest_by_step(series: Sequence[Series]) -> Samples:
    """Return the largest value at each step."""
    largest: dict[float, float] = {}
    for item in series:
        for at, value in item.samples:
            largest[at] = max(value, largest.get(at, value))
    return sorted(largest.items())
