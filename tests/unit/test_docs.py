"""The documents are true and plain: numbers and settings are the code's, links lead somewhere, sentences are short."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import exp
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from airflow_deploy.domain.analysis.count_tests import BETA
from airflow_deploy.domain.analysis.judge import evaluate
from airflow_deploy.domain.analysis.sequential import trials_needed
from airflow_deploy.domain.config.gates import GATES, OwnGate
from airflow_deploy.domain.config.request import parse_request
from airflow_deploy.domain.config.spec_file import parse_spec
from airflow_deploy.domain.lifecycle.states import State
from airflow_deploy.domain.metrics.counters import Tick
from airflow_deploy.domain.metrics.sources import SOURCES
from airflow_deploy.domain.values import parse_duration
from airflow_deploy.domain.workloads.manifests import render_guard, render_rbac
from tests.docs import prose, reference
from tests.stack.layout import CHECKOUT
from tests.support.builders import CONF, MISSING, SPEC, changed, make_spec
from tests.support.judgement import CANDIDATE, STABLE, START, answered, make_judge

PAGE = CHECKOUT / "docs/concepts/judgement.md"


def rows(header: str, page: Path = PAGE) -> Iterator[list[str]]:
    """The rows of the table whose header begins like this, each as its cells."""
    _, _, table = page.read_text().partition(f"| {header}")
    for line in table.split("\n\n", 1)[0].rstrip().split("\n")[2:]:
        yield [cell.strip() for cell in line.strip("|").split(" | ")]


def test_example_of_the_judgement_page_is_reproduced() -> None:
    judge, scrapes = make_judge(), list(rows("after"))
    for number, (after, *cells) in enumerate(scrapes, 1):
        requests, bad, control_requests, control_bad, evidence = map(float, cells)
        counts = {CANDIDATE: answered(requests, bad), STABLE: answered(control_requests, control_bad)}
        judge.observe(Tick(START + float(after.removesuffix(" s")), counts), 5)
        verdict, findings = evaluate(judge, None, None)
        assert verdict == ("BREACHED" if number == len(scrapes) else "HEALTHY")
    assert evidence == pytest.approx(exp(findings[0].numbers["log_e"]), rel=0.005)
    assert exp(findings[0].numbers["threshold"]) == pytest.approx(300)


def test_needed_good_requests_of_the_page_are_those_of_the_judge() -> None:
    found = list(rows("limit | 25 %"))
    assert len(found) > 3
    for limit, *needed in found:
        rate = float(limit.removesuffix(" %")) / 100
        recomputed = [trials_needed(0, rate / share, BETA) for share in (0.25, 0.5, 1)]
        assert needed == [f"{number:,}" for number in recomputed]


def test_settings_of_the_page_are_those_of_the_spec() -> None:
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


def test_own_gates_of_the_page_are_valid() -> None:
    block = re.search(r"^```yaml\n(gates:.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block
    spec = make_spec(**yaml.safe_load(block[1]))
    assert spec.kinds == {"refused_cards": "pair", "queue": "gauge"}
    assert all(isinstance(gate, OwnGate) for gate in spec.own_gates.values())


def name_of(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


PAGES, FILES = prose.pages(), reference.files()
each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


class TestPages:
    @each_page
    def test_page_links_lead_to_files_and_headings(self, page: Path) -> None:
        broken = []
        for link in prose.links(page.read_text()):
            target, _, anchor = link.partition("#")
            path = (page.parent / target).resolve() if target else page
            if ":" not in target and not (path.exists() and (not anchor or anchor in prose.anchors(path.read_text()))):
                broken.append(link)
        assert broken == []

    @each_page
    def test_page_has_no_forbidden_words(self, page: Path) -> None:
        assert prose.forbidden_words(page.read_text()) == []

    @each_page
    def test_page_has_no_long_sentences(self, page: Path) -> None:
        assert prose.long_sentences(page.read_text()) == []

    @pytest.mark.parametrize("page", sorted((CHECKOUT / "docs").rglob("*.md")), ids=name_of)
    def test_page_names_its_reader_in_the_first_line(self, page: Path) -> None:
        title, reader = [line for line in prose.without_code(page.read_text()).splitlines() if line][:2]
        assert title.startswith("# ")
        assert reader.startswith("*For ")

    def test_readme_has_at_most_100_lines(self) -> None:
        assert len((CHECKOUT / "README.md").read_text().splitlines()) <= 100

    def test_every_page_is_in_the_list_of_pages(self) -> None:
        index = CHECKOUT / "docs/README.md"
        listed = {(index.parent / link).resolve() for link in prose.links(index.read_text())}
        assert {page for page in PAGES if page.is_relative_to(index.parent)} - {index} == listed


class TestProseChecks:
    """The checks above find what they look for."""

    @pytest.mark.parametrize(
        "text",
        ["Nobody looks.", "A fix is taken\nback.", "- it takes all the traffic back", "| a | whatever |\n", "Whoever."],
    )
    def test_forbidden_words_are_found(self, text: str) -> None:
        assert prose.forbidden_words(text)

    @pytest.mark.parametrize("text", ["`nobody`", "```text\nnobody\n```\n", "It takes 5 s. It comes back."])
    def test_code_and_other_words_are_not_found(self, text: str) -> None:
        assert prose.forbidden_words(text) == []

    def test_sentence_of_26_words_is_too_long(self) -> None:
        words = ["word"] * 26
        assert prose.long_sentences(f"Short one. {' '.join(words)}. [A link](x.md).") == [f"{' '.join(words)}."]
        assert prose.long_sentences(f"{' '.join(words[1:])}.\n\n- {' '.join(words[1:])}\n- {' '.join(words[1:])}") == []

    def test_anchors_of_headings_follow_from_their_words(self) -> None:
        text = "# `A` b: c's d\n```sh\n# no heading\n```\n## 2. [E](x.md)\n## 2. E\n"
        assert prose.anchors(text) == {"a-b-cs-d", "2-e", "2-e-1"}


class TestSettings:
    @pytest.mark.parametrize("path", FILES, ids=name_of)
    def test_generated_files_are_those_of_the_models(self, path: Path) -> None:
        assert path.read_text() == FILES[path], "stale: run `make reference`"

    def test_examples_point_editors_to_the_shipped_schema(self) -> None:
        for path in (CHECKOUT / "dags/deployments").glob("*.yaml"):
            found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text())
            assert found
            assert (path.parent / found[1]).resolve() == reference.SCHEMAS / "deployment.schema.json"


ACCEPTED: list[dict[str, Any]] = [
    {},
    {"canary": {"stages": [1, 100], "bake": "90s", "max_bake": 6 * 3600}, "lease": "1m", "approval_timeout": "7d"},
    {"blindness": {"stale_after": None, "max_blind": "24h", "then": "rollback"}, "scaling": None, "shadow": None},
    {"metrics": "application", "config": {"A": "b"}, "max_unready": 0},
    {"metrics": {"preset": "application", "requests": "a_total", "code": None}},
    {"router": "replicas", "metrics": "pods", "capacity": "proportional"},
    {"route": {"name": "a", "gateway": {"name": "public", "namespace": "a"}, "hostnames": ["a.test", "*.a.test"]}},
    {"route": {"name": "a", "url": "http://a:80"}, "shadow": {"share": 25, "safe_to_mirror": True}},
    {"gates": {"memory": 1, "refused": {"bad": "a{p='$version'}", "total": "b{p='$version'}", "limit": 0.02}}},
    {"gates": {"queue": {"gauge": "a{p='$version'}", "limit": 100}}, "scaling": {"max": 5}},
]

REFUSED: list[dict[str, Any]] = [
    {"servise": "a"},
    {"lease": "5 minutes"},
    {"lease": 5},
    {"replicas": "2"},
    {"metrics": "graphite"},
    {"gates": {"error_rate": 0.9}},
    {"gates": {"error_rate": "1 %"}},
    {"canary": {"bake": None}},
    {"criticality": "urgent"},
    {"route": {"name": "a/b"}},
]


def validator(name: str) -> Draft202012Validator:
    schema = json.loads((reference.SCHEMAS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture(scope="module")
def deployment() -> Draft202012Validator:
    return validator("deployment")


@pytest.fixture(scope="module")
def request_() -> Draft202012Validator:
    return validator("request")


class TestSchemas:
    @pytest.mark.parametrize("changes", ACCEPTED, ids=lambda changes: ",".join(changes) or "least")
    def test_schema_accepts_what_the_parser_accepts(
        self, deployment: Draft202012Validator, changes: dict[str, Any]
    ) -> None:
        spec = parse_spec({**SPEC, **changes}, "a.yaml")
        assert [error.message for error in deployment.iter_errors({**SPEC, **changes})] == []
        assert [error.message for error in deployment.iter_errors(spec.dump())] == []

    @pytest.mark.parametrize("path", sorted((CHECKOUT / "dags/deployments").glob("*.yaml")), ids=name_of)
    def test_schema_accepts_the_example_files(self, deployment: Draft202012Validator, path: Path) -> None:
        assert list(deployment.iter_errors(yaml.safe_load(path.read_text()))) == []

    @pytest.mark.parametrize("changes", REFUSED, ids=lambda changes: ",".join(changes) or "least")
    def test_schema_refuses_invalid_values(self, deployment: Draft202012Validator, changes: dict[str, Any]) -> None:
        assert list(deployment.iter_errors({**SPEC, **changes}))

    def test_schema_accepts_the_example_conf(self, request_: Draft202012Validator) -> None:
        assert list(request_.iter_errors(CONF)) == []
        assert list(request_.iter_errors(parse_request(CONF).dump())) == []
        assert list(request_.iter_errors(changed(CONF, ("emergency",), MISSING))) == []

    @pytest.mark.parametrize(
        ("path", "value"),
        [(("commit",), "main"), (("x",), 1), (("incident", "severity"), "bad"), (("change", "files"), MISSING)],
    )
    def test_schema_refuses_an_invalid_conf(
        self, request_: Draft202012Validator, path: tuple[str, ...], value: Any
    ) -> None:
        assert list(request_.iter_errors(changed(CONF, path, value)))

    @pytest.mark.parametrize("name", ["deployment", "request"])
    def test_schema_describes_each_field(self, name: str) -> None:
        schema = json.loads((reference.SCHEMAS / f"{name}.schema.json").read_text())
        for part in (schema, *schema["$defs"].values()):
            assert [key for key, field in part["properties"].items() if not field["description"].endswith(".")] == []


def granted(text: str) -> dict[str, set[str]]:
    """What the Role in a manifest permits: verbs by resource."""
    rules = next(item for item in yaml.safe_load_all(text) if item["kind"].endswith("Role"))["rules"]
    return {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]}


class TestReference:
    def test_permissions_of_the_page_are_those_of_the_manifests(self) -> None:
        page = CHECKOUT / "docs/reference/permissions.md"
        said = {on: set(verbs.split(", ")) for on, verbs, _ in rows("on | may | for", page)}
        assert said == granted(render_rbac("shop", ["airflow:worker"]))
        guard = {on.split(": ")[-1]: set(verbs.split(", ")) for on, verbs in rows("on | the guard may", page)}
        assert guard == granted(render_guard("image", "airflow", ["shop"], replicas=True))

    def test_every_metrics_source_is_listed(self) -> None:
        found = {
            preset.strip("`"): (requests.strip("`"), duration.strip("`"))
            for preset, requests, duration, _ in rows("preset", CHECKOUT / "docs/reference/metrics.md")
        }
        assert found == {name: (source.requests, source.duration) for name, source in SOURCES.items()}

    def test_every_annotation_is_listed(self) -> None:
        page = (CHECKOUT / "docs/reference/annotations.md").read_text()
        for path in (CHECKOUT / "airflow_deploy/domain").rglob("*.py"):
            for key in re.findall(r'\{(?:ANNOTATION_PREFIX|MANAGER)\}/([a-z-]+)"', path.read_text()):
                assert f"`airflow-deploy/{key}" in page, f"{path.name}: airflow-deploy/{key}"

    def test_every_state_is_explained(self) -> None:
        page = (CHECKOUT / "docs/concepts/deployment.md").read_text()
        assert [state for state in State if state not in page] == []

    def test_dag_files_of_the_how_to_are_those_of_the_project(self) -> None:
        page = (CHECKOUT / "docs/how-to/your-service.md").read_text()
        for name in ("deployments", "verification"):
            assert f"```python\n# dags/{name}.py\n{(CHECKOUT / f'dags/{name}.py').read_text()}```" in page
