"""The scheduled DAG ``verify_deployments``: Airflow goes on looking at what was promoted."""

from airflow_deploy.factory.verification import verification_dag

dag = verification_dag()
