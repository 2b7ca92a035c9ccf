"""The triggerer's row of the kill matrix: all triggerers die, with nine deployments each in another state."""

from pathlib import Path

from tests.bench.chaos import run_row
from tests.bench.held import fleet
from tests.bench.matrix import STATES
from tests.stack import StackInfo


def test_deployments_in_every_state_end_as_the_matrix_says_when_all_triggerers_die(
    stack: StackInfo, tmp_path: Path
) -> None:
    with fleet(stack, tmp_path) as held:
        rows = run_row(held, "triggerer", print)
    assert [row.state for row in rows] == list(STATES)
    assert {row.state: row.broken for row in rows if row.broken} == {}
