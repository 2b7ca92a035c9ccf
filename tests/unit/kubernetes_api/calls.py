"""Raw requests to the API server, and the paths and content types of the tests."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kubernetes.client import ApiException

ROUTES = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes"
ROUTE = f"{ROUTES}/payments"
CONFIG_MAPS = "/api/v1/namespaces/shop/configmaps"
DEPLOYMENTS = "/apis/apps/v1/namespaces/shop/deployments"
JSON_PATCH, MERGE_PATCH = "application/json-patch+json", "application/merge-patch+json"
APPLY = "application/apply-patch+yaml"


def call(
    api: Any, method: str, path: str, body: Any = None, content_type: str = "application/json", **query: str
) -> Any:
    """Send a request as the raw client does, and return the answer."""
    return api.call_api(
        path,
        method,
        body=body,
        query_params=[*query.items()],
        header_params={"Accept": "application/json", "Content-Type": content_type},
        response_types_map=dict.fromkeys((200, 201, 202), "object"),
        auth_settings=["BearerToken"],
        _return_http_data_only=True,
        _request_timeout=(1.0, 3.0),
    )


def refused(api: Any, *arguments: Any, **query: str) -> tuple[int, Any]:
    """Return code and body of the answer to a request that is not accepted."""
    with pytest.raises(ApiException) as caught:
        call(api, *arguments, **query)
    try:
        return caught.value.status, json.loads(caught.value.body)
    except ValueError:
        return caught.value.status, caught.value.body
