"""The task ``cleanup``: stop and delete what old deployments left, and report what was changed by hand."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, TypeVar

from airflow.sdk import BaseOperator, Context

from airflow_deploy.clients.artifacts import latest_plans
from airflow_deploy.clients.kubernetes.client import KubernetesClient
from airflow_deploy.clients.kubernetes.connection import connect
from airflow_deploy.clients.kubernetes.errors import ForbiddenError
from airflow_deploy.domain.errors import DeployError, PermanentError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.values import printable
from airflow_deploy.rollout.cleanup import Survey, clean_up, survey
from airflow_deploy.tasks.base import TASK_RETRIES

log = logging.getLogger(__name__)

CONCURRENT_CLEANUPS = 8
"""How many services are cleaned up at the same time."""
LIVE_RUN_STATES = ["queued", "running"]
"""States of a run that may still act."""

T = TypeVar("T")


@dataclass(frozen=True)
class ServiceCleanup:
    """What became of one service."""

    plan: DeploymentPlan
    outcome: str
    text: str


class CleanupOperator(BaseOperator):
    """Clean up the versions of every service that was ever deployed, and is not being deployed now.

    What fails for one service is reported, and done by a later pass.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**TASK_RETRIES, **kwargs})

    def execute(self, context: Context) -> None:
        """Clean up every service.

        :raises PermanentError: a version is not as it was applied, or a run had left its traffic half shifted: a person
            must be told.
        """
        plans, cluster = latest_plans(), cache(connect)
        # Connections are read here and not in the threads.
        clusters = [_attempt(partial(cluster, plan.spec.connections.kubernetes)) for plan in plans]
        with ThreadPoolExecutor(CONCURRENT_CLEANUPS) as threads:
            seen = list(threads.map(_survey, clusters, plans))
            # Only now: a run that begins after this has nothing among what was seen.
            live = {
                id_
                for id_ in {plan.dag_id for plan in plans}
                if context["ti"].get_dr_count(id_, states=LIVE_RUN_STATES)
            }
            done = list(threads.map(lambda plan, one: _clean_up(plan, one, live=plan.dag_id in live), plans, seen))
        self.log.info("::group::%d services", len(done))
        for each in done:
            self.log.info("%-20s %-6s %s", each.plan.spec.service, each.outcome, printable(each.text, 1000))
        self.log.info("::endgroup::")
        if alarms := [f"{each.plan.spec.service}: {each.text}" for each in done if each.outcome == "ALARM"]:
            raise PermanentError("; ".join(alarms))


def _attempt(do: Callable[[], T]) -> T | Exception:
    """Return the result, or the error: what one service suffers is no other's."""
    try:
        return do()
    except Exception as error:
        if not isinstance(error, DeployError):
            log.exception("unexpected error cleaning up")
        return error


def _survey(cluster: KubernetesClient | Exception, plan: DeploymentPlan) -> Survey | Exception:
    return cluster if isinstance(cluster, Exception) else _attempt(lambda: survey(cluster, plan))


def _clean_up(plan: DeploymentPlan, seen: Survey | Exception, *, live: bool) -> ServiceCleanup:
    if live:
        return ServiceCleanup(plan, "LEFT", f"a run of {plan.dag_id} is under way")
    result = seen if isinstance(seen, Exception) else _attempt(lambda: clean_up(seen, time.time()))
    if isinstance(result, Exception):
        # What could be read and may not be done is a person's: the rights are not enough, say.
        refused = isinstance(result, PermanentError | ForbiddenError) and isinstance(seen, Survey)
        return ServiceCleanup(plan, "ALARM" if refused else "LEFT", str(result) or repr(result))
    if result.left:
        return ServiceCleanup(plan, "LEFT", result.left)
    outcome = "ALARM" if result.alarms else "TIDIED" if result.done else "TIDY"
    return ServiceCleanup(plan, outcome, "; ".join([*result.alarms, *result.done]) or "nothing to do")
