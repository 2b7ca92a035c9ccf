"""Hostile confs, each with what its refusal must name, and confs that are odd but right.

What a field may hold is written here a second time, in plain Python: were it taken from the code under test, a rule
that went missing there would go missing here as well.
"""

from __future__ import annotations

import json
import re
import string
import sys
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.support.builders import CONF, MISSING, changed

LIMIT = 64 * 1024
"""Bytes of a conf."""

Place = tuple[str, ...]


@dataclass(frozen=True)
class Hostile:
    """A conf that must be refused, and how the refusal must name each of its mistakes: ``incident.title``, say."""

    conf: Any
    named: tuple[str, ...]


ODD_TEXTS = [
    *("", " ", "a\0b", "\ud800", "a\udfffb", "\x1b[2J\x1b[31m", "\x9b2J", "\x07", "a\nb", "a\r\nb", "a\u2028b", "\x85"),
    *("\u202efdp.exe", "\u2066a", "a\u200bb", "\ufeffa", "\ufffe", "👩\u200d👧", "支付", "שלום", "ﷺ" * 60),
    *("Z\u0351" * 90, "\u0663", "\uff11\uff12", "0x1f", "1e3", "007", "-0", "true", "null", "None", "NaN", "[]", "{}"),
    *("~", "undefined", "x" * 200, "x" * 201, "x" * 2000, "x" * 2001, "é" * 2001, "💥" * 600, "a" * 10_000),
    *("{{ var.value.x }}", "{% for x in ().__class__.__bases__ %}", "{# a #}", "{{ 7*7 }}\n", "${7*7}", "#{7*7}"),
    *("$(reboot)", "`reboot`", "; rm -rf / #", "| tee /x", "&& reboot", "> /x", "$IFS", "'; --", '" OR 1=1', "\\", "'"),
    *("../../etc/passwd", "/etc/passwd", "file:///etc/passwd", "..\\x", "%2e%2e%2f", "C:\\x", "a/../b", ".", "-"),
    *("---\nkind: Pod", "a: b", "*a", "&a", "!!python/object/apply:os.system [reboot]", "- a", "# a", "? a", "@a"),
    *("%s%s%n", "%(x)s", "{0.__class__}", "{x!r}", "<script>alert(1)</script>", "![x](http://x)", "| a | b |", "**a**"),
    *("--upload-pack=touch /tmp/x", "-x", "--", "HEAD", "HEAD~1", "main", "refs/heads/main", ":/fix", "@{u}", "@"),
    *("abc1234^{tree}", "abc1234..def5678", "ABC1234", "abc12", "f" * 65, "abc123\n", "abc1234 ", "\u0430bc123"),
    *('up{job="x"} or vector(1)', 'x"} or up{y="', "sum(", "up[5m]", "# comment", "up #", '{__name__=~".*"}'),
    *("==", "<>", "=<", "≤", "CRITICAL", "urgent", "deploy", "DEPLOY ", "DEPLOY\n", "Success", "5 m", "-5m", "25h"),
    *("5M", "12345678s", "1d1h", "0s", "P1D", "5m\n", "\u0665m", "__proto__", "__class__", "__type", "$ref"),
    *("x; conf: commit is fine", "conf: commit", "Commit", "comit", "incident.title", "for_", "safety-gate"),
    "k" * 10_000,
]
"""What has broken somebody's program before. Some of it is right in some fields."""

ODD_NUMBERS: list[Any] = [
    *(-1, 0, 1, -0.0, 0.5, 1.0, 3.0, 1.5, 1e3, 2**31, 2**53 + 1, 2**63, 10**7, 10**7 + 1, 86_400, 86_401, 10**30),
    *(10**308, 10**400, -(10**400), 5e-324, 1.7976931348623157e308, float("nan"), float("inf"), float("-inf")),
]


def deep(depth: int) -> dict[str, Any]:
    """Return an object in an object, and so on."""
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


NESTED: list[Any] = [[], {}, [[]], [{}], {"": ""}, [1] * 100, [CONF], {"$ref": "#"}, {"__type": "dict"}, deep(50)]

any_text = st.sampled_from(ODD_TEXTS) | st.text(st.characters(codec=None), max_size=30)
any_value = (
    st.sampled_from([None, True, False, *ODD_NUMBERS, *ODD_TEXTS, *NESTED])
    | st.integers()
    | st.floats()
    | any_text
    | st.text("0123456789abcdefABCDEF-^~:@.{}/", max_size=70)
    | st.dictionaries(st.text(max_size=5), st.none() | st.integers(), max_size=3)
)


def has(text: str, *categories: str) -> bool:
    """Whether the text has a character of these Unicode categories."""
    return any(unicodedata.category(character) in categories for character in text)


def _text(value: Any, longest: int) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= longest and not has(value, "Cs")


def _commit(value: Any) -> bool:
    return _text(value, 64) and len(value) >= 6 and set(value) <= set("0123456789abcdef")


def _name(value: Any) -> bool:
    letters = string.ascii_letters + string.digits
    return _text(value, 64) and value[0] in letters and set(value) <= set(letters + "._-")


def _line(value: Any) -> bool:
    turning = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    return _text(value, 200) and not has(value, "Cc", "Zl", "Zp") and not set(value) & set(turning)


def _query(value: Any) -> bool:
    return _text(value, 2000) and not any((c < " " and c not in "\t\n") or c == "\x7f" for c in value)


def _without_range(value: str) -> bool:
    return "[" not in value or value == "up[5m]"


GREEDY = [
    *(
        "up[2d]",
        "up[1y]",
        "up[24h1ms]",
        "count_over_time(vector(1)[10y:1ms])",
        "count_over_time(up[1h:1s])",
        "up[1d:59s]",
    ),
    *("max_over_time(max_over_time(up[1h:1m])[1h:1m])", "up[1d:1s] + up[1ms:1d] + up[1ms:1d]", "up[1h:0s]", "up[9y:]"),
    *(
        "up[",
        "up[]",
        "up[:]",
        "up[:1m]",
        "up[5]",
        "up[5 m]",
        "up[-5m]",
        "up[5m:1m:1m]",
        "up[\u0665m]",
        "up[1e9s]",
    ),
    *('"]" + up[1y]', "'\\'' + up[1y]", "`\\` + up[1y]", "# ]\nup[1y]", '"# " + up[1y]', "up[ \n1y\t: 1m ]"),
]
"""Queries with ranges that are too long, too fine, or none."""


def _word(value: Any) -> bool:
    return _text(value, 32) and value[0] != "_" and set(value) <= set(string.ascii_uppercase + "_")


def _number(value: Any) -> bool:
    largest = sys.float_info.max
    return type(value) in (int, float) and -largest <= value <= largest


def seconds(value: Any) -> int | None:
    """Return what a duration means; None where it is none."""
    if isinstance(value, str):
        if not (2 <= len(value) <= 8 and set(value[:-1]) <= set(string.digits) and value[-1] in "smhd"):
            return None
        value = int(value[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[value[-1]]
    return value if type(value) is int and 0 <= value <= 86_400 else None


Rule = Callable[[Any], bool]


class Kind:
    """What a field may hold.

    :param maybe: makes values of which most keep the rule.
    :param never: values that do not.
    """

    def __init__(self, rule: Rule, maybe: st.SearchStrategy[Any], never: Sequence[Any] = ()) -> None:
        self.rule, self._maybe = rule, maybe
        self.right = maybe.filter(rule)
        self.wrong = any_value.filter(lambda value: not rule(value))
        if never:
            self.wrong |= st.sampled_from(never)

    def or_null(self) -> Kind:
        return Kind(lambda value: value is None or self.rule(value), st.none() | self._maybe)


def one_of(*words: str) -> Kind:
    return Kind(lambda value: isinstance(value, str) and value in words, st.sampled_from(words))


COUNT = Kind(lambda value: type(value) is int and 0 <= value <= 10_000_000, st.integers(0, 10_000_000))
FLAG = Kind(lambda value: value is True or value is False, st.booleans())
NUMBER = Kind(_number, st.floats() | st.integers() | st.sampled_from(ODD_NUMBERS))
SHARE = Kind(lambda value: _number(value) and 0 <= value <= 1, st.floats(0, 1) | st.sampled_from([0, 1, -0.0, 5e-324]))
LINE = Kind(_line, any_text)

FIELDS: dict[Place, Kind] = {
    ("commit",): Kind(_commit, st.text("0123456789abcdef", min_size=6, max_size=64)),
    ("incident", "id"): Kind(_name, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)),
    ("incident", "title"): LINE,
    ("incident", "severity"): one_of("critical", "high", "medium", "low"),
    ("incident", "resolved_when", "query"): Kind(_query, any_text.filter(_without_range), GREEDY),
    ("incident", "resolved_when", "op"): one_of("<", "<=", ">", ">="),
    ("incident", "resolved_when", "value"): NUMBER,
    ("incident", "resolved_when", "for"): Kind(
        lambda value: seconds(value) is not None, st.integers(0, 86_400) | st.sampled_from(["0s", "007m", "24h", "1d"])
    ),
    ("safety_gate", "recommendation"): Kind(_word, st.from_regex(r"[A-Z][A-Z_]{0,31}", fullmatch=True)),
    ("safety_gate", "tests", "passed"): COUNT,
    ("safety_gate", "tests", "total"): COUNT,
    ("safety_gate", "coverage"): SHARE.or_null(),
    ("safety_gate", "lint_issues"): COUNT.or_null(),
    ("safety_gate", "vulnerabilities", "critical"): COUNT,
    ("safety_gate", "vulnerabilities", "high"): COUNT,
    ("safety_gate", "build"): one_of("success", "failure").or_null(),
    ("change", "files"): COUNT,
    ("change", "lines"): COUNT,
    ("change", "migrations"): FLAG,
    ("change", "dependencies"): FLAG,
    ("change", "configuration"): FLAG,
    ("emergency", "reason"): LINE,
}
"""All that a conf may hold."""

NULLABLE: list[Place] = [("incident", "resolved_when"), ("safety_gate", "vulnerabilities"), ("emergency",)]
PARTS: list[Place] = [("incident",), ("safety_gate",), ("safety_gate", "tests"), ("change",), *NULLABLE]
OPTIONAL: list[Place] = [
    *NULLABLE,
    *(("safety_gate", key) for key in ("coverage", "lint_issues", "build")),
    *(("safety_gate", "vulnerabilities", key) for key in ("critical", "high")),
    *(("change", key) for key in ("migrations", "dependencies", "configuration")),
    ("incident", "resolved_when", "for"),
]

Mistake = tuple[Place, Any, Place]
"""Where, what, and the place that the refusal must name."""


def _wrong(place: Place) -> st.SearchStrategy[Mistake]:
    if place in FIELDS:
        wrong = FIELDS[place].wrong
    else:
        right = (dict, type(None)) if place in NULLABLE else dict
        wrong = any_value.filter(lambda value: not isinstance(value, right))
    return wrong.map(lambda value: (place, value, place))


def _missing(place: Place) -> Mistake:
    return place, MISSING, place


def _unknown(part: Place) -> st.SearchStrategy[Mistake]:
    known = {place[-1] for place in [*FIELDS, *PARTS] if place[:-1] == part}
    unknown = any_text.filter(lambda key: key not in known)
    # What is no Unicode has no name: its place is named.
    return st.tuples(unknown, any_value).map(
        lambda item: ((*part, item[0]), item[1], part if has(item[0], "Cs") else (*part, item[0]))
    )


KINDS: list[st.SearchStrategy[Mistake]] = [
    st.one_of([_wrong(place) for place in FIELDS]),
    st.one_of([_wrong(place) for place in PARTS]),
    st.one_of([_unknown(part) for part in [(), *PARTS]]),
    st.sampled_from([place for place in [*FIELDS, *PARTS] if place not in OPTIONAL]).map(_missing),
]
mistakes = st.sampled_from([KINDS[0], *KINDS]).flatmap(lambda kind: kind)
"""Not one_of, which would make the many fields drown the other kinds."""


def shown(place: Place) -> str:
    """Return how a refusal writes a place: what is no plain word stands in quotes, escaped."""
    name = ".".join(key if re.fullmatch("[A-Za-z0-9_-]+", key) else ascii(key) for key in place)
    return name if len(name) <= 80 else f"{name[:80]}…"


@st.composite
def _mistaken(draw: st.DrawFn) -> Hostile:
    """The example with one to three mistakes, none of them inside another."""
    conf: Any = CONF
    made: list[Place] = []
    for place, value, named in draw(st.lists(mistakes, min_size=1, max_size=3)):
        if not any(named[: len(other)] == other or other[: len(named)] == named for other in made):
            conf = changed(conf, place, value)
            made.append(named)
    return Hostile(conf, tuple(shown(named) or "the whole" for named in made))


def _more_passed_than_run(passed: int) -> Hostile:
    tests = {"passed": passed, "total": passed - 1}
    return Hostile(changed(CONF, ("safety_gate", "tests"), tests), ("safety_gate.tests",))


def _large(size: int) -> Hostile:
    """The example in so many bytes."""
    note = "x" * (size - len(json.dumps({**CONF, "note": ""})))
    return Hostile({**CONF, "note": note}, (f"is {size} bytes",))


NO_OBJECTS: list[Any] = [None, {}, [], [CONF], "", "x", 0, 5, True, json.dumps(CONF)]
WHOLE = [
    *(Hostile(conf, ("is empty",)) for conf in NO_OBJECTS),
    *(_more_passed_than_run(passed) for passed in (1, 128, 10_000_000)),
    *(_large(size) for size in (LIMIT + 1, 2 * LIMIT)),
    Hostile({**CONF, **{f"key{number}": 1 for number in range(2000)}}, tuple(f"key{number}" for number in range(5))),
]

hostile_confs = st.one_of([_mistaken()] * 19 + [st.sampled_from(WHOLE)])
"""Confs that must be refused."""


@st.composite
def odd_confs(draw: st.DrawFn) -> dict[str, Any]:
    """A conf that is strange in every field, and right."""
    conf: Any = CONF
    for place, kind in FIELDS.items():
        left_out = place in OPTIONAL and draw(st.booleans())
        conf = changed(conf, place, MISSING if left_out else draw(kind.right))
    for place in draw(st.sets(st.sampled_from(NULLABLE))):
        conf = changed(conf, place, draw(st.sampled_from([None, MISSING])))
    tests = conf["safety_gate"]["tests"]
    tests["passed"] = min(tests.values())
    return conf  # type: ignore[no-any-return]


Example = TypeVar("Example")


def drawn(strategy: st.SearchStrategy[Example], count: int) -> list[Example]:
    """Return ``count`` examples, the same ones in every run."""
    found: list[Example] = []

    @settings(max_examples=count, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(strategy)
    def collect(example: Example) -> None:
        found.append(example)

    collect()
    return found
