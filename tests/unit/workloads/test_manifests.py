"""A version's objects are hardened, whole and named; no value of a spec ever becomes structure."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.workloads.manifests import render_version, version_objects
from tests.support.builders import COMMIT, DIGEST, make_plan, make_spec

LONGEST = "a" * 44


def by_kind(plan: DeploymentPlan) -> dict[str, Any]:
    return {item["kind"]: item for item in version_objects(plan)}


@pytest.fixture(scope="module")
def plan() -> DeploymentPlan:
    return make_plan(make_spec(config={"CURRENCY": "EUR"}, replicas=3, port=9000, resources={"memory": "64Mi"}))


@pytest.fixture(scope="module")
def pod(plan: DeploymentPlan) -> dict[str, Any]:
    spec: dict[str, Any] = by_kind(plan)["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    (only,) = pod["containers"]
    result: dict[str, Any] = only
    return result


class TestPod:
    def test_pod_runs_without_root_and_cannot_become_root(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert not container["securityContext"].get("privileged", False)

    def test_pod_has_no_capabilities_and_the_default_seccomp_profile(
        self, pod: dict[str, Any], container: dict[str, Any]
    ) -> None:
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}

    def test_pod_can_write_only_to_a_bounded_tmp(self, pod: dict[str, Any], container: dict[str, Any]) -> None:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        (volume,) = pod["volumes"]
        assert volume["emptyDir"]["sizeLimit"]
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/tmp"]  # noqa: S108

    def test_pod_has_no_token_and_no_access_to_its_node(self, pod: dict[str, Any]) -> None:
        assert pod["automountServiceAccountToken"] is False
        assert pod["enableServiceLinks"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "serviceAccountName"} & set(pod)

    def test_pod_has_limits(self, container: dict[str, Any]) -> None:
        assert container["resources"]["limits"] == {"cpu": "500m", "memory": "64Mi"}
        assert container["resources"]["requests"] == container["resources"]["limits"]

    def test_pod_keeps_serving_while_its_address_is_withdrawn(
        self, pod: dict[str, Any], container: dict[str, Any]
    ) -> None:
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        assert 0 < pause < pod["terminationGracePeriodSeconds"]

    def test_pod_has_a_readiness_probe(self, container: dict[str, Any]) -> None:
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
        assert container["ports"] == [{"name": "http", "containerPort": 9000, "protocol": "TCP"}]

    def test_pod_runs_the_image_by_digest(self, container: dict[str, Any]) -> None:
        assert container["image"] == f"registry.example.com:5000/shop/payments@{DIGEST}"

    def test_pod_knows_its_version_and_reads_its_own_config(
        self, plan: DeploymentPlan, container: dict[str, Any]
    ) -> None:
        assert container["env"] == [{"name": "VERSION", "value": plan.candidate}]
        assert container["envFrom"] == [{"configMapRef": {"name": plan.candidate}}]


class TestObjects:
    def test_objects_are_complete_with_the_deployment_last(self, plan: DeploymentPlan) -> None:
        assert [item["kind"] for item in version_objects(plan)] == [
            "ConfigMap",
            "NetworkPolicy",
            "PodDisruptionBudget",
            "Service",
            "Deployment",
        ]

    def test_rolling_update_never_has_fewer_pods(self, plan: DeploymentPlan) -> None:
        spec = by_kind(plan)["Deployment"]["spec"]
        assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
        assert spec["replicas"] == 3
        assert by_kind(plan)["PodDisruptionBudget"]["spec"]["minAvailable"] == 1

    def test_single_pod_blocks_no_drain(self) -> None:
        assert "PodDisruptionBudget" not in by_kind(make_plan(make_spec(replicas=1)))

    def test_unready_pods_block_no_drain(self, plan: DeploymentPlan) -> None:
        assert by_kind(plan)["PodDisruptionBudget"]["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"

    def test_second_apply_keeps_the_pods_of_a_proportional_share(self) -> None:
        proportional = make_plan(make_spec(replicas=3, capacity="proportional"))
        assert "replicas" not in by_kind(proportional)["Deployment"]["spec"]

    def test_pods_are_spread_over_nodes_and_zones(self, plan: DeploymentPlan, pod: dict[str, Any]) -> None:
        labels = {"app.kubernetes.io/version": plan.candidate}
        spread = {item.pop("topologyKey"): item for item in map(dict, pod["topologySpreadConstraints"])}
        soft = {"maxSkew": 1, "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {"matchLabels": labels}}
        assert spread == {"kubernetes.io/hostname": soft, "topology.kubernetes.io/zone": soft}

    def test_network_policy_opens_the_services_port_only(self, plan: DeploymentPlan) -> None:
        policy = by_kind(plan)["NetworkPolicy"]["spec"]
        assert policy["policyTypes"] == ["Ingress"]
        assert policy["ingress"] == [{"ports": [{"port": 9000, "protocol": "TCP"}]}]

    def test_config_map_is_immutable(self, plan: DeploymentPlan) -> None:
        snapshot = by_kind(plan)["ConfigMap"]
        assert snapshot["immutable"] is True
        assert snapshot["data"] == {"CURRENCY": "EUR"}

    def test_service_uses_the_stables_port(self, plan: DeploymentPlan) -> None:
        assert by_kind(plan)["Service"]["spec"]["ports"] == [
            {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}
        ]

    def test_selectors_match_this_version_alone(self, plan: DeploymentPlan) -> None:
        kinds = by_kind(plan)
        version = {"app.kubernetes.io/version": plan.candidate}
        labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
        assert labels == {"app.kubernetes.io/name": "payments", **version}
        selectors = [
            kinds["Deployment"]["spec"]["selector"]["matchLabels"],
            kinds["Service"]["spec"]["selector"],
            kinds["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
            kinds["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
        ]
        assert selectors == [version] * 4

    def test_pods_omit_the_name_label_if_another_service_selects_by_it(self, plan: DeploymentPlan) -> None:
        unnamed = by_kind(plan.model_copy(update={"pods_named": False}))
        labels = {"app.kubernetes.io/version": plan.candidate}
        assert unnamed["Deployment"]["spec"]["template"]["metadata"]["labels"] == labels
        assert unnamed["Deployment"]["metadata"]["labels"] == by_kind(plan)["Deployment"]["metadata"]["labels"]

    def test_objects_name_their_deployment_and_commit(self, plan: DeploymentPlan) -> None:
        for item in version_objects(plan):
            assert item["metadata"]["annotations"] == {
                "airflow-deploy/deployment": plan.deployment_id,
                "airflow-deploy/commit": COMMIT,
                "airflow-deploy/image-tag": plan.image_tag,
            }

    @pytest.mark.parametrize("service", ["p", "payments", LONGEST])
    def test_names_and_label_values_fit_their_limits(self, service: str) -> None:
        for item in version_objects(make_plan(make_spec(service=service))):
            assert item["metadata"]["namespace"] == "shop"
            values = [item["metadata"]["name"], *item["metadata"]["labels"].values()]
            assert all(len(value) <= 63 for value in values)

    def test_image_tag_is_not_deployed(self, plan: DeploymentPlan) -> None:
        for item in version_objects(plan):
            del item["metadata"]["annotations"]
            assert "latest" not in json.dumps(item)
            assert plan.image_tag not in json.dumps(item)

    def test_same_plan_renders_the_same_bytes(self, plan: DeploymentPlan) -> None:
        assert render_version(plan) == render_version(DeploymentPlan.load(plan.dump()))

    def test_plan_without_an_image_is_not_rendered(self) -> None:
        with pytest.raises(ValueError, match="not built yet"):
            render_version(make_plan(digest=None))


class TestScaling:
    @pytest.fixture
    def kinds(self) -> dict[str, Any]:
        return by_kind(make_plan(make_spec(replicas=3, scaling={"max": 12, "cpu": 60})))

    def test_each_version_has_its_own_autoscaler_with_the_replicas_as_its_minimum(self, kinds: dict[str, Any]) -> None:
        scaler, name = kinds["HorizontalPodAutoscaler"], kinds["Deployment"]["metadata"]["name"]
        assert scaler["metadata"] == kinds["Deployment"]["metadata"]
        assert scaler["spec"] == {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
            "minReplicas": 3,
            "maxReplicas": 12,
            "metrics": [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}},
                }
            ],
        }

    def test_second_apply_keeps_the_autoscaled_pods(self, kinds: dict[str, Any]) -> None:
        """Server-side apply would set the number back that the autoscaler has raised."""
        assert "replicas" not in kinds["Deployment"]["spec"]

    def test_version_without_scaling_has_no_autoscaler(self, plan: DeploymentPlan) -> None:
        assert "HorizontalPodAutoscaler" not in by_kind(plan)

    @pytest.mark.parametrize(
        ("scaling", "message"),
        [({"max": 2}, "scaling.max is 2, less than replicas"), ({"max": 5, "cpu": 0}, "scaling.cpu"), ({}, "scaling")],
    )
    def test_invalid_scaling_is_refused(self, scaling: dict[str, int], message: str) -> None:
        with pytest.raises(RefusedError, match=f"payments.yaml: .*{message}"):
            make_spec(replicas=3, scaling=scaling)

    def test_scaling_with_proportional_capacity_is_refused(self) -> None:
        with pytest.raises(RefusedError, match="an autoscaler and capacity: proportional both set the number of pods"):
            make_spec(scaling={"max": 3}, capacity="proportional")


hostile = st.text() | st.sampled_from(
    [
        "\n---\nkind: Secret",
        '"}\nimage: evil',
        "{{ 7*7 }}",
        "{% raw %}",
        "*alias",
        "&anchor",
        "!!python/object:os.system",
        "yes",
        "null",
        "0x10",
        "1e3",
        "'",
        "<script>&",
        "\\",
        "\\ud83d\\ude00",
        "\u2028\x85\x7f\x00\t",
        "\ufffe\uffff",
        "💥",
        "# comment",
        ": ",
    ]
)


def structure(value: Any) -> Any:
    """Return the objects without the config's values."""
    return [item if item["kind"] != "ConfigMap" else {**item, "data": None} for item in value]


class TestHostileConfig:
    @given(hostile, hostile)
    @example("💥", "\\💥\\ud83d")
    def test_hostile_config_value_stays_a_value(self, one: str, other: str) -> None:
        plan = make_plan(make_spec(config={"ONE": one, "OTHER": other}))
        assert by_kind(plan)["ConfigMap"]["data"] == {"ONE": one, "OTHER": other}
        assert structure(version_objects(plan)) == structure(
            version_objects(make_plan(make_spec(config={"ONE": "", "OTHER": ""})))
        )

    @given(hostile)
    def test_rendered_yaml_is_accepted_by_other_parsers(self, value: str) -> None:
        text = render_version(make_plan(make_spec(config={"ONE": value})))
        assert text.isascii()
        assert text.isprintable() or set(text) - set(map(chr, range(32, 127))) == {"\n"}
        (snapshot,) = [item for item in yaml.safe_load_all(text) if item["kind"] == "ConfigMap"]
        assert not any(0xD800 <= ord(character) <= 0xDFFF for character in snapshot["data"]["ONE"])

    @given(st.text(min_size=1))
    def test_hostile_digest_stays_a_value(self, digest: str) -> None:
        plan = make_plan(digest=digest)
        deployment = by_kind(plan)["Deployment"]
        assert deployment["spec"]["template"]["spec"]["containers"][0]["image"].endswith(f"@{digest}")
        assert len(version_objects(plan)) == 5
