"""``airflow-deploy trigger``: ask Airflow to deploy a fix."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from airflow_deploy.cli.command import AIRFLOW_ENVIRONMENT, ExitCode, TeachingCommand
from airflow_deploy.cli.watch import follow
from airflow_deploy.clients.airflow_rest.api import AirflowApi
from airflow_deploy.clients.airflow_rest.runs import DeploymentRun
from airflow_deploy.domain.config.request import MAX_BYTES
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.values import printable

TRIGGER_EXAMPLE = """\
$ cat fix.json
{"commit": "abc1234",
 "incident": {"id": "INC-001", "title": "Payments time out", "severity": "critical"},
 "safety_gate": {"recommendation": "DEPLOY", "tests": {"passed": 127, "total": 127}, "coverage": 0.85},
 "change": {"files": 3, "lines": 41}}
$ airflow-deploy trigger payments --conf fix.json --wait
"""


@click.command(
    cls=TeachingCommand, example=TRIGGER_EXAMPLE, environment=AIRFLOW_ENVIRONMENT, short_help="Trigger a deployment."
)
@click.argument("service")
@click.option("--conf", required=True, metavar="FILE", help="The request as JSON; - reads standard input.")
@click.option("--wait", is_flag=True, help="Watch the deployment until it is over.")
@click.option("--url", help="The address of Airflow, in place of AIRFLOW_DEPLOY_URL.")
def trigger(service: str, conf: str, wait: bool, url: str | None) -> int:
    """Trigger the deployment of a fix to SERVICE, and print the run's id.

    SERVICE is named as in its YAML. The conf is the JSON that Airflow's REST API takes. It is checked first: nothing is
    sent if it has a mistake, or if its safety gate does not recommend DEPLOY.
    """
    request = read_conf(conf)
    run = DeploymentRun.start(AirflowApi.from_environment(url), service, request)
    click.echo(run.run_id)
    click.echo(f"triggered: {run.page}", err=True)
    return follow(run) if wait else ExitCode.OK


def read_conf(name: str) -> Any:
    """Return the JSON in a file, or in standard input.

    :raises RefusedError: it cannot be read, or is no JSON.
    """
    try:
        if name == "-":
            text = sys.stdin.read(MAX_BYTES + 1)
        else:
            with Path(name).open(encoding="utf-8") as file:
                text = file.read(MAX_BYTES + 1)
        if len(text) > MAX_BYTES:
            raise RefusedError(f"conf: is larger than {MAX_BYTES} bytes; shorten its texts")
        return json.loads(text)
    except OSError as error:
        raise RefusedError(f"conf: {printable(name)} cannot be read ({error.strerror}); correct --conf") from error
    except (ValueError, RecursionError) as error:
        raise RefusedError(f"conf: is not valid JSON ({printable(str(error), 120)}); correct it") from error
