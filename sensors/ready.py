"""``wait_ready``: no traffic before the pods are ready."""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import Context

from airflow_deploy.domain.errors import HarmError
from airflow_deploy.sensors.base import DeploySensor
from airflow_deploy.tasks.triggers import ReadyTrigger

READY_WAIT_SECONDS = 360
"""Seconds. The Deployment's own ``progressDeadlineSeconds`` is shorter, and names the better reason."""


class WaitReadySensor(DeploySensor):
    """Wait until all pods of the version are ready; fail at once if they cannot become ready."""

    def trigger(self, context: Context) -> ReadyTrigger:
        """Return the readiness check."""
        return ReadyTrigger(self.load_plan().dump(), time.time() + READY_WAIT_SECONDS)

    def finish(self, context: Context, event: dict[str, Any]) -> int:
        """Return the number of ready pods."""
        if event["failed"]:
            raise HarmError(f"{self.load_plan().candidate} does not become ready: {event['failed']}")
        return int(event["ready"])
