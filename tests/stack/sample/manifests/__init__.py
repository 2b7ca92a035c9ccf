"""A team's objects before its first deployment: the payment service, its Service and its route."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


def payments(image: str, version: str, *, gateway: str, label: Mapping[str, str], service: str = "payments") -> str:
    """
    The manifests of the version that already serves, as YAML of several documents.

    :param image: the image by digest, `<registry>/payments@sha256:<64 hex digits>`.
    :param version: what its answers say in `X-Version`.
    :param gateway: `namespace/name` of the Gateway that its route is attached to.
    :param label: of its namespace, to be known by.
    :param service: what it is called, and its namespace; its users know it as `<service>.test`.
    """
    template = Template(Path(__file__).with_name("payments.yaml").read_text())
    (key, value), (namespace, _, name) = *label.items(), gateway.partition("/")
    return template.substitute(
        image=image,
        version=version,
        label=f'"{key}": "{value}"',
        gateway=name,
        gateway_namespace=namespace,
        service=service,
    )
