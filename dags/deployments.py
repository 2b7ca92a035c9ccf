"""One DAG ``deploy_<service>`` for each YAML file in the folder ``deployments`` beside this file."""

import logging
from pathlib import Path

from airflow.sdk import get_parsing_context

from airflow_deploy.dag import build_dag, dag_id, invalid_dag
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.spec import load_spec

log = logging.getLogger(__name__)

# A worker needs one DAG only; building the others would cost it time for nothing.
wanted = get_parsing_context().dag_id
files: dict[str, Path] = {}

for path in sorted(Path(__file__).with_name("deployments").glob("*.yaml")):
    try:
        spec = load_spec(path)
        if (first := files.setdefault(dag_id(spec), path)) != path:
            raise RefusedError(f"{path.name}: {spec.service} is declared in {first.name} already; give it another name")
    except RefusedError as error:
        # One team's mistake must not take the other teams' deployments away, least of all those that are under way.
        log.error("%s", error)
        dag = invalid_dag(path.stem, error)
    else:
        if wanted not in (None, dag_id(spec)):
            continue
        dag = build_dag(spec)
    globals()[dag.dag_id] = dag
