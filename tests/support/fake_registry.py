"""A registry that has every image, but those that a test has removed."""

from __future__ import annotations

from airflow_deploy.domain.errors import DeployError
from tests.support.builders import DIGEST


class FakeRegistry:
    """Stands for ``Images``."""

    def __init__(self) -> None:
        self.gone: set[str] = set()
        self.error: DeployError | None = None

    def __call__(self, connection: str) -> FakeRegistry:
        assert connection == "docker_default"
        return self

    def digest(self, tag: str) -> str | None:
        if self.error:
            raise self.error
        return None if tag in self.gone else DIGEST
