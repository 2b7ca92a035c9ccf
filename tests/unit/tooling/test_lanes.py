"""The lanes of the end-to-end tests: files, priority, exit code and output, and their end."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e import __main__ as lanes
from tests.e2e.__main__ import ALONE, ASIDE, Lane
from tests.stack.processes import wait_until

FOLDER = Path(lanes.__file__).parent


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_each_file_of_a_lane_exists_and_is_in_no_other_lane() -> None:
    named = [name for names in (*ASIDE, ALONE) for name in names]
    assert sorted(set(named)) == sorted(named)
    assert [name for name in named if not (FOLDER / name).is_file()] == []


@pytest.mark.parametrize("yields", [False, True])
def test_lane_returns_exit_code_and_output_of_its_command(
    yields: bool, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    with ExitStack() as opened:
        lane = Lane(opened, python("import os; print(os.nice(0)); raise SystemExit(3)"), yields=yields)
        assert lane.finish() == 3
    assert int(capfdbinary.readouterr().out) >= 10 * yields


def test_abandoned_lane_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with ExitStack() as opened:
        Lane(opened, python(f"import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(600)"))
        assert wait_until(lambda: pid.exists() and bool(pid.read_text()), 30, 0.01)
    assert not Path(f"/proc/{pid.read_text()}").exists()
