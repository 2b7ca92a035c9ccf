"""``airflow-deploy guard``: roll back canaries if all of Airflow has died."""

from __future__ import annotations

import logging
import os
import select
import signal
import time
from collections.abc import Sequence

import click

from airflow_deploy.cli.command import ExitCode, TeachingCommand
from airflow_deploy.clients.kubernetes.connection import connect_from_here
from airflow_deploy.domain.workloads.manifests import render_guard
from airflow_deploy.rollout.guard import Guard

GUARD_EXAMPLE = """\
$ airflow-deploy guard --manifest registry.example.com/airflow:3.3 --home airflow | kubectl apply -f -
$ KUBECONFIG=guard.kubeconfig airflow-deploy guard --namespace payments --namespace orders
2026-11-23T17:00:00Z INFO    guards       payments, orders
"""
CLUSTER_ENVIRONMENT = """\
KUBECONFIG  how to reach the cluster; without it, the ServiceAccount of the pod
"""


@click.command(
    cls=TeachingCommand,
    example=GUARD_EXAMPLE,
    environment=CLUSTER_ENVIRONMENT,
    short_help="Roll back canaries whose watch stopped renewing its Lease.",
)
@click.option(
    "--namespace", "namespaces", multiple=True, help="A namespace of services; repeat for each.  [default: all]"
)
@click.option("--manifest", metavar="IMAGE", help="Print what runs the guard in the cluster, with its rights.")
@click.option("--replicas", is_flag=True, help="With --manifest: add the rights for services of router: replicas.")
@click.option(
    "--home", default="airflow", show_default=True, metavar="NAMESPACE", help="With --manifest: the guard's namespace."
)
def guard(namespaces: Sequence[str], manifest: str | None, replicas: bool, home: str) -> int:
    """Roll back canaries whose watch stopped renewing its Lease, because Airflow has died.

    While a candidate has traffic, each completed look of the watch renews a Lease in the cluster. If a Lease does not
    change for as long as it lasts (lease in the service's YAML, 45 s by default), the guard returns all traffic to the
    stable version, by one fenced write, and records the reason on the route. When Airflow comes back, the run finds it
    and ends ROLLED_BACK. The guard counts no time in which it cannot read the Leases itself.

    Run it where it survives Airflow: in the cluster (--manifest), or beside Airflow with KUBECONFIG. Several guards may
    run at once. The guard needs no Airflow, continues after every error of the cluster, and ends at SIGTERM.
    """
    if manifest:
        click.echo(render_guard(manifest, home, namespaces, replicas=replicas), nl=False)
        return ExitCode.OK
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ", level="INFO")
    logging.Formatter.converter = time.gmtime
    # A pipe, not an event: a signal may come while its own thread holds the event's lock, and would wait for ever.
    end, told = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(told, b"."))
    Guard(connect_from_here(), namespaces).run(lambda seconds: bool(select.select([end], [], [], seconds)[0]))
    return ExitCode.OK
