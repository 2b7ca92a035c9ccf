"""The testers' route: requests with ``x-canary: always`` are answered by the candidate, also before users are.

It is an HTTPRoute of our own beside the team's, whose rules are not touched: the same Gateway, hostnames and filters,
and each match with one header more, which the Gateway API prefers. Its name begins unlike the team's route, so that the
gateway's counters tell testers from users, and only users are judged by.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from airflow_deploy.domain.labels import MANAGED_BY, MANAGER
from airflow_deploy.domain.names import mirror_name
from airflow_deploy.domain.routing.claim import Claim
from airflow_deploy.domain.routing.http_route import HttpRoute, mirror_filter, mirror_ref
from airflow_deploy.domain.routing.record import OWNER

CANARY_HEADER, CANARY_HEADER_VALUE = "x-canary", "always"
VERSION_HEADER = "x-canary-version"
"""The header that the testers' rule adds to each answer: by it alone one can tell that the rule has delivered it."""
TESTERS_LABELS = {MANAGED_BY: MANAGER, "app.kubernetes.io/component": "testers"}
MATCH_ALL = {"path": {"type": "PathPrefix", "value": "/"}}
"""What a rule without a match matches."""


def route_name_for_testers(route: str) -> str:
    """Return the name of the testers' route beside the route of that name."""
    return f"testers-{route}"


def is_testers_route(testers: HttpRoute) -> bool:
    """Whether it is one that we have made for testers, and may write: the route of a first version is ours no more."""
    return TESTERS_LABELS.items() <= (testers.body["metadata"].get("labels") or {}).items()


def route_for_testers(route: HttpRoute, claim: Claim, *, mirrored: bool = False) -> dict[str, Any] | None:
    """Return the testers' route beside ``route``, for a claim of that.

    None if the team's own rules divide requests by that header already.

    :param mirrored: answer testers by the stable, and copy their requests to the candidate's mirror.
    """
    shape = _through_filter if mirrored and route.mirrors_by_filter else _through_service if mirrored else _direct
    candidate = claim.candidate
    rules = [shape(route.body["spec"]["rules"][index], candidate) for index in route.rules_with(candidate)]
    if not (rules := [rule for rule in rules if rule["matches"]]):
        return None
    metadata = route.body["metadata"]
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {
            "name": route_name_for_testers(metadata["name"]),
            "namespace": metadata["namespace"],
            "labels": TESTERS_LABELS,
            "annotations": {OWNER: claim.owner},
        },
        "spec": {**route.body["spec"], "rules": rules},
    }


def backends_of(testers: Mapping[str, Any]) -> list[str]:
    """Return the backends that answer testers, rule by rule."""
    rules = testers["spec"].get("rules") or []
    return [ref["name"] for rule in rules for ref in rule.get("backendRefs") or []]


def _direct(rule: Mapping[str, Any], candidate: str) -> dict[str, Any]:
    (ref,) = (ref for ref in rule["backendRefs"] if ref["name"] == candidate)
    return _rule(rule, {**ref, "weight": 1}, candidate)


def _through_service(rule: Mapping[str, Any], candidate: str) -> dict[str, Any]:
    return _rule(rule, mirror_ref(candidate, 1), mirror_name(candidate))


def _through_filter(rule: Mapping[str, Any], candidate: str) -> dict[str, Any]:
    (ref,) = (ref for ref in rule["backendRefs"] if ref["name"] != candidate)
    copies = mirror_filter(candidate, ref["port"], 100)
    return _rule({**rule, "filters": [*(rule.get("filters") or []), copies]}, ref, mirror_name(candidate))


def _rule(rule: Mapping[str, Any], ref: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """Return a rule for testers that leads to ``ref``, whose answers are marked."""
    header = {"type": "Exact", "name": CANARY_HEADER, "value": CANARY_HEADER_VALUE}
    return {
        **rule,
        "matches": [
            {**match, "headers": [*(match.get("headers") or []), header]}
            for match in rule.get("matches") or [MATCH_ALL]
            if CANARY_HEADER not in _names(match.get("headers"))
        ],
        "filters": _marked(rule.get("filters") or [], mark),
        "backendRefs": [ref],
    }


def _names(headers: Iterable[Mapping[str, Any]] | None) -> set[str]:
    return {header["name"].lower() for header in headers or []}


def _marked(filters: Iterable[Mapping[str, Any]], backend: str) -> list[dict[str, Any]]:
    """Return the filters with one that marks answers; a rule may have one filter of that kind alone."""
    kind, key = "ResponseHeaderModifier", "responseHeaderModifier"
    others = [dict(item) for item in filters if item["type"] != kind]
    said: dict[str, Any] = next((item[key] for item in filters if item["type"] == kind), {})
    kept = [item for item in said.get("set") or [] if item["name"].lower() != VERSION_HEADER]
    return [*others, {"type": kind, key: {**said, "set": [*kept, {"name": VERSION_HEADER, "value": backend}]}}]


@dataclass(frozen=True)
class ProbeRequest:
    """A request that the testers' route would bring to the candidate: path with its query, and headers."""

    target: str
    headers: Mapping[str, str]


def probe_request(testers: Mapping[str, Any]) -> ProbeRequest | None:
    """Return a GET that one of the testers' matches asks for; None if none does, or only by patterns."""
    hostnames = testers["spec"].get("hostnames") or []
    host = {"Host": hostnames[0].replace("*", "canary")} if hostnames else {}
    for match in (match for rule in testers["spec"]["rules"] for match in rule["matches"]):
        path = match.get("path") or MATCH_ALL["path"]
        headers, params = match["headers"], match.get("queryParams") or []
        types = {item.get("type", "Exact") for item in [*headers, *params]}
        if match.get("method", "GET") == "GET" and path["type"] != "RegularExpression" and types == {"Exact"}:
            query = urlencode([(item["name"], item["value"]) for item in params])
            target = quote(path["value"], safe="/%:@!$&'()*+,;=~") + (f"?{query}" if query else "")
            return ProbeRequest(target, {**{item["name"]: item["value"] for item in headers}, **host})
    return None
