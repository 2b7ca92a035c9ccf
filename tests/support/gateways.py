"""Routes as gateways of several makes have taken them."""

from __future__ import annotations

from typing import Any

ENVOY, TRAEFIK = "gateway.envoyproxy.io/gatewayclass-controller", "traefik.io/gateway-controller"


def taken_by(controller: str, route: dict[str, Any], left: str = "") -> dict[str, Any]:
    """Return the route as a gateway has taken it.

    :param left: the controller of another gateway, which it was taken from.
    """
    here, there = {"name": "public"}, {"name": "public", "namespace": "elsewhere"}
    taken = [{"controllerName": controller, "parentRef": {**here, "namespace": "shop", "kind": "Gateway"}}]
    taken += [{"controllerName": left, "parentRef": there}] if left else []
    return {**route, "spec": {**route["spec"], "parentRefs": [here]}, "status": {"parents": taken}}
