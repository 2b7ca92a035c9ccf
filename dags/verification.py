"""The scheduled DAG ``verify_deployments``: Airflow re-evaluates the versions that were promoted."""

from airflow_deploy import verification_dag

dag = verification_dag()
