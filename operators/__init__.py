"""Airflow operators: one per step of a deployment."""
