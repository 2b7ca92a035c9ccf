"""Airflow triggers: loops of looks and of readiness checks, run by the triggerer beside thousands of others."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import asdict, replace
from typing import Any, TypeVar

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.cluster import Cluster
from airflow_deploy.domain.errors import TemporaryError
from airflow_deploy.domain.plan import DeploymentPlan
from airflow_deploy.sensors.looks import Assignment, Looks, Outcome

INTERVAL = 1.0
"""Seconds between two looks: the time to see harm is this and a scrape's."""

HOLDS_BRAKE = frozenset({"watch", "verify"})
HARMFUL = frozenset({"BREACHED", "UNDECIDED", "BLIND"})

T = TypeVar("T")


class OneEventTrigger(BaseTrigger):
    """A trigger with one event. A sensor that may not defer awaits the same event in its worker."""

    @abstractmethod
    async def event(self) -> dict[str, Any]:
        """Wait, and return the event's payload as plain JSON."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the one event."""
        yield TriggerEvent(await self.event())  # type: ignore[no-untyped-call]


class LookTrigger(OneEventTrigger):
    """Look until there is a word to say; where that word is harm, and the role holds the brake, brake first.

    :param assignment: an ``Assignment`` as JSON.
    :param file: name of the evidence file.
    """

    def __init__(self, assignment: dict[str, Any], file: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.assignment = assignment
        self.file = file

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to build this again, also after its restart."""
        return f"{__name__}.{type(self).__qualname__}", {"assignment": self.assignment, "file": self.file}

    async def event(self) -> dict[str, Any]:
        """Return the outcome as JSON, with the digest of its evidence."""
        looks = await sync_to_async(Looks, thread_sensitive=False)(Assignment(**self.assignment))
        # Threads of our own: neither a hanging Prometheus nor other triggers' work can hold up the brake.
        with _thread("looks") as looking, _thread("brake") as braking:
            outcome = await self._until_said(looks, looking)
            if outcome.verdict in HARMFUL and self.assignment["role"] in HOLDS_BRAKE:
                outcome = replace(outcome, restored_at=await _in(braking, looks.brake))
        plan = DeploymentPlan.load(self.assignment["plan"])
        name = f"evidence_{plan.deployment_id}/{self.file}"
        digest = await sync_to_async(lambda: Artifacts(plan).write(name, looks.evidence), thread_sensitive=False)()
        return {**outcome.event(), "evidence": name, "evidence_sha256": digest}

    async def _until_said(self, looks: Looks, looking: ThreadPoolExecutor) -> Outcome:
        while True:
            begun = time.monotonic()
            try:
                if outcome := await _in(looking, looks.look):
                    return outcome
            except TemporaryError as error:
                self.log.warning("%s; looking again", error)
            await asyncio.sleep(max(0.0, INTERVAL - (time.monotonic() - begun)))


class ReadyTrigger(OneEventTrigger):
    """Wait until a version's pods are ready, or never will be."""

    # Not called ``plan``: Airflow would take it for the sensor's template field and render its texts.
    def __init__(self, planned: dict[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.planned = planned

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to build this again."""
        return f"{__name__}.{type(self).__qualname__}", {"planned": self.planned}

    async def event(self) -> dict[str, Any]:
        """Return a ``Readiness`` as JSON."""
        plan = DeploymentPlan.load(self.planned)
        with _thread("ready") as thread:
            cluster = await sync_to_async(Cluster, thread_sensitive=False)(plan.spec.connections.kubernetes)
            while True:
                try:
                    seen = await _in(thread, lambda: cluster.readiness(plan.spec.namespace, plan.candidate))
                except TemporaryError as error:
                    self.log.warning("%s; looking again", error)
                else:
                    if seen.done or seen.failed:
                        return asdict(seen)
                    self.log.info("%d of %d pods of %s are ready", seen.ready, seen.wanted, plan.candidate)
                await asyncio.sleep(INTERVAL)


@contextmanager
def _thread(name: str) -> Iterator[ThreadPoolExecutor]:
    """Give one thread. Leaving does not wait for it: the triggerer must not stand still for a hanging request."""
    thread = ThreadPoolExecutor(1, name)
    try:
        yield thread
    finally:
        thread.shutdown(wait=False, cancel_futures=True)


async def _in(thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
    # The context carries the trigger's name: without it, what is logged in the thread reaches no task's log.
    return await asyncio.get_running_loop().run_in_executor(thread, copy_context().run, work)
