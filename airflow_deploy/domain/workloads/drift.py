"""Drift: changes of a version's objects in the cluster since they were applied."""

import re
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any

from airflow_deploy.domain.labels import WITHDRAWN
from airflow_deploy.domain.workloads.versions import KubernetesObject, Version

CHANGED_ON_PURPOSE = frozenset(
    {
        "Deployment.spec.replicas",
        f"Deployment.metadata.annotations.{WITHDRAWN}",
        "HorizontalPodAutoscaler.spec.minReplicas",
    }
)
"""Fields that change on purpose after they were applied: by a run, by the autoscaler, or by hand."""


def drift(declared: Iterable[KubernetesObject], version: Version) -> list[str]:
    """Return the drift of a version, one phrase for each field, such as ``Service.spec.selector was changed``.

    ConfigMaps are left out: they are immutable, and the caller checks that they exist.

    :param declared: the objects as they were applied.
    :param version: the version as the cluster has it.
    """
    found: list[str] = []
    for item in (item for item in declared if item["kind"] != "ConfigMap"):
        live = version.objects.get(item["kind"])
        if live is None:
            found.append(f"{item['kind']} is missing")
        else:
            found += _differences({key: item[key] for key in item if key != "apiVersion"}, live, item["kind"])
    return found


def _differences(declared: Any, live: Any, path: str) -> Iterator[str]:
    if path in CHANGED_ON_PURPOSE or (not declared and not live):  # the server leaves out empty fields
        return
    if isinstance(declared, Mapping) and isinstance(live, Mapping):
        for key, value in declared.items():
            yield from _differences(value, live.get(key), f"{path}.{key}")
    elif isinstance(declared, list) and isinstance(live, list) and len(declared) == len(live):
        for index, (one, other) in enumerate(zip(declared, live, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif declared != live and not (QUANTITIES.search(path) and _quantity(declared) == _quantity(live)):
        yield f"{path} was changed"


QUANTITIES = re.compile(r"\.(limits|requests)\.[a-z]+$|\.sizeLimit$")
"""Paths of fields whose quantities the server may normalise."""

_POWERS = {suffix: Decimal(1000) ** power for power, suffix in enumerate(["n", "u", "m", "", "k", "M", "G", "T"], -3)}
_POWERS |= {suffix: Decimal(1024) ** power for power, suffix in enumerate(["Ki", "Mi", "Gi", "Ti"], 1)}


def _quantity(value: Any) -> Any:
    """Return the number of a quantity such as ``0.5`` or ``500m``; return anything else unchanged."""
    matched = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([A-Za-z]{0,2})", value) if isinstance(value, str) else None
    return Decimal(matched[1]) * _POWERS[matched[2]] if matched and matched[2] in _POWERS else value
