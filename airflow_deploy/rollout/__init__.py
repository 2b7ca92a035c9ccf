"""Use cases: what a deployment does with the cluster, step by step. Nothing in here imports Airflow's operators."""
