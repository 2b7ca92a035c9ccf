"""The factory of ``verify_deployments``: it keeps verifying promoted versions, and rolls back those that breach.

check -> roll_back (one for each version that breaches) -> report
                                                        -> cleanup
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, TriggerRule

from airflow_deploy.operators.cleanup import CleanupOperator
from airflow_deploy.operators.verification import CheckPromotedOperator, ReportOperator, RollBackPromotedOperator
from airflow_deploy.tasks.base import ROLLBACK_RETRIES

DAG_ID = "verify_deployments"

VERIFICATION_DOC = """### Verify promoted versions

Every pass checks each service's promoted version that is still within its `rollback.window`: does it keep its limits,
compared with the version before it, and does its incident stay resolved? A version that breaches is rolled back: its
traffic first, then its pods. Its artifacts record that, and the pass ends as *failed*, so that alerts work.

- A service with a running deployment, or a version that a later one has replaced, is left alone. Without metrics
  nothing changes.
- `cleanup` stops versions after their rollback window, deletes those beyond `rollback.keep`, and rolls back canaries
  whose run Airflow no longer has. It fails if a running version was changed by hand.
- If more services breach in one pass than `limit`, a shared cause is likely: the pass rolls nothing back and fails.
"""


def verification_dag(schedule: timedelta | None = timedelta(minutes=1), limit: int = 3) -> DAG:
    """Return the DAG.

    :param schedule: time between two passes.
    :param limit: how many services one pass may roll back.
    """
    dag = DAG(
        dag_id=DAG_ID,
        description="Verify promoted versions, and roll back those that breach",
        doc_md=VERIFICATION_DOC,
        schedule=schedule,
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags=["airflow-deploy"],
    )
    with dag:
        check = CheckPromotedOperator(task_id="check", limit=limit)
        # A mapped task's retries are read before its operator is made, so they cannot be the operator's own.
        roll_back = RollBackPromotedOperator.partial(
            task_id="roll_back", map_index_template="{{ task.target.service }}", **ROLLBACK_RETRIES
        ).expand(target=check.output)
        # Skipped tasks are no failure: in most passes there is nothing to roll back.
        report = ReportOperator(task_id="report", rolled_back="roll_back", trigger_rule=TriggerRule.NONE_FAILED)
        # Last, since no other task needs it; it runs whether the others succeed or fail.
        cleanup = CleanupOperator(task_id="cleanup", trigger_rule=TriggerRule.ALL_DONE)
        check >> roll_back >> [report, cleanup]
    return dag
