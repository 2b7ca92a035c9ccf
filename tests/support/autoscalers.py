"""HorizontalPodAutoscalers as the API server returns them."""

from __future__ import annotations

from typing import Any


def autoscaler(minimum: int | None = 2, maximum: int = 10, **annotations: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "name": "web",
        "resourceVersion": "7",
        **({"annotations": annotations} if annotations else {}),
    }
    spec: dict[str, Any] = {"maxReplicas": maximum, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}
    return {"metadata": metadata, "spec": spec if minimum is None else {**spec, "minReplicas": minimum}}
