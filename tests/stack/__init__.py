"""Real servers for tests and the demo: Kubernetes, a gateway, Prometheus, a registry, and Airflow.

``python -m tests.stack up`` starts them; `StackInfo.load` says where they are.
"""

from tests.stack.access import kubectl
from tests.stack.airflow import environment as airflow_environment
from tests.stack.airflow import install_deployments
from tests.stack.errors import StackError
from tests.stack.info import StackInfo
from tests.stack.processes import in_netns

__all__ = ["StackError", "StackInfo", "airflow_environment", "in_netns", "install_deployments", "kubectl"]
