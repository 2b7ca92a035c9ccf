"""What all commands share: their exit codes, and help texts with an example that can be copied."""

from __future__ import annotations

from enum import IntEnum
from textwrap import dedent
from typing import Any

import click


class ExitCode(IntEnum):
    """What a command tells the shell."""

    OK = 0
    UNSUCCESSFUL = 1
    REFUSED = 2
    UNREACHABLE = 3
    INTERRUPTED = 130


EXIT_CODES = """\
0    VERIFIED; or, without waiting, triggered; or printed; or a guard that was ended by SIGTERM
1    any other end, as a rule ROLLED_BACK or FAILED: see the run's page
2    REJECTED; or refused: the arguments, the conf, the service, the address, the login, the repository, the cluster
3    Airflow does not answer, or not like its API
130  interrupted by Ctrl-C; a deployment that was triggered goes on
"""
AIRFLOW_ENVIRONMENT = """\
AIRFLOW_DEPLOY_URL       the address of Airflow, such as https://airflow.example.com
AIRFLOW_DEPLOY_TOKEN     a token of its API; or else
AIRFLOW_DEPLOY_USER      a user, and
AIRFLOW_DEPLOY_PASSWORD  the password with which a token is requested
"""


class TeachingCommand(click.Command):
    """A command whose help ends with an example, its environment and its exit codes, each line as written here.

    :param example: what to type, and what it prints.
    :param environment: the variables that the command reads.
    :param exit_codes: the exit codes, with their meaning.
    """

    def __init__(
        self, *args: Any, example: str, environment: str = "", exit_codes: str = EXIT_CODES, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = {"Example": example, "Environment": environment, "Exit codes": exit_codes}

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections; click's own epilog would be wrapped."""
        for title, text in self.sections.items():
            if text:
                with formatter.section(title):
                    formatter.write("".join(f"  {line}\n" for line in dedent(text).strip("\n").splitlines()))
