"""Names follow from the run and fit Kubernetes' limits; quoted text stays text."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.names import (
    SERVICE_MAX,
    SERVICE_PATTERN,
    deployment_id,
    image_tag,
    promql_regex_literal,
    promql_string,
    version_name,
)
from tests.support.builders import COMMIT

services = st.from_regex(SERVICE_PATTERN, fullmatch=True).filter(lambda name: len(name) <= SERVICE_MAX)
longest = st.just("a" * SERVICE_MAX)
commits = st.text("0123456789abcdef", min_size=40, max_size=40) | st.text("0123456789abcdef", min_size=64, max_size=64)
moments = st.integers(1_500_000_000, 9_999_999_999)
texts = st.text() | st.text(alphabet='\\"\n\r\t{}[]()^$.*+?|-=~!,x')

ESCAPE = re.compile(r"""\\([abfnrtv\\"']|x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3})""")
MEANINGS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"', "'": "'"}


def unquote(literal: str) -> str:
    """Read a double-quoted PromQL string as its lexer does: Go's escapes, no raw line end, no quote within."""
    assert literal.startswith('"')
    result, position = "", 1
    while literal[position] != '"':
        if literal[position] == "\\":
            found = ESCAPE.match(literal, position)
            assert found, f"unknown escape in {literal!r}"
            result += MEANINGS[found[1]] if found[1] in MEANINGS else chr(int(found[1][1:], 16))
            position = found.end()
        else:
            assert literal[position] != "\n", "a string literal ends with its line"
            result += literal[position]
            position += 1
    assert position == len(literal) - 1, "the literal ends before the text does"
    return result


@given(services | longest, commits, moments)
def test_version_name_is_a_dns_label_of_at_most_63_characters(service: str, commit: str, at: int) -> None:
    name = version_name(service, commit, at)
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(name) <= 63
    assert name == f"{service}-{commit[:7]}-{at}" == version_name(service, commit, at)


@given(services, commits, moments)
def test_image_tag_contains_the_full_commit_and_the_time(service: str, commit: str, at: int) -> None:
    tag = image_tag("registry.example.com:5000/shop", service, commit, at)
    repository, _, version = tag.rpartition(":")
    assert repository == f"registry.example.com:5000/shop/{service}"
    assert version == f"{commit}-{at}"
    assert re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", version)


@pytest.mark.parametrize(
    "commit", ["latest", "", "abc123", COMMIT[:39], COMMIT + "0", COMMIT.upper(), COMMIT + "\n", "v1"]
)
def test_image_tag_needs_a_full_commit(commit: str) -> None:
    with pytest.raises(ValueError, match="full hash"):
        image_tag("registry.example.com", "payments", commit, 1_700_000_000)


@given(st.text(), st.text(), moments)
def test_deployment_id_follows_from_its_run_and_is_safe_as_a_path(dag: str, run: str, at: int) -> None:
    try:
        identity = deployment_id(dag, run, at)
    except UnicodeEncodeError:
        return  # Airflow's ids are no lone surrogates
    assert re.fullmatch(rf"DEP-{at}-[0-9a-f]{{8}}", identity)
    assert identity == deployment_id(dag, run, at)


@given(st.sets(st.tuples(st.sampled_from(["a", "ab", "b"]), st.sampled_from(["c", "bc", "manual__1"])), min_size=2))
def test_different_runs_have_different_ids(runs: set[tuple[str, str]]) -> None:
    assert len({deployment_id(dag, run, 1_700_000_000) for dag, run in runs}) == len(runs)


@given(texts)
def test_any_text_becomes_one_promql_string(text: str) -> None:
    assert unquote(promql_string(text)) == text


@pytest.mark.parametrize("text", ['"} or up{x="', "\\", '\\"', 'a"b', "\n", '"' * 3, "\\n"])
def test_quote_cannot_end_the_promql_string(text: str) -> None:
    assert unquote(promql_string(text)) == text
    assert json.loads(promql_string(text)) == text  # the same escapes in JSON


@given(texts, texts)
def test_regex_literal_matches_its_text_and_nothing_else(text: str, other: str) -> None:
    pattern = promql_regex_literal(text)
    assert re.fullmatch(pattern, text)
    assert bool(re.fullmatch(pattern, other)) == (text == other)


@given(texts)
def test_regex_literal_escapes_only_what_re2_permits(text: str) -> None:
    assert set(re.findall(r"\\(.)", promql_regex_literal(text))) <= set(r".+*?()|[]{}^$\\")
    assert re.sub(r"\\(.)", r"\1", promql_regex_literal(text)) == text


@given(texts)
def test_regex_literal_survives_quoting(text: str) -> None:
    assert re.fullmatch(unquote(promql_string(promql_regex_literal(text))), text)
