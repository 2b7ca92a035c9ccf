"""The shape of a deployment: its DAG as Airflow's API lists it, and what a run of it did, as the event log says."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Task:
    """One task.

    :param upstream: ids of the tasks before it.
    :param rule: its trigger rule.
    :param wait: seconds for which it is deferred; None if it is not.
    :param until: id of the task whose end it is deferred for.
    :param skips: whether it skips itself.
    :param drops: ids of the tasks after it that it skips, as a branch does.
    """

    task_id: str
    upstream: list[str] = field(default_factory=list)
    rule: str = "all_success"
    wait: float | None = None
    until: str | None = None
    skips: bool = False
    drops: list[str] = field(default_factory=list)


def dump(tasks: Iterable[Task]) -> str:
    """Return the tasks as JSON."""
    return json.dumps([asdict(task) for task in tasks], indent=1)


@dataclass(frozen=True)
class Event:
    """An entry of Airflow's event log: ``running``, ``deferred``, ``success``, ``skipped`` ..., at unix seconds."""

    task: str
    event: str
    at: float


@dataclass(frozen=True)
class Verdict:
    """What a gate, the watch or the verification said, and when (unix seconds)."""

    task: str
    verdict: str
    at: float


@dataclass(frozen=True)
class Run:
    """A DAG run that has ended well.

    :param cpu: CPU seconds of all of Airflow meanwhile.
    :param states: each task's last state.
    :param verdicts: of a deployment, in the order of time.
    """

    run_id: str
    triggered: float
    ended: float
    cpu: float
    events: list[Event]
    states: dict[str, str | None]
    verdicts: list[Verdict] = field(default_factory=list)

    def seconds(self, task: str) -> float:
        """Return the seconds from the trigger to the task's success."""
        return max(item.at for item in self.events if (item.task, item.event) == (task, "success")) - self.triggered

    def with_event(self, event: str) -> list[str]:
        """Return the ids of the tasks that have had the event, each once."""
        return list(dict.fromkeys(item.task for item in self.events if item.event == event))

    @property
    def timeline(self) -> list[str]:
        """What happened when, in seconds from the trigger, a line each."""
        happened = [(item.at, f"{item.task} {item.event}") for item in self.events]
        happened += [(item.at, f"{item.task} {item.verdict}") for item in self.verdicts]
        return [f"{at - self.triggered:.3f} {text}" for at, text in sorted(happened)]

    @property
    def counted(self) -> dict[str, int]:
        """How many task instances there are, were scheduled, and ran; and how often one began or went on."""
        started = self.with_event("running")
        return {
            "in_dag": len(self.states),
            "scheduled": len(started),
            "ran": sum(self.states[task] == "success" for task in started),
            "deferred": len(self.with_event("deferred")),
            "processes": sum(item.event == "running" for item in self.events),
        }


def shape(tasks: Iterable[Mapping[str, Any]], run: Run, verified: str, bake: float) -> list[Task]:
    """Return the twin of a deployment.

    :param tasks: as Airflow's API lists them.
    :param run: the deployment.
    :param verified: id of the task that ended it as VERIFIED.
    """
    listed = {task["task_id"]: task for task in tasks}
    upstream: dict[str, list[str]] = defaultdict(list)
    for name, task in listed.items():
        for following in task["downstream_task_ids"]:
            upstream[following].append(name)
    rules = {name: task["trigger_rule"] for name, task in listed.items()}
    started, deferred = run.with_event("running"), run.with_event("deferred")
    dropped = _dropped(rules, upstream, run.states, started)
    said = {item.task: item.verdict for item in run.verdicts}
    over = {task: run.seconds(task) for task in started if run.states[task] == "success"}

    def twin(name: str) -> Task:
        waits = name in deferred
        bakes = waits and said.get(name) == "HEALTHY"
        outlasts = waits and not bakes and over[name] > over[verified]
        return Task(
            name,
            upstream=sorted(upstream[name]),
            rule=rules[name],
            wait=(bake if bakes else 0.0) if waits else None,
            until=verified if outlasts else None,
            skips=name in started and run.states[name] == "skipped",
            drops=sorted(dropped[name]) if run.states[name] == "success" else [],
        )

    return [twin(name) for name in sorted(listed)]


RUNS: dict[str, Callable[[set[str | None]], bool]] = {
    "all_success": lambda before: before <= {"success"},
    "none_failed": lambda before: before <= {"success", "skipped"},
    "none_failed_min_one_success": lambda before: before <= {"success", "skipped"} and "success" in before,
}
"""Whether a trigger rule lets a task run after these states. Of other rules nothing is inferred."""


def _dropped(
    rules: Mapping[str, str],
    upstream: Mapping[str, Sequence[str]],
    states: Mapping[str, str | None],
    started: Sequence[str],
) -> Mapping[str, set[str]]:
    """Return which tasks each task has skipped, as a branch does: their rule let them run, and they never began."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, rule in rules.items():
        before = upstream.get(name, ())
        lets = rule in RUNS and RUNS[rule]({states[item] for item in before})
        if lets and states[name] == "skipped" and name not in started:
            for item in before:
                found[item].add(name)
    return found
