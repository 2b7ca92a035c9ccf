"""What a team has in the cluster before us: the payment service, its Service and its route."""

from __future__ import annotations

from pathlib import Path
from string import Template


def payments(image: str, version: str) -> str:
    """
    The manifests of the version that already serves, as YAML of several documents.

    :param image: the image by digest, `<registry>/payments@sha256:<64 hex digits>`.
    :param version: what its answers say in `X-Version`.
    """
    template = Template(Path(__file__).with_name("payments.yaml").read_text())
    return template.substitute(image=image, version=version)
