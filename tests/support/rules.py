"""What a DAG run comes to: Airflow's trigger rules, applied to a finished DAG without running anything."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

from airflow.sdk import DAG, TriggerRule

Result = Literal["success", "failed", "skipped", "upstream_failed"]
RAN = frozenset({"success", "failed"})


def descendants(dag: DAG, task_id: str) -> set[str]:
    return {task.task_id for task in dag.get_task(task_id).get_flat_relatives(upstream=False)}


def play(
    dag: DAG,
    *,
    fail: Collection[str] = (),
    skip: Collection[str] = (),
    branches: Mapping[str, str] | None = None,
) -> dict[str, Result]:
    """Return each task's end, where those of ``fail`` raise and those of ``skip`` skip themselves if they run.

    :param branches: the task that each branching task chooses.
    """
    ends: dict[str, Result] = {}
    not_chosen: set[str] = set()
    for task in dag.topological_sort():  # type: ignore[no-untyped-call]
        if task.task_id in not_chosen:
            ends[task.task_id] = "skipped"
            continue
        end = _by_rule(task, ends)
        if end == "success" and task.task_id in {*fail, *skip}:
            end = "failed" if task.task_id in fail else "skipped"
        ends[task.task_id] = end
        if task.task_id in (branches or {}) and end == "success":
            chosen = (branches or {})[task.task_id]
            assert chosen in task.downstream_task_ids
            not_chosen |= task.downstream_task_ids - {chosen} - descendants(dag, chosen)
    return ends


def _by_rule(task: Any, ends: Mapping[str, Result]) -> Result:
    before = [ends[task_id] for task_id in task.upstream_task_ids]
    bad = any(end in ("failed", "upstream_failed") for end in before)
    if task.trigger_rule == TriggerRule.ALL_SUCCESS:
        return "upstream_failed" if bad else "skipped" if "skipped" in before else "success"
    if task.trigger_rule == TriggerRule.ONE_FAILED:
        return "success" if bad else "skipped"
    if task.trigger_rule == TriggerRule.NONE_FAILED:
        return "upstream_failed" if bad else "success"
    if task.trigger_rule == TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS:
        return "upstream_failed" if bad else "success" if "success" in before else "skipped"
    if task.trigger_rule == TriggerRule.ALL_DONE_SETUP_SUCCESS:
        setups = [ends[item.task_id] for item in task.upstream_list if item.is_setup]
        bad = any(end in ("failed", "upstream_failed") for end in setups)
        return "upstream_failed" if bad else "skipped" if set(setups) == {"skipped"} else "success"
    assert task.trigger_rule == TriggerRule.ALL_DONE, f"a rule that is not played: {task.trigger_rule}"
    return "success"
