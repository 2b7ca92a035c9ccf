"""The command ``airflow-deploy``."""
