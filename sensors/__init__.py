"""Airflow sensors: readiness, health gates, the watch and the verification. Their triggers are in ``tasks``."""
