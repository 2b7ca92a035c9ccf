"""The numbers of docs/concepts/judgement.md are what the shipped code says, recomputed from the page's own text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import exp

import pytest
import yaml

from airflow_deploy.domain.analysis.count_tests import BETA
from airflow_deploy.domain.analysis.judge import evaluate
from airflow_deploy.domain.analysis.sequential import trials_needed
from airflow_deploy.domain.config.gates import GATES, OwnGate
from airflow_deploy.domain.metrics.counters import Tick
from airflow_deploy.domain.values import parse_duration
from tests.stack.layout import CHECKOUT
from tests.support.builders import make_spec
from tests.support.judgement import CANDIDATE, STABLE, START, answered, make_judge

PAGE = CHECKOUT / "docs/concepts/judgement.md"


def rows(header: str) -> Iterator[list[str]]:
    """The rows of the table whose header begins like this, each as its cells."""
    _, _, table = PAGE.read_text().partition(f"| {header}")
    for line in table.split("\n\n", 1)[0].split("\n")[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_the_example_goes_as_the_page_says() -> None:
    judge, scrapes = make_judge(), list(rows("after"))
    for number, (after, *cells) in enumerate(scrapes, 1):
        requests, bad, control_requests, control_bad, evidence = map(float, cells)
        counts = {CANDIDATE: answered(requests, bad), STABLE: answered(control_requests, control_bad)}
        judge.observe(Tick(START + float(after.removesuffix(" s")), counts), 5)
        verdict, findings = evaluate(judge, None, None)
        assert verdict == ("BREACHED" if number == len(scrapes) else "HEALTHY")
    assert evidence == pytest.approx(exp(findings[0].numbers["log_e"]), rel=0.005)
    assert exp(findings[0].numbers["threshold"]) == pytest.approx(300)


def test_as_many_good_requests_are_needed_as_the_page_says() -> None:
    found = list(rows("limit | 25 %"))
    assert len(found) > 3
    for limit, *needed in found:
        rate = float(limit.removesuffix(" %")) / 100
        recomputed = [trials_needed(0, rate / share, BETA) for share in (0.25, 0.5, 1)]
        assert needed == [f"{number:,}" for number in recomputed]


def test_the_settings_are_as_the_page_says() -> None:
    said = {key.strip("`"): (default, span) for key, default, span, _ in rows("key")}
    gates = {
        f"gates.{gate.name}": (f"{gate.default:g}", f"{gate.smallest:g} to {gate.largest:g}") for gate in GATES.values()
    }
    durations, others = {}, set()
    for section in ("canary", "blindness", "rollback"):
        settings = getattr(make_spec(), section)
        for name, field in type(settings).model_fields.items():
            if name == "keep":  # how many versions are kept is not the judgement's
                continue
            bounds = {end: getattr(item, end) for item in field.metadata for end in ("ge", "le") if hasattr(item, end)}
            if bounds:
                durations[f"{section}.{name}"] = getattr(settings, name), bounds["ge"], bounds["le"]
            else:
                others.add(f"{section}.{name}")
    assert set(said) == {*gates, *durations, *others, "gates.<own>"}
    assert {key: said[key] for key in gates} == gates
    for key, (default, least, most) in durations.items():
        text, span = said[key]
        assert [parse_duration(end) for end in span.split(" to ")] == [least, most]
        assert text.startswith("two scrape intervals") if default is None else parse_duration(text) == default


def test_the_own_gates_of_the_page_are_gates() -> None:
    block = re.search(r"^```yaml\n(gates:.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block
    spec = make_spec(**yaml.safe_load(block[1]))
    assert spec.kinds == {"refused_cards": "pair", "queue": "gauge"}
    assert all(isinstance(gate, OwnGate) for gate in spec.own_gates.values())
