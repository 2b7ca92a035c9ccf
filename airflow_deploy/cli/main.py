"""The command ``airflow-deploy``: its subcommands, and the exit code of each error."""

from __future__ import annotations

from collections.abc import Sequence

import click

from airflow_deploy.cli.command import ExitCode
from airflow_deploy.cli.dockerfile import dockerfile
from airflow_deploy.cli.guard import guard
from airflow_deploy.cli.judge import judge
from airflow_deploy.cli.rbac import rbac
from airflow_deploy.cli.trigger import trigger
from airflow_deploy.cli.watch import watch
from airflow_deploy.domain.errors import DeployError, TemporaryError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="airflow-deploy", message="%(prog)s %(version)s")
def cli() -> None:
    """Progressive delivery to Kubernetes, run by Apache Airflow.

    Each command explains itself: airflow-deploy COMMAND --help.
    """


for command in (trigger, watch, dockerfile, rbac, guard, judge):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        return int(cli.main(arguments, prog_name="airflow-deploy", standalone_mode=False) or ExitCode.OK)
    except click.ClickException as error:
        error.show()
        return ExitCode.REFUSED
    except click.Abort:
        return ExitCode.INTERRUPTED
    except DeployError as error:
        click.echo(f"airflow-deploy: {error}", err=True)
        return ExitCode.UNREACHABLE if isinstance(error, TemporaryError) else ExitCode.REFUSED
