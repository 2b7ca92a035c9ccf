"""``airflow-deploy watch``: show a deployment's progress and outcome."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from airflow_deploy.cli.command import AIRFLOW_ENVIRONMENT, ExitCode, TeachingCommand
from airflow_deploy.clients.airflow_rest.api import AirflowApi
from airflow_deploy.clients.airflow_rest.runs import DeploymentRun, RunSnapshot
from airflow_deploy.domain.lifecycle.result import DeployResult
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.values import printable

WATCH_EXAMPLE = """\
$ airflow-deploy watch payments "$(airflow-deploy trigger payments --conf fix.json)"
"""

SHOWN = frozenset({"running", "deferred", "up_for_retry", "success", "failed"})
"""The task states that are worth a line."""


@click.command(
    cls=TeachingCommand,
    example=WATCH_EXAMPLE,
    environment=AIRFLOW_ENVIRONMENT,
    short_help="Show a deployment's progress.",
)
@click.argument("service")
@click.argument("run_id")
@click.option("--url", help="The address of Airflow, in place of AIRFLOW_DEPLOY_URL.")
def watch(service: str, run_id: str, url: str | None) -> int:
    """Show the progress of a deployment of SERVICE until it is over.

    SERVICE is named as in its YAML. RUN_ID is what trigger printed. The exit code is the outcome.
    """
    return follow(DeploymentRun(AirflowApi.from_environment(url), service, run_id))


def follow(run: DeploymentRun) -> int:
    """Print what changes until the deployment is over, then its outcome; return the exit code."""
    tasks: dict[str, str | None] = {}
    state: State | None = None
    asked: str | None = None
    seen: RunSnapshot | None = None
    for seen in run.follow():
        changed = [f"{task} {now}" for task, now in seen.tasks.items() if now in SHOWN and tasks.get(task) != now]
        if changed or seen.state != state:
            click.echo(f"{datetime.now(UTC):%H:%M:%S}  {seen.state:<17}  {printable(', '.join(changed), 400)}")
        if (page := run.question_page(seen)) and page != asked:
            click.echo(f"          waiting for an approval, and silence rejects: {page}")
        tasks, state, asked = dict(seen.tasks), seen.state, page
    result = run.result(seen)
    for line in _summary(result):
        click.echo(line)
    return {State.VERIFIED: ExitCode.OK, State.REJECTED: ExitCode.REFUSED}.get(result.state, ExitCode.UNSUCCESSFUL)


def _summary(result: DeployResult) -> list[str]:
    rows = {
        "state": result.state,
        "reason": result.reason,
        "image": result.image_tag,
        "artifacts": result.artifact_path,
        **{verdict.task: f"{verdict.verdict}: {verdict.reason}" for verdict in result.canary},
        "page": result.page,
    }
    return [f"{name:<16}  {printable(value, 500)}" for name, value in rows.items() if value]
