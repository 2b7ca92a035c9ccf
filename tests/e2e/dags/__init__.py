"""DAGs that tests copy into Airflow's folder."""
