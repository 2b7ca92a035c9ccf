"""One Airflow DAG ``deploy_<service>`` for each YAML file in the folder ``deployments`` beside this file."""

from pathlib import Path

from airflow_deploy import deployments

globals().update(deployments(Path(__file__).with_name("deployments")))
