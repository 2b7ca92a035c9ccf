"""A spec has defaults for all but what only the team knows, and refuses what could not work or could do harm."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_deploy.domain.config.gates import GATES
from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.config.spec_file import load_spec, parse_spec
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.metrics.sources import SOURCES
from airflow_deploy.domain.names import version_name
from tests.support.builders import COMMIT, SPEC, changed, make_spec
from tests.support.hostile import any_value

EXAMPLES = sorted((Path(__file__).parents[3] / "dags" / "deployments").glob("*.yaml"))


def refusal(**changes: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        make_spec(**changes)
    return str(caught.value)


class TestDefaults:
    def test_minimal_spec_gets_all_defaults(self) -> None:
        spec = make_spec()
        assert spec.canary.stages == (5, 25, 50, 100)
        assert (spec.canary.bake, spec.canary.max_bake) == (60, 1800)
        assert (spec.blindness.then, spec.criticality) == ("hold", "medium")
        assert spec.source.branches == ("main",)

    @pytest.mark.parametrize("field", list(SPEC))
    def test_missing_required_field_is_refused(self, field: str) -> None:
        with pytest.raises(RefusedError, match=f"^payments.yaml: {field} is missing; add it$"):
            parse_spec({key: value for key, value in SPEC.items() if key != field}, "payments.yaml")

    def test_all_six_gates_have_a_default_limit(self) -> None:
        assert list(make_spec().gates) == list(GATES)
        assert make_spec(gates={"memory": 0.5}).gates["memory"] == 0.5
        assert make_spec(gates={"memory": 0.5}).gates["error_rate"] == GATES["error_rate"].default

    def test_latency_limits_hold_the_latency_gates_only(self) -> None:
        assert make_spec(gates={"latency_p99": 2.5}).latency_limits == {"latency_p95": 0.5, "latency_p99": 2.5}

    def test_spec_survives_json(self) -> None:
        spec = make_spec(config={"A": "b"}, gates={"memory": 0.5}, canary={"stages": [1, 100], "bake": "90s"})
        assert DeploymentSpec.load(json.loads(json.dumps(spec.dump()))) == spec
        assert parse_spec(spec.dump(), "again") == spec


ROUTE = {"name": "a", "gateway": {"name": "public", "namespace": "gateways"}, "hostnames": ["a.test", "*.a.test"]}


class TestRefusedSpec:
    def test_route_to_create_has_gateway_and_hostnames(self) -> None:
        assert make_spec(route=ROUTE).route.hostnames == ("a.test", "*.a.test")

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"service": "Payments"}, "service"),
            ({"service": "a" * 45}, "service"),
            ({"service": "payments-"}, "service"),
            ({"service": "1payments"}, "service"),
            ({"service": "pay\n"}, "service"),
            ({"service": "../pay"}, "service"),
            ({"namespace": "a" * 64}, "namespace"),
            ({"namespace": "kube system"}, "namespace"),
            ({"route": {"name": "a/b"}}, "route.name"),
            ({"route": {"name": "a", "x": 1}}, "route.x"),
            ({"route": {**ROUTE, "hostnames": []}}, "route is not valid: gateway and hostnames belong together"),
            (
                {"route": {"name": "a", "hostnames": ["a.test"]}},
                "route is not valid: gateway and hostnames belong together",
            ),
            ({"route": {**ROUTE, "hostnames": "a.test"}}, "route.hostnames"),
            ({"route": {**ROUTE, "hostnames": ["a.test"] * 17}}, "route.hostnames"),
            ({"route": {**ROUTE, "hostnames": ["a_test"]}}, "route.hostnames.0"),
            ({"route": {**ROUTE, "hostnames": ["a.test\n"]}}, "route.hostnames.0"),
            ({"route": {**ROUTE, "hostnames": ["*"]}}, "route.hostnames.0"),
            ({"route": {**ROUTE, "gateway": {"name": "a"}}}, "route.gateway.namespace"),
            ({"route": {**ROUTE, "gateway": {"name": "a/b", "namespace": "a"}}}, "route.gateway.name"),
            ({"registry": "https://registry.example.com"}, "registry"),
            ({"registry": "registry.example.com/"}, "registry"),
            ({"registry": "registry.example.com/shop:latest"}, "registry"),
            ({"registry": "registry.example.com/$(reboot)"}, "registry"),
            ({"port": 0}, "port"),
            ({"port": 65_536}, "port"),
            ({"port": "8080"}, "port"),
            ({"port": True}, "port"),
            ({"replicas": 0}, "replicas"),
            ({"capacity": "half"}, "capacity"),
            ({"max_unready": 1}, "max_unready"),
            ({"max_unready": -0.1}, "max_unready"),
            ({"max_unready": True}, "max_unready"),
            ({"readiness_path": "readyz"}, "readiness_path"),
            ({"readiness_path": "/ready\n"}, "readiness_path"),
            ({"resources": {"cpu": "lots"}}, "resources.cpu"),
            ({"resources": {"memory": "-1Mi"}}, "resources.memory"),
            ({"config": {"lower": "x"}}, "config"),
            ({"config": {"A": 5}}, "config.A"),
            ({"config": {"A": None}}, "config.A"),
            ({"config": {"A=B": "x"}}, "config"),
            ({"metrics": "graphite"}, "metrics.preset"),
            ({"metrics": None}, "metrics"),
            ({"metrics": {"preset": "application", "requests": 'up{a="b"}'}}, "metrics.requests"),
            ({"metrics": {"preset": "application", "label": "a-b"}}, "metrics.label"),
            ({"metrics": {"preset": "application", "service": "x"}}, "metrics.service"),
            ({"criticality": "urgent"}, "criticality"),
            ({"canary": {"stages": [11, 100]}, "criticality": "high"}, "canary"),
            ({"canary": {"stages": []}}, "canary.stages"),
            ({"canary": {"stages": [5, 25]}}, "canary"),
            ({"canary": {"stages": [25, 5, 100]}}, "canary"),
            ({"canary": {"stages": [5, 5, 100]}}, "canary"),
            ({"canary": {"stages": [0, 100]}}, "canary"),
            ({"canary": {"stages": [5, 101]}}, "canary"),
            ({"canary": {"stages": [5.5, 100]}}, "canary.stages"),
            ({"canary": {"bake": "1h", "max_bake": "1m"}}, "canary"),
            ({"canary": {"bake": "5s", "max_bake": "10s", "warm_up": "10s"}}, "canary"),
            ({"canary": {"bake": "1"}}, "canary.bake"),
            ({"canary": {"bake": "1s"}}, "canary.bake"),
            ({"gates": {"error_ratio": 0.1}}, "gates"),
            ({"gates": {"error_rate": 0}}, "gates"),
            ({"gates": {"error_rate": 0.9}}, "gates"),
            ({"gates": {"error_rate": float("nan")}}, "gates"),
            ({"gates": {"error_rate": 10**400}}, "gates"),
            ({"gates": {"memory": float("inf")}}, "gates"),
            ({"gates": {"memory": "90%"}}, "gates.memory"),
            ({"blindness": {"then": "promote"}}, "blindness.then"),
            ({"rollback": {"keep": 0}}, "rollback.keep"),
            ({"rollback": {"kept": 3}}, "rollback"),
            ({"connections": {"kubernetes": "a b"}}, "connections.kubernetes"),
            ({"connections": {"kubernetes": "{{ var.value.x }}"}}, "connections.kubernetes"),
            ({"approval_timeout": "1s"}, "approval_timeout"),
            ({"unknown": 1}, "unknown"),
        ],
    )
    def test_invalid_field_is_named(self, changes: dict[str, Any], field: str) -> None:
        message = refusal(**changes)
        assert message.startswith(f"payments.yaml: {field}")
        assert message.isprintable()

    def test_first_share_beyond_the_criticality_is_refused(self) -> None:
        assert make_spec(criticality="high", canary={"stages": [10, 100]}).canary.stages == (10, 100)
        assert make_spec(criticality="medium", canary={"stages": [25, 100]}).canary.stages == (25, 100)
        assert refusal(criticality="high", canary={"stages": [25, 100]}) == (
            "payments.yaml: canary is not valid: canary.stages begins with 25 %,"
            " but criticality high permits at most 10 %; begin with a smaller share"
        )

    def test_invalid_criticality_is_reported_once(self) -> None:
        assert refusal(criticality="urgent", canary={"stages": [50, 100]}).count("payments.yaml") == 1

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("repository", "--upload-pack=reboot"),
            ("repository", "ext::sh -c reboot"),
            ("repository", "git@example.com:shop/payments.git"),
            ("repository", "http://git.example.com/x"),
            ("repository", "https://git.example.com/x y"),
            ("repository", "https://git.example.com/x\n"),
            ("branches", []),
            ("branches", "main"),
            ("branches", {"main", "dev"}),
            ("branches", ["-x"]),
            ("branches", ["main:refs/heads/evil"]),
            ("branches", ["*"]),
            ("branches", ["a..b"]),
            ("branches", ["main/"]),
            ("branches", ["ma in"]),
            ("branches", ["main\n"]),
            ("branches", ["+main"]),
            ("dockerfile", "../Dockerfile"),
            ("dockerfile", "/etc/passwd"),
            ("dockerfile", "a/../../b"),
            ("dockerfile", "-f"),
            ("context", ".."),
            ("context", "/"),
            ("context", "a/.."),
        ],
    )
    def test_source_that_leaves_its_repository_or_reaches_a_command_is_refused(self, field: str, value: Any) -> None:
        assert refusal(source={**SPEC["source"], field: value}).startswith(f"payments.yaml: source.{field}")

    @pytest.mark.parametrize(
        "url", ["https://ada:s3cret@git.example.com/x", "https://s3cret@git.example.com/x", "file://ada:s3cret@/srv/x"]
    )
    def test_login_in_the_repository_url_is_refused_and_not_repeated(self, url: str) -> None:
        """It would end in XCom, in logs and in the image's label."""
        message = refusal(source={**SPEC["source"], "repository": url})
        assert "contains a login" in message
        assert "s3cret" not in message

    @pytest.mark.parametrize("url", ["ssh://git@git.example.com/x", "https://git.example.com/a@b", "file:///srv/a@b"])
    def test_repository_url_without_a_secret_is_accepted(self, url: str) -> None:
        assert make_spec(source={**SPEC["source"], "repository": url}).source.repository == url

    @pytest.mark.parametrize("data", [None, [], "payments", 5, {1: 2}, {None: None}])
    def test_spec_that_is_not_a_mapping_is_refused(self, data: Any) -> None:
        with pytest.raises(RefusedError, match=r"^x\.yaml: "):
            parse_spec(data, "x.yaml")

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(SPEC)), inner, max_size=4),
            max_leaves=10,
        ),
        st.sampled_from(list(DeploymentSpec.model_fields)),
    )
    def test_any_value_of_any_field_is_parsed_or_refused(self, value: Any, field: str) -> None:
        try:
            spec = make_spec(**{field: value})
        except RefusedError as error:
            message = str(error)
        else:
            message = "payments.yaml: accepted"
            assert len(version_name(spec.service, COMMIT, 1_795_417_200)) <= 63
        assert message.startswith("payments.yaml: ")


FULL: dict[str, Any] = {
    **make_spec(config={"CURRENCY": "EUR"}, canary={"stages": [5, 100], "bake": "60s"}).dump(),
    "gates": {"error_rate": 0.01, "latency_p99": 1.0},
}
"""A spec in which everything is written out."""

PLACES = [(key,) for key in FULL] + [(key, inner) for key in FULL if isinstance(FULL[key], dict) for inner in FULL[key]]
YAML_VALUES = any_value | st.sampled_from(
    [date(2026, 1, 1), b"x", {1: 2}, {None: 1}, {(1, 2): 3}, {"x", "y"}, {5, 100}]
)
PLAUSIBLE = st.sampled_from([1, 2, 60, 0.5, "5m", "main", ["main"], [50, 100], "high", "/x", "a", "500m", {"A": "b"}])


class TestAnySpec:
    @settings(max_examples=1000, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(PLACES), YAML_VALUES | PLAUSIBLE)
    def test_changed_value_is_refused_by_name_or_kept_unchanged(self, place: tuple[str, ...], value: Any) -> None:
        refused = None
        try:
            spec = parse_spec(changed(FULL, place, value), "x.yaml")
        except RefusedError as error:
            refused = error
        if refused:
            # What several fields must agree upon is named by the part that holds them.
            assert re.match(rf"x\.yaml: ({re.escape('.'.join(place))}|{place[0]} )", str(refused))
            assert (str(refused).isprintable(), refused.__cause__, refused.__suppress_context__) == (True, None, True)
        else:
            arrived = spec.dump()
            for key in place:
                arrived = arrived[key]
            assert holds(arrived, value)
            assert parse_spec(spec.dump(), "again") == spec


def holds(arrived: Any, value: Any) -> bool:
    """Whether a value has arrived as it was meant: with what it leaves out, and durations in seconds."""
    if isinstance(value, dict):
        return isinstance(arrived, dict) and all(holds(arrived.get(key), item) for key, item in value.items())
    if isinstance(value, str) and re.fullmatch("[0-9]+[smhd]", value) and isinstance(arrived, int):
        return arrived == int(value[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[value[-1]]
    return bool(arrived == value) and isinstance(arrived, bool) == isinstance(value, bool)


class TestSpecFiles:
    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
    def test_shipped_examples_are_valid(self, path: Path) -> None:
        assert load_spec(path).service

    @pytest.mark.parametrize(
        "text",
        [
            "service: [",
            "service: !!python/object/apply:os.system [reboot]",
            "\t",
            "a: &a [*a]",
            "? [1]\n: 2",
            "service: 2026-13-45",
            "service: !!int x",
            "service: \x07",
            "- a\n- b",
            "",
            "a: b\n---\nc: d",
            "[" * 5000,
        ],
        ids=range(12),
    )
    def test_broken_yaml_is_refused_with_the_files_name_in_one_line(self, text: str, tmp_path: Path) -> None:
        path = tmp_path / "broken.yaml"
        path.write_text(text)
        with pytest.raises(RefusedError, match=r"^broken\.yaml: ") as caught:
            load_spec(path)
        assert str(caught.value).isprintable()

    def test_file_that_is_not_utf8_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "broken.yaml"
        path.write_bytes(b"service: \xff\xfe")
        with pytest.raises(RefusedError, match=r"^broken\.yaml: "):
            load_spec(path)

    def test_unreadable_file_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "dangling.yaml"
        path.symlink_to(tmp_path / "nowhere")
        with pytest.raises(RefusedError, match=r"^dangling\.yaml: "):
            load_spec(path)


class TestMetrics:
    def test_metrics_may_be_a_preset_or_override_its_names(self) -> None:
        assert make_spec().metrics.names == SOURCES["traefik"]
        assert make_spec(metrics="application").metrics.names == SOURCES["application"]
        names = {"preset": "application", "requests": "orders_total", "duration": "orders_seconds", "label": "job"}
        named = make_spec(metrics=names).metrics.names
        assert (named.requests, named.duration, named.label) == ("orders_total", "orders_seconds", "job")
        assert (named.code, named.namespace) == ("code", "namespace")

    def test_metrics_survive_the_plans_json(self) -> None:
        spec = make_spec(metrics={"preset": "application", "code": "status"})
        assert DeploymentSpec.load(spec.dump()).metrics.names.code == "status"


@pytest.mark.parametrize("size", ["2gb", "0Gi", "1.5Gi", "-1Mi", "2G", "9999999Gi", "", "1Gi\n"])
@pytest.mark.parametrize(("part", "field"), [("build", "memory"), ("source", "max_size")])
def test_a_size_has_a_number_and_a_unit(part: str, field: str, size: str) -> None:
    given = {**(SPEC["source"] if part == "source" else {}), field: size}
    with pytest.raises(
        RefusedError, match=rf"^payments\.yaml: {part}\.{field} is not valid: write a size such as 512Mi"
    ):
        make_spec(**{part: given})
