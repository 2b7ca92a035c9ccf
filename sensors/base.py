"""A task that waits in the triggerer, or in its worker if it must not defer: one path for both."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow.sdk import Context, conf

from airflow_deploy.tasks.base import DeployOperator
from airflow_deploy.tasks.triggers import OneEventTrigger


class DeploySensor(DeployOperator):
    """Wait for a trigger's one event, then ``finish``.

    :param deferrable: wait in the triggerer; by default as ``[operators] default_deferrable`` says.
    """

    ui_color = "#fff3d6"

    def __init__(self, *, deferrable: bool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        by_default = conf.getboolean("operators", "default_deferrable", fallback=False)
        self.deferrable = by_default if deferrable is None else deferrable

    def trigger(self, context: Context) -> OneEventTrigger:
        """Return what to wait for."""
        raise NotImplementedError

    def finish(self, context: Context, event: dict[str, Any]) -> Any:
        """Turn the event into the task's result or failure."""
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Wait, and return what ``finish`` makes of the event."""
        trigger = self.trigger(context)
        if self.deferrable:
            self.defer(trigger=trigger, method_name="finish")
        return self.finish(context, asyncio.run(trigger.event()))
