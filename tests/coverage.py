"""``python -m tests.coverage``: what the last run with ``--cov`` covered, in one line, and which files lag."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from coverage import Coverage

ENOUGH = 90
"""Percent of a file's lines and branches from which on it is not listed."""


def main() -> int:
    """Print the total, its floor and the files below ``ENOUGH``; return 1 if the total is below the floor."""
    measured = Coverage()
    measured.load()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        measured.json_report(outfile=str(report))
        found: dict[str, Any] = json.loads(report.read_text())
    total = found["totals"]["percent_covered"]
    floor = measured.config.fail_under
    print(f"coverage: {total:.1f} % of lines and branches of {len(found['files'])} files; the floor is {floor:g} %")
    shares = {name: file["summary"]["percent_covered"] for name, file in found["files"].items()}
    for name in sorted(shares, key=lambda name: float(shares[name])):
        if shares[name] < ENOUGH:
            print(f"  {shares[name]:5.1f} %  {name}")
    return int(total < floor)


if __name__ == "__main__":
    sys.exit(main())
