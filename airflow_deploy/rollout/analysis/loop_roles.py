"""What each user of the analysis loop judges, and what it may do. Another one is one entry of ``ROLES``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from airflow_deploy.domain.routing.record import CANARY, PROMOTED, WATCHED_PHASES

Role = Literal["watch", "gate", "verify"]
GATE_GRACE_SECONDS = 10.0
"""Seconds for which a gate leaves harm to the watch before it rolls back itself."""


@dataclass(frozen=True)
class RoleTerms:
    """The terms of one role.

    :param phases: the route's phases in which it has something to judge.
    :param rolls_back_on: the verdicts on which it rolls back at once; after any other but HEALTHY, the task
        ``rollback`` does.
    :param leads: whether it counts pods, renews the Lease, ends on blindness, and takes over a verdict that it finds on
        the route; a gate leaves all of that to the watch beside it.
    :param judges_health: whether HEALTHY ends it; the watch goes on.
    :param asks_incident: whether it asks if the incident is resolved.
    :param grace: seconds for which harm must last before it is the verdict.
    """

    phases: frozenset[str]
    rolls_back_on: frozenset[str]
    leads: bool
    judges_health: bool
    asks_incident: bool = False
    grace: float = 0.0


_ANY_FAILURE = frozenset({"BREACHED", "BLIND", "UNDECIDED"})
ROLES: dict[str, RoleTerms] = {
    "watch": RoleTerms(WATCHED_PHASES, _ANY_FAILURE, leads=True, judges_health=False),
    "gate": RoleTerms(
        frozenset({CANARY}), frozenset({"BREACHED"}), leads=False, judges_health=True, grace=GATE_GRACE_SECONDS
    ),
    "verify": RoleTerms(frozenset({PROMOTED}), _ANY_FAILURE, leads=True, judges_health=True, asks_incident=True),
}
