"""The loader of YAML files: a DAG file imports it and gets every DAG of its folder in one call."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, get_parsing_context

from airflow_deploy.domain.config.spec_file import load_spec
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.factory.deployment import build_dag, dag_id

log = logging.getLogger(__name__)


def deployments(folder: Path) -> dict[str, DAG]:
    """Return one DAG ``deploy_<service>`` for each YAML file in ``folder``, by its id, for a DAG file's globals.

    A file with a mistake yields ``invalid_<file>`` instead, which says what to correct.
    """
    # A worker needs one DAG only.
    wanted = get_parsing_context().dag_id
    files: dict[str, Path] = {}
    dags: dict[str, DAG] = {}
    for path in sorted(folder.glob("*.yaml")):
        try:
            spec = load_spec(path)
            if (first := files.setdefault(dag_id(spec), path)) != path:
                raise RefusedError(
                    f"{path.name}: {spec.service} is declared in {first.name} already; give it another name"
                )
        except RefusedError as error:
            # One team's mistake must not remove the other teams' DAGs, least of all during a deployment.
            log.error("%s", error)
            dag = _invalid_dag(path.stem, error)
        else:
            if wanted not in (None, dag_id(spec)):
                continue
            dag = build_dag(spec)
        dags[dag.dag_id] = dag
    return dags


def _invalid_dag(name: str, error: RefusedError) -> DAG:
    """Return a DAG that says what is wrong with the YAML file ``name``; it is listed beside the valid ones."""
    dag = DAG(
        dag_id="invalid_" + re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:200],
        description=str(error),
        doc_md=f"### This service cannot be deployed\n\n{error}",
        schedule=None,
        tags=["airflow-deploy", "invalid"],
    )
    EmptyOperator(task_id="correct_the_yaml", dag=dag)
    return dag
