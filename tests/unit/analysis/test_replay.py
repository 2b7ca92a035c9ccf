"""``airflow-deploy judge replay``: unchanged evidence agrees, and every change is named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_deploy.cli.judge import MOST_DIFFERENCES
from airflow_deploy.cli.main import main
from airflow_deploy.domain.names import digest
from airflow_deploy.rollout.analysis.replay import replay_file
from tests.support.evidence import STORIES, TERMS, recorded

Output = pytest.CaptureFixture[str]
GOOD, VERDICTS = recorded(11, {}, STORIES["healthy"])
BAD = recorded(11, {}, STORIES["bad"])[0]


def kept(folder: Path, lines: list[str]) -> Path:
    """Write a file as the triggers do; return its path."""
    text = "".join(lines)
    path = folder / f"canary_5.gate-{digest(text)[:8]}.jsonl"
    path.write_text(text)
    return path


def replayed(*paths: Path) -> int:
    return main(["judge", "replay", *map(str, paths)])


@pytest.mark.parametrize("terms", list(TERMS.values()), ids=list(TERMS))
@pytest.mark.parametrize("story", list(STORIES.values()), ids=list(STORIES))
def test_replay_of_unchanged_evidence_agrees(
    tmp_path: Path, capsys: Output, story: list[tuple[int, int, float, float]], terms: dict[str, object]
) -> None:
    lines, verdicts = recorded(5, {}, story, **terms)
    path = kept(tmp_path, lines)
    assert replayed(path) == 0
    assert capsys.readouterr().out == f"{path}: all {len(lines)} lines agree, {verdicts[-1]} at last\n"


def test_one_differing_file_fails_and_all_files_are_reported(tmp_path: Path, capsys: Output) -> None:
    good, bad = kept(tmp_path, GOOD), kept(tmp_path, BAD)
    bad.write_text(bad.read_text().replace('"errors":1,', '"errors":0,'))
    assert replayed(good, tmp_path / "none.jsonl", bad, good) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == f"{good}: all {len(GOOD)} lines agree, {VERDICTS[-1]} at last"
    assert lines[1] == f"{tmp_path}/none.jsonl: cannot be read (No such file or directory); correct its name"
    assert f"{bad}: line " in lines[2]


def test_replay_names_line_and_difference(tmp_path: Path, capsys: Output) -> None:
    number = next(number for number, line in enumerate(BAD, 1) if '"verdict":"BREACHED"}' in line)
    edited = [line.replace('"verdict":"BREACHED"}\n', '"verdict":"HEALTHY"}\n') for line in BAD[:number]]
    path = tmp_path / "evidence.jsonl"
    path.write_text("".join(edited))
    assert replayed(path) == 1
    message = capsys.readouterr().out
    assert message == f"{path}: line {number}: verdict is 'HEALTHY', recomputed 'BREACHED'\n"


def test_replay_shows_the_first_of_many_differences(tmp_path: Path, capsys: Output) -> None:
    path = kept(tmp_path, [line.replace('"blind":', '"blind": ') for line in GOOD])
    assert replayed(path) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{path}: line 2: the same values in other bytes"
    assert lines[MOST_DIFFERENCES:] == [f"{path}: and {len(GOOD) - 1 - MOST_DIFFERENCES} more"]


SPOILT: dict[str, tuple[Callable[[list[str]], list[str]], str]] = {
    "another algorithm": (
        lambda lines: [lines[0].replace('"algorithm":3', '"algorithm":99'), *lines[1:]],
        "line 1: was judged by version 99 of the algorithm",
    ),
    "cut off in a line": (lambda lines: [*lines[:-1], lines[-1][:40]], f"line {len(BAD)}: is not valid evidence"),
    "cut off behind a line": (lambda lines: lines[:-3], "its SHA-256 begins with "),
    "without its first line": (lambda lines: lines[1:], "line 1: "),
    "without a line": (lambda lines: [*lines[:9], *lines[10:]], "its SHA-256 begins with "),
    "with a line twice": (lambda lines: [*lines[:9], *lines[8:]], "line 10: "),
    "with two lines in another order": (lambda lines: [*lines[:8], lines[9], lines[8], *lines[10:]], "line "),
    "empty": (lambda _: [], "line 1: is missing, the file is empty"),
    "with other ends of lines": (
        lambda lines: [line.replace("\n", "\r\n") for line in lines],
        "line 1: the same values",
    ),
    "another query": (lambda lines: [lines[0].replace('"up"', '"down"'), *lines[1:]], "its SHA-256 begins with "),
    "control characters": (lambda lines: ["\x1b[2J" + lines[0], *lines[1:]], "line 1: is not valid evidence"),
}


@pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=list(SPOILT))
def test_damaged_file_is_detected(
    tmp_path: Path, capsys: Output, spoil: Callable[[list[str]], list[str]], message: str
) -> None:
    path = kept(tmp_path, BAD)
    path.write_text("".join(spoil(BAD)), newline="")
    assert replayed(path) == 1
    output = capsys.readouterr().out
    assert f"{path}: {message}" in output
    assert all(line.isprintable() for line in output.splitlines())


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{}", b"null\n", b'{"kind":"judge"}\n', b"[" * 100_000])
def test_file_that_is_not_evidence_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "evidence.jsonl"
    path.write_bytes(content)
    assert replay_file(path).differences


def test_folder_is_reported_as_unreadable(tmp_path: Path) -> None:
    assert replay_file(tmp_path).differences == ["cannot be read (Is a directory); correct its name"]


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_every_changed_byte_is_detected_without_a_crash(tmp_path: Path, data: st.DataObject) -> None:
    content = "".join(BAD).encode()
    at = data.draw(st.integers(0, len(content) - 1))
    new = data.draw(st.binary(max_size=3).filter(lambda found: found != content[at : at + 1]))
    path = kept(tmp_path, BAD)
    path.write_bytes(content[:at] + new + content[at + 1 :])
    assert replay_file(path).differences


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"requests":', '"requests":1e400,"x":'),
        ('"requests":', '"requests":-1e300,"x":'),
        ('"requests":', '"requests":' + "9" * 400 + ',"x":'),
        ('"requests":', '"requests":"many","x":'),
        ('"share":5', '"share":null'),
        ('"at":', '"at":NaN,"x":'),
        ('"at":', '"at":-Infinity,"x":'),
        ('"memory":0.5', '"nothing":0.5'),
        ('"gauges":{', '"gauges":{"cpu_saturation":[],'),
        ('"candidate":"', '"candidate":0,"x":"'),
        ('"error_rate":0.01', '"error_rate":0'),
        ('"request_rate":2.0', '"request_rate":0'),
        ('"alpha":0.01', '"alpha":-1'),
        ('"alpha":0.01', '"alpha":null'),
        ('"next_share":100', '"next_share":0'),
        ('"next_share":100', '"next_share":{}'),
        ('"ticks":[', '"ticks":[[],'),
        ('"answers":[', '"answers":[1,'),
        ('"kinds":{', '"kinds":{"queue":"gauge"'),
        ('"kinds":{', '"kinds":{"queue":"pair"'),
        ('"dispersion":{', '"dispersion":{"error_rate":0'),
    ],
)
def test_impossible_values_are_reported(tmp_path: Path, old: str, new: str) -> None:
    assert old in "".join(BAD)
    path = tmp_path / "evidence.jsonl"
    path.write_text("".join(line.replace(old, new) for line in BAD))
    assert replay_file(path).differences


def test_replay_does_not_import_airflow() -> None:
    code = "import sys, airflow_deploy.rollout.analysis.replay; sys.exit('airflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
