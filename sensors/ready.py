"""``wait_ready``: no share of traffic before the pods that shall carry it."""

from __future__ import annotations

import time
from typing import Any

from airflow.sdk import Context

from airflow_deploy.domain.errors import HarmError
from airflow_deploy.sensors.base import DeploySensor
from airflow_deploy.tasks.triggers import ReadyTrigger

READY_WAIT_SECONDS = 360
"""Seconds, somewhat more than the Deployment's own ``progressDeadlineSeconds``: it knows the better reason."""


class WaitReadySensor(DeploySensor):
    """Wait until all pods of the version are ready; fail at once where they never will be."""

    def trigger(self, context: Context) -> ReadyTrigger:
        """Return the readiness check."""
        return ReadyTrigger(self.load_plan().dump(), time.time() + READY_WAIT_SECONDS)

    def finish(self, context: Context, event: dict[str, Any]) -> int:
        """Return the number of ready pods."""
        if event["failed"]:
            raise HarmError(f"{self.load_plan().candidate} does not become ready: {event['failed']}")
        return int(event["ready"])
