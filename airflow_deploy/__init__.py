"""Progressive delivery to Kubernetes, run by Apache Airflow.

The public names of the package. Each is imported at its first use, so ``import airflow_deploy`` needs neither Airflow
nor Kubernetes::

    from airflow_deploy import deploy_from_safety_gate        # the step before us
    from airflow_deploy import deployments, verification_dag  # a DAG file
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_deploy.domain.errors import (
        CapacityError,
        DeclinedError,
        DeployError,
        FencedError,
        HarmError,
        IllegalTransitionError,
        NotFinalizedError,
        PermanentError,
        ProbeFailedError,
        RefusedError,
        TemporaryError,
    )
    from airflow_deploy.domain.lifecycle.result import DeployResult
    from airflow_deploy.factory.loader import deployments
    from airflow_deploy.factory.verification import verification_dag
    from airflow_deploy.safety_gate import Orchestrator, deploy_from_safety_gate

    __version__: str

__all__ = [
    "CapacityError",
    "DeclinedError",
    "DeployError",
    "DeployResult",
    "FencedError",
    "HarmError",
    "IllegalTransitionError",
    "NotFinalizedError",
    "Orchestrator",
    "PermanentError",
    "ProbeFailedError",
    "RefusedError",
    "TemporaryError",
    "__version__",
    "deploy_from_safety_gate",
    "deployments",
    "verification_dag",
]

_MODULES = {
    "DeployResult": "airflow_deploy.domain.lifecycle.result",
    "Orchestrator": "airflow_deploy.safety_gate",
    "deploy_from_safety_gate": "airflow_deploy.safety_gate",
    "deployments": "airflow_deploy.factory.loader",
    "verification_dag": "airflow_deploy.factory.verification",
}
"""The module of each public name that is not an error."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = version("airflow-deploy")
    elif name in __all__:
        value = getattr(import_module(_MODULES.get(name, "airflow_deploy.domain.errors")), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value  # the next use finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
