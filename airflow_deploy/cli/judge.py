"""``airflow-deploy judge``: recompute recorded verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from airflow_deploy.cli.command import ExitCode, TeachingCommand
from airflow_deploy.domain.values import printable
from airflow_deploy.rollout.analysis.replay import replay_file

MOST_DIFFERENCES = 5
"""As many are shown of one file: the first causes those that follow."""

REPLAY_EXAMPLE = """\
$ airflow-deploy judge replay DEP-1795442654-5e0ab2f1/evidence_*/*.jsonl
DEP-…/evidence_…/canary_5.gate-8d2a6f01.jsonl: all 21 lines agree, HEALTHY at last
DEP-…/evidence_…/watch-1f0be2c7.jsonl: line 12: verdict is 'HEALTHY', recomputed 'BREACHED'
"""
REPLAY_EXIT_CODES = """\
0    all lines of all files agree
1    a line does not agree; or a file cannot be read, is no evidence, or does not match the digest in its name
"""


@click.group(short_help="Recompute recorded verdicts.")
def judge() -> None:
    """Recompute the verdicts of a deployment from its recorded evidence."""


@judge.command(
    "replay",
    cls=TeachingCommand,
    example=REPLAY_EXAMPLE,
    exit_codes=REPLAY_EXIT_CODES,
    short_help="Recompute verdicts offline.",
)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path))
def replay_files(files: Sequence[Path]) -> int:
    """Recompute each verdict in FILE from the recorded counts, offline, and compare it byte for byte.

    Each line that was changed, is missing or is unknown is named.

    The evidence lies beside a deployment's other artifacts: one file of JSON lines for the watch, for each gate and for
    the verification. Its first line names the version of the algorithm. If this is another version, the file is
    refused.
    """
    agreed = True
    for path in files:
        name, judged = printable(str(path), 300), replay_file(path)
        for difference in judged.differences[:MOST_DIFFERENCES]:
            click.echo(f"{name}: {printable(difference, 500)}")
        if hidden := judged.differences[MOST_DIFFERENCES:]:
            click.echo(f"{name}: and {len(hidden)} more")
        if not judged.differences:
            click.echo(f"{name}: all {judged.lines} lines agree, {judged.verdict or 'without a verdict'} at last")
        agreed = agreed and not judged.differences
    return ExitCode.OK if agreed else ExitCode.UNSUCCESSFUL
