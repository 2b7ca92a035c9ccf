"""A trigger whose one event is given: Airflow builds it again by its path."""

from __future__ import annotations

from typing import Any

from airflow_deploy.tasks.triggers import OneEventTrigger


class StubTrigger(OneEventTrigger):
    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.said = said

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__qualname__}", {"said": self.said}

    async def event(self) -> dict[str, Any]:
        return self.said
