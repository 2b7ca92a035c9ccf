"""Manifests of the tests: one of each kind that they write."""

from __future__ import annotations

from typing import Any

from tests.support.kubernetes_api import Object


def config_map(name: str = "settings", **metadata: Any) -> Object:
    return {"kind": "ConfigMap", "metadata": {"name": name, "namespace": "shop", **metadata}, "data": {"a": "1"}}


def route(**metadata: Any) -> Object:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "payments", "namespace": "shop", **metadata},
        "spec": {"rules": [{"backendRefs": [{"name": "payments", "port": 80, "weight": 1}]}]},
    }


def deployment(name: str = "payments", replicas: int = 2) -> Object:
    labels = {"app": name}
    container = {"name": "app", "image": f"registry/{name}:1"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop", "labels": labels},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def service(name: str = "payments") -> Object:
    return {"kind": "Service", "metadata": {"name": name, "namespace": "shop"}, "spec": {"selector": {"app": name}}}
