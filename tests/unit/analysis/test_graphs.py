"""The graphs show what is judged, of this deployment and no other, at the time when it was judged."""

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
    """What a page's address says, each parameter once."""
    found = parse_qs(urlsplit(page).query, strict_parsing=True)
    assert all(len(values) == 1 for values in found.values())
    return {name: values[0] for name, values in found.items()}


def test_the_address_holds_each_query_as_it_is() -> None:
    shown = given(graph_page("https://metrics.example.com/prom", PLAN))
    queries = graph_queries(PLAN)
    assert [shown[f"g{number}.expr"] for number in range(len(queries))] == queries
    assert {shown[f"g{number}.tab"] for number in range(len(queries))} == {"0"}
    assert graph_page("https://metrics.example.com/prom", PLAN).startswith("https://metrics.example.com/prom/graph?g0.")


def test_nothing_in_the_address_is_left_to_be_cleaned_on_the_way() -> None:
    query = urlsplit(graph_page("http://prometheus", PLAN, PLAN.created + 60)).query
    assert re.fullmatch(r"[A-Za-z0-9._~%&=(),*:-]+", query)


def test_a_deployment_that_goes_on_is_shown_up_to_now() -> None:
    shown = given(graph_page("http://prometheus", PLAN))
    assert shown["g4.range_input"] == f"{LIVE_SECONDS}s"
    assert not [name for name in shown if "end" in name]


def test_one_that_is_over_is_shown_at_its_time_with_what_was_before() -> None:
    shown = given(graph_page("http://prometheus", PLAN, PLAN.created + 100.7))
    for number in range(5):
        assert shown[f"g{number}.range_input"] == f"{100 + SECONDS_BEFORE_TRIGGER}s"
        assert shown[f"g{number}.end_input"] == "2026-11-23 07:01:40"


def test_both_versions_are_shown_by_each_counted_gate_and_the_candidates_gauges() -> None:
    queries = graph_queries(PLAN)
    for query in queries[:GAUGES]:
        assert re.findall('"version", "([^"]*)"', query) == [PLAN.candidate, PLAN.stable]
    assert re.findall('"gauge", "([^"]*)"', queries[GAUGES]) == ["cpu_saturation", "memory"]
    assert f'pod=~"{PLAN.candidate}-' in queries[GAUGES]


def test_a_teams_own_gates_have_their_graphs_too() -> None:
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


def test_a_version_without_an_error_has_its_line_too() -> None:
    assert graph_queries(PLAN)[ERRORS].count("or vector(0)) / sum(rate(") == 2


def test_the_slow_are_counted_at_the_limit() -> None:
    queries = graph_queries(PLAN)
    assert all(query.count("label_replace(1 - sum(rate(") == 2 for query in queries[P95:GAUGES])
    assert re.findall('le=~"([^"]*)"', queries[P95]) == [r"0\\.5"] * 2
    assert re.findall('le=~"([^"]*)"', queries[P99]) == [r"2\\.5"] * 2


@pytest.mark.parametrize("stable", ["pay.ments", 'a"}b', "a\\b", "a\nb"])
def test_a_name_is_no_more_than_a_name(stable: str) -> None:
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


def test_the_address_is_short_enough_for_a_proxy() -> None:
    service = "a" * 32
    plan = make_plan(make_spec(service=service, namespace="n" * 32, route={"name": service}), stable=service)
    assert len(graph_page("https://metrics.example.com", plan)) < 8000
