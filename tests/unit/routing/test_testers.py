"""The testers' rules: the team's, with one header more, and a request that they ask for."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.metrics.sources import SOURCES
from airflow_deploy.domain.object_names import Place
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.http_route import HttpRoute
from airflow_deploy.domain.routing.testers import (
    MATCH_ALL,
    VERSION_HEADER,
    probe_request,
    route_for_testers,
    route_name_for_testers,
)
from tests.support.builders import make_spec
from tests.support.json_patch import apply_patch
from tests.support.series import label

OWNER = "DEP-1795417200-ffffffff/1"
CLAIM = Claim(OWNER, "old", "new", Place("shop", "payments", "gateway"))
ASKED = {"type": "Exact", "name": "x-canary", "value": "always"}
MARKS: dict[str, Any] = {
    "type": "ResponseHeaderModifier",
    "responseHeaderModifier": {"set": [{"name": VERSION_HEADER, "value": "new"}]},
}


def claimed(*rules: dict[str, Any], **spec: Any) -> HttpRoute:
    """A route of two Services and the given rules, on which the first one's candidate stands."""
    ref = {"kind": "Service", "name": "old", "port": 80, "weight": 1}
    body = {
        "metadata": {"name": "payments", "namespace": "shop", "resourceVersion": "1", "labels": {"team": "pay"}},
        "spec": {"parentRefs": [{"name": "gateway"}], **spec, "rules": [{"backendRefs": [ref], **r} for r in rules]},
    }
    _, patch = routes.claim(HttpRoute(body), CLAIM)
    return HttpRoute(apply_patch(body, patch))


def beside(*rules: dict[str, Any], **spec: Any) -> dict[str, Any]:
    body = route_for_testers(claimed(*rules, **spec), CLAIM)
    assert body is not None
    return body


def matches(*found: dict[str, Any]) -> dict[str, Any]:
    return {"matches": list(found)}


def path(value: str, kind: str = "PathPrefix") -> dict[str, Any]:
    return {"path": {"type": kind, "value": value}}


class TestRules:
    def test_requests_with_the_header_go_to_the_candidate_alone(self) -> None:
        body = beside(matches(path("/"), path("/v2", "Exact")), hostnames=["shop.example.com", "*.example.com"])
        assert body["metadata"]["name"] == "testers-payments"
        assert body["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "airflow-deploy"
        assert body["metadata"]["annotations"] == {"airflow-deploy/owner": OWNER}
        assert body["spec"] == {
            "parentRefs": [{"name": "gateway"}],
            "hostnames": ["shop.example.com", "*.example.com"],
            "rules": [
                {
                    "matches": [{**path("/"), "headers": [ASKED]}, {**path("/v2", "Exact"), "headers": [ASKED]}],
                    "filters": [MARKS],
                    "backendRefs": [{"kind": "Service", "name": "new", "port": 80, "weight": 1}],
                }
            ],
        }

    def test_teams_route_is_not_changed(self) -> None:
        route = claimed({**matches(path("/")), "filters": [copy.deepcopy(MARKS)]})
        before = copy.deepcopy(route.body)
        route_for_testers(route, CLAIM)
        assert route.body == before

    def test_rule_keeps_the_conditions_of_the_teams_matches(self) -> None:
        other = {"type": "Exact", "name": "x-tenant", "value": "a"}
        (rule,) = beside(matches({**path("/"), "method": "POST", "headers": [other]}))["spec"]["rules"]
        assert rule["matches"] == [{**path("/"), "method": "POST", "headers": [other, ASKED]}]

    def test_rule_without_matches_takes_every_request_with_the_header(self) -> None:
        (rule,) = beside({})["spec"]["rules"]
        assert rule["matches"] == [{**MATCH_ALL, "headers": [ASKED]}]

    def test_rules_to_other_services_are_left_out(self) -> None:
        elsewhere = {"backendRefs": [{"name": "static", "port": 80, "weight": 0}], **matches(path("/static"))}
        rules = beside(matches(path("/a")), elsewhere, matches(path("/b")))["spec"]["rules"]
        assert [rule["matches"][0]["path"]["value"] for rule in rules] == ["/a", "/b"]

    def test_rule_keeps_filters_and_timeouts(self) -> None:
        rewrite = {
            "type": "URLRewrite",
            "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/"}},
        }
        said = {"add": [{"name": "x-team", "value": "pay"}], "set": [{"name": "X-Canary-Version", "value": "forged"}]}
        modifier = {"type": "ResponseHeaderModifier", "responseHeaderModifier": said}
        (rule,) = beside({"filters": [modifier, rewrite], "timeouts": {"request": "5s"}})["spec"]["rules"]
        marked = {**MARKS["responseHeaderModifier"], "add": said["add"]}
        assert rule["filters"] == [rewrite, {**MARKS, "responseHeaderModifier": marked}]
        assert rule["timeouts"] == {"request": "5s"}

    def test_no_rules_are_made_if_the_team_has_its_own_for_the_header(self) -> None:
        own = {"type": "Exact", "name": "X-Canary", "value": "always"}
        route = claimed(matches({**path("/"), "headers": [own]}))
        assert route_for_testers(route, CLAIM) is None

    def test_testers_requests_are_not_counted_as_users(self) -> None:
        preset, services = SOURCES["traefik"], ("new", "old")
        users = label("new", namespace="shop", route="payments")
        apart = label("new", namespace="shop", route=route_name_for_testers("payments"))
        assert preset.service_of({"service": users}, "shop", "payments", services) == "new"
        assert preset.service_of({"service": apart}, "shop", "payments", services) is None


class TestQuestion:
    def test_probe_is_a_get_of_the_first_match_it_can_meet(self) -> None:
        tenant = {"type": "Exact", "name": "x-tenant", "value": "a"}
        asked = probe_request(
            beside(
                matches({**path("/pay"), "method": "POST"}, path("/[a-z]+", "RegularExpression")),
                matches(
                    {**path("/shop"), "headers": [{"type": "RegularExpression", "name": "cookie", "value": ".*"}]},
                    {**path("/a b"), "headers": [tenant], "queryParams": [{"name": "q", "value": "1&2"}]},
                ),
                hostnames=["*.example.com"],
            )
        )
        assert asked is not None
        assert asked.target == "/a%20b?q=1%262"
        assert asked.headers == {"x-tenant": "a", "x-canary": "always", "Host": "canary.example.com"}

    def test_probe_has_no_host_if_the_route_has_no_hostnames(self) -> None:
        asked = probe_request(beside({}))
        assert asked is not None
        assert (asked.target, asked.headers) == ("/", {"x-canary": "always"})

    def test_no_probe_is_made_if_no_get_can_match(self) -> None:
        assert probe_request(beside(matches({**path("/pay"), "method": "POST"}))) is None

    @pytest.mark.parametrize("value", ["/\r\nHost: evil", "/a?b#c", "//evil.example.com/"])
    def test_hostile_path_stays_a_path_in_the_probe(self, value: str) -> None:
        asked = probe_request(beside(matches(path(value))))
        assert asked is not None
        assert asked.target.startswith("/")
        assert not set("\r\n?# ") & set(asked.target)


class TestUrl:
    @pytest.mark.parametrize("url", ["http://10.0.0.1:8000", "https://gateway.example.com"])
    def test_route_url_of_a_gateway_is_accepted(self, url: str) -> None:
        assert make_spec(route={"name": "payments", "url": url}).route.url == url

    @pytest.mark.parametrize(
        "url",
        [
            "gateway",
            "file:///etc/passwd",
            "http://user:password@gateway",
            "http://gateway/path",
            "http://gateway?x=1",
            "http://gateway\n",
            "http://gateway\r\nX: y",
            "http://gateway#",
            "http://:80",
        ],
    )
    def test_route_url_that_is_more_than_scheme_and_host_is_refused(self, url: str) -> None:
        with pytest.raises(RefusedError, match=r"payments.yaml: route\.url "):
            make_spec(route={"name": "payments", "url": url})
