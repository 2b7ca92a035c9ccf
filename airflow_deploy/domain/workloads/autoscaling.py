"""Raises the minimum of the stable's autoscaler during a deployment, and restores it afterwards.

Without this, the autoscaler would shrink the stable while the candidate has the traffic. The previous minimum is
recorded on the autoscaler itself, so that any later run can restore it.
"""

import json
from collections.abc import Iterable
from typing import Any

from airflow_deploy.domain.labels import ANNOTATION_PREFIX
from airflow_deploy.domain.routing.record import ANNOTATION_ERRORS, Patch
from airflow_deploy.domain.workloads.versions import KubernetesObject

HELD_ANNOTATION = f"{ANNOTATION_PREFIX}/held"
_HELD = "/metadata/annotations/" + HELD_ANNOTATION.replace("/", "~1")


def autoscalers_of(
    services: Iterable[KubernetesObject],
    deployments: Iterable[KubernetesObject],
    autoscalers: Iterable[KubernetesObject],
) -> list[dict[str, Any]]:
    """Return those of ``autoscalers`` that scale a Deployment whose pods one of ``services`` selects."""
    selectors = [selector.items() for item in services if (selector := item["spec"].get("selector"))]
    labels = {
        item["metadata"]["name"]: item["spec"]["template"]["metadata"].get("labels") or {} for item in deployments
    }
    scaled = {name for name, has in labels.items() if any(selector <= has.items() for selector in selectors)}
    refs = ((item, item["spec"]["scaleTargetRef"]) for item in autoscalers)
    return [dict(item) for item, ref in refs if ref["kind"] == "Deployment" and ref["name"] in scaled]


def hold_patch(autoscaler: KubernetesObject, deployment_id: str, pods: int) -> Patch:
    """Return the patch that raises the minimum to ``pods`` for this deployment; empty if no change is needed.

    If an earlier deployment has left the minimum raised, the minimum before that one stays recorded.
    """
    now, before = _minimum(autoscaler), _before(autoscaler)
    wanted = min(pods, int(autoscaler["spec"]["maxReplicas"]))
    if wanted <= now and before is None:
        return []
    raised = max(wanted, now)
    record = {"by": deployment_id, "before": now if before is None else before, "raised": raised}
    if now == raised and record == _record(autoscaler):
        return []
    annotated: Patch = [{"op": "add", "path": _HELD, "value": json.dumps(record)}]
    if not autoscaler["metadata"].get("annotations"):
        annotated.insert(0, {"op": "add", "path": "/metadata/annotations", "value": {}})
    return [_test_unchanged(autoscaler), *annotated, _set_minimum(raised)]


def holder_of(autoscaler: KubernetesObject) -> str | None:
    """Return the id of the deployment that raised the minimum; None if none did."""
    by = (_record(autoscaler) or {}).get("by")
    return by if isinstance(by, str) else None


def release_patch(autoscaler: KubernetesObject) -> Patch:
    """Return the patch that restores the minimum; empty if no deployment has raised it.

    A minimum that was changed meanwhile by someone else is kept, and only the record is removed.
    """
    if _record(autoscaler) is None:
        return []
    before = _before(autoscaler)
    restored = [] if before is None else [_set_minimum(before)]
    return [_test_unchanged(autoscaler), *restored, {"op": "remove", "path": _HELD}]


def _minimum(autoscaler: KubernetesObject) -> int:
    return int(autoscaler["spec"].get("minReplicas", 1))


def _record(autoscaler: KubernetesObject) -> dict[str, Any] | None:
    text = (autoscaler["metadata"].get("annotations") or {}).get(HELD_ANNOTATION)
    if text is None:
        return None
    try:
        return dict(json.loads(text))
    except ANNOTATION_ERRORS:
        return {}


def _before(autoscaler: KubernetesObject) -> int | None:
    """Return the recorded minimum; None if no deployment has raised it, or if it was changed since."""
    record = _record(autoscaler) or {}
    before, raised = record.get("before"), record.get("raised")
    unchanged = type(before) is int and type(raised) is int and 0 < before <= raised == _minimum(autoscaler)
    return before if unchanged else None


def _test_unchanged(autoscaler: KubernetesObject) -> dict[str, Any]:
    version = autoscaler["metadata"]["resourceVersion"]
    return {"op": "test", "path": "/metadata/resourceVersion", "value": version}


def _set_minimum(pods: int) -> dict[str, Any]:
    return {"op": "add", "path": "/spec/minReplicas", "value": pods}
