"""``airflow-deploy rbac``: print the rights that deployments need in a namespace."""

from __future__ import annotations

from collections.abc import Sequence

import click

from airflow_deploy.cli.command import ExitCode, TeachingCommand
from airflow_deploy.domain.workloads.manifests import render_rbac

RBAC_EXAMPLE = """\
$ airflow-deploy rbac payments --service-account airflow:airflow-worker \\
    --service-account airflow:airflow-triggerer | kubectl apply -f -
"""


@click.command(cls=TeachingCommand, example=RBAC_EXAMPLE, short_help="Print the rights that deployments need.")
@click.argument("namespace")
@click.option(
    "--service-account",
    "accounts",
    required=True,
    multiple=True,
    metavar="NAMESPACE:NAME",
    help="A ServiceAccount that gets the rights; repeat for each.",
)
def rbac(namespace: str, accounts: Sequence[str]) -> int:
    """Print the least rights that deployments need in NAMESPACE, that of the services.

    They are a Role, bound to the ServiceAccounts that Airflow's workers and triggerers have in the cluster.
    """
    click.echo(render_rbac(namespace, accounts), nl=False)
    return ExitCode.OK
