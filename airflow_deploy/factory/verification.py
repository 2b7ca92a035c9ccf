"""The factory of ``verify_deployments``: it goes on looking at what was promoted, and takes back what does not hold.

check -> take_back (one for each version that breaches) -> report
                                                        -> tidy
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, TriggerRule

from airflow_deploy.operators.cleanup import CleanupOperator
from airflow_deploy.operators.verification import CheckPromotedOperator, ReportOperator, RollBackPromotedOperator
from airflow_deploy.tasks.base import ROLLBACK_RETRIES

DAG_ID = "verify_deployments"

VERIFICATION_DOC = """### Verify what was promoted

Every pass looks at each service's promoted version that is still within its `rollback.window`: does it keep its limits,
compared with what served before, and does its incident stay resolved? One that does not hold is taken back: its traffic
first, then its pods, and its artifacts say so. Such a pass ends as *failed*, so that alerts work.

- What has a running deployment, or was overtaken by a later one, is left alone. Without metrics nothing changes.
- `cleanup` stops versions after their rollback window, deletes those beyond `rollback.keep`, and rolls back what a
  run left that Airflow no longer has. It fails if a running version was changed by hand.
- Where more services breach in one pass than `limit`, what they share is broken: nothing is taken back, and it fails.
"""


def verification_dag(schedule: timedelta | None = timedelta(minutes=1), limit: int = 3) -> DAG:
    """Return the DAG.

    :param schedule: how often it looks.
    :param limit: how many services one pass may take back.
    """
    dag = DAG(
        dag_id=DAG_ID,
        description="Go on looking at what was promoted, and take back what does not hold",
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
        take_back = RollBackPromotedOperator.partial(
            task_id="roll_back", map_index_template="{{ task.target.service }}", **ROLLBACK_RETRIES
        ).expand(target=check.output)
        # Skipped tasks are no failure: in most passes there is nothing to take back.
        report = ReportOperator(task_id="report", rolled_back="roll_back", trigger_rule=TriggerRule.NONE_FAILED)
        # It comes last, and whatever became of the others: nobody waits for it.
        cleanup = CleanupOperator(task_id="cleanup", trigger_rule=TriggerRule.ALL_DONE)
        check >> take_back >> [report, cleanup]
    return dag
