"""Prometheus' own graphs of what a deployment is judged by: a page for people, by which nothing is decided.

The judge counts raw samples; a person sees more in rates.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from airflow_deploy.domain.gates import GATES
from airflow_deploy.domain.names import promql_string
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.domain.telemetry import PRESETS, SATURATION, Preset, edge_pattern, saturation_query

WINDOW = "1m"
"""What each point of a line is the mean of."""
BEFORE = 300
"""Seconds before the trigger that are shown too: what served before is the measure."""
LIVE = 1800
"""Seconds that are shown of a deployment that goes on."""


def graph_page(server: str, plan: DeploymentPlan, until: float | None = None) -> str:
    """Return the address of a page with one graph for each of ``graph_queries``.

    :param server: Prometheus' URL, as people reach it.
    :param until: unix seconds at which the deployment was over; None while it goes on: the page then ends when it is
        looked at.
    """
    shown = {"tab": "0", "range_input": f"{LIVE}s"}
    if until is not None:
        shown["range_input"] = f"{int(until) - plan.created + BEFORE}s"
        shown["end_input"] = f"{datetime.fromtimestamp(until, UTC):%Y-%m-%d %H:%M:%S}"
    panels = [{"expr": query, **shown} for query in graph_queries(plan)]
    given = {f"g{number}.{name}": value for number, panel in enumerate(panels) for name, value in panel.items()}
    # Prometheus 3 sends /graph on to /query, and cleans what follows like a path: an escaped slash is safe from that.
    return f"{server}/graph?{urlencode(given, safe='(),', quote_via=quote)}"


def graph_queries(plan: DeploymentPlan) -> list[str]:
    """Return one query for each graph: requests a second, the share of bad ones by each counted gate, and gauges.

    A line is labelled with its ``version`` or ``gauge``, and a limit's with ``limit``.
    """
    limits, preset = plan.spec.gates, PRESETS[plan.spec.metrics]
    versions = (plan.candidate, plan.stable)
    matchers = {name: preset.matcher(plan.spec.namespace, plan.spec.route.name, name) for name in versions}
    rates = {name: _rate(preset.requests, matcher) for name, matcher in matchers.items()}
    graphs = [_lines("version", rates)]
    for gate in (gate for gate in GATES.values() if gate.counted):
        limit = limits[gate.name]
        shares = {name: BAD_SHARE[gate.kind](preset, matcher, limit) for name, matcher in matchers.items()}
        graphs.append(f"{_lines('version', shares)} or {_limits({gate.name: gate.allowed(limit)})}")
    gauges = {name: saturation_query(name, plan.spec.namespace, plan.candidate) for name in SATURATION}
    graphs.append(f"{_lines('gauge', gauges)} or {_limits({name: limits[name] for name in SATURATION})}")
    return graphs


def _rate(counter: str, matchers: str) -> str:
    return f"sum(rate({counter}{{{matchers}}}[{WINDOW}]))"


def _errors(preset: Preset, matcher: str, _: float) -> str:
    failed = f"{matcher},{preset.code}=~{promql_string('5..')}"
    # A version without an error has no such series, and would have no line.
    return f"({_rate(preset.requests, failed)} or vector(0)) / {_rate(preset.requests, matcher)}"


def _slow(preset: Preset, matcher: str, limit: float) -> str:
    within = f"{matcher},le=~{promql_string(edge_pattern(limit))}"
    return f"1 - {_rate(f'{preset.duration}_bucket', within)} / {_rate(f'{preset.duration}_count', matcher)}"


BAD_SHARE: Mapping[str, Callable[[Preset, str, float], str]] = {"errors": _errors, "latency": _slow}
"""By a counted gate's kind, the query for the share of bad requests among those that match."""


def _lines(label: str, queries: Mapping[str, str]) -> str:
    """Return one query for several lines, each with its name as ``label`` and no other."""
    named = (f'label_replace({query}, "{label}", {promql_string(name)}, "", "")' for name, query in queries.items())
    return " or ".join(named)


def _limits(limits: Mapping[str, float]) -> str:
    return _lines("limit", {name: f"vector({limit!r})" for name, limit in limits.items()})
