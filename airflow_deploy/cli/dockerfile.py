"""``airflow-deploy dockerfile``: print a Dockerfile for a repository that has none."""

from __future__ import annotations

from pathlib import Path

import click

from airflow_deploy.cli.command import ExitCode, TeachingCommand
from airflow_deploy.dockerfile.generate import generate

DOCKERFILE_EXAMPLE = """\
$ airflow-deploy dockerfile . > Dockerfile
$ airflow-deploy dockerfile . --ignore > .dockerignore
"""


@click.command(cls=TeachingCommand, example=DOCKERFILE_EXAMPLE, short_help="Print a Dockerfile.")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--ignore", is_flag=True, help="Print the .dockerignore that belongs to it instead.")
@click.option("--digest", metavar="DIGEST", help="Pin the base image: sha256:…, as docker pull shows it.")
def dockerfile(path: Path, ignore: bool, digest: str | None) -> int:
    """Print a Dockerfile for the repository at PATH, which has none.

    Go needs a go.mod and one package main. Python needs a requirements.txt or pyproject.toml, its version, and how it
    is started. Standard error says what decided. If something cannot be determined, the command says what to add.
    """
    made = generate(path, digest)
    for reason in made.because:
        click.echo(reason, err=True)
    click.echo(made.dockerignore if ignore else made.dockerfile, nl=False)
    return ExitCode.OK
