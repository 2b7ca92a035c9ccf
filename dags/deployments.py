"""One DAG ``deploy_<service>`` for each YAML file in the folder ``deployments`` beside this file."""

from pathlib import Path

from airflow.sdk import get_parsing_context

from airflow_deploy.dag import build_dag, dag_id
from airflow_deploy.domain.spec import load_spec

# A worker needs one DAG only; building the others would cost it time for nothing.
wanted = get_parsing_context().dag_id

for path in sorted(Path(__file__).with_name("deployments").glob("*.yaml")):
    spec = load_spec(path)
    if wanted in (None, dag_id(spec)):
        globals()[dag_id(spec)] = build_dag(spec)
