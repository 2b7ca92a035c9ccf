"""Triggers, run to their one event."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from airflow_deploy.tasks.triggers import OneEventTrigger


def ended(trigger: OneEventTrigger) -> dict[str, Any]:
    """Run a trigger to its one event, as the triggerer does."""

    async def run() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    (event,) = asyncio.run(run())
    found: dict[str, Any] = json.loads(json.dumps(event))
    return found
