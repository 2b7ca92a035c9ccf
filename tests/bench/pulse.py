"""A trigger that does nothing but notice how late the triggerer's event loop calls it."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

EVERY = 0.01


class PulseTrigger(BaseTrigger):
    """Write ``folder/pulse.json`` each second: the process, its threads, and the longest delay in each second."""

    def __init__(self, folder: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder = folder

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__qualname__}", {"folder": self.folder}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        path = Path(self.folder) / "pulse.json"
        blocked: list[tuple[float, float]] = []
        while True:
            until, longest = time.monotonic() + 1, 0.0
            while (before := time.monotonic()) < until:
                await asyncio.sleep(EVERY)
                longest = max(longest, time.monotonic() - before - EVERY)
            blocked.append((time.time(), longest))
            path.with_suffix(".new").write_text(
                json.dumps({"pid": os.getpid(), "threads": threading.active_count(), "blocked": blocked})
            )
            path.with_suffix(".new").rename(path)
            if not path.parent.exists():
                yield TriggerEvent(None)  # type: ignore[no-untyped-call]
