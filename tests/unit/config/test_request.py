"""A conf is hostile until it is accepted: it parses, or one sentence names the field that is wrong."""

from __future__ import annotations

import copy
import json
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_deploy.domain.config.request import MAX_BYTES, DeployRequest, parse_request
from airflow_deploy.domain.errors import RefusedError
from tests.support.builders import CONF, MISSING, Path, changed
from tests.support.hostile import GREEDY


def refusal(conf: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        parse_request(conf)
    return str(caught.value)


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth):
        value = {"a": value}
    return value


def circular() -> dict[str, Any]:
    value = copy.deepcopy(CONF)
    value["change"]["files"] = value
    return value


def paths(value: Any, prefix: Path = ()) -> list[Path]:
    """Every place in the example conf."""
    found: list[Path] = []
    for key, item in value.items() if isinstance(value, dict) else ():
        found += [(*prefix, key), *paths(item, (*prefix, key))]
    return found


EVERY_PATH = paths(CONF)
OPTIONAL = {
    ("emergency",),
    ("incident", "resolved_when"),
    ("incident", "resolved_when", "for"),
    ("safety_gate", "coverage"),
    ("safety_gate", "lint_issues"),
    ("safety_gate", "vulnerabilities"),
    ("safety_gate", "vulnerabilities", "critical"),
    ("safety_gate", "vulnerabilities", "high"),
    ("safety_gate", "build"),
    ("change", "migrations"),
    ("change", "dependencies"),
    ("change", "configuration"),
}


def dotted(path: Path) -> str:
    return ".".join(map(str, path))


class TestAcceptedConf:
    def test_full_example_is_accepted(self) -> None:
        request = parse_request(CONF)
        assert request.commit == "abc123def456"
        assert request.incident.resolved_when is not None
        assert request.incident.resolved_when.for_ == 300
        assert (request.safety_gate.tests.passed, request.change.configuration) == (127, True)

    @pytest.mark.parametrize("path", sorted(OPTIONAL), ids=dotted)
    def test_optional_fields_may_be_left_out(self, path: Path) -> None:
        value: Any = parse_request(changed(CONF, path, MISSING)).dump()
        for key in path:
            value = value[key]
        assert value in (None, 0, False)

    @pytest.mark.parametrize("commit", ["abc123", "0" * 40, "f" * 64])
    def test_commit_may_have_6_to_64_hex_digits(self, commit: str) -> None:
        assert parse_request(changed(CONF, ("commit",), commit)).commit == commit

    @pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("5m", 300), ("24h", 86_400), ("1d", 86_400), (45, 45)])
    def test_duration_may_have_a_unit(self, text: str | int, seconds: int) -> None:
        request = parse_request(changed(CONF, ("incident", "resolved_when", "for"), text))
        assert request.incident.resolved_when is not None
        assert request.incident.resolved_when.for_ == seconds

    @pytest.mark.parametrize(
        "title", ["{{ 7*7 }}", "$(reboot)", "'; DROP TABLE dag; --", "<script>", "naïve 支付 💥", "a: [b"]
    )
    def test_free_text_is_kept_unchanged(self, title: str) -> None:
        assert parse_request(changed(CONF, ("incident", "title"), title)).incident.title == title

    def test_query_may_have_several_lines(self) -> None:
        query = "sum(\n\trate(x[1m])\n)"
        request = parse_request(changed(CONF, ("incident", "resolved_when", "query"), query))
        assert request.incident.resolved_when is not None
        assert request.incident.resolved_when.query == query

    @pytest.mark.parametrize(
        "query",
        [
            "x[1d]",
            "x[1h30m]",
            "x[1500ms]",
            "x[ 5m\t]",
            "x[24h:1m]",
            "x[1d:]",
            "x[5m : 10s]",
            "max_over_time(max_over_time(x[30m:1m])[30m:1m])",
            "x[1d:1m] + x[5m:1d]",
            'rate(x{code=~"5[0-9]{2}"}[5m])',
            'x{a="[9y]"}',
            "x{a='\\'[9y]'}",
            "x{a=`[9y]\\`}",
            "x # [9y]",
            'x{a="#"}[5m]',
        ],
    )
    def test_query_may_have_a_range_of_a_day(self, query: str) -> None:
        path = ("incident", "resolved_when", "query")
        assert parse_request(changed(CONF, path, query)).incident.resolved_when is not None

    def test_request_survives_json(self) -> None:
        request = parse_request(CONF)
        assert DeployRequest.load(json.loads(json.dumps(request.dump()))) == request

    def test_request_is_frozen(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            parse_request(CONF).commit = "f" * 40  # type: ignore[misc]

    def test_parsing_does_not_change_the_conf(self) -> None:
        conf = copy.deepcopy(CONF)
        parse_request(conf)
        assert conf == CONF


STRANGE: list[Any] = [
    {**CONF, "change": nested(100_000)},
    {**CONF, "change": nested(900)},
    {"a": {1, 2}},
    {"a": b"x"},
    {(1, 2): 3},
    dict([*CONF.items(), (1, 2)]),
    dict([*CONF.items(), (None, 2)]),
    dict([*CONF.items(), (True, 2)]),
    circular(),
    {**CONF, "x\n\x1b[2Jy": 1},
    {**CONF, "\ud800": 1},
    {**CONF, "k" * 1000: 1},
    changed(CONF, ("incident", 5), 5),
    changed(CONF, ("incident", "title"), "\ud800"),
]


class TestRefusedConf:
    @pytest.mark.parametrize("path", [path for path in EVERY_PATH if path not in OPTIONAL], ids=dotted)
    def test_missing_field_is_named(self, path: Path) -> None:
        assert refusal(changed(CONF, path, MISSING)) == f"conf: {dotted(path)} is missing; add it"

    def test_unknown_field_is_named(self) -> None:
        assert refusal({**CONF, "comit": 1}) == "conf: comit is not a known key; remove it or correct its spelling"

    @pytest.mark.parametrize(
        "parent",
        [
            ("incident",),
            ("incident", "resolved_when"),
            ("safety_gate",),
            ("safety_gate", "tests"),
            ("safety_gate", "vulnerabilities"),
            ("change",),
            ("emergency",),
        ],
        ids=dotted,
    )
    def test_unknown_nested_field_is_named(self, parent: Path) -> None:
        assert f"conf: {dotted(parent)}.extra is not a known key" in refusal(changed(CONF, (*parent, "extra"), 1))

    @pytest.mark.parametrize("path", EVERY_PATH, ids=dotted)
    def test_value_of_a_wrong_type_is_named(self, path: Path) -> None:
        for wrong in ([], [1], "0.5" if path[-1] in ("coverage", "value") else 1.5):
            assert f"conf: {dotted(path)}" in refusal(changed(CONF, path, wrong))

    @pytest.mark.parametrize("path", [("change", "files"), ("safety_gate", "tests", "passed")], ids=dotted)
    @pytest.mark.parametrize("wrong", ["3", 3.0, True, None, -1, 10**7 + 1, 10**30, 10**400])
    def test_count_that_is_not_an_integer_in_range_is_refused(self, path: Path, wrong: Any) -> None:
        assert f"conf: {dotted(path)} is not valid" in refusal(changed(CONF, path, wrong))

    @pytest.mark.parametrize("wrong", ["true", "yes", 1, 0, None])
    def test_flag_that_is_not_a_boolean_is_refused(self, wrong: Any) -> None:
        assert "conf: change.migrations is not valid" in refusal(changed(CONF, ("change", "migrations"), wrong))

    @pytest.mark.parametrize("wrong", [-0.01, 1.01, "85%", "0.85", 85, True, 10**400])
    def test_coverage_outside_0_to_1_is_refused(self, wrong: Any) -> None:
        assert "conf: safety_gate.coverage is not valid" in refusal(changed(CONF, ("safety_gate", "coverage"), wrong))

    @pytest.mark.parametrize(
        "commit",
        [
            "abc12",
            "0" * 65,
            "ABC123",
            "abc123\n",
            "\nabc123",
            "main",
            "HEAD",
            "--upload-pack=x",
            "-abc123",
            "abc123;reboot",
            "$(reboot)",
            "../../etc",
            "abc123^{commit}",
            "{{ 7*7 }}",
            "abc123\x00",
            "\u0430bc123",  # begins in Cyrillic
            "",
        ],
    )
    def test_commit_that_is_not_a_hash_is_refused(self, commit: str) -> None:
        assert refusal(changed(CONF, ("commit",), commit)).startswith("conf: commit is not valid")

    @pytest.mark.parametrize(
        "identity", ["../../etc/passwd", "-x", "", "a/b", "INC 1", "INC-1\n", "$(x)", "{{x}}", "I" * 65]
    )
    def test_incident_id_with_unsafe_characters_is_refused(self, identity: str) -> None:
        assert "conf: incident.id is not valid" in refusal(changed(CONF, ("incident", "id"), identity))

    @pytest.mark.parametrize("path", [("incident", "title"), ("emergency", "reason")], ids=dotted)
    @pytest.mark.parametrize("text", ["", "a\nb", "a\r", "\x00", "\x1b[2J", "\x7f", "x" * 201, "\ud800"])
    def test_free_text_of_several_or_long_lines_is_refused(self, path: Path, text: str) -> None:
        assert f"conf: {dotted(path)} is not valid" in refusal(changed(CONF, path, text))

    @pytest.mark.parametrize("query", ["", "up\x00", "up\x1b[2J", "x" * 2001, 5])
    def test_empty_or_overlong_query_is_refused(self, query: Any) -> None:
        path = ("incident", "resolved_when", "query")
        assert f"conf: {dotted(path)} is not valid" in refusal(changed(CONF, path, query))

    @pytest.mark.parametrize("query", GREEDY)
    def test_query_with_an_excessive_range_is_refused(self, query: str) -> None:
        """Its own time-out would not stop that."""
        message = refusal(changed(CONF, ("incident", "resolved_when", "query"), query))
        assert re.match(r"conf: incident\.resolved_when\.query is not valid: .*(shorten|write ranges)", message)

    @pytest.mark.parametrize("op", ["==", "!=", "=", "< 5 or 1 <", "", "lt", None])
    def test_unknown_comparison_is_refused(self, op: Any) -> None:
        assert "conf: incident.resolved_when.op is not valid" in refusal(
            changed(CONF, ("incident", "resolved_when", "op"), op)
        )

    @pytest.mark.parametrize(
        "wrong", ["5 m", "m", "-5m", "5M", "1e3s", "25h", "99999999d", "\u0665m", -1, 86_401, 1.5, True, "300"]
    )
    def test_invalid_or_overlong_duration_is_refused(self, wrong: Any) -> None:
        path = ("incident", "resolved_when", "for")
        assert f"conf: {dotted(path)} is not valid" in refusal(changed(CONF, path, wrong))

    def test_more_passed_tests_than_total_are_refused(self) -> None:
        message = refusal(changed(CONF, ("safety_gate", "tests", "passed"), 128))
        assert message.startswith("conf: safety_gate.tests is not valid")
        assert "passed is larger than total" in message

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
    @pytest.mark.parametrize("path", [("incident", "resolved_when", "value"), ("safety_gate", "coverage")], ids=dotted)
    def test_nan_and_infinity_are_refused(self, path: Path, number: float) -> None:
        assert refusal(changed(CONF, path, number)).startswith("conf: ")

    @pytest.mark.parametrize("conf", [None, {}, [], "", "abc", 5, True, [CONF], json.dumps(CONF)])
    def test_conf_that_is_not_an_object_is_refused(self, conf: Any) -> None:
        assert refusal(conf).startswith("conf: is empty or not an object; send an object")

    @pytest.mark.parametrize(
        "conf",
        STRANGE,
        ids=range(14),
    )
    def test_conf_that_is_not_json_is_refused_in_one_printable_line(self, conf: Any) -> None:
        message = refusal(conf)
        assert message.startswith("conf: ")
        assert message.isprintable()
        assert len(message) < 2000

    def test_oversized_conf_is_refused_with_the_limit(self) -> None:
        message = refusal(changed(CONF, ("incident", "title"), "x" * MAX_BYTES))
        assert f"at most {MAX_BYTES} are permitted" in message

    @pytest.mark.parametrize("turning", "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    def test_bidirectional_control_character_is_refused(self, turning: str) -> None:
        """Otherwise a person would read another text than the one that was sent."""
        message = refusal(changed(CONF, ("incident", "title"), f"a{turning}b"))
        assert message == "conf: incident.title is not valid: send one line, without control characters"

    @pytest.mark.parametrize("key", ["x; conf: commit is fine", "a.b", "a b", "'", '"', "", "naïve", "x\n"])
    def test_unusual_key_is_quoted(self, key: str) -> None:
        assert refusal({**CONF, key: 1}).startswith(f"conf: {key!a} is not a known key")

    def test_at_most_five_mistakes_are_named(self) -> None:
        message = refusal({**CONF, **{f"extra{number}": 1 for number in range(1000)}})
        assert message.count("is not a known key") == 5

    def test_refusal_never_repeats_the_value(self) -> None:
        assert "s3cr3t" not in refusal(changed(CONF, ("change", "files"), "s3cr3t"))


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(
        ["abc123", "DEPLOY", "up", "<", "5m", "INC-1", "critical", 10**400, -1, 0.5, "\ud800", "\x85", "a\u2028b"]
    )
)
keys = st.sampled_from(sorted({str(path[-1]) for path in EVERY_PATH})) | st.text(max_size=5)
json_values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def check(conf: Any) -> None:
    """Check that the conf is parsed, or refused in one printable line."""
    try:
        request = parse_request(conf)
    except RefusedError as error:
        message = str(error)
        assert message.startswith("conf: ")
        assert not any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in message)
    else:
        assert DeployRequest.load(json.loads(json.dumps(request.dump(), allow_nan=False))) == request


class TestAnyConf:
    @given(st.dictionaries(keys, json_values, max_size=6))
    def test_any_json_object_is_parsed_or_refused(self, conf: dict[str, Any]) -> None:
        check(conf)

    @settings(max_examples=300)
    @given(st.sampled_from(EVERY_PATH), json_values)
    def test_any_value_of_any_field_is_parsed_or_refused(self, path: Path, value: Any) -> None:
        check(changed(CONF, path, value))

    @given(st.text(max_size=200) | st.text("a\x85\u2028\u2029 ", min_size=1, max_size=5))
    def test_accepted_title_is_one_line(self, title: str) -> None:
        try:
            request = parse_request(changed(CONF, ("incident", "title"), title))
        except RefusedError:
            return
        assert request.incident.title.splitlines() == [title]
