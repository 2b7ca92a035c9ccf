"""The cluster that Airflow deploys to, with what stands around it: the stack's own, or one of the user's."""

import json
from dataclasses import dataclass

from tests.stack import gateway, prometheus
from tests.stack.layout import ADDRESS, CLUSTER, DOCKER_SOCKET, REGISTRY, embedded


@dataclass(frozen=True)
class Cluster:
    """Names and addresses, as they are known on this machine.

    :param gateway: `namespace/name` of the Gateway that the demo's route is attached to.
    :param gateway_url: where users reach that Gateway.
    :param registry: the registry's name in images, to Docker and to the cluster's nodes alike.
    :param docker_url: the Docker daemon that builds and pushes images.
    :param mark: tells this stack's namespaces from those of any other.
    """

    gateway: str
    gateway_url: str
    prometheus_url: str
    registry: str
    docker_url: str
    mark: str

    @classmethod
    def load(cls) -> "Cluster":
        """Return the cluster of the stack that is up, or is being brought up."""
        return EMBEDDED if embedded() else cls(**json.loads(CLUSTER.read_text()))

    @property
    def account(self) -> str:
        """Airflow's ServiceAccount, as `namespace:name`."""
        return f"airflow-deploy-{self.mark}:airflow"

    @property
    def label(self) -> dict[str, str]:
        """The label of every namespace that is ours to remove."""
        return {"airflow-deploy/stack": self.mark}

    @property
    def selector(self) -> str:
        """The same for kubectl."""
        return "".join(f"--selector={name}={value}" for name, value in self.label.items())


EMBEDDED = Cluster(
    gateway="gateway/gateway",
    gateway_url=f"http://{ADDRESS}:{gateway.PORT}",
    prometheus_url=prometheus.URL,
    registry=REGISTRY,
    docker_url=f"unix://{DOCKER_SOCKET}",
    mark="embedded",
)
