"""The cleanup task of the scheduled DAG by itself, so that a test need not wait for the minute."""

from airflow.sdk import DAG

from airflow_deploy.operators.cleanup import CleanupOperator

with DAG("cleanup_once", schedule=None, is_paused_upon_creation=False) as dag:
    CleanupOperator(task_id="cleanup", retries=0)
