"""A page of Prometheus graphs for people: the metrics by which a deployment is judged, as rates.

The judge itself counts raw samples and does not use these queries.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import quote, urlencode

from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.metrics.sources import SATURATION, MetricsSource, edge_pattern, saturation_query
from airflow_deploy.domain.names import promql_string

RATE_WINDOW = "1m"
"""Range over which each point of a line is averaged."""
SECONDS_BEFORE_TRIGGER = 300
"""Seconds before the trigger that are shown too, so that the candidate can be compared with what served before."""
LIVE_SECONDS = 1800
"""Seconds that are shown while a deployment goes on."""


class Graphed(Protocol):
    """The part of a plan that the graphs need."""

    @property
    def spec(self) -> DeploymentSpec:
        """The service's spec."""

    @property
    def candidate(self) -> str:
        """The new version's name."""

    @property
    def versions(self) -> tuple[str, ...]:
        """The candidate's name, then the stable's if there is one."""

    @property
    def created(self) -> int:
        """Unix seconds of the trigger."""


def graph_page(server: str, plan: Graphed, until: float | None = None) -> str:
    """Return the URL of a page with one graph for each of ``graph_queries``.

    :param server: the URL at which people reach Prometheus.
    :param until: unix seconds at which the deployment ended; None while it goes on, so that the page ends at the time
        at which it is opened.
    """
    shown = {"tab": "0", "range_input": f"{LIVE_SECONDS}s"}
    if until is not None:
        shown["range_input"] = f"{int(until) - plan.created + SECONDS_BEFORE_TRIGGER}s"
        shown["end_input"] = f"{datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S}"
    panels = [{"expr": query, **shown} for query in graph_queries(plan)]
    parameters = {f"g{number}.{name}": value for number, panel in enumerate(panels) for name, value in panel.items()}
    # Prometheus 3 redirects /graph to /query and normalises the query string like a path; an escaped slash survives.
    return f"{server}/graph?{urlencode(parameters, safe='(),*:', quote_via=quote)}"


def graph_queries(plan: Graphed) -> list[str]:
    """Return one query for each graph: requests per second, the bad share by each counted gate, and the gauges.

    Each line has one label: ``version`` or ``gauge``, or ``limit`` if it is a gate's limit.
    """
    spec, preset = plan.spec, plan.spec.metrics.names
    matchers = {name: preset.matcher(spec.namespace, spec.route.name, name) for name in plan.versions}
    graphs = [_lines("version", {version: _requests(preset, matcher) for version, matcher in matchers.items()})]
    for name, (gate, limit) in spec.counted_gates.items():
        if own := spec.own_gates.get(name):
            shares = {version: _own_share(own.queries(version)) for version in matchers}
        else:
            shares = {version: BAD_SHARE[gate.kind](preset, matcher, limit) for version, matcher in matchers.items()}
        graphs.append(_lines("version", shares) + _limit(name, gate.allowed(limit)))
    gauges = (_lines("gauge", one) + "".join(_limit(name, spec.limits[name]) for name in one) for one in _gauges(plan))
    return [*graphs, *gauges]


def _gauges(plan: Graphed) -> list[dict[str, str]]:
    """Return the gauges of each graph. Pod saturation shares one graph; a team's own gauge may have any scale."""
    saturation = {name: saturation_query(name, plan.spec.namespace, plan.candidate) for name in SATURATION}
    own = {name: gate.queries(plan.candidate) for name, gate in plan.spec.own_gates.items() if gate.gauge}
    return [saturation, *({name: f"max(\n{queries['gauge']}\n)"} for name, queries in own.items())]


def _requests(preset: MetricsSource, matcher: str) -> str:
    return _rate(f"{preset.requests}{{{matcher}}}")


def _errors(preset: MetricsSource, matcher: str, _: float) -> str:
    failed = f"{matcher},{preset.code}=~{promql_string('5..')}"
    return _share(_requests(preset, failed), _requests(preset, matcher))


def _slow(preset: MetricsSource, matcher: str, limit: float) -> str:
    within = f"{matcher},le=~{promql_string(edge_pattern(limit))}"
    return f"1 - {_rate(f'{preset.duration}_bucket{{{within}}}')} / {_rate(f'{preset.duration}_count{{{matcher}}}')}"


BAD_SHARE: Mapping[str, Callable[[MetricsSource, str, float], str]] = {"errors": _errors, "latency": _slow}
"""The query for the share of bad requests, by the kind of a built-in counted gate."""


def _own_share(queries: Mapping[str, str]) -> str:
    # A query may end in a comment, so it gets lines of its own. It may be any expression, so the range is a subquery.
    bad, total = (f"sum(rate((\n{queries[role]}\n)[{RATE_WINDOW}:5s]))" for role in ("bad", "total"))
    return _share(bad, total)


def _share(bad: str, total: str) -> str:
    # Before the first bad request its series does not exist, and without vector(0) there would be no line.
    return f"({bad} or vector(0)) / {total}"


def _rate(selector: str) -> str:
    return f"sum(rate({selector}[{RATE_WINDOW}]))"


def _lines(label: str, queries: Mapping[str, str]) -> str:
    """Return one query for several lines, each with its name as the value of ``label``."""
    named = (f'label_replace({query}, "{label}", {promql_string(name)}, "", "")' for name, query in queries.items())
    return " or ".join(named)


def _limit(name: str, limit: float) -> str:
    return f" or {_lines('limit', {name: f'vector({limit!r})'})}"
