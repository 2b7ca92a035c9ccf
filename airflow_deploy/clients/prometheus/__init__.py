"""Prometheus: the Airflow connection type, and queries with a timeout."""
