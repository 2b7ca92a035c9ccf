"""The graphs show the metrics of this deployment, at the time at which it was judged."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_deploy.domain.analysis.graphs import LIVE_SECONDS, SECONDS_BEFORE_TRIGGER, graph_page, graph_queries
from airflow_deploy.domain.metrics.sources import SOURCES
from tests.support.builders import make_plan, make_spec

TRAEFIK = SOURCES["traefik"]
PLAN = make_plan(make_spec(gates={"error_rate": 0.02, "latency_p99": 2.5, "memory": 0.8}))
REQUESTS, ERRORS, P95, P99, GAUGES = range(5)


def given(page: str) -> dict[str, str]:
    """Return the parameters of a page's URL."""
    found = parse_qs(urlsplit(page).query, strict_parsing=True)
    assert all(len(values) == 1 for values in found.values())
    return {name: values[0] for name, values in found.items()}


def test_url_contains_each_query_unchanged() -> None:
    shown = given(graph_page("https://metrics.example.com/prom", PLAN))
    queries = graph_queries(PLAN)
    assert [shown[f"g{number}.expr"] for number in range(len(queries))] == queries
    assert {shown[f"g{number}.tab"] for number in range(len(queries))} == {"0"}
    assert graph_page("https://metrics.example.com/prom", PLAN).startswith("https://metrics.example.com/prom/graph?g0.")


def test_url_query_has_no_characters_that_need_escaping() -> None:
    query = urlsplit(graph_page("http://prometheus", PLAN, PLAN.created + 60)).query
    assert re.fullmatch(r"[A-Za-z0-9._~%&=(),*:-]+", query)


def test_running_deployment_is_shown_up_to_now() -> None:
    shown = given(graph_page("http://prometheus", PLAN))
    assert shown["g4.range_input"] == f"{LIVE_SECONDS}s"
    assert not [name for name in shown if "end" in name]


def test_ended_deployment_is_shown_from_before_its_trigger_to_its_end() -> None:
    shown = given(graph_page("http://prometheus", PLAN, PLAN.created + 100.7))
    for number in range(5):
        assert shown[f"g{number}.range_input"] == f"{100 + SECONDS_BEFORE_TRIGGER}s"
        assert shown[f"g{number}.end_input"] == "2026-11-23 07:01:40"


def test_graphs_show_both_versions_by_counted_gate_and_the_candidates_gauges() -> None:
    queries = graph_queries(PLAN)
    for query in queries[:GAUGES]:
        assert re.findall('"version", "([^"]*)"', query) == [PLAN.candidate, PLAN.stable]
    assert re.findall('"gauge", "([^"]*)"', queries[GAUGES]) == ["cpu_saturation", "memory"]
    assert f'pod=~"{PLAN.candidate}-' in queries[GAUGES]


def test_own_gates_have_graphs() -> None:
    own = {
        "refunds": {"bad": 'bad{v="$version"} # few', "total": 'all{v="$version"}', "limit": 0.1},
        "queue": {"gauge": 'depth{v="$version"}', "limit": 40},
    }
    queries = graph_queries(make_plan(make_spec(gates=own)))
    refunds, queue = queries[GAUGES], queries[-1]
    assert len(queries) == 7
    for version in (PLAN.candidate, PLAN.stable):
        assert f'sum(rate((\nbad{{v="{version}"}} # few\n)[1m:5s]))' in refunds
        assert f'sum(rate((\nall{{v="{version}"}}\n)[1m:5s]))' in refunds
    assert f'max(\ndepth{{v="{PLAN.candidate}"}}\n), "gauge", "queue"' in queue
    assert queue.endswith('label_replace(vector(40.0), "limit", "queue", "", "")')


def test_each_limit_is_a_line() -> None:
    found = [re.findall(r'vector\(([^)]*)\), "limit", "([^"]*)"', query) for query in graph_queries(PLAN)]
    assert found == [
        [],
        [("0.02", "error_rate")],
        [("0.05", "latency_p95")],
        [("0.01", "latency_p99")],
        [("0.9", "cpu_saturation"), ("0.8", "memory")],
    ]


def test_version_without_errors_has_a_line() -> None:
    assert graph_queries(PLAN)[ERRORS].count("or vector(0)) / sum(rate(") == 2


def test_slow_requests_are_counted_at_the_limit() -> None:
    queries = graph_queries(PLAN)
    assert all(query.count("label_replace(1 - sum(rate(") == 2 for query in queries[P95:GAUGES])
    assert re.findall('le=~"([^"]*)"', queries[P95]) == [r"0\\.5"] * 2
    assert re.findall('le=~"([^"]*)"', queries[P99]) == [r"2\\.5"] * 2


@pytest.mark.parametrize("stable", ["pay.ments", 'a"}b', "a\\b", "a\nb"])
def test_hostile_version_name_stays_a_string(stable: str) -> None:
    queries = graph_queries(make_plan(stable=stable))
    text = r'"(?:[^"\\\n]|\\.)*"'
    for query in queries:
        without = re.sub(text, "", query)
        assert "\n" not in query
        assert re.fullmatch(r"[a-z0-9_ ,=~!>{}()\[\]./+*-]*", without), without
    matched = re.findall('service=~"((?:[^"\\\\]|\\\\.)*)"', queries[REQUESTS])[1]
    pattern = matched.replace('\\"', '"').replace("\\n", "\n").replace("\\\\", "\\")
    assert re.fullmatch(pattern, f"httproute-shop-payments-route-x-svc-shop-{stable}-0@kubernetesgateway")
    assert not re.fullmatch(pattern, "httproute-shop-payments-route-x-svc-shop-payXments-0@kubernetesgateway")


def test_url_is_short_enough_for_proxies() -> None:
    service = "a" * 32
    plan = make_plan(make_spec(service=service, namespace="n" * 32, route={"name": service}), stable=service)
    assert len(graph_page("https://metrics.example.com", plan)) < 8000
