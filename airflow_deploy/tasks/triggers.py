"""Airflow triggers: analysis loops and readiness checks, run by the triggerer beside thousands of others."""

from __future__ import annotations

import asyncio
import sys
import time
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar
from weakref import WeakKeyDictionary

from airflow.triggers.base import BaseTrigger, TriggerEvent
from asgiref.sync import sync_to_async

from airflow_deploy.clients.artifacts import Artifacts
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.pods import Readiness, deployment_readiness
from airflow_deploy.domain.analysis.verdict import FinalVerdict
from airflow_deploy.domain.errors import TemporaryError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.names import digest
from airflow_deploy.rollout.analysis.loop_roles import ROLES

if TYPE_CHECKING:
    # The triggerer imports this module in its event loop, which must not stand still for numpy.
    from airflow_deploy.rollout.analysis.loop import AnalysisLoop

LOOK_INTERVAL = 1.0
"""Seconds between two looks of one loop: the time to see harm is this and a scrape's."""

LOOKS_PER_SECOND = 100.0
"""Looks that one process may do. If its loops need more than that, each of them looks less often."""
MAX_CONCURRENT_LOOKS = 4
"""Looks that may be at work at one time; more threads would only take the time from each other."""
SLOW_LOOK_SECONDS = 0.3
"""Seconds after which a look no longer counts as at work: it waits for an answer, and delays no other."""

MAX_FAILING_SECONDS = 60.0
"""Seconds of looks with unexpected errors, after which a deployment is rolled back."""

STORE_TIMEOUT = 20.0
"""Seconds that the artifact store may take before a verdict goes on without its evidence."""

GOLDEN_RATIO = (5**0.5 - 1) / 2

T = TypeVar("T")


class OneEventTrigger(BaseTrigger):
    """A trigger with one event. A sensor that may not defer awaits the same event in its worker."""

    @abstractmethod
    async def event(self) -> dict[str, Any]:
        """Wait, and return the event's payload as plain JSON."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield the one event."""
        yield TriggerEvent(await self.event())  # type: ignore[no-untyped-call]


class AnalysisTrigger(OneEventTrigger):
    """Evaluate until a verdict is reached; if it is harm, roll back before anything else.

    If its triggerer dies, Airflow gives the trigger to another one, which builds it again from ``serialize``. The loop
    then reads its past from Prometheus and the route.

    :param assignment: an ``Assignment`` as JSON.
    :param task: name of the task, for the evidence's file.
    """

    def __init__(self, assignment: dict[str, Any], task: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.assignment = assignment
        self.task_name = task

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to build this again, also after its restart."""
        return f"{__name__}.{type(self).__qualname__}", {"assignment": self.assignment, "task": self.task_name}

    async def event(self) -> dict[str, Any]:
        """Return the outcome as JSON, with the digest of its evidence."""
        looks = await self._begin()
        with Pace() as pace:
            outcome = await self._until_verdict(looks, pace)
        if outcome.verdict in ROLES[self.assignment["role"]].rolls_back_on and outcome.restored_at is None:
            outcome = replace(outcome, restored_at=await in_thread(lambda: looks.brake(outcome)))
        return {**outcome.event(), **await self._keep_evidence(looks.evidence)}

    async def _begin(self) -> AnalysisLoop:
        """Connect; a triggerer that has just started may be ahead of what it needs."""
        deadline = time.monotonic() + MAX_FAILING_SECONDS
        while True:
            try:
                return await sync_to_async(self._connect, thread_sensitive=False)()
            except Exception:
                if time.monotonic() > deadline:
                    raise
                self.log.exception("cannot start analysis; retrying")
                await asyncio.sleep(LOOK_INTERVAL)

    def _connect(self) -> AnalysisLoop:
        from airflow_deploy.rollout.analysis.loop import AnalysisLoop, Assignment

        return AnalysisLoop(Assignment(**self.assignment))

    async def _until_verdict(self, looks: AnalysisLoop, pace: Pace) -> FinalVerdict:
        failing_since: float | None = None
        renewing: asyncio.Future[None] | None = None
        while True:
            begun = time.monotonic()
            try:
                if outcome := await pace.look(looks.look):
                    return outcome
                failing_since = None
                # Beside the looks and never before one: neither a verdict nor its rollback waits for it.
                if renewing is None or renewing.done():
                    renewing = asyncio.ensure_future(in_thread(looks.renew))
            except Exception as error:
                # A look foresees every answer of cluster and Prometheus, so this is a mistake of ours. Without the
                # watch no task would roll back: look again, and if it persists, roll back.
                self.log.exception("unexpected error in a look; looking again")
                failing_since = failing_since or begun
                if begun - failing_since > MAX_FAILING_SECONDS:
                    return FinalVerdict(
                        "BLIND", f"looks have failed for {MAX_FAILING_SECONDS:.0f} s: {error}", time.time()
                    )

    async def _keep_evidence(self, lines: str) -> dict[str, Any]:
        """Write the evidence; a store that fails must not cost the verdict."""
        plan = DeploymentPlan.load(self.assignment["plan"])
        # Named by its content: two loops for one task cannot spoil each other's.
        name = f"evidence_{plan.deployment_id}/{self.task_name}-{digest(lines)[:8]}.jsonl"
        try:
            write = sync_to_async(lambda: Artifacts(plan).write(name, lines), thread_sensitive=False)
            return {"evidence": name, "evidence_sha256": await asyncio.wait_for(write(), STORE_TIMEOUT)}
        except Exception:
            self.log.exception("cannot write the evidence")
            return {"evidence": None, "evidence_sha256": None}


class ReadyTrigger(OneEventTrigger):
    """Wait until a version's pods are ready, or never will be.

    :param planned: the plan's JSON. It is not called ``plan``: Airflow would take it for the sensor's template field
        and render its texts.
    :param deadline: unix seconds after which they are given up.
    """

    def __init__(self, planned: dict[str, Any], deadline: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.planned = planned
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to build this again."""
        return f"{__name__}.{type(self).__qualname__}", {"planned": self.planned, "deadline": self.deadline}

    async def event(self) -> dict[str, Any]:
        """Return a ``Readiness`` as JSON."""
        plan = DeploymentPlan.load(self.planned)
        if not (pods := plan.router.pods_before_share):
            return asdict(Readiness(0, 0, None))
        cluster = await sync_to_async(connect, thread_sensitive=False)(plan.spec.connections.kubernetes)
        seen = Readiness(0, pods, None)
        while time.time() < self.deadline:
            try:
                seen = await in_thread(lambda: deployment_readiness(cluster, plan.spec.namespace, plan.candidate))
            except TemporaryError as error:
                self.log.warning("%s; trying again", error)
            else:
                if seen.done or seen.failed:
                    return asdict(seen)
                self.log.info("%d of %d pods of %s are ready", seen.ready, seen.wanted, plan.candidate)
            await asyncio.sleep(LOOK_INTERVAL)
        return asdict(replace(seen, failed=f"{seen.ready} of {seen.wanted} pods were ready in time"))


class Pace:
    """When one loop looks: every ``LOOK_INTERVAL`` while its process has few loops, and less often if it has many.

    Loops that begin together, as after a triggerer's restart, spread over the interval. If the processor is too slow
    for all, they wait for each other: the more threads are at work, the less time is left to the triggerer's own loop.
    """

    _loops: ClassVar[int] = 0
    _slots_of: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore]] = WeakKeyDictionary()

    def __enter__(self) -> Self:
        # Multiples of the golden ratio: however many there are, none comes close to another.
        self._phase = Pace._loops * GOLDEN_RATIO % 1
        self._due = time.monotonic() + self._phase * self._interval
        Pace._loops += 1
        return self

    def __exit__(self, *_: object) -> None:
        Pace._loops -= 1

    @property
    def _interval(self) -> float:
        return max(LOOK_INTERVAL, Pace._loops / LOOKS_PER_SECOND)

    async def look(self, look: Callable[[], T]) -> T:
        """Look when it is due. A look that took too long is followed at once."""
        self._due = max(self._due, time.monotonic())
        await asyncio.sleep(self._due - time.monotonic())
        # The phase again: only now is it known how many loops there are.
        self._due += self._interval * (self._phase or 1)
        self._phase = 1.0
        async with self._slots:
            looking = asyncio.ensure_future(in_thread(look))
            await asyncio.wait({looking}, timeout=SLOW_LOOK_SECONDS)
        return await looking

    @property
    def _slots(self) -> asyncio.Semaphore:
        return Pace._slots_of.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(MAX_CONCURRENT_LOOKS))


THREADS = ThreadPoolExecutor(sys.maxsize, "airflow-deploy")
"""As many as there is work at one time: neither a hanging Prometheus nor other triggers' work can hold up a brake."""


async def in_thread(work: Callable[[], T]) -> T:
    """Do ``work`` in a thread, and await its result."""
    # The context carries the trigger's name: without it, what is logged in the thread reaches no task's log.
    return await asyncio.get_running_loop().run_in_executor(THREADS, copy_context().run, work)
