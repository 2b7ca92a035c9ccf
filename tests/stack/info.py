"""Where a running stack is and how to get in, for people, tests and the demo."""

import json
from dataclasses import asdict, dataclass

from tests.stack import airflow, images
from tests.stack.cluster import Cluster
from tests.stack.errors import StackError
from tests.stack.layout import (
    ADMIN_KUBECONFIG,
    AIRFLOW_KUBECONFIG,
    ARTIFACTS,
    DEMO,
    INFO,
    LOG,
    NAMESPACE,
    STATE,
    embedded,
)
from tests.stack.tls import write_secret


@dataclass(frozen=True)
class StackInfo:
    """Addresses, logins and paths of the stack that is up; all URLs work on the host.

    :param users: Airflow user -> password; the users are `admin`, `deployer` (role op) and `viewer`.
    :param gateway_url: the gateway; in the stack's own cluster also from inside the network namespace.
    :param registry: the registry's name in images.
    :param registry_url: the HTTP API of the stack's own registry; None if it is the user's.
    :param netns: name of the network namespace; `tests.stack.in_netns` enters it. None if the cluster is the user's.
    """

    airflow_url: str
    users: dict[str, str]
    gateway_url: str
    prometheus_url: str
    registry: str
    registry_url: str | None
    admin_kubeconfig: str
    airflow_kubeconfig: str
    docker_url: str
    netns: str | None
    state: str
    artifacts: str
    demo: str
    logs: str

    @classmethod
    def current(cls) -> "StackInfo":
        """Describe the stack as this checkout starts it."""
        cluster = Cluster.load()
        return cls(
            airflow_url=airflow.url(),
            users=airflow.passwords(),
            gateway_url=cluster.gateway_url,
            prometheus_url=cluster.prometheus_url,
            registry=cluster.registry,
            registry_url=images.REGISTRY_URL if embedded() else None,
            admin_kubeconfig=str(ADMIN_KUBECONFIG),
            airflow_kubeconfig=str(AIRFLOW_KUBECONFIG),
            docker_url=cluster.docker_url,
            netns=NAMESPACE if embedded() else None,
            state=str(STATE),
            artifacts=str(ARTIFACTS),
            demo=str(DEMO),
            logs=str(LOG),
        )

    @classmethod
    def load(cls) -> "StackInfo":
        """Read what `up` left for others.

        :raises StackError: when the stack is not up.
        """
        try:
            return cls(**json.loads(INFO.read_text()))
        except FileNotFoundError:
            raise StackError("The stack is not up: run `make up`.") from None
        except PermissionError:
            raise StackError(f"{INFO} holds passwords and is root's: call it by sudo.") from None

    def save(self) -> None:
        """Tell others that the stack is up, and where; supervisors go by the file's presence."""
        draft = INFO.with_suffix(".draft")
        write_secret(draft, json.dumps(asdict(self), indent=2))
        draft.rename(INFO)
