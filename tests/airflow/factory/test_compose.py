"""Airflow knows every option of the Compose file: a misspelt variable would have no effect."""

from __future__ import annotations

import yaml
from airflow.configuration import conf

from tests.stack.layout import CHECKOUT

SERVICES = yaml.safe_load((CHECKOUT / "docker-compose.airflow.yml").read_text())["services"]
ELSEWHERE = {("celery", "broker_url_cmd")}
"""Options of the Celery provider, which is in the image and not installed here."""


def test_every_option_of_the_compose_file_is_known_to_airflow() -> None:
    known = {
        (section, option)
        for section, described in conf.configuration_description.items()
        for option in described["options"]
    }
    commands = {(section, f"{option}_cmd") for section, option in conf.sensitive_config_values}
    for name in SERVICES["airflow-worker"]["environment"]:
        if name.startswith("AIRFLOW__"):
            section, option = name.lower().removeprefix("airflow__").split("__")
            assert (section, option) in known | commands | ELSEWHERE, name
