"""Airflow's REST API, for callers outside of Airflow. Nothing in here imports Airflow."""
