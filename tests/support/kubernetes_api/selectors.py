"""Label and field selectors of lists and watches."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from tests.support.kubernetes_api.kinds import Object
from tests.support.kubernetes_api.status import bad_request

Test = Callable[[Mapping[str, str]], bool]
Selector = Callable[[Object], bool]

_KEY = r"(?P<key>[A-Za-z0-9][-A-Za-z0-9_./]*)"
_SET = re.compile(rf"{_KEY}\s+(?P<not>not)?in\s*\((?P<values>[^)]*)\)")
_EQUAL = re.compile(rf"{_KEY}\s*(?P<not>!)?==?\s*(?P<value>[-A-Za-z0-9_.]*)")
_EXISTS = re.compile(rf"(?P<not>!)?\s*{_KEY}")
FIELDS = ("metadata.name", "metadata.namespace")


def selector(labels: str = "", fields: str = "") -> Selector:
    """Return what tells whether an object is selected.

    :raises Refusal: it cannot be read, or names a field that cannot be selected by.
    """
    label_tests = [_label_test(one.strip()) for one in re.split(r",(?![^(]*\))", labels) if one.strip()]
    field_tests = [_field_test(one.strip()) for one in fields.split(",") if one.strip()]

    def selects(body: Object) -> bool:
        metadata = body["metadata"]
        named = {f"metadata.{key}": str(metadata.get(key, "")) for key in ("name", "namespace")}
        has = metadata.get("labels") or {}
        return all(test(has) for test in label_tests) and all(test(named) for test in field_tests)

    return selects


def _label_test(text: str) -> Test:
    if found := _SET.fullmatch(text):
        values = {value.strip() for value in found["values"].split(",")}
        key, wanted = found["key"], not found["not"]
        return lambda labels: (labels.get(key) in values) is wanted
    if found := _EXISTS.fullmatch(text):
        key, wanted = found["key"], not found["not"]
        return lambda labels: (key in labels) is wanted
    return _equality(text)


def _field_test(text: str) -> Test:
    test = _equality(text)
    if (field := re.split("!?=", text, maxsplit=1)[0]) not in FIELDS:
        raise bad_request(f'Unable to find "{field}" that match label selector "", field selector "{text}"')
    return test


def _equality(text: str) -> Test:
    if not (found := _EQUAL.fullmatch(text)):
        raise bad_request(f"unable to parse requirement: {text!r}")
    key, value, wanted = found["key"], found["value"], not found["not"]
    return lambda labels: (labels.get(key) == value) is wanted
