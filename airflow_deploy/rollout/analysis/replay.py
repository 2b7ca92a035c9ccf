"""Evidence files, judged again on any machine: no Airflow, no Prometheus."""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np

from airflow_deploy.domain.analysis.evidence import replay
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.names import digest

NAMED_BY_CONTENT = re.compile(r".*-([0-9a-f]{8})\.jsonl")


@dataclass(frozen=True)
class ReplayResult:
    """A file that was judged again.

    :param lines: how many of its lines could be recomputed; ``verdict``: what the last of them says.
    :param differences: a sentence for each line that does not agree, and for all else that is wrong; empty if the
        file is as it was written.
    """

    lines: int
    verdict: str | None
    differences: list[str]


def replay_file(path: Path) -> ReplayResult:
    """Judge a file of evidence again, and hold it against the digest that its name may carry."""
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        return ReplayResult(0, None, [f"cannot be read ({error.strerror}); correct its name"])
    except UnicodeDecodeError:
        return ReplayResult(0, None, ["is no text in UTF-8; give a file of evidence"])
    with np.errstate(all="ignore"):  # impossible values are told as differences
        judged = _judged(text)
    # Lines that are missing at the end leave no other trace.
    if (named := NAMED_BY_CONTENT.fullmatch(path.name)) and not digest(text).startswith(named[1]):
        judged.differences.append(f"its SHA-256 begins with {digest(text)[:8]}, and its name says {named[1]}")
    return judged


def _judged(text: str) -> ReplayResult:
    number, verdict, differences = 0, None, []
    try:
        for line in replay(list(StringIO(text))):
            number, verdict = line.number, line.verdict
            if line.difference:
                differences.append(f"line {number}: {line.difference}")
    except RefusedError as error:
        differences.append(str(error))
    return ReplayResult(number, verdict, differences)
