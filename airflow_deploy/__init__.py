"""Progressive delivery to Kubernetes, run by Apache Airflow."""

__version__ = "0.1.0"
