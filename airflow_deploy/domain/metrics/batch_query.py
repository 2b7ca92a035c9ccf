"""One query for all metrics that a look needs, and the reconstruction of raw samples from its answer.

PromQL joins instant vectors by ``or``, but not raw samples. So the joined vector is evaluated at every step of a
subquery, and the times of the scrapes are one more part of it: a counter's value at a step is its sample of the scrape
that the same step names. This restores the raw samples exactly if the step is at most one scrape interval; a longer
step merges several scrapes into one.
"""

from collections.abc import Iterable, Mapping, Sequence

from airflow_deploy.domain.metrics.counters import Samples, Series
from airflow_deploy.domain.names import promql_string

PART_LABEL = "airflow_deploy"
"""The label that names the part to which a series of the answer belongs."""


def batch_query(parts: Mapping[str, str], seconds: int, step: int = 1) -> str:
    """Return the query for all ``parts`` (PromQL by name) over the last ``seconds``, every ``step`` seconds."""
    # Each expression gets lines of its own, since it may end in a comment.
    marked = (
        f'label_replace(\n{query}\n, "{PART_LABEL}", {promql_string(name)}, "", "")' for name, query in parts.items()
    )
    return f"({' or '.join(marked)})[{seconds}s:{step}s]"


def split_answer(answer: Iterable[Series]) -> dict[str, list[Series]]:
    """Return the series of each part, by its name, without the part's label."""
    found: dict[str, list[Series]] = {}
    for item in answer:
        labels = dict(item.labels)
        found.setdefault(labels.pop(PART_LABEL, ""), []).append(Series(labels, item.samples))
    return found


def raw_samples(counters: Iterable[Series], scrapes: Iterable[Series]) -> list[Series]:
    """Return the raw samples of ``counters``, each at the time of its scrape.

    :param counters: their values at every step.
    :param scrapes: one series for each target; its value at a step is the time of its latest scrape (unix seconds).
    """
    times = {item.labels.get("instance", ""): dict(item.samples) for item in scrapes}
    return [
        Series(item.labels, _raw(item.samples, times.get(item.labels.get("instance", ""), {}))) for item in counters
    ]


def _raw(samples: Samples, scraped_at: Mapping[float, float]) -> Samples:
    # Several steps may name one scrape. The first of them counts.
    found = {scraped_at[step]: value for step, value in reversed(samples) if step in scraped_at}
    return list(found.items())[::-1]


def largest_by_step(series: Sequence[Series]) -> Samples:
    """Return the largest value of all series at each step, in order of time."""
    largest: dict[float, float] = {}
    for item in series:
        for at, value in item.samples:
            largest[at] = max(value, largest.get(at, value))
    return sorted(largest.items())
