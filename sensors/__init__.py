"""Airflow sensors and triggers: readiness, health gates and the watch."""
