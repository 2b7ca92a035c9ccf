"""An open question: it waits in the triggerer, and ends when its time or its route does."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async

from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.routes import read_route
from airflow_deploy.domain.lifecycle.approval import Answer
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.routing import transitions as routes
from airflow_deploy.domain.routing.record import ANNOTATION_ERRORS
from airflow_deploy.domain.routing.team_route import TeamRoute
from airflow_deploy.tasks.hitl import close_question, read_question
from airflow_deploy.tasks.triggers import LOOK_INTERVAL, OneEventTrigger, in_thread


class QuestionTrigger(OneEventTrigger):
    """Close a question at its deadline, or when the route shows that it is decided.

    A person's answer does not come this way: Airflow resumes the task with it. But only a trigger can close a question,
    and only a question that is closed refuses a late answer.

    :param question: id of the task instance that asks.
    :param deadline: unix seconds at which silence counts.
    :param planned: the plan's JSON; it is not called ``plan`` for the reason that ``ReadyTrigger`` gives.
    :param held: the owner that ``claim_route`` returned; None before there is a claim, when the route says nothing.
    """

    def __init__(self, question: str, deadline: float, planned: dict[str, Any], held: str | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.question = question
        self.deadline = deadline
        self.planned = planned
        self.held = held
        self._cluster: KubernetesClient | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what the triggerer needs to build this again."""
        arguments = {name: getattr(self, name) for name in ("question", "deadline", "planned", "held")}
        return f"{__name__}.{type(self).__qualname__}", arguments

    async def event(self) -> dict[str, Any]:
        """Return the answer as Airflow's own events hold it, or what closed the question as ``closed``."""
        while True:
            try:
                status = await sync_to_async(read_question)(UUID(self.question))
                if status.answer:  # given before this task was deferred
                    return status.answer
                closed = await self._end()
                if not status.closed:  # else it was closed here, before a restart
                    await sync_to_async(close_question)(UUID(self.question))
                return {"closed": closed.model_dump(mode="json")}
            except Exception:
                # A person answers at this moment, or Airflow is away: the next pass reads what holds then.
                self.log.exception("the question cannot be closed yet")
            await asyncio.sleep(LOOK_INTERVAL)

    async def _end(self) -> Answer:
        """Wait until the question is moot, and return what made it so."""
        while time.time() < self.deadline:
            if self.held and (why := await self._decided()):
                return Answer(said="withdrawn", at=_now(), why=why)
            await asyncio.sleep(LOOK_INTERVAL)
        return Answer(said="silence", at=_now())

    async def _decided(self) -> str | None:
        """Return why no answer is needed any more, as the route shows it; None if one is."""
        plan = DeploymentPlan.load(self.planned)
        try:
            if self._cluster is None:
                self._cluster = await sync_to_async(connect, thread_sensitive=False)(plan.spec.connections.kubernetes)
            cluster = self._cluster
            route = await in_thread(lambda: read_route(cluster, *plan.spec.place))
        except Exception as error:  # the deadline stands at any answer of the cluster
            self.log.warning("%s; the question stays open", error)
            return None
        if route.owner != self.held:
            return f"route {route.name} is owned by {route.owner or 'no deployment'}"
        return None if route.phase == routes.CANARY else f"route {route.name} is {route.phase}{_word(route)}"


def _word(route: TeamRoute) -> str:
    with suppress(*ANNOTATION_ERRORS):
        said = json.loads(route.final_verdict or "")
        return f": {said['verdict']}: {said['reason']}"
    return ""


def _now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)
