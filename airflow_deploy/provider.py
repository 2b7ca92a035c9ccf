"""What Airflow's entry point tells about this package, without importing the rest of it."""

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata: its connection type and its section of airflow.cfg."""
    return {
        "package-name": "airflow-deploy",
        "name": "airflow-deploy",
        "description": "Progressive delivery to Kubernetes.",
        "connection-types": [
            {
                "connection-type": "prometheus",
                "hook-class-name": "airflow_deploy.clients.prometheus.hook.PrometheusHook",
                "hook-name": "Prometheus",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "extra"],
                    "relabeling": {"host": "URL"},
                    "placeholders": {"host": "http://prometheus.monitoring:9090"},
                },
                "conn-fields": {
                    "ui": {
                        "label": "URL for people",
                        "description": "The address at which a browser opens Prometheus, if it differs.",
                        "schema": {"type": ["string", "null"]},
                    }
                },
            }
        ],
        "extra-links": ["airflow_deploy.sensors.graph_link.PrometheusGraphLink"],
        "config": {
            "airflow_deploy": {
                "description": "Progressive delivery to Kubernetes.",
                "options": {
                    "artifact_store": _option(
                        "The folder of all artifacts: any URL that ObjectStoragePath reads (file, s3, gs).",
                        "file:///var/lib/airflow-deploy/artifacts",
                    ),
                    "docker_url": _option("The Docker daemon that builds images.", "unix:///var/run/docker.sock"),
                },
            }
        },
    }


def _option(description: str, default: str) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": "0.1.0",
        "type": "string",
        "example": None,
        "default": default,
    }
